"""What a study could have shown, in sentences: the smallest differences, and the claims that lacked power."""

from __future__ import annotations

from babeltune.analysis.candidates import UNTOUCHED
from babeltune.analysis.result import Analysis
from babeltune.analysis.sensitivity import Sensitivity
from babeltune.report import words


def power_of(analysis: Analysis, kind: str, scope: str) -> Sensitivity | None:
    """The row of one kind and scope, if there were such comparisons."""
    return next((row for row in analysis.power if (row.kind, row.scope) == (kind, scope)), None)


def shown_from(analysis: Analysis, *, thing: str, baseline: str) -> list[str]:
    """Sentences on the overall comparisons: what they show with 80 % probability, and what stays open.

    `thing`: what is compared (`recipe`, `model`); `baseline`: with what.
    """
    changes, pairs = (power_of(analysis, kind, "overall") for kind in (UNTOUCHED, "pairs"))
    figures = []
    if changes is not None:
        figures.append(f"changes against {baseline} of {words.span(changes.least, changes.most)}")
    if pairs is not None:
        figures.append(f"differences between two {thing}s of {words.span(pairs.least, pairs.most)}")
    if not figures:
        return []
    what_there_is = "These items" if analysis.basis == "models" else "These seeds and items"
    found = [
        f"{what_there_is} show with 80 % probability (in {analysis.unit}, by {thing}): "
        f"{words.listed(figures)}; smaller ones mostly stay open."
    ]
    margin = f"{analysis.decide['margin']:g}"
    for row, what in ((changes, "changes"), (pairs, f"pairs of {thing}s")):
        if row is None or not row.undecided:
            continue
        verb = "is" if row.undecided == 1 else "are"
        sentence = f"{row.undecided} of the {row.comparisons} {what} {verb} not decidable here"
        if row.lacked_power:
            share = "" if row.lacked_power == row.undecided else f"{row.lacked_power} of them "
            sentence += (
                f", {share}for want of power: equally good ones would mostly not have been shown to be "
                f"within {margin} of each other either"
            )
        found.append(f"{sentence}.")
    return found


def carried_by(analysis: Analysis) -> str:
    """Whose seeds the run-to-run variation is known from, where some recipes were trained once; else ''."""
    repeated = list(dict.fromkeys(label for family in analysis.run_to_run for label in family.carried_by))
    trained = [c.label for c in analysis.candidates if not c.untouched and c.seeds_done]
    if not repeated or len(repeated) == len(trained):
        return ""
    were, them = ("was", "it") if len(repeated) == 1 else ("were", "them")
    return (
        f"Only {words.listed(repeated)} {were} trained with several seeds: "
        f"from {them} the variation between runs is taken for all recipes."
    )

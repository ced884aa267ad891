"""The end of a run on the terminal: a table and the recommendation in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from babeltune.analysis.result import Analysis, CandidateInfo
from babeltune.report import words
from babeltune.report.answer import answer, baseline_name, comparison_answer, comparison_verdict
from babeltune.report.could_show import shown_from

LANGUAGE_WIDTH = 8
"""Columns of the terminal that one language takes."""


def results_tables(analysis: Analysis, width: int) -> list[Table]:
    """Recipe, score with interval, change by language (guards first), parameters, time and memory.

    One table where `width` columns are enough; else the languages follow in tables of their own.
    """
    guards = [language.code for language in analysis.languages if language.guard]
    targets = [language.code for language in analysis.languages if not language.guard]
    name_width = max((len(c.label) for c in analysis.candidates), default=0) + 2
    room = (width - name_width - 51) // LANGUAGE_WIDTH
    if len(guards) + len(targets) <= room:
        return [_table(analysis, [*guards, *targets], figures=True)]
    per_table = max(1, (width - name_width) // LANGUAGE_WIDTH)
    codes = [*guards, *targets]
    return [
        _table(analysis, [], figures=True),
        *(
            _table(analysis, codes[start : start + per_table], figures=False)
            for start in range(0, len(codes), per_table)
        ),
    ]


def print_results(analysis: Analysis, console: Console) -> None:
    """The tables, what their columns mean, what is missing, and the recommendation."""
    for table in results_tables(analysis, console.width):
        console.print(table)
        console.print()
    targets = [language for language in analysis.languages if not language.guard]
    mean = f"mean of {len(targets)} languages" if len(targets) != 1 else targets[0].name
    note = (
        f"Scores in {words.score_unit(by_loss=analysis.by_loss)}; {mean}. By language: the change against "
        f"the untouched model in {analysis.unit}, up is better, * where it is shown; the untouched model's "
        f"row has its scores. Intervals are about {_about(analysis)}."
    )
    console.print(Text(note, style="dim"))
    _print_missing(analysis, console)
    console.print(Text(answer(analysis).sentence, style="bold"))


def print_comparison(analysis: Analysis, console: Console) -> None:
    """Every model against the baseline, overall and by part; what is missing, and the answer."""
    console.print(comparison_table(analysis))
    console.print()
    margin = f"{analysis.decide['margin']:g} {analysis.unit}"
    note = (
        f"Scores in {words.score_unit(by_loss=analysis.by_loss)}; overall: mean over languages in a task, "
        f"then over tasks. Intervals are about {_about(analysis)}; overall they hold for all models at once. "
        f"Verdicts are at a margin of {margin}; by part, better and worse are corrected for their number."
    )
    console.print(Text(note, style="dim"))
    for sentence in shown_from(analysis, thing="model", baseline=baseline_name(analysis)):
        console.print(Text(sentence, style="dim"))
    for uneven in analysis.fairness:
        values = "; ".join(f"{value} ({words.listed(list(who))})" for value, who in uneven.values)
        console.print(Text(f"Differs: {uneven.what}: {values}", style="yellow"))
    _print_missing(analysis, console)
    console.print(Text(comparison_answer(analysis).sentence, style="bold"))


def comparison_table(analysis: Analysis) -> Table:
    """A row for each model and part: items, scores of both, change with interval, verdict."""
    base = baseline_name(analysis)
    base_label = next(c.label for c in analysis.candidates if c.untouched)
    scopes = [s for s in analysis.scopes if s.kind == "overall"]
    for kind in ("task", "class", "language"):
        parts = [s for s in analysis.scopes if s.kind == kind]
        scopes += parts if len(parts) > 1 else []
    several = len(analysis.candidates) > 2
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in [*(["model"] if several else []), "on"]:
        table.add_column(heading, overflow="fold")
    for heading in ("items", base, "score" if several else analysis.candidates[-1].label, "change"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column(words.percent(analysis.decide["confidence"]), justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for candidate in analysis.candidates:
        if candidate.untouched:
            continue
        for scope in scopes:
            change = analysis.change(candidate.label, scope.key)
            own, other = analysis.score(candidate.label, scope.key), analysis.score(base_label, scope.key)
            if change is None or own is None or other is None:
                continue
            cells = [
                *([candidate.label if scope.kind == "overall" else ""] if several else []),
                scope.label,
                str(scope.items),
                words.score(other.score, by_loss=analysis.by_loss),
                words.score(own.score, by_loss=analysis.by_loss),
                words.signed(change.difference),
                f"{words.signed(change.low)} to {words.signed(change.high)}",
                comparison_verdict(change),
            ]
            style = "bold" if scope.kind == "overall" else ""
            table.add_row(*(Text(cell, style=style) for cell in cells))
    return table


def _about(analysis: Analysis) -> str:
    return (
        "these trained models, not these recipes (one seed each)" if analysis.basis == "models" else "recipes"
    )


def _print_missing(analysis: Analysis, console: Console) -> None:
    for sentence in analysis.missing:
        console.print(Text(f"Missing: {sentence}", style="yellow"))
    console.print()


def _table(analysis: Analysis, codes: Sequence[str], *, figures: bool) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("recipe", overflow="fold")
    before = ["score", words.percent(analysis.decide["confidence"])] if figures else []
    after = ["params", "training", "memory"] if figures else []
    for heading in [*before, *codes, *after]:
        table.add_column(heading, justify="right", no_wrap=True)
    for candidate in analysis.candidates:
        left, right = _figures(analysis, candidate) if figures else ([], [])
        languages = [_language_cell(analysis, candidate, code) for code in codes]
        style = "bold" if candidate.label == analysis.recommendation.candidate else ""
        table.add_row(*(Text(cell, style=style) for cell in [candidate.label, *left, *languages, *right]))
    return table


def _figures(analysis: Analysis, candidate: CandidateInfo) -> tuple[list[str], list[str]]:
    score, cost = analysis.score(candidate.label, "overall"), analysis.cost(candidate.label)
    by_loss = analysis.by_loss
    interval = (
        words.score_interval(score.low, score.high, by_loss=by_loss, joined="–") if score else words.NO_FIGURE
    )
    return [words.score(score.score if score else None, by_loss=by_loss), interval], [
        words.count(cost.trainable_parameters if cost else None),
        words.duration(cost.train_wall_seconds if cost else None),
        words.size(cost.peak_memory_bytes if cost else None),
    ]


def _language_cell(analysis: Analysis, candidate: CandidateInfo, code: str) -> str:
    """The untouched model's score, or another's change against it with a star where it is significant."""
    if candidate.untouched:
        score = analysis.score(candidate.label, f"language:{code}")
        return words.score(score.score if score else None, by_loss=analysis.by_loss) + " "
    change = analysis.change(candidate.label, f"language:{code}")
    if change is None:
        return words.NO_FIGURE + " "
    return words.signed(change.difference) + ("*" if change.significant else " ")

"""What a study could have shown, after it: the differences that its comparisons see, and the claims that
lacked power.

`detectable` of a comparison is the difference that its interval shows with 80 % probability. Seen from the
other side it is the margin at which two equally good candidates would be shown no worse than one another with
that probability. A comparison that is not decidable and sees no difference as small as the margin lacked
power: more seeds or items would be needed, whatever the truth is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from babeltune.analysis.comparison import Comparison
from babeltune.analysis.recommend import GuardCheck

Kind = Literal["untouched", "pairs", "guard"]


@dataclass(frozen=True)
class Sensitivity:
    """What the comparisons of one kind over one scope could show, in points.

    `kind`: recipes against their untouched model, recipes with each other, or guards (which have no scope but
    their name). `least`, `most`: the smallest difference shown with 80 % probability, by the sharpest and by
    the dullest of the comparisons. `undecided` of `comparisons` are not decidable here, of these
    `lacked_power` for want of power.
    """

    kind: Kind
    scope: str
    margin: float
    comparisons: int
    least: float
    most: float
    undecided: int
    lacked_power: int


def lacked_power(found: Comparison | GuardCheck, margin: float) -> bool:
    """Whether it is undecided and would mostly have been so between equally good candidates too."""
    return _undecided(found) and found.detectable > margin


def sensitivities(
    changes: Sequence[Comparison],
    pairs: Sequence[Comparison],
    guards: Sequence[GuardCheck],
    *,
    margin: float,
    guard_margin: float,
) -> list[Sensitivity]:
    """One row for each kind and scope: against the untouched model, of recipes with each other, of guards."""
    groups: dict[tuple[Kind, str], list[Comparison | GuardCheck]] = {}
    for change in changes:
        groups.setdefault(("untouched", change.scope), []).append(change)
    for pair in pairs:
        groups.setdefault(("pairs", pair.scope), []).append(pair)
    for check in guards:
        groups.setdefault(("guard", check.guard), []).append(check)
    found = []
    for (kind, scope), members in groups.items():
        its_margin = guard_margin if kind == "guard" else margin
        found.append(
            Sensitivity(
                kind=kind,
                scope=scope,
                margin=its_margin,
                comparisons=len(members),
                least=min(one.detectable for one in members),
                most=max(one.detectable for one in members),
                undecided=sum(_undecided(one) for one in members),
                lacked_power=sum(lacked_power(one, its_margin) for one in members),
            )
        )
    return found


def _undecided(found: Comparison | GuardCheck) -> bool:
    if isinstance(found, GuardCheck):
        return not (found.kept or found.broken)
    return found.verdict == "not decidable here"

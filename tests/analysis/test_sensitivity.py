"""What comparisons could have shown: the difference seen with 80 % probability, and claims without power."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from synthetic_study import analysis_of, eight_recipes, synthetic_tables

from babeltune.analysis.comparison import Comparison, compare
from babeltune.analysis.recommend import GuardCheck, guard_checks
from babeltune.analysis.sensitivity import lacked_power, sensitivities
from babeltune.analysis.variance import Estimate

LABELS = ["untouched", *(f"r{k}" for k in range(1, 9))]


def changes(estimate: Estimate, *, simultaneous: bool) -> list[Comparison]:
    first, second = list(range(1, 9)), [0] * 8
    return compare(
        estimate,
        LABELS,
        first,
        second,
        "overall",
        margin=2,
        confidence=0.95,
        simultaneous=simultaneous,
    )


@pytest.mark.parametrize("simultaneous", [False, True])
def test_the_detectable_difference_is_shown_in_four_of_five_studies(simultaneous: bool) -> None:
    random = np.random.default_rng(4)
    size = np.mean(
        [changes(eight_recipes(random, 0.0), simultaneous=simultaneous)[0].detectable for _ in range(60)]
    )
    shown = [
        change.low > 0
        for _ in range(250)
        for change in changes(eight_recipes(random, float(size)), simultaneous=simultaneous)
    ]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.05)


def test_a_harmless_recipe_keeps_a_guard_at_the_provable_margin_in_four_of_five_studies() -> None:
    random = np.random.default_rng(5)
    base = dict.fromkeys(range(1, 9), 0)

    def checks(guard_margin: float) -> list[GuardCheck]:
        known = {"English": eight_recipes(random, 0.0)}
        return guard_checks(known, LABELS, range(1, 9), base, guard_margin=guard_margin, confidence=0.95)

    margin = float(np.mean([checks(1.0)[0].detectable for _ in range(60)]))
    kept = [check.kept for _ in range(250) for check in checks(margin)]
    assert np.mean(kept) == pytest.approx(0.8, abs=0.05)


def test_power_is_lacked_where_even_the_margin_is_not_seen() -> None:
    [first, *_] = changes(eight_recipes(np.random.default_rng(0), 0.0), simultaneous=False)
    undecided = dataclasses.replace(first, verdict="not decidable here", detectable=3.0)
    assert lacked_power(undecided, 2.0)
    assert not lacked_power(undecided, 3.5)
    assert not lacked_power(dataclasses.replace(undecided, verdict="shown no worse"), 2.0)
    guard = GuardCheck("r1", "English", -0.5, -2.0, 1.0, kept=False, broken=False, detectable=1.5)
    assert lacked_power(guard, 1.0)
    assert not lacked_power(dataclasses.replace(guard, broken=True), 1.0)


def test_counts_are_those_of_the_comparisons() -> None:
    found = analysis_of(synthetic_tables(seeds=2, items=60), margin=2.0)
    rows = {(row.kind, row.scope): row for row in found.power}
    assert {kind for kind, _ in rows} == {"untouched", "pairs", "guard"}
    assert {scope for kind, scope in rows if kind == "guard"} == {"English"}
    pairs = rows["pairs", "overall"]
    assert pairs.comparisons == len(found.pairs) == 6
    assert pairs.undecided == sum(c.verdict == "not decidable here" for c in found.pairs) > 0
    assert pairs.lacked_power == sum(
        c.verdict == "not decidable here" and c.detectable > 2.0 for c in found.pairs
    )
    assert (pairs.least, pairs.most) == (
        min(c.detectable for c in found.pairs),
        max(c.detectable for c in found.pairs),
    )
    swahili = [c for c in found.scoped_pairs if c.scope == "language:sw"]
    assert rows["pairs", "language:sw"].most == max(c.detectable for c in swahili)
    assert rows["guard", "English"].margin == found.decide["guard_margin"]
    assert sensitivities([], [], [], margin=1.0, guard_margin=1.0) == []

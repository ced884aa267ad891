"""Short calibrations of the statistics on simulated studies; `benchmarks/calibration.py` runs long ones."""

from __future__ import annotations

import numpy as np
import pytest
from calibration import Case, cases, shares, simulate

from babeltune.analysis.critical import largest_absolute_of, largest_of
from babeltune.analysis.recommend import loss_bounds
from babeltune.analysis.variance import Estimate, SeedVariance

CASES = {case.name: case for case in cases()}
REPEATS = 300


def seen(case: Case, repeats: int = REPEATS) -> dict[str, float]:
    """Per cent of the first repeats, the same in every run of the tests."""
    return {name: mean for name, (mean, _) in shares(case, simulate(case, range(repeats))).items()}


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_recipes_are_seldom_told_apart(seeds: int) -> None:
    found = seen(CASES[f"equal-{seeds}"])
    assert 93 <= found["coverage"] <= 97
    assert found["false claim"] <= 9
    assert found["claim against untouched"] <= 9
    assert 91 <= found["all ends hold"] <= 99


@pytest.mark.slow
def test_peers_tests_tell_equal_recipes_apart() -> None:
    found = seen(CASES["equal-2"], 100)
    assert found["item-only"] > 30
    assert found["unpaired"] > 30


@pytest.mark.slow
@pytest.mark.parametrize("name", ["no-seed-variance", "floor", "ceiling", "few-items"])
def test_coverage_at_the_ends_of_the_scale(name: str) -> None:
    assert 93 <= seen(CASES[name], 200)["coverage"] <= 97.5


@pytest.mark.slow
def test_full_and_adapter_recipes_with_unequal_seed_variation() -> None:
    found = seen(CASES["families"])
    assert found["false claim"] <= 9
    assert found["one pool"] > found["false claim"]


@pytest.mark.parametrize(("name", "wrong"), [("choice", "wrong"), ("guard", "wrongly kept")])
def test_what_is_past_its_margin_is_seldom_certified(name: str, wrong: str) -> None:
    assert seen(CASES[name], 2000)[wrong] <= 5


def test_choosing_by_not_significant_or_by_points_is_mostly_wrong() -> None:
    found = seen(CASES["choice"], 500)
    assert found["wrong by not significant"] > 80
    assert found["wrong by point estimate"] > 80


@pytest.mark.slow
def test_an_effect_is_shown_as_often_as_planned() -> None:
    found = CASES["effect"]
    planned = next(promise for promise in found.promises if promise.outcome == "shown")
    assert planned.low - 3 <= seen(found)["shown"] <= planned.high + 3


@pytest.mark.slow
def test_interactions_and_shares_of_a_gap_are_covered() -> None:
    by_class = seen(CASES["rank-by-class"])
    for outcome in (by_class["r covered"], by_class["bits covered"], seen(CASES["gap"])["covered"]):
        assert 92 <= outcome <= 98.5


def test_one_full_recipe_with_two_seeds_leads_to_few_wrong_certifications() -> None:
    """One degree of freedom for full-parameter training, far more scattered than the adapters (Gaussian).

    The cheapest adapter is exactly the margin worse than the full-parameter recipe.
    """
    random = np.random.default_rng(13)
    seeds, item_variance, item_part = 2, 0.125, 0.075
    family_K = np.array([0, 1, 1, 1])
    seed_sd_K = np.where(family_K == 0, 1.5, 0.4)
    wrong = 0
    for _ in range(1000):
        items_K_1 = random.normal(size=(4, 1)) * (item_variance - item_part / seeds) ** 0.5
        runs_K_S = items_K_1 + random.normal(size=(4, seeds)) * np.sqrt(seed_sd_K[:, None] ** 2 + item_part)
        runs_K_S[0] += 2.0
        raw_K = runs_K_S.var(axis=1, ddof=1)
        families = tuple(
            SeedVariance(
                name,
                max(float(raw_K[family_K == f].mean()), float(raw_K.mean()) if f == 0 else 0.0),
                item_part,
                df,
                df,
            )
            for f, (name, df) in enumerate((("full", 1), ("adapter", 3)))
        )
        found = Estimate(
            runs_K_S.mean(axis=1), np.full(4, seeds), np.eye(4) * item_variance, 0.0, 1000, family_K, families
        )
        wrong += loss_bounds(found, list("abcd"), range(4), margin=2.0, confidence=0.95)[1].bound <= 2.0
    assert wrong / 1000 <= 0.05


def test_one_recipe_that_varies_much_hides_nothing_of_the_others() -> None:
    """Contrasts are judged by their own degrees of freedom, and still hold all at once."""
    correlation = np.full((7, 7), 0.5) + 0.5 * np.eye(7)
    values = largest_absolute_of(correlation, np.array([np.inf, *[10.0] * 5, 1.1]), 0.95)
    # Dunnett's own table, two-sided, seven treatments: 2.60 for known variances, 3.15 with ten degrees.
    assert values[0] == pytest.approx(2.61, abs=0.02)
    assert (values[1:6] > 3.13).all()
    assert (values[1:6] < 3.3).all()
    assert values[6] > 40
    random = np.random.default_rng(0)
    sd, seeds = np.array([1.5, *[0.4] * 6]), 2
    critical = largest_absolute_of(np.eye(7), np.array([1.0, *[6.0] * 6]), 0.95)
    hold = []
    for _ in range(2000):
        difference = sd / np.sqrt(seeds) * random.standard_normal(7)
        own, shared = random.chisquare(1) / 1, random.chisquare(6) / 6
        error = sd / np.sqrt(seeds) * np.sqrt(np.array([own, *[shared] * 6]))
        hold.append(bool((np.abs(difference) <= critical * error).all()))
    assert 0.94 <= np.mean(hold) <= 0.96


def test_simultaneous_values_are_those_of_the_specification() -> None:
    values = largest_of(8, np.array([8.0, 16.0, np.inf]), 0.95)
    assert values == pytest.approx([3.11, 2.76, 2.48], abs=0.03)
    assert largest_of(1, np.array([5.0, 30.0]), 0.95) == pytest.approx([2.015, 1.697], abs=0.003)

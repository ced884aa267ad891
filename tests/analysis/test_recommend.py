"""The certification rule, its guards, and what it says when nothing can be certified."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from babeltune.analysis.critical import largest_of
from babeltune.analysis.frontier import frontier
from babeltune.analysis.recommend import GuardCheck, Recommendation, guard_checks, loss_bounds, recommend
from babeltune.analysis.variance import Estimate, SeedVariance

LABELS = ("untouched", "small", "large", "full")


def made_up(
    means: tuple[float, ...] = (50.0, 56.0, 56.4, 56.2),
    *,
    se: float = 0.2,
    seed_variance: float = 0.05,
    seed_df: int = 9,
    seeds: int = 4,
) -> Estimate:
    """Four candidates (the first untouched) with independent item errors."""
    n = len(means)
    return Estimate(
        means_K=np.array(means),
        seeds_K=np.array([1] + [seeds] * (n - 1)),
        item_covariance_K_K=np.eye(n) * se**2,
        floor=0.0,
        item_df=500,
        family_K=np.array([-1] + [0] * (n - 1)),
        seed_variances=(SeedVariance("adapter", seed_variance, 0.0, seed_df, seed_df if seed_df else 0),),
    )


def kept_guard(label: str, difference: float = 0.0, low: float = -0.5) -> GuardCheck:
    high = difference + 0.5
    return GuardCheck(label, "English", difference, low, high, low >= -1, high < -1, detectable=0.9)


def decide(
    estimate: Estimate,
    cost: dict[str, float | None] | None = None,
    guards: list[GuardCheck] | None = None,
    worse: frozenset[str] = frozenset(),
    margin: float = 2.0,
) -> Recommendation:
    bounds = loss_bounds(estimate, LABELS, [1, 2, 3], margin=margin, confidence=0.95)
    return recommend(
        estimate,
        LABELS,
        [1, 2, 3],
        bounds,
        [kept_guard(label) for label in LABELS[1:]] if guards is None else guards,
        ["English"],
        cost or {"small": 1.0, "large": 2.0, "full": 5.0},
        worse,
        margin=margin,
        confidence=0.95,
    )


def test_the_cheapest_certified_is_recommended_and_not_the_best() -> None:
    found = decide(made_up())
    assert (found.state, found.candidate, found.runner_up) == ("certified", "small", "large")
    assert found.bound is not None
    assert 0.4 < found.bound < 2.0


def test_unknown_cost_comes_last() -> None:
    assert decide(made_up(), {"small": None, "large": 2.0, "full": 5.0}).candidate == "large"


def test_a_guard_that_may_be_broken_bars_the_cheapest() -> None:
    guards = [kept_guard("small", -0.8, -1.4), kept_guard("large"), kept_guard("full")]
    assert decide(made_up(), guards=guards).candidate == "large"


def test_a_guard_without_scores_bars_certification() -> None:
    found = decide(made_up(), guards=[])
    assert found.state == "provisional"
    assert any("English" in reason and "no scores" in reason for reason in found.reasons)


def test_wide_intervals_give_a_provisional_choice_and_what_would_decide() -> None:
    found = decide(made_up(seed_variance=1.5, seeds=2, seed_df=3))
    assert found.state == "provisional"
    assert found.certified == ()
    assert found.bound is not None
    assert found.bound > 2.0
    assert found.needed is not None
    assert "seeds of every recipe" in found.needed


def test_more_seeds_are_not_promised_where_the_observed_loss_is_past_the_margin() -> None:
    estimate = made_up((50.0, 50.0, 60.0, 50.0), seed_variance=9.0, seeds=2, seed_df=3)
    guards = [kept_guard("small"), kept_guard("large", -9, -9.5), kept_guard("full")]
    assert decide(estimate, guards=guards).needed is None


def test_few_degrees_of_freedom_are_said() -> None:
    found = decide(made_up(seed_df=2, seed_variance=1e-4))
    assert found.state == "certified"
    assert found.reasons == (
        "the run-to-run variation of adapter recipes is provisional: 2 degrees of freedom",
    )


def test_a_family_that_was_never_repeated_certifies_nothing() -> None:
    borrowed = dataclasses.replace(
        made_up(),
        family_K=np.array([-1, 0, 0, 1]),
        seed_variances=(SeedVariance("adapter", 0.05, 0.0, 6, 6), SeedVariance("full", 0.05, 0.0, 0, 6)),
    )
    found = decide(borrowed)
    assert (found.state, found.candidate) == ("provisional", "small")
    assert found.needed == "a second seed of the full recipes"


def test_what_bars_the_choice_is_named() -> None:
    """The margin only where the bound is beyond it; what would decide only where seeds or items would."""
    wide = made_up(seed_variance=1.5, seeds=2, seed_df=3)
    may_break = [kept_guard(label, -0.8, -1.4) for label in LABELS[1:]]
    breaks = [kept_guard(label, -9, -9.5) for label in LABELS[1:]]
    borrowed = dataclasses.replace(
        made_up(),
        family_K=np.array([-1, 0, 0, 1]),
        seed_variances=(SeedVariance("adapter", 0.05, 0.0, 6, 6), SeedVariance("full", 0.05, 0.0, 0, 6)),
    )
    found = {
        "decided": decide(made_up()),
        "margin": decide(wide),
        "margin, guard open": decide(wide, guards=may_break),
        "guards": decide(made_up(), guards=may_break),
        "a guard without scores": decide(made_up(), guards=[]),
        "broken guards": decide(made_up(), guards=breaks),
        "broken guards, margin": decide(wide, guards=breaks),
        "seeds": decide(borrowed),
        "seeds, guard open": decide(borrowed, guards=may_break),
        "one seed": decide(made_up(seed_df=0, seed_variance=0.0, seeds=1)),
    }
    assert {name: (r.obstacle, r.open_guards, r.needed is not None) for name, r in found.items()} == {
        "decided": (None, (), False),
        "margin": ("margin", (), True),
        "margin, guard open": ("margin", ("English",), True),
        "guards": ("guards", ("English",), False),
        "a guard without scores": ("guards", ("English",), False),
        "broken guards": ("broken guards", ("English",), False),
        "broken guards, margin": ("broken guards", ("English",), False),
        "seeds": ("seeds", (), True),
        "seeds, guard open": ("guards", ("English",), False),
        "one seed": ("seeds", (), True),
    }


def test_one_seed_certifies_nothing() -> None:
    found = decide(made_up(seed_df=0, seed_variance=0.0, seeds=1))
    assert found.state == "one seed"
    assert found.certified == ()
    assert found.candidate == "small"


def test_nothing_is_recommended_where_all_are_worse_than_untouched() -> None:
    found = decide(made_up((60.0, 50.0, 51.0, 50.5)), worse=frozenset(LABELS[1:]))
    assert (found.state, found.candidate) == ("keep untouched", None)


def test_that_some_recipe_is_worse_is_a_claim_over_all_ordered_pairs() -> None:
    """Between the quantile of three normal variables and that of six nothing is shown; the bound stays."""
    estimate = made_up((50.0, 56.0, 56.0, 58.0), se=0.0, seed_variance=1.0, seed_df=9)
    se = (2 / 4) ** 0.5
    of_three, of_six = (float(largest_of(n, 9.0, 0.95)) * se for n in (3, 6))
    for difference, verdict in (
        ((of_three + of_six) / 2, "not decidable here"),
        (of_six + 0.01, "shown worse"),
    ):
        means = np.array([50.0, 60.0 - difference, 60.0 - difference, 60.0])
        found = dataclasses.replace(estimate, means_K=means)
        worst, _, best = loss_bounds(found, LABELS, [1, 2, 3], margin=1.0, confidence=0.95)
        assert worst.verdict == verdict
        assert worst.bound == pytest.approx(difference + of_three)
        assert (best.bound, best.verdict) == (0.0, "shown no worse")


def test_guard_checks_are_against_the_own_untouched_model() -> None:
    checks = guard_checks(
        {"English": made_up((60.0, 59.9, 59.0, 50.0))},
        LABELS,
        [1, 2, 3],
        {1: 0, 2: 0, 3: 0},
        guard_margin=1.0,
        confidence=0.95,
    )
    assert [c.difference for c in checks] == pytest.approx([-0.1, -1.0, -10.0])
    assert [c.kept for c in checks] == [True, False, False]
    assert [c.broken for c in checks] == [False, False, True]


def test_frontier_shows_only_what_is_shown() -> None:
    places = frontier(made_up((50.0, 56.0, 56.1, 52.0)), LABELS, [1, 2, 3], [1.0, 2.0, 5.0], 0.95)
    assert [p.status for p in places] == ["possible", "possible", "shown dominated"]
    assert places[2].dominated_by in {"small", "large"}
    assert places[0].share == 1.0
    assert places[2].share < 0.01 < places[1].share < 0.99

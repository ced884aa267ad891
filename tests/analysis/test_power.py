"""The power of planned studies against the examples of the specification."""

from __future__ import annotations

import numpy as np
import pytest

from babeltune.analysis.critical import largest_of
from babeltune.analysis.power import Assumptions, TaskSize, few_seeds_warnings, power

LANGUAGES = tuple(f"l{n}" for n in range(8))


@pytest.mark.parametrize(("seeds", "pair", "among_all"), [(2, 2.9, 3.8), (3, 2.4, 3.0), (5, 2.0, 2.5)])
def test_examples_of_the_specification(seeds: int, pair: float, among_all: float) -> None:
    tasks = [TaskSize("a", 500, LANGUAGES), TaskSize("b", 500, LANGUAGES)]
    overall = power(tasks, recipes=8, seeds=seeds)[0]
    assert overall.scope == "overall"
    assert overall.pair == pytest.approx(pair, abs=0.08)
    assert overall.among_all == pytest.approx(among_all, abs=0.08)


def test_the_two_chat_forms_of_a_task_are_one_sample_of_items() -> None:
    for seeds in (1, 3):
        alone, both = (
            power([TaskSize(name, 500, ("sw", "ha")) for name in names], recipes=6, seeds=seeds)[0]
            for names in (("xnli",), ("xnli", "xnli+chat"))
        )
        assert both == alone
    other = power([TaskSize(name, 500, ("sw", "ha")) for name in ("xnli", "xcopa")], recipes=6, seeds=3)[0]
    assert other.pair < both.pair


def test_one_language_with_250_items() -> None:
    overall = power([TaskSize("a", 250, ("sw",))], recipes=8, seeds=2)[0]
    assert overall.pair == pytest.approx(7.1, abs=0.15)
    assert overall.among_all == pytest.approx(9.2, abs=0.2)


def test_the_certifiable_margin_is_four_to_five_standard_errors() -> None:
    tasks = [TaskSize("a", 500, LANGUAGES), TaskSize("b", 500, LANGUAGES)]
    overall = power(tasks, recipes=8, seeds=2)[0]
    assert overall.certifiable_margin is not None
    assert 4.0 <= overall.certifiable_margin / 0.95 <= 5.0


def test_a_single_seed_can_certify_nothing() -> None:
    found = power([TaskSize("a", 500, ("en", "sw"))], recipes=4, seeds=1, guard_languages=["en"])
    assert [p.scope for p in found] == ["overall", "language:sw", "guard:en"]
    assert all(p.certifiable_margin is None for p in found)


def test_a_guard_is_compared_with_one_untouched_run() -> None:
    """Its standard error has one side's training noise; the guard margin holds in 80 % of Gaussian draws."""
    tasks, mmlu = [TaskSize("a", 1000, ("sw", "en"))], TaskSize("mmlu", 500, ("en",))
    found = {
        p.scope: p
        for p in power(tasks, recipes=6, seeds=3, guard_languages=["en"], guard_tasks=[mmlu])
        if p.scope.startswith("guard:")
    }
    assert list(found) == ["guard:en", "guard:en:mmlu"]
    guard = found["guard:en"]
    items = 2500 / 1000 * (2 * 0.15 + 0.25 * (1 + 1 / 3))
    assert guard.standard_error == pytest.approx((items + 0.49 / 3) ** 0.5)
    random = np.random.default_rng(0)
    changes = random.standard_normal(4000) * guard.standard_error
    lower = changes - largest_of(6, guard.df, 0.95) * guard.standard_error
    assert guard.certifiable_margin is not None
    assert np.mean(lower >= -guard.certifiable_margin) == pytest.approx(0.80, abs=0.03)


def test_assumptions_from_a_pilot_replace_the_defaults() -> None:
    tasks = [TaskSize("a", 500, ("sw", "ha"))]
    steady = Assumptions(item_variance=900.0, between_seeds=0.9, between_recipes=0.8, seed_sd=0.2)
    default, known = (
        power(tasks, recipes=6, seeds=3, assumptions=given)[0] for given in (None, {"a": steady})
    )
    assert known.pair < 0.6 * default.pair


def test_few_seeds_are_warned_of() -> None:
    warnings = few_seeds_warnings({"full": 1, "adapter": 6}, 2)
    assert len(warnings) == 1
    assert "full: 1 recipe × 2 seeds" in warnings[0]

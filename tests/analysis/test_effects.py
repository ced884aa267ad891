"""Factor effects recover what was put in, per doubling for ranks, and refuse what is aliased."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from babeltune.analysis.effects import all_effects, factor_effects, interactions
from babeltune.analysis.factors import factors_of
from babeltune.analysis.fairness import unevenness
from babeltune.analysis.scopes import Scope
from babeltune.analysis.variance import Estimate, SeedVariance


def estimate_of(means: Sequence[float]) -> Estimate:
    n = len(means)
    return Estimate(
        np.array(means), np.ones(n, dtype=int), np.eye(n) * 0.04, 0.0, 300, np.zeros(n, dtype=int), ()
    )


def test_main_effects_of_a_grid() -> None:
    grid = list(itertools.product([8, 16, 64], [16, 4]))
    settings = {k: {"r": r, "bits": b, "method": "lora"} for k, (r, b) in enumerate(grid)}
    means = [50 + 1.5 * np.log2(r) - 0.7 * (b == 4) for r, b in grid]
    effects = {e.factor: e for e in factor_effects(estimate_of(means), settings, "overall", confidence=0.95)}
    assert effects["r"].difference == pytest.approx(1.5)
    assert effects["r"].change == "per doubling"
    assert effects["bits"].difference == pytest.approx(-0.7)
    assert effects["bits"].change == "4 against 16"
    assert "method" not in effects


def test_one_factor_at_a_time_with_a_full_parameter_recipe() -> None:
    settings = {
        0: {"method": "lora", "r": 16, "bits": 16},
        1: {"method": "lora", "r": 64, "bits": 16},
        2: {"method": "lora", "r": 16, "bits": 4},
        3: {"method": "full", "r": None, "bits": 16},
    }
    effects = {
        e.factor: e
        for e in factor_effects(estimate_of([50.0, 54, 49, 56]), settings, "overall", confidence=0.95)
    }
    assert effects["r"].difference == pytest.approx(2.0)
    assert effects["r"].recipes == 3
    assert effects["bits"].difference == pytest.approx(-3.0)  # 49 against 52, the mean of the other LoRA…
    assert effects["method"].recipes == 4


def test_aliased_factors_are_refused() -> None:
    settings = {0: {"r": 8, "bits": 16}, 1: {"r": 64, "bits": 4}}
    effects = factor_effects(estimate_of([50.0, 52.0]), settings, "overall", confidence=0.95)
    assert [e.difference for e in effects] == [None, None]
    assert all(e.refused and "can't be told apart" in e.refused for e in effects)


def test_the_effect_of_a_method_may_depend_on_the_model() -> None:
    """LoRA is 10 points below full-parameter training on a raw model, 1 below on a tuned one."""
    grid = list(itertools.product(["raw", "tuned"], ["full", "lora"], [0, 1]))
    settings = {k: {"model": m, "method": how, "bits": 16} for k, (m, how, _) in enumerate(grid)}
    loss = {("raw", "lora"): -10, ("tuned", "lora"): -1}
    means = [60 + 5 * (m == "tuned") + loss.get((m, how), 0) for m, how, _ in grid]
    [found] = interactions(estimate_of(means), settings, "overall", confidence=0.95)
    assert (found.factor, found.depends_on) == ("method", "model")
    assert found.change == "lora against full, model tuned against raw"
    assert found.difference == pytest.approx(9)
    assert found.low is not None
    assert found.low < 9


def test_more_data_may_help_one_method_more() -> None:
    grid = list(itertools.product(["full", "lora"], [100_000, 200_000, 800_000]))
    settings = {
        k: {"method": how, "data": f"d{n}", "mixture": "d", "train_examples": n, "r": None}
        for k, (how, n) in enumerate(grid)
    }
    means = [50 + (2.0 if how == "full" else 0.5) * np.log2(n) for how, n in grid]
    main = {e.factor: e for e in factor_effects(estimate_of(means), settings, "overall", confidence=0.95)}
    assert set(main) == {"method", "size"}
    assert main["size"].difference == pytest.approx(1.25)
    assert main["size"].change == "per doubling"
    [by_method] = interactions(estimate_of(means), settings, "overall", confidence=0.95)
    assert by_method.change == "per doubling, method lora against full"
    assert by_method.difference == pytest.approx(-1.5)


def test_empty_cells_are_named() -> None:
    settings = {
        k: {"method": how, "model": m}
        for k, (how, m) in enumerate([("full", "a"), ("lora", "a"), ("lora", "b")])
    }
    [refused] = interactions(estimate_of([50.0, 51, 52]), settings, "overall", confidence=0.95)
    assert refused.difference is None
    assert refused.refused == "no recipe has method full with model b"
    one_size = {
        k: {"method": how, "data": f"d{n}", "mixture": "d", "train_examples": n}
        for k, (how, n) in enumerate([("full", 100), ("lora", 100), ("lora", 400)])
    }
    [refused] = interactions(estimate_of([50.0, 51, 52]), one_size, "overall", confidence=0.95)
    assert refused.refused == "method full was tried in one size only"


def test_size_is_a_factor_only_where_a_mixture_has_several() -> None:
    several = {
        0: {"data": "big", "mixture": "big", "train_examples": 1000},
        1: {"data": "small", "mixture": "big", "train_examples": 100},
        2: {"data": "other", "mixture": "other", "train_examples": 990},
    }
    assert [(f["mixture"], f["size"]) for f in factors_of(several).values()] == [
        ("big", 1000),
        ("big", 100),
        ("other", 990),
    ]
    one_each = {0: several[0], 2: several[2]}
    assert [(f["mixture"], f["size"]) for f in factors_of(one_each).values()] == [
        ("big", None),
        ("other", None),
    ]
    not_prepared = {**several, 1: {**several[1], "train_examples": None}}
    assert [f["mixture"] for f in factors_of(not_prepared).values()] == ["big", "small", "other"]


def test_classes_that_the_languages_lack_are_said() -> None:
    settings = {0: {"r": 8}, 1: {"r": 64}}
    scopes = [Scope("overall", "overall", "overall", {}), Scope("class:high", "class", "high", {})]
    estimates = {scope.key: estimate_of([50.0, 53.0]) for scope in scopes}
    found = all_effects(scopes, estimates, settings, 0.95)
    assert [(e.scope, e.depends_on, e.difference) for e in found[:2]] == [
        ("overall", None, pytest.approx(1.0)),
        ("class:high", None, pytest.approx(1.0)),
    ]
    assert found[2].depends_on == "class"
    assert found[2].refused == "no low-resource language is scored"
    assert found[0].p_adjusted == pytest.approx(2 * (found[0].p or 0))


def test_an_effect_is_shown_of_recipes_only() -> None:
    settings = {0: {"r": 8}, 1: {"r": 64}}
    scopes = [Scope("overall", "overall", "overall", {})]
    once = estimate_of([50.0, 80.0])
    repeated = dataclasses.replace(once, seed_variances=(SeedVariance("adapter", 0.1, 0.0, 4, 4),))
    for estimate, shown in ((once, False), (repeated, True)):
        [effect, _] = all_effects(scopes, {"overall": estimate}, settings, 0.95)
        assert effect.p_adjusted is not None
        assert effect.p_adjusted < 0.001
        assert effect.significant == shown


def test_unevenness_lists_only_what_is_not_compared() -> None:
    settings = {
        "a": {"method": "lora", "r": 8, "lora_alpha": 16.0, "num_train_epochs": 3.0, "dtype": "bfloat16"},
        "b": {"method": "lora", "r": 64, "lora_alpha": 128.0, "num_train_epochs": 4.0, "dtype": "bfloat16"},
        "c": {"method": "full", "r": None, "lora_alpha": None, "num_train_epochs": 3.0, "dtype": "bfloat16"},
    }
    found = {u.what: dict(u.values) for u in unevenness(settings, {"a": 1000.0, "b": 1333.0, "c": 1000.0})}
    assert found == {
        "epochs": {"3": ("a", "c"), "4": ("b",)},
        "tokens trained on": {"1,000": ("a", "c"), "1,333": ("b",)},
    }

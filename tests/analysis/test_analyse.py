"""The whole analysis on made-up studies: finished, interrupted, with failures, with one seed."""

from __future__ import annotations

import dataclasses
import json

import polars as pl
import pytest
from synthetic_study import RECIPES, TARGET, TASKS, Recipe, analysis_of, synthetic_tables

from babeltune.analysis.result import Analysis
from babeltune.analysis.scores import TaskInfo
from babeltune.analysis.tables import Tables
from babeltune.study.schema import Budget


@pytest.fixture(scope="module")
def tables() -> Tables:
    return synthetic_tables(seeds=3)


@pytest.fixture(scope="module")
def analysis(tables: Tables) -> Analysis:
    return analysis_of(tables, margin=4.0, guard_margin=3.0)


def test_scores_are_macro_averages_of_the_frame(tables: Tables, analysis: Analysis) -> None:
    rows = tables.scores.filter(
        pl.col("recipe") == "lora-r32", pl.col("metric") == "accuracy", pl.col("language").is_in(TARGET)
    )
    by_cell = rows.group_by("seed", "task", "language").agg(pl.col("value").mean())
    by_task = by_cell.group_by("seed", "task").agg(pl.col("value").mean())
    score = analysis.score("lora-r32", "overall")
    assert score is not None
    assert score.score == pytest.approx(100 * by_task["value"].mean())  # pyright: ignore[reportOperatorIssue]
    assert score.low < score.score < score.high


def test_loss_is_shown_and_does_not_decide(analysis: Analysis) -> None:
    assert analysis.decision_tasks == ("xcopa", "xnli")
    assert {loss.metric for loss in analysis.losses} == {"bits_per_byte"}
    change = next(x.change for x in analysis.losses if x.candidate == "lora-r32" and x.language == "sw")
    assert change is not None
    assert change < 0


def test_language_fidelity_is_shown_and_does_not_decide(tables: Tables, analysis: Analysis) -> None:
    answers = tables.scores.filter(task="xcopa", language="sw").with_columns(
        metric=pl.lit("language_fidelity"),
        value=pl.when(pl.col("recipe") == "untouched").then(0.25).otherwise(1.0),
    )
    found = analysis_of(
        dataclasses.replace(tables, scores=pl.concat([tables.scores, answers])), margin=4.0, guard_margin=3.0
    )
    assert found.recommendation == analysis.recommendation
    by_candidate = {x.candidate: (x.language, x.value, x.change) for x in found.fidelity}
    assert by_candidate["untouched"] == ("sw", 0.25, None)
    assert by_candidate["full"] == ("sw", 1.0, 0.75)
    assert analysis.fidelity == ()


def test_the_recommendation_is_certified_and_spares_english(analysis: Analysis) -> None:
    found = analysis.recommendation
    assert analysis.basis == "recipes"
    assert found.candidate != "full"
    assert "full" not in found.certified
    assert next(g for g in analysis.guards if g.candidate == "full").broken


def test_english_is_a_guard_and_not_in_the_overall_score(analysis: Analysis) -> None:
    overall = next(s for s in analysis.scopes if s.key == "overall")
    assert set(overall.languages) == set(TARGET)
    assert overall.items == 800
    change = analysis.change("full", "language:en")
    assert change is not None
    assert change.significant
    assert change.difference < -3


def test_costs_are_means_over_seeds_with_price(analysis: Analysis) -> None:
    cost = analysis.cost("lora-r4")
    assert cost is not None
    assert cost.gpu_hours == pytest.approx(210 * 1.9 / 3600, rel=0.1)
    assert cost.price == pytest.approx(2.0 * (cost.gpu_hours or 0))
    assert cost.energy_joules is None


def test_a_shared_search_is_charged_once(tables: Tables) -> None:
    train = tables.costs.filter(pl.col("run").str.starts_with("lora-r4/"))
    search = train.head(2).with_columns(
        pl.lit("search").alias("kind"),
        pl.lit("search-1").alias("job"),
        pl.lit(3600.0).alias("device_seconds"),
    )
    with_search = Tables(tables.scores, pl.concat([tables.costs, search]), tables.runs)
    before, after = (analysis_of(t).cost("lora-r4") for t in (tables, with_search))
    assert before is not None
    assert after is not None
    assert after.gpu_hours == pytest.approx((before.gpu_hours or 0) + 1)


def test_a_guard_task_without_scores_bars_certification(tables: Tables, analysis: Analysis) -> None:
    loss = TaskInfo("wikitext", "bits_per_byte", guard_only=True)
    beside = analysis_of(tables, tasks=[*TASKS, loss], margin=4.0, guard_margin=3.0)
    assert beside.recommendation == analysis.recommendation
    mmlu = TaskInfo("mmlu", "accuracy", guard_only=True)
    found = analysis_of(tables, tasks=[*TASKS, mmlu], margin=4.0, guard_margin=3.0).recommendation
    assert (found.state, found.certified) == ("provisional", ())
    assert found.open_guards == ("mmlu",)
    assert "the guard mmlu has no scores" in found.reasons


def equal_recipes(count: int, gain: float) -> tuple[Recipe, ...]:
    """LoRA recipes that are all as good."""
    gains = dict.fromkeys(["en", *TARGET], gain)
    return tuple(Recipe(f"r{n}", "lora", gains, 100, 1_000, 1.0) for n in range(count))


def test_changes_overall_are_shown_where_their_own_interval_is() -> None:
    """Not where Holm's method shows them: the interval that is printed would say something else."""
    found = analysis_of(synthetic_tables(recipes=equal_recipes(6, gain=5.0), seeds=2, items=100))
    overall = [c for c in found.changes if c.scope == "overall"]
    assert [c.significant for c in overall] == [c.low > 0 for c in overall]
    assert any(c.low < 0 and c.p_adjusted < 0.05 for c in overall)


def test_a_difference_is_shown_worse_only_after_correction() -> None:
    """Of many equal recipes some pair's own interval is clear of 0 by luck."""
    equal = equal_recipes(8, gain=0.0)
    found = analysis_of(synthetic_tables(recipes=equal, seeds=2, items=60), margin=0.5)
    compared = (*found.pairs, *found.scoped_pairs, *(c for c in found.changes if c.scope != "overall"))
    by_luck = [c for c in compared if c.high < 0 and c.p_adjusted > 0.05]
    assert by_luck
    assert {c.verdict for c in by_luck} == {"not decidable here"}
    assert all(c.significant for c in compared if c.verdict == "shown worse")


def test_one_seed_is_about_models() -> None:
    found = analysis_of(synthetic_tables(seeds=1))
    assert found.basis == "models"
    assert found.recommendation.state == "one seed"
    assert found.run_to_run == ()
    assert found.frontier == ()
    assert all(c.assumed_low is None for c in found.changes)


def test_one_seed_with_an_assumed_run_variation_has_a_second_interval() -> None:
    found = analysis_of(synthetic_tables(seeds=1), assumed_run_sd=1.0)
    for comparison in (*found.changes, *found.pairs):
        assert comparison.assumed_low is not None
        assert comparison.assumed_high is not None
        assert comparison.assumed_low < comparison.difference < comparison.assumed_high
    pair = next(c for c in found.pairs if c.scope == "overall")
    assert pair.assumed_high - pair.assumed_low > pair.high - pair.low  # pyright: ignore[reportOperatorIssue]


def test_recipes_are_compared_in_every_part_of_the_study(analysis: Analysis) -> None:
    parts = {s.key for s in analysis.scopes if s.kind in ("language", "class", "task", "script")}
    assert {"language:sw", "class:high", "task:xnli"} <= parts
    for found in (analysis.scoped_pairs, analysis.scoped_bounds):
        assert {row.scope for row in found} == parts
    assert {c.scope for c in analysis.changes} == {s.key for s in analysis.scopes}
    assert {row.scope for row in (*analysis.pairs, *analysis.bounds)} == {"overall"}
    assert len(analysis.records("scoped_pairs")) == len(parts) * 6
    bound = next(b for b in analysis.scoped_bounds if b.scope == "language:sw" and b.candidate == "lora-r4")
    assert bound.bound > bound.observed > 0


def test_which_seeds_carry_the_run_to_run_variation_is_said(tables: Tables) -> None:
    once = tables.runs.filter((pl.col("seed") > 0) & (pl.col("recipe") == "lora-r4"))["run"].to_list()
    found = analysis_of(Tables(tables.scores.filter(~pl.col("run").is_in(once)), tables.costs, tables.runs))
    carried = {f.family: f.carried_by for f in found.run_to_run}
    assert carried == {"adapter": ("lora-r32", "lora-r32-b4"), "full": ("full",)}


def test_failed_and_open_runs_are_named_and_the_rest_is_used(tables: Tables) -> None:
    failed, unfinished = "full/SmolLM2-135M-Instruct/seed1", "lora-r4/SmolLM2-135M-Instruct/seed2"
    scores = tables.scores.filter(
        pl.col("run") != failed, ~((pl.col("run") == unfinished) & (pl.col("language") == "sw"))
    )
    state = (
        pl.when(pl.col("run") == failed)
        .then(pl.lit("failed"))
        .when(pl.col("run") == unfinished)
        .then(pl.lit("open"))
        .otherwise("state")
    )
    found = analysis_of(Tables(scores, tables.costs, tables.runs.with_columns(state.alias("state"))))
    done = {c.label: c.seeds_done for c in found.candidates}
    assert done == {"untouched": 1, "lora-r4": 2, "lora-r32": 3, "lora-r32-b4": 3, "full": 2}
    assert any(failed in sentence for sentence in found.missing)
    assert any("not finished" in sentence for sentence in found.missing)
    assert found.recommendation.candidate is not None


def test_a_language_that_few_runs_have_is_left_out(tables: Tables) -> None:
    first = tables.runs["run"][0]
    scores = tables.scores.filter((pl.col("language") != "sw") | (pl.col("run") == first))
    found = analysis_of(Tables(scores, tables.costs, tables.runs))
    overall = next(s for s in found.scopes if s.key == "overall")
    assert "sw" not in overall.languages
    assert any("Swahili" in sentence for sentence in found.missing)


def test_nothing_scored_yet(tables: Tables) -> None:
    found = analysis_of(Tables(tables.scores.clear(), tables.costs.clear(), tables.runs))
    assert found.recommendation.state == "none"
    assert json.dumps(found.to_json())


def test_only_the_untouched_model_scored(tables: Tables) -> None:
    found = analysis_of(
        Tables(tables.scores.filter(pl.col("recipe") == "untouched"), tables.costs.clear(), tables.runs)
    )
    assert found.recommendation.state == "none"
    assert found.score("untouched", "overall") is not None


def test_several_models_each_have_their_own_untouched(tables: Tables) -> None:
    other = synthetic_tables(model="other", recipes=RECIPES[:2], seeds=2)
    both = Tables(
        pl.concat([tables.scores, other.scores]),
        pl.concat([tables.costs, other.costs]),
        pl.concat([tables.runs, other.runs], how="diagonal_relaxed"),
    )
    found = analysis_of(both)
    assert [c.label for c in found.candidates[:2]] == [
        "untouched · SmolLM2-135M-Instruct",
        "untouched · other",
    ]
    change = found.change("lora-r4 · other", "overall")
    assert change is not None
    assert change.against == "untouched · other"


def test_summary_is_json_without_nan(analysis: Analysis) -> None:
    text = json.dumps(analysis.to_json(), allow_nan=False)
    assert json.loads(text)["recommendation"]["candidate"] == analysis.recommendation.candidate


def test_all_items_in_another_order_give_the_same(tables: Tables, analysis: Analysis) -> None:
    shuffled = tables.scores.sample(fraction=1.0, shuffle=True, seed=1)
    again = analysis_of(Tables(shuffled, tables.costs, tables.runs), margin=4.0, guard_margin=3.0)
    assert again.to_json() == analysis.to_json()


def test_without_a_price_device_hours_decide(tables: Tables) -> None:
    found = analysis_of(tables, budget=Budget(), cheapest="price")
    assert found.decide["cheapest"] == "gpu_hours"
    assert any("price" in sentence for sentence in found.missing)

"""The gap to larger models: shares closed, in generated form only, and only where there is a gap."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from synthetic_study import GUARD, RECIPES, TARGET, TASKS, synthetic_tables

from babeltune.analysis.analyse import analyse
from babeltune.analysis.references import NOT_SHOWN, fieller, references_of
from babeltune.analysis.result import Analysis
from babeltune.analysis.scores import TaskInfo
from babeltune.analysis.tables import Tables
from babeltune.execute.columns import COST_COLUMNS
from babeltune.study.schema import Decide

GENERATED = TaskInfo("xcopa/generate", "accuracy", written=True)
BIG = {"recipe": "reference", "model": "big", "run": "reference/big", "seed": 0}


def with_reference(gain: float) -> Tables:
    """The made-up study, its XCOPA also in generated form, and a model that is `gain` points better there."""
    tables = synthetic_tables(seeds=2, items=600)
    generated = tables.scores.filter(pl.col("task") == "xcopa").with_columns(task=pl.lit(GENERATED.task))
    untouched = generated.filter(pl.col("recipe") == "untouched")
    chance = pl.Series(np.random.default_rng(3).random(untouched.height))
    kept = chance > abs(gain) / 50  # of the half that is wrong (or right), so many change
    better = pl.when(kept).then("value").otherwise(pl.lit(float(gain > 0)))
    reference = untouched.with_columns(better, *(pl.lit(value).alias(key) for key, value in BIG.items()))
    row = {**BIG, "study": "synthetic", "state": "done", "method": "reference"}
    return Tables(
        pl.concat(
            [tables.scores, generated, reference.select(tables.scores.columns)], how="vertical_relaxed"
        ),
        tables.costs,
        pl.concat([tables.runs, pl.DataFrame([row])], how="diagonal_relaxed"),
    )


def analysed(tables: Tables, tasks: Sequence[TaskInfo] = (*TASKS, GENERATED)) -> Analysis:
    return analyse(
        tables.scores,
        tables.costs,
        tables.runs,
        tasks,
        Decide(),
        target=TARGET,
        guard=GUARD,
    )


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analysed(with_reference(12.0))


def test_the_share_of_the_gap_is_that_of_the_scores(analysis: Analysis) -> None:
    [found] = [g for g in analysis.gaps if g.candidate == "lora-r32" and g.scope == "overall"]
    assert found.reference == "big"
    assert found.gap == pytest.approx(12, abs=2.5)
    assert found.gained == pytest.approx(found.score - found.untouched_score)
    assert found.gap == pytest.approx(found.reference_score - found.untouched_score)
    assert found.closed is not None
    assert found.low is not None
    assert found.high is not None
    assert found.closed == pytest.approx(found.gained / found.gap)
    assert found.low < found.closed < found.high
    assert {g.scope for g in analysis.gaps} == {
        "overall",
        *(f"language:{code}" for code in [*GUARD, *TARGET]),
    }


def test_the_share_is_undefined_where_the_reference_is_no_better() -> None:
    found = analysed(with_reference(-2.0)).gaps
    assert found
    assert all(g.closed is None and g.undefined == NOT_SHOWN for g in found)


@pytest.mark.parametrize(("name", "metric"), [("xquad", "f1"), ("own", "chrf"), ("belle (math)", "judge")])
def test_every_task_answered_in_writing_counts_whatever_its_name(name: str, metric: str) -> None:
    tables = with_reference(12.0)
    renamed = [pl.when(pl.col("task") == GENERATED.task).then(pl.lit(value)).otherwise(pl.col(key)).alias(key)
               for key, value in (("metric", metric), ("task", name))]  # fmt: skip
    tables = dataclasses.replace(tables, scores=tables.scores.with_columns(renamed))
    written = TaskInfo(name, metric, written=True)
    found = analysed(tables, [*TASKS, written]).gaps
    assert {g.tasks for g in found} == {(name,)}
    # The larger model was asked by choice: its likelihoods are nothing to compare written answers with.
    assert not analysed(tables, [*TASKS, dataclasses.replace(written, written=False)]).gaps


def test_the_gap_is_the_mean_over_all_tasks_answered_in_writing(analysis: Analysis) -> None:
    tables = with_reference(12.0)
    answered = tables.scores.filter(pl.col("task") == GENERATED.task)
    worthless = answered.with_columns(task=pl.lit("xquad"), metric=pl.lit("f1"), value=pl.lit(0.25))
    both = dataclasses.replace(tables, scores=pl.concat([tables.scores, worthless]))
    tasks = [*TASKS, GENERATED, TaskInfo("xquad", "f1", written=True)]
    of_two, of_one = (
        next(g for g in gaps if g.candidate == "full" and g.scope == "overall")
        for gaps in (analysed(both, tasks).gaps, analysis.gaps)
    )
    assert of_two.tasks == (GENERATED.task, "xquad")
    assert of_two.gap == pytest.approx(of_one.gap / 2)
    assert of_two.reference_score == pytest.approx((of_one.reference_score + 25) / 2)


def test_a_reference_is_neither_a_candidate_nor_part_of_the_decision(analysis: Analysis) -> None:
    plain = synthetic_tables(seeds=2, items=600)
    without = analysed(plain)
    assert [c.label for c in analysis.candidates] == ["untouched", *(r.name for r in RECIPES)]
    assert analysis.decision_tasks == without.decision_tasks == ("xcopa", "xnli")
    assert analysis.recommendation == without.recommendation
    assert analysis.scores[: len(without.candidates)] == without.scores[: len(without.candidates)]
    assert [r.label for r in analysis.references] == ["big"]
    assert next(run for run in analysis.runs if run.run == "reference/big").score is None


def test_items_that_a_reference_has_no_answer_to_are_left_out_of_its_gap_only(analysis: Analysis) -> None:
    tables = with_reference(12.0)
    first = tables.scores.filter(pl.col("run") == "reference/big")["item"][0]
    fewer = tables.scores.filter((pl.col("run") != "reference/big") | (pl.col("item") != first))
    found = analysed(dataclasses.replace(tables, scores=fewer))
    assert found.bounds == analysis.bounds
    assert found.gaps != analysis.gaps


def test_what_a_reference_cost_is_told_where_all_of_it_is_known() -> None:
    tables = with_reference(12.0)
    asked = pl.DataFrame(
        [
            {"run": BIG["run"], "job": job, "kind": "ask", "api_input_tokens": 1000, "api_output_tokens": 50,
             "api_price": price}
            for job, price in (("a", 0.2), ("a", 0.2), ("b", 0.3))
        ],
        schema=COST_COLUMNS,
    )  # fmt: skip
    [found] = references_of(tables.runs, pl.concat([tables.costs, asked]))
    assert (found.input_tokens, found.output_tokens) == (2000, 100)
    assert found.price == pytest.approx(0.5)
    partly = asked.with_columns(api_price=pl.when(pl.col("job") != "b").then("api_price"))
    assert references_of(tables.runs, partly)[0].price is None
    assert references_of(tables.runs, tables.costs)[0].input_tokens is None


def test_fieller_agrees_with_draws() -> None:
    random = np.random.default_rng(0)
    covariance = np.array([[1.0, 0.6], [0.6, 1.5]])
    truth = np.array([4.0, 8.0])
    held = 0
    for above, below in random.multivariate_normal(truth, covariance, 4000):
        ends = fieller(above, below, 1.0, 1.5, 0.6, 1.96)
        held += ends is not None and ends[0] <= 0.5 <= ends[1]
    assert held / 4000 == pytest.approx(0.95, abs=0.012)


def test_fieller_is_a_plain_interval_where_the_gap_is_known_exactly() -> None:
    assert fieller(3.0, 6.0, 0.36, 0.0, 0.0, 2.0) == pytest.approx((0.3, 0.7))
    assert fieller(3.0, 1.0, 0.36, 0.3, 0.0, 2.0) is None

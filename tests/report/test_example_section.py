"""Which examples a page shows, and that they stay within bounds."""

from __future__ import annotations

import json

import polars as pl
import pytest

from babeltune.analysis.result import Analysis
from babeltune.analysis.tables import Tables
from babeltune.report.examples import (
    MOST_CANDIDATES,
    example_candidates,
    example_runs,
    examples_of,
    page_examples,
)


def items_of(runs: list[str], count: int = 60, size: int = 10) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "run": run,
                "task": "xcopa",
                "language": language,
                "item": f"i{n}",
                "value": float((n + k) % 2),
                "answer": "a" * size,
                "prompt": f"{n} " + "p" * size,
                "expected": "e",
            }
            for k, run in enumerate(runs)
            for language in ("es", "sw")
            for n in range(count)
        ]
    )


def test_the_untouched_model_and_the_recommended_one_are_shown_first(
    tables: Tables, analysis: Analysis
) -> None:
    shown = example_candidates(analysis)
    assert shown[:2] == ["untouched", analysis.recommendation.candidate]
    assert len(shown) <= MOST_CANDIDATES
    runs = example_runs(analysis, tables.scores["run"].unique().to_list())
    assert list(runs.values()) == shown
    assert all("seed0" in run or run.startswith("untouched") for run in runs)


def test_forty_items_of_a_cell_the_same_in_all_languages(analysis: Analysis) -> None:
    label = example_candidates(analysis)
    found = examples_of(items_of(["r0", "r1"]), {"r0": label[0], "r1": label[1]})
    by_language = [set(rows["item"]) for _, rows in found.group_by("language")]
    assert len(by_language[0]) == 40
    assert by_language[0] == by_language[1]


def test_items_that_one_of_them_did_not_answer_are_left_out(analysis: Analysis) -> None:
    label = example_candidates(analysis)
    items = items_of(["r0", "r1"], count=5).filter((pl.col("run") == "r0") | (pl.col("item") != "i3"))
    found = examples_of(items, {"r0": label[0], "r1": label[1]})
    assert sorted(found["item"].unique()) == ["i0", "i1", "i2", "i4"]


def test_an_answer_that_the_judge_gave_no_score_is_no_example(analysis: Analysis) -> None:
    label = example_candidates(analysis)
    no_score = (pl.col("run") == "r1") & (pl.col("item") == "i2")
    items = items_of(["r0", "r1"], count=4).with_columns(value=pl.when(~no_score).then("value"))
    found = examples_of(items, {"r0": label[0], "r1": label[1]})
    assert sorted(found["item"].unique()) == ["i0", "i1", "i3"]
    shown = page_examples(found, analysis)
    assert shown is not None
    assert [len(cell["items"]) for cell in shown["cells"]] == [3, 3]


def test_items_scored_before_texts_were_kept_show_nothing(analysis: Analysis) -> None:
    items = items_of(["r0"]).with_columns(prompt=pl.lit(None, dtype=pl.String))
    assert page_examples(examples_of(items, {"r0": "untouched"}), analysis) is None
    assert page_examples(examples_of(pl.DataFrame(), {}), analysis) is None


@pytest.mark.parametrize("most", [30_000, 100_000])
def test_a_page_holds_as_many_as_fit(analysis: Analysis, most: int) -> None:
    label = example_candidates(analysis)
    found = page_examples(
        examples_of(items_of(["r0", "r1"], size=600), {"r0": label[0], "r1": label[1]}), analysis, most
    )
    assert found is not None
    counts = [len(cell["items"]) for cell in found["cells"]]
    assert counts[0] == counts[1] > 1
    assert len(json.dumps(found, ensure_ascii=False)) < most + 1000

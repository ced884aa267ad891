"""What is printed at the end of a run, at several widths."""

from __future__ import annotations

import io
from collections.abc import Callable

import polars as pl
import pytest
from rich.console import Console

from babeltune.analysis.result import Analysis
from babeltune.analysis.tables import Tables
from babeltune.report.answer import answer
from babeltune.report.terminal import print_results
from babeltune.report.words import at_most


def printed(analysis: Analysis, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_results(analysis, console)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_every_recipe_and_language_fits(analysis: Analysis, width: int) -> None:
    text = printed(analysis, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    for word in ("untouched", "lora-r4", "lora-r32-b4", "full", "training", "memory", "params"):
        assert word in text
    for code in ("en", "es", "it", "id", "sw"):
        assert f" {code} " in text or text.rstrip().endswith(code) or f" {code}\n" in text
    assert "1.22 M" in text


def test_a_certified_answer_states_bound_and_cost(analysis: Analysis) -> None:
    found = answer(analysis)
    assert analysis.recommendation.bound is not None
    assert found.certainty == "certified"
    assert found.sentence.startswith(f"Take {analysis.recommendation.candidate}: ")
    bound = at_most(analysis.recommendation.bound)
    assert f"at most {bound} points worse than the best (95 %)" in found.sentence
    assert "device hours" in found.sentence
    assert any(line.startswith("English is kept") for line in found.details)


def test_an_undecided_answer_says_so(tables: Tables, analysed: Callable[..., Analysis]) -> None:
    found = answer(analysed(tables, margin=0.5))
    assert found.certainty == "provisional"
    assert found.sentence.startswith("Not decided at a margin of 0.5 points. Provisional choice ")


def test_one_seed_speaks_of_models(tables: Tables, analysed: Callable[..., Analysis]) -> None:
    first = Tables(*(t.filter(~pl.col("run").str.contains("seed[12]")) for t in vars(tables).values()))
    analysis = analysed(first)
    assert answer(analysis).certainty == "these models only"
    assert "one seed" in answer(analysis).sentence
    assert "not these recipes" in " ".join(printed(analysis, 100).split())


def test_failures_are_printed(tables: Tables, analysed: Callable[..., Analysis]) -> None:
    state = pl.when(pl.col("recipe") == "full").then(pl.lit("failed")).otherwise("state").alias("state")
    broken = Tables(
        tables.scores.filter(pl.col("recipe") != "full"), tables.costs, tables.runs.with_columns(state)
    )
    text = printed(analysed(broken), 100)
    assert "Missing: 3 runs failed" in text


def test_nothing_scored_is_said(tables: Tables, analysed: Callable[..., Analysis]) -> None:
    assert "No answer yet" in printed(analysed(Tables(tables.scores.clear(), tables.costs, tables.runs)), 80)

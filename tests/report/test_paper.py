"""Tables and figures for papers."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from tests.report.test_page import history, searches

from babeltune.analysis.result import Analysis
from babeltune.analysis.tables import Tables
from babeltune.errors import UserError
from babeltune.report.figures import NAMES, figure, write_figure
from babeltune.report.page import Background
from babeltune.report.paper import as_text, paper_table


def test_recipes_by_language_hold_the_analysis_own_figures(tables: Tables, analysis: Analysis) -> None:
    found = paper_table(analysis, tables.runs, rows="recipe", columns="language", figure="change")
    assert found.columns == ("overall", "English", "Spanish", "Italian", "Indonesian", "Swahili")
    assert found.rows == ("lora-r4", "lora-r32", "lora-r32-b4", "full")
    cell = found.cells[1][5]
    change = analysis.change("lora-r32", "language:sw")
    assert cell is not None
    assert change is not None
    assert (cell.value, cell.low, cell.high, cell.shown) == (
        change.difference,
        change.low,
        change.high,
        change.significant,
    )


def test_two_settings_make_a_grid_with_gaps(tables: Tables, analysis: Analysis) -> None:
    found = paper_table(analysis, tables.runs, rows="r", columns="bits", figure="score")
    assert (found.rows, found.columns) == (("4", "32"), ("4", "16"))
    assert found.cells[0][0] is None
    assert found.cells[1][0] is not None


def test_several_recipes_in_one_cell_are_refused_by_name(tables: Tables, analysis: Analysis) -> None:
    with pytest.raises(UserError, match=r"several recipes: lora-r4 and lora-r32"):
        paper_table(analysis, tables.runs, rows="method", columns="language", figure="score")


@pytest.mark.parametrize(("rows", "columns"), [("rank", "language"), ("language", "task"), ("r", "r")])
def test_dimensions_that_make_no_table(tables: Tables, analysis: Analysis, rows: str, columns: str) -> None:
    with pytest.raises(UserError):
        paper_table(analysis, tables.runs, rows=rows, columns=columns, figure="score")


def test_latex_is_escaped(tables: Tables, analysed: Callable[..., Analysis]) -> None:
    rename = pl.col("recipe").replace("full", r"a_b & 50% \input{x}").alias("recipe")
    attacked = Tables(tables.scores.with_columns(rename), tables.costs, tables.runs.with_columns(rename))
    analysis = analysed(attacked)
    found = paper_table(analysis, attacked.runs, rows="recipe", columns="task", figure="change")
    text = as_text(found, "latex", by_loss=False, figure="change")
    assert (
        r"a\_b \& 50\% \textbackslash{}input\{x\} & $" in text
        or r"a\_b \& 50\% \textbackslash{}input\{x\} & +" in text
    )
    assert "\\input{" not in text
    assert text.count(r"\\") == 1 + len(found.rows)
    assert "$\\pm$" in text


def test_csv_gives_every_figure_with_its_ends(tables: Tables, analysis: Analysis) -> None:
    found = paper_table(analysis, tables.runs, rows="recipe", columns="class", figure="score")
    rows = list(csv.DictReader(io.StringIO(as_text(found, "csv", by_loss=False, figure="score"))))
    score = analysis.score("full", "class:low")
    assert score is not None
    row = next(r for r in rows if r["recipe"] == "full" and r["column"] == "low-resource languages")
    assert (float(row["value"]), float(row["low"]), float(row["high"])) == (
        score.score,
        score.low,
        score.high,
    )


def test_losses_are_stated_in_their_own_unit(tables: Tables, analysis: Analysis) -> None:
    task = next(t for t in analysis.tasks if t.metric == "bits_per_byte")
    by_loss = dataclasses.replace(analysis, tasks=(task,), decision_tasks=(task.task,))
    found = paper_table(by_loss, tables.runs, rows="recipe", columns="language", figure="score")
    [first, *_] = csv.DictReader(io.StringIO(as_text(found, "csv", by_loss=True, figure="score")))
    cell = found.cells[0][0]
    assert cell is not None
    assert float(first["value"]) == -cell.value / 100
    assert float(first["low"]) < float(first["value"]) < float(first["high"])


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_drawn(analysis: Analysis, tmp_path: Path, name: str) -> None:
    background = Background(history=history("lora-r4/m/seed0", "lora-r4"), searches=searches("lora-r4"))
    path = tmp_path / "figures" / f"{name}.svg"
    write_figure(figure(name, analysis, background), path)
    text = path.read_text("utf-8")
    assert text.startswith("<svg")
    assert "currentColor" not in text
    if name in ("cost", "map"):
        assert "lora-r32-b4" in text


def test_each_facet_of_the_effects_has_its_own_marks(analysis: Analysis) -> None:
    spec = figure("effects", analysis, Background())
    assert not any("data" in layer for layer in spec["spec"]["layer"])


def test_a_figure_of_effects_says_what_they_are_of(
    tables: Tables, analysis: Analysis, analysed: Callable[..., Analysis]
) -> None:
    first = Tables(*(t.filter(~pl.col("run").str.contains("seed[12]")) for t in vars(tables).values()))
    texts = [json.dumps(figure("effects", shown, Background())) for shown in (analysed(first), analysis)]
    assert ["of these trained models (one seed each)" in text for text in texts] == [True, False]


def test_pdf_and_mistakes(analysis: Analysis, tmp_path: Path) -> None:
    spec = figure("map", analysis, Background())
    write_figure(spec, tmp_path / "map.pdf")
    assert (tmp_path / "map.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(UserError, match="no format"):
        write_figure(spec, tmp_path / "map.jpeg")
    with pytest.raises(UserError, match="no figure 'pie'"):
        figure("pie", analysis, Background())
    with pytest.raises(UserError, match="nothing to draw for 'search'"):
        figure("search", analysis, Background())

"""The answer's words: what is not decided and why, bounds that hold as printed, units of guards."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import polars as pl
import pytest
from synthetic_study import TASKS

from babeltune.analysis.recommend import Obstacle
from babeltune.analysis.result import Analysis
from babeltune.analysis.scores import TaskInfo
from babeltune.analysis.tables import Tables
from babeltune.report.answer import answer, bound_phrase, comparison_verdict
from babeltune.report.checklist import SEARCH_COLUMNS, checklist
from babeltune.report.page import render_page


def undecided(
    analysis: Analysis, obstacle: Obstacle, *open_guards: str, broken: bool = False, needed: str | None = None
) -> Analysis:
    found = dataclasses.replace(
        analysis.recommendation,
        state="provisional",
        certified=(),
        obstacle=obstacle,
        open_guards=open_guards,
        needed=needed,
    )
    guards = tuple(dataclasses.replace(g, kept=not broken, broken=broken) for g in analysis.guards)
    return dataclasses.replace(analysis, recommendation=found, guards=guards)


@pytest.mark.parametrize(
    ("obstacle", "open_guards", "words"),
    [
        ("margin", (), "Not decided at a margin of 12 points"),
        ("margin", ("English",), "Not decided at a margin of 12 points"),
        ("guards", ("English",), "Not decided: English is not shown to be kept"),
        ("guards", ("English", "mmlu"), "Not decided: English and mmlu are not shown to be kept"),
        ("seeds", (), "Not decided: not every kind of recipe was trained with a second seed"),
    ],
)
def test_what_bars_the_choice_is_said(
    analysis: Analysis, obstacle: Obstacle, open_guards: tuple[str, ...], words: str
) -> None:
    found = answer(undecided(analysis, obstacle, *open_guards, needed="more of it"))
    chosen = analysis.recommendation.candidate
    assert found.certainty == "provisional"
    assert found.headline == f"Not decided; {chosen} for now"
    assert found.sentence.startswith(f"{words}. Provisional choice {chosen}: ")
    assert found.lead.startswith(f"{words}; this one is ")
    aim = "For the margin" if obstacle == "margin" and open_guards else "To decide"
    assert found.sentence.endswith(f" {aim} it would take more of it.")


def test_where_every_recipe_breaks_a_guard_none_is_said_to_keep_it(analysis: Analysis) -> None:
    of_one = undecided(analysis, "broken guards", "English", broken=True)
    found = answer(of_one)
    assert found.headline == f"No recipe keeps the guard English; {analysis.recommendation.candidate} for now"
    assert found.sentence.startswith("No recipe keeps the guard English. Provisional choice ")
    assert "margin of" not in found.sentence
    second = tuple(dataclasses.replace(g, guard="English, mmlu") for g in of_one.guards[:1])
    units = (*of_one.scopes, dataclasses.replace(of_one.scopes[1], kind="guard", label="English, mmlu"))
    of_two = dataclasses.replace(of_one, guards=(*of_one.guards, *second), scopes=units)
    assert answer(of_two).headline.startswith("No recipe keeps every guard; ")


def test_a_study_with_a_guard_open_speaks_of_the_guard(
    tables: Tables, analysed: Callable[..., Analysis]
) -> None:
    found = answer(analysed(tables, margin=12.0, guard_margin=0.1))
    assert found.sentence.startswith("Not decided: English is not shown to be kept. Provisional choice ")


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        (0.0, "shown no worse than any other (95 %)"),
        (0.04, "at most 0.1 points worse than the best (95 %)"),
        (2.0, "at most 2.0 points worse than the best (95 %)"),
        (2.04, "at most 2.1 points worse than the best (95 %)"),
    ],
)
def test_a_bound_holds_as_it_is_printed(analysis: Analysis, bound: float, words: str) -> None:
    assert bound_phrase(analysis, bound) == words
    bounds = tuple(dataclasses.replace(b, bound=bound) for b in analysis.bounds)
    page = render_page(dataclasses.replace(analysis, bounds=bounds))
    shown = re.findall(rf'<td data-value="{bound}">([\d.]+)</td>\s*<td class="text', page)
    assert shown == [re.findall(r"[\d.]+(?= points)|0\.0", f"{words} 0.0")[0]] * len(bounds)


def test_better_is_said_where_it_is_shown(analysis: Analysis) -> None:
    better = max(analysis.changes, key=lambda change: change.low)
    assert comparison_verdict(dataclasses.replace(better, significant=True)) == "shown better"
    by_luck = dataclasses.replace(better, significant=False, verdict="shown no worse")
    assert comparison_verdict(by_luck) == "shown no worse"


@pytest.fixture(scope="module")
def by_loss(tables: Tables, analysed: Callable[..., Analysis]) -> Analysis:
    """Losses decide; English is guarded by them and by a task that is scored in points."""
    loss = dataclasses.replace(TASKS[2], primary=True)
    return analysed(tables, tasks=[loss, TaskInfo("xnli", "accuracy", guard_only=True)], guard_margin=3.0)


def test_a_guard_is_stated_in_its_own_unit(by_loss: Analysis) -> None:
    loss_unit = "hundredths of a bit per byte"
    assert by_loss.unit == loss_unit
    assert by_loss.guard_units == {"English": loss_unit, "English, xnli": "points"}
    found = answer(by_loss)
    [by_points] = [line for line in found.details if line.startswith("English, xnli is")]
    [by_bits] = [line for line in found.details if line.startswith("English is")]
    assert "3 points" in by_points
    assert f"3 {loss_unit}" in by_bits


def test_the_page_and_the_checklist_say_each_guards_unit(by_loss: Analysis, tables: Tables) -> None:
    page = render_page(by_loss)
    each = "3 (hundredths of a bit per byte for English; points for English, xnli)"
    assert f"it is at most {each} below the untouched model" in page
    assert '<button type="button">English, xnli (points)</button>' in page
    assert '<button type="button">English</button>' in page
    assert '<td class="text">English, xnli (points)</td>' in page
    rule = dict(checklist(by_loss, tables, pl.DataFrame(schema=SEARCH_COLUMNS), {}))["Selection rule"]
    assert f"with every guard at most {each} below" in rule


def test_guards_of_one_unit_are_stated_in_it(analysis: Analysis, tables: Tables) -> None:
    rule = dict(checklist(analysis, tables, pl.DataFrame(schema=SEARCH_COLUMNS), {}))["Selection rule"]
    assert "with every guard at most 15 points below" in rule
    assert "at most 15 points below the untouched model" in render_page(analysis)

"""What a study could show, said in sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import polars as pl

from babeltune.analysis.result import Analysis
from babeltune.analysis.sensitivity import Sensitivity
from babeltune.analysis.tables import Tables
from babeltune.report.could_show import carried_by, shown_from
from babeltune.report.page import Background, render_page


def said(analysis: Analysis, *rows: Sensitivity) -> list[str]:
    found = dataclasses.replace(analysis, power=rows)
    return shown_from(found, thing="recipe", baseline="the untouched model")


def test_what_is_shown_and_what_lacked_power(analysis: Analysis) -> None:
    untouched = Sensitivity("untouched", "overall", 12.0, 4, 2.14, 2.61, 0, 0)
    pairs = Sensitivity("pairs", "overall", 12.0, 6, 3.01, 3.04, 3, 2)
    first, second = said(analysis, untouched, pairs)
    assert "(in points, by recipe): changes against the untouched model of 2.1 to 2.6 and" in first
    assert "differences between two recipes of 3.0;" in first
    assert second.startswith(
        "3 of the 6 pairs of recipes are not decidable here, 2 of them for want of power"
    )
    assert "within 12 of each other" in second
    decided = dataclasses.replace(pairs, undecided=1, lacked_power=0)
    assert said(analysis, decided)[1] == "1 of the 6 pairs of recipes is not decidable here."
    all_of_them = dataclasses.replace(pairs, undecided=2)
    assert "are not decidable here, for want of power: equally good" in said(analysis, all_of_them)[1]
    assert said(analysis) == []


def test_whose_seeds_carry_the_variance_is_said_where_only_some_have_several(
    tables: Tables, analysis: Analysis, analysed: Callable[..., Analysis]
) -> None:
    assert carried_by(analysis) == ""
    kept = (pl.col("seed") == 0) | pl.col("recipe").is_in(["lora-r4", "full"])
    some = analysed(Tables(tables.scores.filter(kept), tables.costs, tables.runs.filter(kept)))
    assert carried_by(some).startswith("Only lora-r4 and full were trained with several seeds")
    one = analysed(
        Tables(*(f.filter(pl.col("seed") == 0) if "seed" in f.columns else f
                 for f in (tables.scores, tables.costs, tables.runs)))
    )  # fmt: skip
    assert carried_by(one) == ""
    assert "Only <bdi>" not in render_page(one)
    assert "Only lora-r4 and full were trained" in render_page(some, Background())

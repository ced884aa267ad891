"""Every number that the page shows is in a Parquet or CSV file beside it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from tests.report.test_page import history, searches

from babeltune.analysis.result import Analysis
from babeltune.analysis.tables import Tables
from babeltune.report import words
from babeltune.report.checklist import checklist
from babeltune.report.page import Background
from babeltune.report.write import write_report

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


class Shown(HTMLParser):
    """What a reader sees: `values` that tables sort by, and `text` with hints, without scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.values: list[float] = []
        self.text: list[str] = []
        self._inside = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside += tag in ("script", "style")
        given = dict(attrs)
        if value := given.get("data-value"):
            self.values.append(float(value))
        self.text.append(given.get("title") or "")

    def handle_endtag(self, tag: str) -> None:
        self._inside -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text.append(data)


def figures_beside(folder: Path) -> set[float]:
    """All numbers in the tables but the item scores, of which most of the others are made."""
    found: set[float] = set()
    for file in folder.iterdir():
        if file.suffix == ".json" or file.stem == "scores":
            continue
        frame = (
            pl.read_parquet(file)
            if file.suffix == ".parquet"
            else pl.read_csv(file, infer_schema_length=None)
        )
        for column in frame:
            if column.dtype.is_numeric():
                found |= set(column.drop_nulls().cast(pl.Float64))
    return found


def printed(value: float) -> set[str]:
    """The ways in which the page writes a figure."""
    value = abs(value)
    forms = {f"{value:.2g}", f"{value:.3g}", words.count(value), words.size(value), words.duration(value)}
    forms |= {words.hours(value), words.hours(value / 3600), words.number(value / 3600)}
    forms |= {words.number(part, digits) for part in (value, 100 * value) for digits in range(5)}
    forms |= {words.at_most(value)}
    return {number for form in forms for number in NUMBER.findall(form)}


@pytest.mark.parametrize("is_comparison", [False, True])
def test_every_number_is_in_a_table(
    tables: Tables, analysis: Analysis, tmp_path: Path, is_comparison: bool
) -> None:
    found = searches("lora-r4")
    background = Background(
        history=history("lora-r4/m/seed0", "lora-r4"),
        searches=found,
        checklist=tuple(checklist(analysis, tables, found, {})),
        is_comparison=is_comparison,
    )
    page = Shown(write_report(tmp_path, analysis, tables, background).read_text("utf-8"))
    beside = figures_beside(tmp_path / "tables")
    to_nine_digits = {f"{value:.9g}" for value in beside}
    assert len(page.values) > 200
    assert {value for value in page.values if f"{value:.9g}" not in to_nine_digits} == set()

    settings = {float(v) for v in analysis.decide.values() if isinstance(v, int | float)}
    settings |= {1 - analysis.decide["confidence"], 80.0}
    known = set().union(*map(printed, beside | settings))
    text = " ".join(page.text)
    for label in (c.label for c in analysis.candidates):  # `lora-r32-b4` is a name
        text = text.replace(label, "")
    shown = [(m[0].rstrip(","), text[max(0, m.start() - 40) : m.end() + 20]) for m in NUMBER.finditer(text)]
    assert [where for number, where in shown if number not in known] == []

"""Tables for papers: scores or changes with their intervals, by any two of recipe, setting and scope."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import polars as pl

from babeltune.analysis.result import Analysis
from babeltune.errors import UserError
from babeltune.report import words

SCOPES: Final = ("language", "task", "class", "script")
RECIPE: Final = "recipe"
Figure = Literal["score", "change"]
Format = Literal["latex", "md", "csv"]


@dataclass(frozen=True)
class Cell:
    """A figure in points with the ends of its interval; `shown`: a change that differs from zero.

    `detectable`: the change that would be shown with 80 % probability; None for a score.
    """

    value: float
    low: float
    high: float
    shown: bool
    detectable: float | None


@dataclass(frozen=True)
class PaperTable:
    """`cells[row][column]`, None where there is no figure; `note` says what the figures are."""

    row_heading: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell | None, ...], ...]
    note: str


def paper_table(
    analysis: Analysis, runs: pl.DataFrame, *, rows: str, columns: str, figure: Figure
) -> PaperTable:
    """A table of `figure` by `rows` and `columns`.

    Each is `recipe`, a column of `runs` (`r`, `bits`, `data` …), or, one of the two, one of `SCOPES`.

    Raises:
        UserError: there is no such dimension, both are scopes, or a cell would hold several recipes.
    """
    if rows == columns:
        raise UserError("rows and columns are the same", where="--cols", remedy="give two different ones")
    if rows in SCOPES and columns in SCOPES:
        raise UserError(
            "rows and columns are both parts of the score", where="--rows", remedy="make one of them `recipe`"
        )
    settings = _settings(analysis, runs, [d for d in (rows, columns) if d not in SCOPES])
    scope_kind = next((d for d in (rows, columns) if d in SCOPES), None)
    scopes = {s.label: s.key for s in analysis.scopes if s.kind in ("overall", scope_kind)}
    if scope_kind is None:
        scopes = {"overall": scopes["overall"]} if "overall" in scopes else {}
    found: dict[tuple[str, str], Cell] = {}
    holders: dict[tuple[str, str], str] = {}
    for candidate, values in settings.items():
        for label, key in scopes.items():
            at = tuple(label if d in SCOPES else values[d] for d in (rows, columns))
            place = (at[0], at[1])
            cell = _cell(analysis, candidate, key, figure)
            if cell is None:
                continue
            if place in found:
                raise UserError(
                    f"{rows} {place[0]}, {columns} {place[1]} is several recipes: "
                    f"{holders[place]} and {candidate}",
                    remedy="choose among them with --where, or use `recipe` as rows",
                )
            found[place], holders[place] = cell, candidate
    if not found:
        raise UserError("there is no figure for such a table yet", remedy="see `babeltune report STUDY`")
    row_names, column_names = (
        _ordered({place[n] for place in found}, list(order))
        for n, order in (
            (0, scopes if rows in SCOPES else (v.get(rows, "") for v in settings.values())),
            (1, scopes if columns in SCOPES else (v.get(columns, "") for v in settings.values())),
        )
    )
    return PaperTable(
        rows,
        row_names,
        column_names,
        tuple(tuple(found.get((row, column)) for column in column_names) for row in row_names),
        _note(analysis, figure, [cell.detectable for cell in found.values()]),
    )


def as_text(table: PaperTable, form: Format, *, by_loss: bool, figure: Figure) -> str:
    """The table as LaTeX (booktabs), Markdown, or CSV with one figure a line."""
    in_bits = by_loss and figure == "score"
    if form == "csv":
        return _csv(table, in_bits=in_bits)

    def text(cell: Cell | None) -> str:
        if cell is None:
            return words.NO_FIGURE
        half = (cell.high - cell.low) / 2
        value = words.signed(cell.value) if figure == "change" else words.score(cell.value, by_loss=by_loss)
        width = words.number(half / 100, 3) if in_bits else words.number(half)
        return f"{value} ± {width}{'*' if cell.shown else ''}"

    lines = [
        [name, *(text(cell) for cell in cells)] for name, cells in zip(table.rows, table.cells, strict=True)
    ]
    return (_latex if form == "latex" else _markdown)(table, lines)


def _settings(analysis: Analysis, runs: pl.DataFrame, wanted: Sequence[str]) -> dict[str, dict[str, str]]:
    """Candidate to its values of the wanted settings; those that lack one are left out."""
    first = {row["run"]: row for row in runs.iter_rows(named=True)}
    for name in wanted:
        if name != RECIPE and name not in runs.columns:
            names = ", ".join([RECIPE, *SCOPES, *(c for c in runs.columns if c not in _NO_SETTINGS)])
            raise UserError(f"there is no {name!r}", where="--rows, --cols", remedy=f"one of {names}")
    found = {}
    for candidate in analysis.candidates:
        row: Mapping[str, Any] = {**first.get(candidate.runs[0], {}), RECIPE: candidate.label}
        if all(row.get(name) is not None for name in wanted):
            found[candidate.label] = {name: _plain(row[name]) for name in wanted}
    return found


_NO_SETTINGS = frozenset({"study", "run", "seed", "state", "error", RECIPE})


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(analysis: Analysis, candidate: str, scope: str, figure: Figure) -> Cell | None:
    if figure == "change":
        change = analysis.change(candidate, scope)
        if change is None:
            return None
        return Cell(change.difference, change.low, change.high, change.significant, change.detectable)
    score = analysis.score(candidate, scope)
    return None if score is None else Cell(score.score, score.low, score.high, False, None)


def _ordered(names: set[str], order: Sequence[str]) -> tuple[str, ...]:
    """Numbers by size, anything else in the study's order."""
    try:
        return tuple(sorted(names, key=float))
    except ValueError:
        return tuple(name for name in dict.fromkeys(order) if name in names)


def _note(analysis: Analysis, figure: Figure, detectable: Sequence[float | None]) -> str:
    about = "recipes" if analysis.basis == "recipes" else "these trained models, not these recipes (one seed)"
    interval = f"± half of its {words.percent(analysis.decide['confidence'])} interval, about {about}"
    if figure == "score":
        return f"Score in {words.score_unit(by_loss=analysis.by_loss)}, {interval}."
    against = f"Change against the untouched model in {analysis.unit}, {interval}"
    seen = [size for size in detectable if size is not None]
    return (
        f"{against}; * shown to differ from zero after correction. An interval is clear of zero with 80 % "
        f"probability where the change is {words.span(min(seen), max(seen))}, by cell."
    )


def _markdown(table: PaperTable, lines: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    head = [row([table.row_heading, *table.columns]), "|---" + "|--:" * len(table.columns) + "|"]
    return "\n".join([*head, *(row(line) for line in lines), "", table.note, ""])


def _latex(table: PaperTable, lines: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str]) -> str:
        return " & ".join(map(_escaped, cells)) + r" \\"

    return "\n".join(
        [
            f"% {table.note}",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            row([table.row_heading, *table.columns]),
            r"\midrule",
            *(row(line) for line in lines),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    words.MINUS: "$-$",
    words.NO_FIGURE: "--",
    "→": r"$\to$",
    "·": r"$\cdot$",
}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _csv(table: PaperTable, *, in_bits: bool) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([table.row_heading, "column", "value", "low", "high", "shown", "detectable"])
    for name, cells in zip(table.rows, table.cells, strict=True):
        for column, cell in zip(table.columns, cells, strict=True):
            if cell is None:
                continue
            figures = [cell.value, cell.low, cell.high]
            if in_bits:  # points of a loss are hundredths of a bit, better upwards
                figures = [-cell.value / 100, -cell.high / 100, -cell.low / 100]
            writer.writerow([name, column, *figures, cell.shown, cell.detectable])
    return file.getvalue()

"""Writing tables and the summary beside the page, each file whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from babeltune.analysis.result import Analysis
from babeltune.analysis.tables import Tables

if TYPE_CHECKING:
    from babeltune.report.page import Background

_RECORDS: Final = (
    "candidates",
    "runs",
    "scopes",
    "scores",
    "changes",
    "pairs",
    "bounds",
    "guards",
    "losses",
    "fidelity",
    "costs",
    "effects",
    "frontier",
    "gaps",
    "references",
    "power",
    "run_to_run",
    "fairness",
    "scoped_bounds",
)
CSV_NAMES: Final = {"scores": "summary", "costs": "recipe_costs", "runs": "run_scores"}
"""Where a file's name is not the record's: `scores`, `costs` and `runs` are taken."""


def write_tables(folder: Path, tables: Tables, analysis: Analysis, background: Background) -> None:
    """`scores`, `costs`, `runs` and what the page shows besides as Parquet, the report's own figures as CSV,
    and `summary.json`. A table that has nothing to hold now is removed.

    `scoped_pairs`, every two recipes in every language, task, class and script, is Parquet: it grows with the
    square of the recipes, and the page shows pairs only overall.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frames = {"scores": tables.scores, "costs": tables.costs, "runs": tables.runs}
    optional = {
        "curves": background.history,
        "searches": background.searches,
        "examples": background.examples,
        "scoped_pairs": pl.DataFrame(analysis.records("scoped_pairs"), infer_schema_length=None),
    }
    for name, frame in (frames | optional).items():
        if name in frames or not frame.is_empty():
            replace_file(folder / f"{name}.parquet", frame.write_parquet)
        else:
            (folder / f"{name}.parquet").unlink(missing_ok=True)
    summary = analysis.to_json()
    records = {CSV_NAMES.get(name, name): analysis.records(name) for name in _RECORDS}
    records["checklist"] = [{"question": q, "answer": a} for q, a in background.checklist]
    for name, rows in records.items():
        path = folder / f"{name}.csv"
        if rows:
            frame = pl.DataFrame([_flat(row) for row in rows], infer_schema_length=None)
            replace_file(path, frame.write_csv)
        else:
            path.unlink(missing_ok=True)
    text = json.dumps(summary, ensure_ascii=False, indent=1, allow_nan=False)
    replace_file(folder / "summary.json", lambda path: path.write_text(text, encoding="utf-8"))


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """The record with lists as one text, for CSV."""
    return {key: _joined(value) if isinstance(value, list) else value for key, value in row.items()}


def _joined(value: Any) -> str:
    return "; ".join(_joined(inner) for inner in value) if isinstance(value, list) else str(value)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file under a temporary name beside `path`, then renames it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

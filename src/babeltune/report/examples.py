"""Examples: the same prompt answered by the untouched model and by recipes, for people to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from babeltune.analysis.result import Analysis
from babeltune.evaluate.items import examples_among

EXAMPLE_COLUMNS: Final = {
    "candidate": pl.String,
    "task": pl.String,
    "language": pl.String,
    "item": pl.String,
    "prompt": pl.String,
    "expected": pl.String,
    "answer": pl.String,
    "value": pl.Float64,
}
MOST_CANDIDATES: Final = 6
MOST_CHARACTERS: Final = 4_000_000
"""Of all examples on a page together."""

ANSWER_CHARACTERS: Final = 600


def example_candidates(analysis: Analysis) -> list[str]:
    """The candidates whose answers are shown, untouched first: recommended, runner-up, then by score."""
    found = analysis.recommendation
    best = sorted((s for s in analysis.scores if s.scope == "overall"), key=lambda s: s.score, reverse=True)
    untouched = {c.label: c.model for c in analysis.candidates if c.untouched}
    trained = [
        label
        for label in dict.fromkeys([found.candidate, found.runner_up, *(s.candidate for s in best)])
        if label and label not in untouched
    ]
    # Of several base models the one that the shown recipes started from comes first.
    model_of = {c.label: c.model for c in analysis.candidates}
    wanted = model_of.get(trained[0]) if trained else None
    bases = sorted(untouched, key=lambda label: untouched[label] != wanted)[:2]
    return [*bases, *trained][:MOST_CANDIDATES]


def example_runs(analysis: Analysis, scored: Sequence[str]) -> dict[str, str]:
    """Run to candidate: the first scored run of each candidate in `example_candidates`."""
    runs_of = {c.label: c.runs for c in analysis.candidates}
    first = {
        label: next((run for run in runs_of[label] if run in scored), None)
        for label in example_candidates(analysis)
    }
    return {run: label for label, run in first.items() if run is not None}


def examples_of(items: pl.DataFrame, candidate_of: dict[str, str]) -> pl.DataFrame:
    """The examples in `items` (columns run, task, language, item, metric's value, answer, prompt, expected).

    Only items whose text was kept and that every candidate answered with a score (a judge may give none).
    """
    if items.is_empty():
        return pl.DataFrame(schema=EXAMPLE_COLUMNS)
    kept = (
        items.filter(pl.all_horizontal(pl.col("prompt", "answer", "value").is_not_null()))
        .filter(pl.col("run").is_in(list(candidate_of)))
        .with_columns(candidate=pl.col("run").replace_strict(candidate_of))
        .with_columns(pl.col("answer").str.slice(0, ANSWER_CHARACTERS))
        .select(pl.col(name).cast(kind) for name, kind in EXAMPLE_COLUMNS.items())
        .unique(["candidate", "task", "language", "item"], maintain_order=True)
    )
    cells = kept.group_by("task", "language").agg(pl.col("item").unique())
    chosen = pl.DataFrame(
        [
            (task, language, item)
            for task, language, items in cells.iter_rows()
            for item in examples_among(items)
        ],
        schema={name: EXAMPLE_COLUMNS[name] for name in ("task", "language", "item")},
        orient="row",
    )
    kept = kept.join(chosen, on=["task", "language", "item"], how="semi", maintain_order="left")
    return kept.filter(pl.len().over("task", "language", "item") == kept["candidate"].n_unique())


def page_examples(
    examples: pl.DataFrame, analysis: Analysis, most_characters: int = MOST_CHARACTERS
) -> dict[str, Any] | None:
    """What the page's script shows: models, and by task and language the items with all answers.

    Every task and language gives up as many items as the others until all fit into `most_characters`.
    """
    if examples.is_empty():
        return None
    order = [label for label in example_candidates(analysis) if label in set(examples["candidate"])]
    if not order:
        return None
    place = {label: n for n, label in enumerate(order)}
    names = {language.code: language.name for language in analysis.languages}
    cells: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for row in examples.filter(pl.col("candidate").is_in(order)).iter_rows(named=True):
        items = cells.setdefault((row["language"], row["task"]), {})
        item = items.setdefault(row["item"], [row["prompt"], row["expected"], [None] * len(order)])
        item[2][place[row["candidate"]]] = [row["answer"], round(row["value"], 4)]
    by_cell = {cell: list(items.values()) for cell, items in cells.items()}
    sizes = {
        cell: [len(json.dumps(item, ensure_ascii=False)) for item in items] for cell, items in by_cell.items()
    }
    most = max(map(len, by_cell.values()))
    while most > 1 and sum(sum(size[:most]) for size in sizes.values()) > most_characters:
        most -= 1
    rank = {code: n for n, code in enumerate(names)}
    return {
        "models": order,
        "cells": [
            {"language": names.get(language, language), "code": language, "task": task, "items": items[:most]}
            for (language, task), items in sorted(
                by_cell.items(), key=lambda cell: (rank.get(cell[0][0], len(rank)), cell[0])
            )
        ],
    }

"""Item scores as arrays: runs × languages × items for each task, in points.

Everything in this room is computed from these arrays. They are made from the `scores` frame once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from babeltune.analysis.forms import base_task
from babeltune.analysis.points import POINTS_PER_UNIT, is_decidable

Floats = NDArray[np.float64]
Cell = tuple[str, str]
"""A task and a language."""

MIN_ITEMS = 2
"""A cell with fewer items has no item variance."""


@dataclass(frozen=True)
class TaskInfo:
    """What the analysis must know of a task.

    `metric`: the one decided on. `primary`: the recommendation rests on it. `guard_only`: scored in
    guard languages for the guard, never part of the overall score. `chance`: score of a guess, 0..1.
    `written`: every answer is text that the model generated, not a choice among given ones or a likelihood.
    """

    task: str
    metric: str
    primary: bool = False
    guard_only: bool = False
    chance: float | None = None
    written: bool = False


@dataclass(frozen=True)
class TaskScores:
    """One task's item scores in points; NaN where a language lacks the item or a run lacks the cell.

    Forms of one task have the same items in the same order.
    """

    task: str
    metric: str
    languages: tuple[str, ...]
    values_R_L_N: Floats

    @cached_property
    def has_cell_R_L(self) -> NDArray[np.bool_]:
        """Whether a run has scores in a language."""
        return np.asarray(np.isfinite(self.values_R_L_N).any(axis=2))

    @cached_property
    def item_in_L_N(self) -> NDArray[np.bool_]:
        """Items that a language has, counting only those scored by every run that has the cell."""
        finite_R_L_N = np.isfinite(self.values_R_L_N)
        scored_by_all_L_N = (finite_R_L_N | ~self.has_cell_R_L[:, :, None]).all(axis=0)
        return np.asarray(scored_by_all_L_N & finite_R_L_N.any(axis=0))

    @cached_property
    def dropped_items_L(self) -> NDArray[np.int64]:
        """Items per language left out because some run has no score for them."""
        return np.isfinite(self.values_R_L_N).any(axis=0).sum(axis=1) - self.item_in_L_N.sum(axis=1)

    @cached_property
    def is_binary(self) -> bool:
        """Whether every item is either right or wrong."""
        values = self.values_R_L_N
        return bool(((values == 0) | (values == 100) | np.isnan(values)).all())


@dataclass(frozen=True)
class ScoreArrays:
    """All decidable scores of a study.

    `candidate_R`: index of each run's candidate. `family_K`: index into `families` of each
    candidate's method family, -1 for untouched models, which have no run-to-run variation.
    """

    runs: tuple[str, ...]
    candidate_R: NDArray[np.int64]
    families: tuple[str, ...]
    family_K: NDArray[np.int64]
    tasks: tuple[TaskScores, ...]

    @property
    def n_candidates(self) -> int:
        """The number of candidates, untouched models included."""
        return len(self.family_K)

    @cached_property
    def cells(self) -> dict[Cell, tuple[int, int]]:
        """Every cell with enough items to the indices of its task and language."""
        return {
            (scores.task, language): (t, lang)
            for t, scores in enumerate(self.tasks)
            for lang, language in enumerate(scores.languages)
            if scores.item_in_L_N[lang].sum() >= MIN_ITEMS
        }

    def has_cell_R(self, cell: Cell) -> NDArray[np.bool_]:
        """Which runs have scores in a cell."""
        task, language = self.cells[cell]
        return self.tasks[task].has_cell_R_L[:, language]


def arrays_of(
    scores: pl.DataFrame,
    tasks: Sequence[TaskInfo],
    runs: Sequence[str],
    candidate_of: Mapping[str, int],
    families: Sequence[str | None],
) -> ScoreArrays:
    """The arrays for the runs in `runs`, in that order; items and languages are sorted by name.

    Args:
        scores: the `scores` frame; rows of other runs, tasks and metrics are ignored.
        tasks: tasks in the order wanted; those with a metric that has no points are left out.
        candidate_of: run name to the index of its candidate.
        families: for every candidate its method family, None for an untouched model.
    """
    names = tuple(dict.fromkeys(family for family in families if family is not None))
    run_index = pl.DataFrame(
        {"run": list(runs), "r": np.arange(len(runs))}, schema={"run": pl.String, "r": pl.Int64}
    )
    forms: dict[str, list[TaskInfo]] = {}
    for info in tasks:
        if is_decidable(info.metric):
            forms.setdefault(base_task(info.task), []).append(info)
    by_task: dict[TaskInfo, TaskScores] = {}
    for group in forms.values():
        by_task.update(_forms(scores, group, run_index))
    return ScoreArrays(
        runs=tuple(runs),
        candidate_R=np.array([candidate_of[run] for run in runs], dtype=np.int64),
        families=names,
        family_K=np.array([-1 if f is None else names.index(f) for f in families], dtype=np.int64),
        tasks=tuple(by_task[info] for info in tasks if info in by_task and by_task[info].languages),
    )


def _forms(
    scores: pl.DataFrame, forms: Sequence[TaskInfo], run_index: pl.DataFrame
) -> dict[TaskInfo, TaskScores]:
    """The scores of one task's forms over the items of all of them."""
    # One task's rows at a time: a large study's frame is not copied whole.
    rows = [
        scores.lazy()
        .filter(pl.col("task") == info.task, pl.col("metric") == info.metric)
        .select("run", "language", "item", "value")
        .join(run_index.lazy(), on="run")
        .drop("run")
        .collect()
        for info in forms
    ]
    items = pl.concat([frame["item"].unique() for frame in rows]).unique().sort()
    return {
        info: _task_scores(info, frame, items, run_index.height)
        for info, frame in zip(forms, rows, strict=True)
    }


def _task_scores(info: TaskInfo, rows: pl.DataFrame, items: pl.Series, n_runs: int) -> TaskScores:
    languages = tuple(rows["language"].unique().sort().to_list())
    values_R_L_N = np.full((n_runs, len(languages), len(items)), np.nan)
    if languages:
        coded = rows.select(
            "r",
            pl.col("language").cast(pl.Enum(list(languages))).to_physical().cast(pl.Int64).alias("l"),
            pl.col("item").cast(pl.Enum(items)).to_physical().cast(pl.Int64).alias("i"),
            pl.col("value").cast(pl.Float64).alias("value"),
        )
        index = tuple(coded[name].to_numpy() for name in ("r", "l", "i"))
        values_R_L_N[index] = coded["value"].fill_null(np.nan).to_numpy() * POINTS_PER_UNIT[info.metric]
    return TaskScores(info.task, info.metric, languages, values_R_L_N)

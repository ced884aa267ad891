"""What the figures are of: the scopes, candidates and runs of a study, without their statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from babeltune.analysis.candidates import Candidate
from babeltune.analysis.forms import base_task
from babeltune.analysis.points import unit_in_words
from babeltune.analysis.references import ReferenceInfo
from babeltune.analysis.result import CandidateInfo, RunInfo, ScopeInfo
from babeltune.analysis.scopes import Scope
from babeltune.analysis.scores import ScoreArrays
from babeltune.analysis.variance import Estimate, influences


def scope_info(scope: Scope, arrays: ScoreArrays) -> ScopeInfo:
    """The scope with its tasks, languages and number of distinct items, which forms of a task share."""
    by_task: dict[str, list[NDArray[np.bool_]]] = {}
    for cell in scope.weights:
        task, language = arrays.cells[cell]
        by_task.setdefault(base_task(cell[0]), []).append(arrays.tasks[task].item_in_L_N[language])
    metric = arrays.tasks[arrays.cells[next(iter(scope.weights))][0]].metric
    items = sum(int(np.any(in_C_N, axis=0).sum()) for in_C_N in by_task.values())
    return ScopeInfo(
        key=scope.key,
        kind=scope.kind,
        label=scope.label,
        tasks=tuple(dict.fromkeys(task for task, _ in scope.weights)),
        languages=tuple(dict.fromkeys(language for _, language in scope.weights)),
        items=items,
        unit=unit_in_words(metric),
    )


def candidate_info(candidate: Candidate, index: int, overall: Estimate | None) -> CandidateInfo:
    """The candidate and how many of its seeds have all overall scores."""
    return CandidateInfo(
        label=candidate.label,
        recipe=candidate.recipe,
        model=candidate.model,
        method=str(candidate.settings.get("method") or candidate.family or "untouched"),
        family=candidate.family,
        untouched=candidate.is_untouched,
        seeds_done=int(overall.seeds_K[index]) if overall is not None else 0,
        seeds_planned=len(candidate.runs),
        runs=candidate.runs,
    )


def run_infos(
    runs: pl.DataFrame,
    candidates: Sequence[Candidate],
    references: Sequence[ReferenceInfo],
    arrays: ScoreArrays,
    overall: Scope | None,
) -> list[RunInfo]:
    """Every run of the `runs` frame with its overall score, where it has all of it."""
    by_run: dict[str, float] = {}
    if overall:
        _, scores_R, _ = influences(arrays, overall.weights)
        by_run = {run: float(s) for run, s in zip(arrays.runs, scores_R, strict=True) if np.isfinite(s)}
    label_of: Mapping[str, str] = {
        **{run: c.label for c in candidates for run in c.runs},
        **{reference.run: reference.label for reference in references},
    }
    return [
        RunInfo(
            row["run"],
            label_of[row["run"]],
            row["seed"],
            row["state"],
            row.get("error"),
            by_run.get(row["run"]),
        )
        for row in runs.iter_rows(named=True)
    ]

"""The gap to larger models: how much of it each recipe closes, on tasks that are answered in writing.

A model behind an API can only be scored on the text it writes, so both sides are compared on such tasks. The
share closed is a ratio of two differences that share the untouched model; its interval is Fieller's (1954).
It exists only where the larger model is shown to be better than the untouched one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from babeltune.analysis.candidates import Candidate, untouched_of
from babeltune.analysis.scopes import common_cells, language_name
from babeltune.analysis.scores import TaskInfo, arrays_of
from babeltune.analysis.variance import Estimate, contrasts, estimate
from babeltune.analysis.weights import macro
from babeltune.study.expand import REFERENCE

NOT_SHOWN = "the larger model is not shown to be better than the untouched one"


@dataclass(frozen=True)
class ReferenceInfo:
    """A larger model to compare with, how far its scoring came, and what asking it cost.

    Tokens as its server counted them, and their price in the budget's currency; None where not known.
    """

    label: str
    run: str
    state: str
    error: str | None
    input_tokens: int | None
    output_tokens: int | None
    price: float | None


@dataclass(frozen=True)
class GapClosed:
    """Part of the gap between its untouched model and a reference that a candidate closes, over one scope.

    Scores, `gained` and `gap` are in points, over the written answers of `tasks`. `closed`: 0 no better than
    untouched, 1 as good as the reference, with the ends of its interval; None where `undefined` says why.
    """

    candidate: str
    reference: str
    scope: str
    label: str
    tasks: tuple[str, ...]
    untouched_score: float
    score: float
    reference_score: float
    gained: float
    gap: float
    gap_low: float
    gap_high: float
    closed: float | None
    low: float | None
    high: float | None
    undefined: str | None


def references_of(runs: pl.DataFrame, costs: pl.DataFrame) -> list[ReferenceInfo]:
    """The reference runs of the `runs` frame, with what asking them cost."""
    asked = costs.filter(pl.col("kind") == "ask").unique(["run", "job"])
    found = []
    for row in runs.filter(pl.col("method").eq_missing(REFERENCE)).iter_rows(named=True):
        own = asked.filter(run=row["run"])
        read, written = (_total(own[f"api_{way}_tokens"]) for way in ("input", "output"))
        found.append(
            ReferenceInfo(
                row["model"],
                row["run"],
                row["state"],
                row.get("error"),
                None if read is None else int(read),
                None if written is None else int(written),
                _total(own["api_price"]),
            )
        )
    return found


def _total(figures: pl.Series) -> float | None:
    """The sum; None where a job lacks the figure, as it would be too low."""
    return None if figures.is_empty() or figures.null_count() else float(figures.sum())


def gaps_closed(
    scores: pl.DataFrame,
    references: Sequence[ReferenceInfo],
    tasks: Sequence[TaskInfo],
    candidates: Sequence[Candidate],
    target: Sequence[str],
    guard: Sequence[str],
    confidence: float,
) -> list[GapClosed]:
    """The gap closed by every trained candidate to every reference: overall, then by language.

    Each reference counts in the tasks and languages that it was scored in, of those answered in writing.
    """
    written = [t for t in tasks if t.written and not t.guard_only]
    scored = set(scores["run"].unique().to_list())
    base = untouched_of(candidates)
    labels = [c.label for c in candidates]
    found = []
    for reference in references:
        own = {run: k for k, c in enumerate(candidates) for run in c.runs}
        present = [run for run in [*own, reference.run] if run in scored]
        if not written or reference.run not in present:
            continue
        # One reference at a time: an item that one of them has no answer to stays in for the others.
        arrays = arrays_of(
            scores,
            written,
            present,
            {**own, reference.run: len(candidates)},
            [*(c.family for c in candidates), None],
        )
        its = present.index(reference.run)
        cells = [cell for cell in common_cells(arrays)[0] if arrays.has_cell_R(cell)[its]]
        scopes = [("overall", "overall", macro(cell for cell in cells if cell[1] in target))]
        scopes += [
            (f"language:{code}", language_name(code), macro(cell for cell in cells if cell[1] == code))
            for code in dict.fromkeys([*guard, *target])
        ]
        for scope, label, weights in scopes:
            if weights:
                known = estimate(arrays, weights)
                asked = tuple(dict.fromkeys(task for task, _ in weights))
                found += [
                    _gap(known, k, u, labels[k], reference.label, scope, label, asked, confidence)
                    for k, u in base.items()
                    if known.available_K[[k, u]].all()
                ]
    return found


def _gap(
    known: Estimate,
    k: int,
    untouched: int,
    candidate: str,
    reference: str,
    scope: str,
    label: str,
    tasks: tuple[str, ...],
    confidence: float,
) -> GapClosed:
    h_2_K = np.zeros((2, len(known.means_K)))
    h_2_K[0, [k, untouched]] = 1.0, -1.0
    h_2_K[1, [-1, untouched]] = 1.0, -1.0
    found = contrasts(known, h_2_K)
    gained, gap = found.difference_C.tolist()
    low_C, high_C = found.interval(confidence)
    closed = ends = None
    if low_C[1] > 0:
        # Items and the untouched model are shared; the runs of the candidate vary by themselves.
        covariance = float(h_2_K[0] @ known.item_covariance_K_K @ h_2_K[1])
        t = float(stats.t.ppf((1 + confidence) / 2, found.df_C.min()))
        gained_variance, gap_variance = found.variance_C.tolist()
        ends = fieller(gained, gap, gained_variance, gap_variance, covariance, t)
        closed = gained / gap if ends else None
    return GapClosed(
        candidate=candidate,
        reference=reference,
        scope=scope,
        label=label,
        tasks=tasks,
        untouched_score=float(known.means_K[untouched]),
        score=float(known.means_K[k]),
        reference_score=float(known.means_K[-1]),
        gained=gained,
        gap=gap,
        gap_low=float(low_C[1]),
        gap_high=float(high_C[1]),
        closed=closed,
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        undefined=None if ends else NOT_SHOWN,
    )


def fieller(
    above: float,
    below: float,
    above_variance: float,
    below_variance: float,
    covariance: float,
    t: float,
) -> tuple[float, float] | None:
    """Fieller's interval for `above / below`; None where `below` is not shown to differ from 0 at `t`."""
    g = t**2 * below_variance / below**2 if below else np.inf
    if g >= 1:
        return None
    ratio = above / below
    slope = covariance / below_variance if below_variance else 0.0
    spread = (
        above_variance
        - 2 * ratio * covariance
        + ratio**2 * below_variance
        - g * (above_variance - slope * covariance)
    )
    half = t / below * max(spread, 0.0) ** 0.5
    middle = ratio - g * slope
    return (middle - half) / (1 - g), (middle + half) / (1 - g)

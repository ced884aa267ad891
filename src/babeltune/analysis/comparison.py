"""Comparisons: a difference between candidates with its interval, and one of three verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from babeltune.analysis.critical import largest_absolute_of
from babeltune.analysis.scores import Floats
from babeltune.analysis.variance import Contrasts, Estimate, contrasts, pairs

Verdict = Literal["shown no worse", "shown worse", "not decidable here"]
Correction = Literal["holm", "fdr_bh"]


@dataclass(frozen=True)
class Comparison:
    """`candidate − against`, in points, over one scope (`overall`, `language:sw`, `task:xnli`, …).

    `low` and `high` bound it at the study's confidence; `p_adjusted` is corrected for the comparisons
    it was made with; `significant` says that it is different from 0 after that correction, or, where the
    intervals of all hold at once, that its own is clear of 0. `verdict` is about being worse by more than the
    margin, after the same correction. `provisional`: too few repeated runs to rely on.
    `detectable`: the difference that its interval shows with 80 % probability.
    `assumed_low` and `assumed_high`: with one seed everywhere and `decide.assumed_run_sd` set, the interval
    if runs varied by that much.
    """

    candidate: str
    against: str
    scope: str
    difference: float
    low: float
    high: float
    standard_error: float
    df: float
    p: float
    p_adjusted: float
    significant: bool
    verdict: Verdict
    provisional: bool
    detectable: float
    assumed_low: float | None = None
    assumed_high: float | None = None


def verdict(low: float, high: float, margin: float) -> Verdict:
    """No worse: the whole interval is above −margin. Worse: it is below 0 and not within the margin."""
    if low >= -margin:
        return "shown no worse"
    return "shown worse" if high < 0 else "not decidable here"


def compare(
    estimate: Estimate,
    labels: Sequence[str],
    first: Sequence[int],
    second: Sequence[int],
    scope: str,
    *,
    margin: float,
    confidence: float,
    simultaneous: bool = False,
    assumed_run_sd: float | None = None,
) -> list[Comparison]:
    """Pairs of candidates over one scope, uncorrected; pairs without complete runs are left out.

    Args:
        estimate, labels: of all candidates; `first` and `second` are indices into them.
        simultaneous: the intervals hold all at once (Dunnett), so that the best may be picked and quoted.
        assumed_run_sd: for studies of one seed, the run-to-run standard deviation to suppose in a second
            interval.
    """
    kept = [c for c in range(len(first)) if estimate.available_K[[first[c], second[c]]].all()]
    first, second = [first[c] for c in kept], [second[c] for c in kept]
    if not kept:
        return []
    h_C_K = pairs(len(labels), first, second)
    found = contrasts(estimate, h_C_K)
    low_C, high_C = found.interval(confidence)
    if simultaneous:
        covariance_C_C = _covariance(estimate, h_C_K, found)
        half_C = largest_absolute_of(covariance_C_C, found.df_C, confidence) * found.se_C
        low_C, high_C = found.difference_C - half_C, found.difference_C + half_C
    detectable_C = found.detectable(high_C - found.difference_C)
    supposed = None
    if assumed_run_sd is not None and not estimate.replicated:
        supposed = np.column_stack(found.interval_assuming(assumed_run_sd, confidence)).tolist()
    return [
        Comparison(
            candidate=labels[first[c]],
            against=labels[second[c]],
            scope=scope,
            difference=float(found.difference_C[c]),
            low=float(low_C[c]),
            high=float(high_C[c]),
            standard_error=float(found.se_C[c]),
            df=float(found.df_C[c]),
            p=float(found.p_C[c]),
            p_adjusted=float(found.p_C[c]),
            significant=bool(low_C[c] > 0 or high_C[c] < 0),
            verdict=verdict(float(low_C[c]), float(high_C[c]), margin),
            provisional=bool(found.provisional_C[c]),
            detectable=float(detectable_C[c]),
            assumed_low=supposed[c][0] if supposed else None,
            assumed_high=supposed[c][1] if supposed else None,
        )
        for c in range(len(kept))
    ]


def corrected(
    comparisons: Sequence[Comparison], method: Correction, confidence: float, *, simultaneous: bool = False
) -> list[Comparison]:
    """The comparisons with their p-values corrected together: a difference is shown only after that.

    `simultaneous`: their intervals hold all at once already, so what these show stays as it is.
    """
    found = [
        replace(c, p_adjusted=p)
        for c, p in zip(comparisons, adjusted_p([c.p for c in comparisons], method), strict=True)
    ]
    return found if simultaneous else [_as_corrected(c, confidence) for c in found]


def _as_corrected(comparison: Comparison, confidence: float) -> Comparison:
    significant = comparison.p_adjusted <= 1 - confidence
    is_open = comparison.verdict == "shown worse" and not significant
    found: Verdict = "not decidable here" if is_open else comparison.verdict
    return replace(comparison, significant=significant, verdict=found)


def adjusted_p(p: Sequence[float], method: Correction) -> list[float]:
    """p-values corrected for being many: `holm` for claims, `fdr_bh` (Benjamini–Hochberg) for maps."""
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(p, method=method)[1]).tolist() if p else []


def _covariance(estimate: Estimate, h_C_K: Floats, found: Contrasts) -> Floats:
    """Covariance among contrasts, its diagonal raised to the variances (the floor is not shared)."""
    seed_K = estimate.inverse_seeds_K_F @ np.array([f.variance for f in estimate.seed_variances])
    covariance_C_C = h_C_K @ (estimate.item_covariance_K_K + np.diag(seed_K)) @ h_C_K.T
    np.fill_diagonal(covariance_C_C, found.variance_C)
    return covariance_C_C

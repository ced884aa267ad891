"""Differences between candidates and their variance: clustered items plus run-to-run variation.

The rule is closed form. For cell weights f the influence of item i of task t on run (r, s) is
`u = Σ_l f_tl (n_t / n_tl)(y − ȳ)`, summed over the languages that have the item: parallel items are
one cluster. From the influences follow the item variance of any contrast of candidates, and the part
of the spread between seeds that is item noise. What remains of that spread is run-to-run variation,
pooled over a family of methods. Degrees of freedom by Satterthwaite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from babeltune.analysis.forms import base_task
from babeltune.analysis.scores import Floats, ScoreArrays
from babeltune.analysis.weights import Weights

FEW_DEGREES = 3
"""Below so many degrees of freedom a family's own seed variance is not relied on alone."""

_ASSUMED_DF = 6


@dataclass(frozen=True)
class SeedVariance:
    """Run-to-run variance of a method family, in points².

    `raw` is the variance between seeds, `item_part` what item noise alone would give, `df` the
    family's degrees of freedom (0: borrowed from the other families, with theirs in `df_used`).
    """

    family: str
    raw: float
    item_part: float
    df: int
    df_used: int

    @property
    def variance(self) -> float:
        """What item noise doesn't explain, never below 0."""
        return max(0.0, self.raw - self.item_part)

    @property
    def provisional(self) -> bool:
        """Whether the family has too few repeated runs to stand on its own."""
        return self.df_used > 0 and self.df < FEW_DEGREES

    @property
    def upper_sd(self) -> float:
        """The largest run-to-run standard deviation compatible with the scores (one-sided 95 %)."""
        if not self.df_used:
            return float("nan")
        bound = self.df_used * self.raw / stats.chi2.ppf(0.05, self.df_used) - self.item_part
        return float(np.sqrt(max(0.0, bound)))


@dataclass(frozen=True)
class Estimate:
    """One weighting of cells: everything from which a contrast of candidates follows.

    `means_K` is NaN for candidates without a run that has all the cells; `seeds_K` counts such runs.
    `item_covariance_K_K` is that of the candidates' means over the sampling of items. `floor` is the
    least item variance per unit of squared contrast weight (binary scores only).
    """

    means_K: Floats
    seeds_K: NDArray[np.int64]
    item_covariance_K_K: Floats
    floor: float
    item_df: int
    family_K: NDArray[np.int64]
    seed_variances: tuple[SeedVariance, ...]

    @property
    def replicated(self) -> bool:
        """Whether any recipe was trained with more than one seed."""
        return any(family.df_used for family in self.seed_variances)

    @cached_property
    def available_K(self) -> NDArray[np.bool_]:
        """Which candidates have at least one complete run."""
        return self.seeds_K > 0

    @cached_property
    def inverse_seeds_K_F(self) -> Floats:
        """1 / S_r in the column of the candidate's family; zero for untouched models."""
        share_K_F = np.zeros((len(self.means_K), len(self.seed_variances)))
        for family in range(len(self.seed_variances)):
            member_K = (self.family_K == family) & self.available_K
            share_K_F[member_K, family] = 1 / self.seeds_K[member_K]
        return share_K_F


@dataclass(frozen=True)
class Contrasts:
    """Differences `D = Σ h_r Ā_r` with variance and degrees of freedom; NaN where a candidate is missing.

    `seed_weight_C`: `Σ h_r² / S_r` over trained candidates, the variance per unit of run-to-run variance.
    """

    difference_C: Floats
    variance_C: Floats
    item_variance_C: Floats
    seed_weight_C: Floats
    df_C: Floats
    provisional_C: NDArray[np.bool_]

    @cached_property
    def se_C(self) -> Floats:
        """Standard errors."""
        return np.sqrt(self.variance_C)

    @cached_property
    def p_C(self) -> Floats:
        """Two-sided p-values of no difference; 1 where the difference is exactly 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t_C = np.where(self.difference_C == 0, 0.0, np.abs(self.difference_C) / self.se_C)
        return 2 * stats.t.sf(t_C, self.df_C)

    def interval(self, confidence: float) -> tuple[Floats, Floats]:
        """Lower and upper ends of `D ± t √V`, each interval by itself."""
        half_C = stats.t.ppf((1 + confidence) / 2, self.df_C) * self.se_C
        return self.difference_C - half_C, self.difference_C + half_C

    def detectable(self, half_C: Floats) -> Floats:
        """Differences that intervals reaching `half_C` to either side show with 80 % probability."""
        return half_C + stats.t.ppf(0.8, self.df_C) * self.se_C

    def interval_assuming(self, run_sd: float, confidence: float) -> tuple[Floats, Floats]:
        """The interval if runs varied by `run_sd` points, known as from six degrees of freedom."""
        variance_C = self.item_variance_C + self.seed_weight_C * run_sd**2
        half_C = stats.t.ppf((1 + confidence) / 2, _ASSUMED_DF) * np.sqrt(variance_C)
        return self.difference_C - half_C, self.difference_C + half_C


def influences(arrays: ScoreArrays, weights: Weights) -> tuple[NDArray[np.bool_], Floats, list[Floats]]:
    """Which runs have all cells of `weights`, their weighted scores, and their influences by task.

    Returns:
        complete_R, scores_R (NaN where incomplete), and for each task in the weights (its forms together)
        `u_R_N` over its distinct items, zero for incomplete runs.
    """
    complete_R = np.ones(len(arrays.runs), dtype=bool)
    for cell, weight in weights.items():
        if weight:
            complete_R &= arrays.has_cell_R(cell)
    scores_R = np.where(complete_R, 0.0, np.nan)
    parts = []
    for cells in _clusters(arrays, weights):
        in_C_N = np.array([arrays.tasks[task].item_in_L_N[language] for task, language, _ in cells])
        used_N = in_C_N.any(axis=0)
        n_items = int(used_N.sum())
        u_R_N = np.zeros((len(arrays.runs), n_items))
        for (task, language, weight), in_N in zip(cells, in_C_N, strict=True):
            values_R_n = arrays.tasks[task].values_R_L_N[:, language, in_N]
            means_R = values_R_n.mean(axis=1)
            scores_R = scores_R + weight * means_R
            u_R_N[:, in_N[used_N]] += weight * n_items / in_N.sum() * (values_R_n - means_R[:, None])
        u_R_N[~complete_R] = 0.0
        parts.append(u_R_N)
    return complete_R, scores_R, parts


def _clusters(arrays: ScoreArrays, weights: Weights) -> list[list[tuple[int, int, float]]]:
    """Task, language and weight of every cell that counts, by task: forms of one task share its items."""
    found: dict[str, list[tuple[int, int, float]]] = {}
    for cell, weight in weights.items():
        if weight:
            task, language = arrays.cells[cell]
            found.setdefault(base_task(cell[0]), []).append((task, language, weight))
    return [found[base] for base in sorted(found)]


def estimate(arrays: ScoreArrays, weights: Weights) -> Estimate:
    """Means, item covariance and seed variances of all candidates under one weighting of cells."""
    complete_R, scores_R, influence_by_task = influences(arrays, weights)
    n_candidates = arrays.n_candidates
    seeds_K = np.bincount(arrays.candidate_R[complete_R], minlength=n_candidates)
    average_K_R = np.zeros((n_candidates, len(arrays.runs)))
    average_K_R[arrays.candidate_R[complete_R], np.flatnonzero(complete_R)] = 1.0
    average_K_R /= np.maximum(seeds_K, 1)[:, None]

    means_K = np.where(seeds_K > 0, average_K_R @ np.nan_to_num(scores_R), np.nan)
    covariance_K_K = np.zeros((n_candidates, n_candidates))
    item_noise_K = np.zeros(n_candidates)
    item_df = 0
    for u_R_N in influence_by_task:
        n = u_R_N.shape[1]
        mean_u_K_N = average_K_R @ u_R_N
        covariance_K_K += mean_u_K_N @ mean_u_K_N.T / (n * (n - 1))
        deviation_R_N = (u_R_N - mean_u_K_N[arrays.candidate_R]) * complete_R[:, None]
        item_noise_K += np.bincount(
            arrays.candidate_R, (deviation_R_N**2).sum(axis=1) / (n * (n - 1)), minlength=n_candidates
        )
        item_df += n - 1
    deviation_R = np.where(complete_R, scores_R - means_K[arrays.candidate_R], 0.0)
    spread_K = np.zeros(n_candidates)
    np.add.at(spread_K, arrays.candidate_R, deviation_R**2)
    return Estimate(
        means_K=means_K,
        seeds_K=seeds_K,
        item_covariance_K_K=covariance_K_K,
        floor=_floor(arrays, weights),
        item_df=item_df,
        family_K=arrays.family_K,
        seed_variances=_seed_variances(arrays, seeds_K, spread_K, item_noise_K),
    )


def contrasts(estimate: Estimate, h_C_K: Floats) -> Contrasts:
    """The contrasts with candidate weights `h_C_K`, one a row (a pair: +1 and −1)."""
    h_C_K = np.atleast_2d(np.asarray(h_C_K, dtype=float))
    lacking_C = ((h_C_K != 0) & ~estimate.available_K).any(axis=1)
    item_variance_C = np.maximum(
        ((h_C_K @ estimate.item_covariance_K_K) * h_C_K).sum(axis=1),
        estimate.floor * (h_C_K**2).sum(axis=1),
    )
    q_C_F = h_C_K**2 @ estimate.inverse_seeds_K_F
    families = estimate.seed_variances
    variance_C = item_variance_C + q_C_F @ np.array([f.variance for f in families])
    with np.errstate(divide="ignore", invalid="ignore"):
        spread_C = item_variance_C**2 / max(estimate.item_df, 1)
        for family, q_C in zip(families, q_C_F.T, strict=True):
            if family.df_used:
                spread_C = spread_C + (q_C * family.raw) ** 2 / family.df_used
        df_C = np.where(spread_C > 0, np.maximum(variance_C**2 / spread_C, 1.0), max(estimate.item_df, 1))
    provisional_F = np.array([family.provisional for family in families], dtype=bool)
    return Contrasts(
        difference_C=np.where(lacking_C, np.nan, h_C_K @ np.nan_to_num(estimate.means_K)),
        variance_C=np.where(lacking_C, np.nan, variance_C),
        item_variance_C=np.where(lacking_C, np.nan, item_variance_C),
        seed_weight_C=q_C_F.sum(axis=1),
        df_C=df_C,
        provisional_C=np.asarray((q_C_F[:, provisional_F] > 0).any(axis=1)),
    )


def pairs(n_candidates: int, first: Sequence[int], second: Sequence[int]) -> Floats:
    """Contrast rows `first − second` for index pairs."""
    h_C_K = np.zeros((len(first), n_candidates))
    rows = np.arange(len(first))
    h_C_K[rows, list(first)] += 1.0
    h_C_K[rows, list(second)] -= 1.0
    return h_C_K


def _floor(arrays: ScoreArrays, weights: Weights) -> float:
    """`Σ_t (max_l f_tl)² / n_t²` in points² over binary tasks: one item, right or wrong, per candidate."""
    total = 0.0
    for cells in _clusters(arrays, weights):
        if all(arrays.tasks[task].is_binary for task, _, _ in cells):
            items = np.any([arrays.tasks[task].item_in_L_N[language] for task, language, _ in cells], axis=0)
            total += (100.0 * max(abs(weight) for _, _, weight in cells) / items.sum()) ** 2
    return total


def _seed_variances(
    arrays: ScoreArrays, seeds_K: NDArray[np.int64], spread_K: Floats, item_noise_K: Floats
) -> tuple[SeedVariance, ...]:
    """Pooled over each family; with few degrees of freedom the larger of its own and the global one."""

    def pooled(member_K: NDArray[np.bool_]) -> tuple[float, float, int]:
        repeated_K = member_K & (seeds_K > 1)
        df = int((seeds_K[repeated_K] - 1).sum())
        return (
            (spread_K[repeated_K].sum() / df, item_noise_K[repeated_K].sum() / df, df)
            if df
            else (0.0, 0.0, 0)
        )

    raw_all, item_all, df_all = pooled(arrays.family_K >= 0)
    found = []
    for index, family in enumerate(arrays.families):
        raw, item_part, df = pooled(arrays.family_K == index)
        df_used = df or df_all
        if df < FEW_DEGREES and raw_all > raw:
            raw, item_part = raw_all, item_all
        found.append(SeedVariance(family, float(raw), float(item_part), df, df_used))
    return tuple(found)

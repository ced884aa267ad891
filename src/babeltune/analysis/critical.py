"""Critical values for statements about several candidates at once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from babeltune.analysis.scores import Floats

_QUADRATURE = (np.arange(2000) + 0.5) / 2000
_INVERSE_DF = np.linspace(0, 1, 81) ** 2
_DRAWS = 40_000


def largest_of(n: int, df: Floats | float, confidence: float) -> Floats:
    """The quantile of the maximum of `n` independent N(0,1) over √(χ²_df / df), for each df ≥ 1.

    By numeric integration on a grid of 1/df, interpolated between. With n = 1 it is Student's quantile.
    """
    if n < 1:
        return np.zeros_like(np.asarray(df, dtype=float))
    return np.exp(np.interp(1 / np.asarray(df, dtype=float), _INVERSE_DF, _log_largest_of(n, confidence)))


@lru_cache(maxsize=64)
def _log_largest_of(n: int, confidence: float) -> Floats:
    return np.log([_largest_of_one(n, np.inf if x == 0 else 1 / x, confidence) for x in _INVERSE_DF])


def _largest_of_one(n: int, df: float, confidence: float) -> float:
    scale = np.ones(1) if np.isinf(df) else np.sqrt(stats.chi2.ppf(_QUADRATURE, df) / df)

    def excess(c: float) -> float:
        return float(np.exp(n * special.log_ndtr(c * scale)).mean()) - confidence

    return float(optimize.root_scalar(excess, bracket=(0.0, 1e5), xtol=1e-9).root)


def largest_absolute_of(covariance_C_C: Floats, df_C: Floats, confidence: float) -> Floats:
    """Values that every |t| of correlated contrasts stays within at once, each contrast by its own df.

    Dunnett's value for known variances, by 40,000 seeded draws from the correlation of `covariance_C_C`,
    exceeded as often by each contrast (balance: Beran 1988, doi 10.2307/2289314). With the smallest df for
    all, one recipe of two seeds that vary much would hide what is known of every other.
    """
    sd_C = np.sqrt(np.diag(covariance_C_C))
    sd_C = np.where(sd_C > 0, sd_C, 1.0)
    values, vectors = np.linalg.eigh(covariance_C_C / np.outer(sd_C, sd_C))
    root_C_C = vectors * np.sqrt(np.maximum(values, 0))
    normal_N_C = np.random.default_rng(0).standard_normal((_DRAWS, len(sd_C))) @ root_C_C.T
    largest = np.quantile(np.abs(normal_N_C).max(axis=1), confidence)
    return np.asarray(stats.t.isf(stats.norm.sf(largest), df_C))

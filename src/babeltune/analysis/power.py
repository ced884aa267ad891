"""What a study of a given size can show, before it is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from babeltune.analysis.critical import largest_of
from babeltune.analysis.forms import base_task
from babeltune.analysis.variance import FEW_DEGREES
from babeltune.study.expand import whole_task

_DRAWS = 2000
_POWER = 0.80


@dataclass(frozen=True)
class Assumptions:
    """What the scores are supposed to be like. Correlations are between two scores of one item.

    `item_variance`: of the scores of a run's items in one language, in points² (the default is the worst
    case for right or wrong, half of them right); `between_seeds`, `between_recipes`: correlation of two
    runs of one recipe, and of two recipes; `between_languages`: of an item in two languages, for
    differences; `seed_sd`: run-to-run standard deviation in points.
    """

    item_variance: float = 2500.0
    between_seeds: float = 0.75
    between_recipes: float = 0.60
    between_languages: float = 0.20
    seed_sd: float = 0.7


@dataclass(frozen=True)
class TaskSize:
    """A task's number of distinct items, and its languages (all are taken to have every item)."""

    task: str
    items: int
    languages: tuple[str, ...]


@dataclass(frozen=True)
class Power:
    """Over one scope: smallest differences shown with 80 % probability, in points, for a pair named
    beforehand and for any recipe against one (α / (K − 1)); `certifiable_margin`: the margin at which the
    cheapest of equally good recipes is certified with 80 % probability. None with a single seed or recipe.
    `standard_error` (of a difference) and `df` are those they follow from.

    Of a guard: the smallest change against the untouched model, and the guard margin at which a recipe that
    changes nothing is shown to keep it.
    """

    scope: str
    pair: float
    among_all: float
    certifiable_margin: float | None
    seed_df: int
    standard_error: float
    df: float


def power(
    tasks: Sequence[TaskSize],
    *,
    recipes: int,
    seeds: int,
    guard_languages: Sequence[str] = (),
    guard_tasks: Sequence[TaskSize] = (),
    assumptions: Mapping[str, Assumptions] | None = None,
    confidence: float = 0.95,
) -> list[Power]:
    """The power overall (target languages), then of each language, then of each guard.

    Scopes are named as in the analysis: `overall`, `language:sw`, `guard:en`, `guard:en:mmlu`.

    Args:
        tasks: the decision tasks with their sizes; `guard_tasks`: those scored for the guard only.
        recipes: recipes compared; `seeds`: runs of each.
        assumptions: by task, from pilot scores; the defaults where a task has none.
    """
    supposed = assumptions or {}
    languages = list(dict.fromkeys(lang for task in tasks for lang in task.languages))
    targets = [lang for lang in languages if lang not in guard_languages]
    scopes = [("overall", tasks, targets), *((f"language:{lang}", tasks, [lang]) for lang in targets)]
    scopes += [(f"guard:{lang}", tasks, [lang]) for lang in guard_languages]
    by_guard: dict[tuple[str, str], list[TaskSize]] = {}
    for task in guard_tasks:
        for lang in task.languages:
            by_guard.setdefault((lang, whole_task(task.task)), []).append(task)
    scopes += [(f"guard:{lang}:{name}", found, [lang]) for (lang, name), found in by_guard.items()]
    found = []
    for scope, sizes, members in scopes:
        counts = {task: len(set(task.languages) & set(members)) for task in sizes if task.items > 1}
        classes = Counter(whole_task(task.task) for task, count in counts.items() if count)
        sized = [
            _Sized(
                supposed.get(task.task, Assumptions()),
                task.items,
                count,
                1 / (len(classes) * classes[whole_task(task.task)]),
                base_task(task.task),
            )
            for task, count in counts.items()
            if count
        ]
        if sized:
            found.append(_power_of(scope, sized, recipes, seeds, confidence))
    return found


@dataclass(frozen=True)
class _Sized:
    """A task, or a class of a judged one, in a scope: items, languages there, share of the score; `base`: the
    task whose items it asks."""

    assumptions: Assumptions
    items: int
    languages: int
    share: float
    base: str

    @property
    def variance(self) -> float:
        """Of its part of a run's score over the sampling of items."""
        a, n = self.assumptions, self.languages
        return self.share**2 * a.item_variance * (1 + (n - 1) * a.between_languages) / n / self.items

    @property
    def common(self) -> float:
        """The part of it that a recipe's runs share and other recipes don't."""
        return self.variance * (self.assumptions.between_seeds - self.assumptions.between_recipes)

    @property
    def within(self) -> float:
        """The part of it that is each run's own."""
        return self.variance * (1 - self.assumptions.between_seeds)


@dataclass(frozen=True)
class _Parts:
    """Variances of a run's score, in points²: what a recipe's runs share, their own items, their training."""

    common: float
    within: float
    seed: float
    item_df: int


def _power_of(scope: str, sized: Sequence[_Sized], recipes: int, seeds: int, confidence: float) -> Power:
    by_base: dict[str, list[_Sized]] = {}
    for size in sized:
        by_base.setdefault(size.base, []).append(size)
    # Forms of one task ask the same items. Taken to rise and fall together, they promise nothing too much.
    common = sum(sum(form.common**0.5 for form in forms) ** 2 for forms in by_base.values())
    within = sum(sum(form.within**0.5 for form in forms) ** 2 for forms in by_base.values())
    seed_variance = float(np.mean([size.assumptions.seed_sd**2 for size in sized])) if seeds > 1 else 0.0
    item_df = sum(max(form.items for form in forms) - 1 for forms in by_base.values())
    parts = _Parts(common, within, seed_variance, item_df)
    seed_df = recipes * (seeds - 1)
    is_guard = scope.startswith("guard:")
    # A guard is compared with the untouched model: one run, without run-to-run variation.
    q = 1 / seeds if is_guard else 2 / seeds
    item_variance = 2 * common + (within + within / seeds if is_guard else 2 * within / seeds)
    variance = item_variance + q * seed_variance
    spread = item_variance**2 / parts.item_df
    if seed_df:
        spread += (q * (seed_variance + within)) ** 2 / seed_df
    df = max(variance**2 / spread, 1.0) if spread else float(parts.item_df)
    alpha = 1 - confidence
    margin = None
    if seed_df and is_guard:
        kept = float(largest_of(recipes, df, confidence))
        margin = (kept + float(stats.t.ppf(_POWER, df))) * variance**0.5
    elif seed_df and recipes > 1:
        margin = _certifiable_margin(recipes, seeds, parts, confidence)
    claims = recipes if is_guard else max(recipes - 1, 1)
    return Power(
        scope=scope,
        pair=_detectable(df, alpha) * variance**0.5,
        among_all=_detectable(df, alpha / claims) * variance**0.5,
        certifiable_margin=margin,
        seed_df=seed_df,
        standard_error=variance**0.5,
        df=df,
    )


def chance_to_show(difference: float, standard_error: float, df: float, alpha: float) -> float:
    """The probability that a two-sided t test of level `alpha` shows a difference, with its sign."""
    critical = stats.t.ppf(1 - alpha / 2, df)
    return float(stats.nct.sf(critical, df, difference / standard_error))


def _detectable(df: float, alpha: float) -> float:
    """The noncentrality at which a two-sided t test of level `alpha` has 80 % power."""

    def excess(noncentrality: float) -> float:
        return chance_to_show(noncentrality, 1.0, df, alpha) - _POWER

    return float(optimize.root_scalar(excess, bracket=(0.0, stats.t.ppf(1 - alpha / 2, df) + 20)).root)


def _certifiable_margin(recipes: int, seeds: int, parts: _Parts, confidence: float) -> float:
    """The 80 % quantile of the cheapest recipe's loss bound over seeded Gaussian draws of the whole rule."""
    random = np.random.default_rng(0)
    run_variance = parts.within + parts.seed
    runs_D_K_S = (
        random.standard_normal((_DRAWS, recipes, 1)) * parts.common**0.5
        + random.standard_normal((_DRAWS, recipes, seeds)) * run_variance**0.5
    )
    means_D_K = runs_D_K_S.mean(axis=2)
    df = recipes * (seeds - 1)
    raw_D = runs_D_K_S.var(axis=2, ddof=1).mean(axis=1)
    q = 2 / seeds
    item_variance = 2 * (parts.common + parts.within / seeds)
    variance_D = item_variance + q * np.maximum(0.0, raw_D - parts.within)
    spread_D = item_variance**2 / parts.item_df + (q * raw_D) ** 2 / df
    half_D = largest_of(recipes, np.maximum(variance_D**2 / spread_D, 1.0), confidence) * np.sqrt(variance_D)
    bound_D = np.maximum(0.0, (means_D_K[:, 1:] - means_D_K[:, :1]).max(axis=1) + half_D)
    return float(np.quantile(bound_D, _POWER))


def few_seeds_warnings(recipes_by_family: Mapping[str, int], seeds: int) -> list[str]:
    """A sentence for every method family whose run-to-run variation would rest on too few runs."""
    warnings = []
    for family, recipes in recipes_by_family.items():
        df = recipes * (seeds - 1)
        if df > FEW_DEGREES:
            continue
        outcome = (
            "nothing can be certified"
            if df == 0
            else "results will be provisional"
            if df < FEW_DEGREES
            else "intervals will be wide"
        )
        runs = f"{recipes} recipe{'s' * (recipes != 1)} × {seeds} seed{'s' * (seeds != 1)}"
        warnings.append(f"{family}: {runs} leave {df} degrees of freedom for run-to-run variation: {outcome}")
    return warnings

"""The recommendation: the cheapest recipe shown to be no worse than the best, with the guards kept.

A recipe is certified if its loss bound, the most it can be worse than whichever recipe is truly best,
is within the margin. Nothing is chosen for "not being significantly different": that is wrong in most
hard studies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from babeltune.analysis.comparison import Verdict
from babeltune.analysis.critical import largest_of
from babeltune.analysis.variance import Estimate, contrasts, pairs

State = Literal["certified", "provisional", "one seed", "keep untouched", "none"]
Obstacle = Literal["margin", "guards", "broken guards", "seeds"]

_MOST_SEEDS = 12
_ITEM_FACTORS = (2, 4, 8, 16)


@dataclass(frozen=True)
class LossBound:
    """`bound`: the most that a candidate is worse than the best, simultaneously; `against` sets it.

    `observed`: the plain difference to the observed best over the scope, 0 for itself.
    """

    candidate: str
    bound: float
    against: str | None
    observed: float
    verdict: Verdict
    provisional: bool
    scope: str = "overall"


@dataclass(frozen=True)
class GuardCheck:
    """A candidate's change on one guard against its untouched model, with simultaneous ends.

    `detectable`: the guard margin that a candidate without any change is shown to keep with 80 % probability.
    """

    candidate: str
    guard: str
    difference: float
    low: float
    high: float
    kept: bool
    broken: bool
    detectable: float


@dataclass(frozen=True)
class Recommendation:
    """What to take. `needed`: what would decide it; `reasons`: why it is no more certain than it is

    (guards that may be broken are among the guard checks). `obstacle`: what bars the choice first, its loss
    bound (`margin`), guards that it is not shown to keep (`open_guards`), that every recipe is shown to break
    one (`broken guards`), or a kind of recipe that was never repeated (`seeds`).
    """

    state: State
    candidate: str | None
    bound: float | None
    runner_up: str | None
    certified: tuple[str, ...]
    reasons: tuple[str, ...]
    needed: str | None
    obstacle: Obstacle | None = None
    open_guards: tuple[str, ...] = ()


def loss_bounds(
    estimate: Estimate,
    labels: Sequence[str],
    candidates: Sequence[int],
    *,
    margin: float,
    confidence: float,
    scope: str = "overall",
) -> list[LossBound]:
    """`B_r = max over j ≠ r of (D_jr + c √V_jr)`, at least 0, of every candidate with complete runs.

    Each is certified by itself, but that some candidate is shown worse is a claim over all ordered pairs,
    whose c is larger.
    """
    index = [k for k in candidates if estimate.available_K[k]]
    n = len(index)
    if not n:
        return []
    first, second = [j for _ in index for j in index], [r for r in index for _ in index]
    found = contrasts(estimate, pairs(len(labels), first, second))
    above = largest_of(n, found.df_C, confidence) * found.se_C
    below = largest_of(n * (n - 1), found.df_C, confidence) * found.se_C
    other_r_j = ~np.eye(n, dtype=bool)
    upper_r_j = np.where(other_r_j, (found.difference_C + above).reshape(n, n), -np.inf)
    lower_r_j = np.where(other_r_j, (found.difference_C - below).reshape(n, n), -np.inf)
    observed_r_j = found.difference_C.reshape(n, n)
    provisional_r_j = found.provisional_C.reshape(n, n) & other_r_j
    bounds = []
    for i, r in enumerate(index):
        bound = max(0.0, float(upper_r_j[i].max()))
        if bound <= margin:
            verdict: Verdict = "shown no worse"
        else:
            verdict = "shown worse" if lower_r_j[i].max() > 0 else "not decidable here"
        bounds.append(
            LossBound(
                candidate=labels[r],
                bound=bound,
                against=labels[index[int(upper_r_j[i].argmax())]] if n > 1 else None,
                observed=max(0.0, float(observed_r_j[i].max())),
                verdict=verdict,
                provisional=bool(provisional_r_j[i].any()),
                scope=scope,
            )
        )
    return bounds


def guard_checks(
    estimates: Mapping[str, Estimate],
    labels: Sequence[str],
    candidates: Sequence[int],
    untouched_of: Mapping[int, int],
    *,
    guard_margin: float,
    confidence: float,
) -> list[GuardCheck]:
    """Every guard of every candidate whose own untouched model was scored on it too."""
    checks = []
    for guard, estimate in estimates.items():
        index = [
            k
            for k in candidates
            if k in untouched_of and estimate.available_K[k] and estimate.available_K[untouched_of[k]]
        ]
        found = contrasts(estimate, pairs(len(labels), index, [untouched_of[k] for k in index]))
        half_C = largest_of(len(candidates), found.df_C, confidence) * found.se_C
        detectable_C = found.detectable(half_C)
        for c, k in enumerate(index):
            low, high = (float(found.difference_C[c] + sign * half_C[c]) for sign in (-1, 1))
            checks.append(
                GuardCheck(
                    candidate=labels[k],
                    guard=guard,
                    difference=float(found.difference_C[c]),
                    low=low,
                    high=high,
                    kept=low >= -guard_margin,
                    broken=high < -guard_margin,
                    detectable=float(detectable_C[c]),
                )
            )
    return checks


def recommend(
    estimate: Estimate,
    labels: Sequence[str],
    candidates: Sequence[int],
    bounds: Sequence[LossBound],
    guards: Sequence[GuardCheck],
    guard_names: Sequence[str],
    cost: Mapping[str, float | None],
    worse_than_untouched: frozenset[str],
    *,
    margin: float,
    confidence: float,
) -> Recommendation:
    """The decision. `cost`: label to the figure that counts, None where unknown (then it comes last).

    `worse_than_untouched`: candidates shown worse than their untouched model; where that is all of
    them, the answer is to train none.
    """
    if not bounds:
        return Recommendation("none", None, None, None, (), ("no recipe has all its scores yet",), None)

    def price(bound: LossBound) -> tuple[float, float, str]:
        known = cost.get(bound.candidate)
        return (np.inf if known is None else known, bound.bound, bound.candidate)

    kept = {(g.candidate, g.guard) for g in guards if g.kept}
    guarded = [b for b in bounds if all((b.candidate, name) in kept for name in guard_names)]
    within = sorted((b for b in guarded if b.bound <= margin), key=price)
    if worse_than_untouched >= {b.candidate for b in bounds}:
        reason = "every recipe is shown worse than the model it started from"
        return Recommendation("keep untouched", None, None, None, (), (reason,), None)

    unrepeated = _unrepeated_families(estimate)
    certified = [] if unrepeated or not estimate.replicated else within
    broken = {g.candidate for g in guards if g.broken}
    unbroken = [b for b in bounds if b.candidate not in broken]
    ranked = within or sorted(guarded or unbroken or bounds, key=lambda b: (b.bound, price(b)))
    chosen = ranked[0]
    rest = sorted((b for b in unbroken if b is not chosen), key=lambda b: (b.bound, price(b)))
    if certified:
        names = tuple(b.candidate for b in certified)
        runner_up = names[1] if len(names) > 1 else rest[0].candidate if rest else None
        caveats = _few_seeds(estimate) if chosen.provisional else ()
        return Recommendation("certified", chosen.candidate, chosen.bound, runner_up, names, caveats, None)
    open_guards = tuple(name for name in guard_names if (chosen.candidate, name) not in kept)
    obstacle: Obstacle = "seeds"
    if estimate.replicated and not unbroken:
        obstacle = "broken guards"
    elif estimate.replicated and chosen.bound > margin:
        obstacle = "margin"
    elif estimate.replicated and open_guards:
        obstacle = "guards"
    return Recommendation(
        state="provisional" if estimate.replicated else "one seed",
        candidate=chosen.candidate,
        bound=chosen.bound,
        runner_up=rest[0].candidate if rest else None,
        certified=(),
        reasons=_reasons(estimate, chosen, guards, guard_names, margin),
        needed=_needed(estimate, labels, candidates, chosen, margin=margin, confidence=confidence)
        if obstacle in ("margin", "seeds")
        else None,
        obstacle=obstacle,
        open_guards=open_guards,
    )


def _reasons(
    estimate: Estimate,
    chosen: LossBound,
    guards: Sequence[GuardCheck],
    guard_names: Sequence[str],
    margin: float,
) -> tuple[str, ...]:
    reasons = []
    if not estimate.replicated:
        reasons.append(
            "every recipe was trained with one seed only, so this is about these models, not recipes"
        )
    if chosen.bound > margin:
        reasons.append(f"no recipe with its guards kept is shown within the margin of {margin:g}")
    reasons += _few_seeds(estimate) if chosen.provisional else ()
    checked = {g.guard for g in guards if g.candidate == chosen.candidate}
    reasons += [f"the guard {name} has no scores" for name in guard_names if name not in checked]
    return tuple(reasons)


def _unrepeated_families(estimate: Estimate) -> list[str]:
    """Method families of which no recipe was repeated: their run-to-run variation is a guess."""
    present = set(estimate.family_K[estimate.available_K].tolist())
    return [f.family for n, f in enumerate(estimate.seed_variances) if n in present and not f.df]


def _few_seeds(estimate: Estimate) -> tuple[str, ...]:
    """Families whose run-to-run variation is known from too few repeated runs to be relied on."""
    unrepeated = _unrepeated_families(estimate)
    sentences = []
    for family in estimate.seed_variances:
        of_family = f"the run-to-run variation of {family.family} recipes"
        if family.family in unrepeated:
            sentences.append(f"{of_family} is borrowed from others: none was repeated with another seed")
        elif family.provisional:
            plural = "" if family.df == 1 else "s"
            sentences.append(f"{of_family} is provisional: {family.df} degree{plural} of freedom")
    return tuple(sentences)


def _needed(
    estimate: Estimate,
    labels: Sequence[str],
    candidates: Sequence[int],
    chosen: LossBound,
    *,
    margin: float,
    confidence: float,
) -> str | None:
    """How many seeds, or how many times the items, would bring the choice's bound within the margin."""
    if not estimate.replicated:
        return "a second and a third seed of every recipe"
    if chosen.bound <= margin:
        families = " and ".join(_unrepeated_families(estimate))
        return f"a second seed of the {families} recipes" if families else None
    if chosen.observed >= margin:
        return None

    def bound(seeds: int | None, items: int) -> float:
        supposed = _supposing(estimate, seeds, items)
        found = loss_bounds(supposed, labels, candidates, margin=margin, confidence=confidence)
        return next(b.bound for b in found if b.candidate == chosen.candidate)

    now = int(estimate.seeds_K[[k for k in candidates if estimate.available_K[k]]].min())
    for seeds in range(now + 1, _MOST_SEEDS + 1):
        if bound(seeds, 1) <= margin:
            return f"about {seeds} seeds of every recipe"
    for items in _ITEM_FACTORS:
        if bound(None, items) <= margin:
            return f"about {items} times as many items"
    for items in _ITEM_FACTORS:
        for seeds in range(now + 1, _MOST_SEEDS + 1):
            if bound(seeds, items) <= margin:
                return f"about {seeds} seeds of every recipe and {items} times as many items"
    return f"more than {_MOST_SEEDS} seeds of every recipe and {_ITEM_FACTORS[-1]} times the items"


def _supposing(estimate: Estimate, seeds: int | None, items: int) -> Estimate:
    """The same means and variances with other numbers of seeds and items (item covariance kept as it is)."""
    seeds_K = estimate.seeds_K
    families = estimate.seed_variances
    if seeds is not None:
        seeds_K = np.where(estimate.family_K >= 0, np.minimum(seeds_K, 1) * seeds, seeds_K)
        members = [int(((estimate.family_K == f) & estimate.available_K).sum()) for f in range(len(families))]
        families = tuple(
            replace(f, df=n * (seeds - 1), df_used=n * (seeds - 1)) if n else f
            for f, n in zip(families, members, strict=True)
        )
    return replace(
        estimate,
        seeds_K=seeds_K,
        seed_variances=families,
        item_covariance_K_K=estimate.item_covariance_K_K / items,
        floor=estimate.floor / items**2,
        item_df=estimate.item_df * items,
    )

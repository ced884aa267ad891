"""Factor effects: what rank, bits, method, data and model change on average over the recipes tested.

The effect is a contrast of candidates (a row of (X'X)⁻¹X' over the recipes), with the same variance as
every other comparison. A factor that can't be told apart from others is refused, not guessed. How an effect
differs between resource classes is its effect over the difference of classes; how it differs with another
factor is the product term of the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from babeltune.analysis.comparison import adjusted_p
from babeltune.analysis.factors import SCALES, Factors, factors_of, varying
from babeltune.analysis.scopes import Scope
from babeltune.analysis.scores import Floats
from babeltune.analysis.variance import Estimate, contrasts

INTERACTIONS: Final = (("method", "model"), ("size", "method"))
"""Pairs of factors of which the study asks whether the one's effect depends on the other."""
ASKED_BY_CLASS: Final = ("r", "bits")
"""Factors of which it is asked whether they matter more to low-resource languages."""


@dataclass(frozen=True)
class Effect:
    """An effect over one scope, in points.

    `change` says what is compared (`4 against 16`, `per doubling`). `depends_on`: the effect is of how much
    that change differs with another factor, or with `class` (low- against high-resource languages); None for
    the change itself. `significant`: shown of recipes, after correction; with one seed everywhere nothing is.
    `refused`: why there is no figure.
    """

    factor: str
    change: str
    scope: str
    recipes: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    significant: bool = False
    provisional: bool = False
    refused: str | None = None
    depends_on: str | None = None


def all_effects(
    scopes: Sequence[Scope],
    estimates: Mapping[str, Estimate],
    settings: Mapping[int, Mapping[str, Any]],
    confidence: float,
) -> list[Effect]:
    """Effects overall, by class and on the difference of classes, corrected together by Holm's method.

    `settings`: candidate index to its columns in `runs`.
    """
    effects: list[Effect] = []
    for scope in scopes:
        options = {"scope": scope.key, "confidence": confidence}
        if scope.kind in ("overall", "class"):
            effects += factor_effects(estimates[scope.key], settings, **options)
        elif scope.kind == "gap":
            by_class = factor_effects(estimates[scope.key], settings, **options)
            effects += [dataclasses.replace(effect, depends_on="class") for effect in by_class]
        if scope.kind == "overall":
            effects += interactions(estimates[scope.key], settings, **options)
    effects += _without_classes(effects, {scope.key for scope in scopes})
    adjusted = iter(adjusted_p([e.p for e in effects if e.p is not None], "holm"))
    about_recipes = any(scope.kind == "overall" and estimates[scope.key].replicated for scope in scopes)
    return [
        e
        if e.p is None
        else dataclasses.replace(
            e, p_adjusted=(p := next(adjusted)), significant=about_recipes and p <= 1 - confidence
        )
        for e in effects
    ]


def factor_effects(
    estimate: Estimate, settings: Mapping[int, Mapping[str, Any]], scope: str, *, confidence: float
) -> list[Effect]:
    """The main effect of every varying factor over one scope, uncorrected.

    A factor is estimated over the candidates that have it (rank: over the LoRA recipes), with the other
    factors they all have held constant.
    """
    present = _present(estimate, settings)
    effects = []
    for factor in varying(present):
        members = {k: values for k, values in present.items() if values[factor] is not None}
        others = _held(members, [factor])
        names, own = _columns(factor, [values[factor] for values in members.values()])
        design = np.column_stack([_design(members, others), own])
        for column, name in enumerate(names):
            effect = Effect(factor, name, scope, len(members))
            position = design.shape[1] - own.shape[1] + column
            if _is_aliased(design, position):
                reason = f"can't be told apart from {_listed(others)} in these recipes"
                effects.append(dataclasses.replace(effect, refused=reason))
            else:
                effects.append(_estimated(effect, estimate, list(members), design, position, confidence))
    return effects


def interactions(
    estimate: Estimate, settings: Mapping[int, Mapping[str, Any]], scope: str, *, confidence: float
) -> list[Effect]:
    """How the effect of one factor differs with another, for the pairs in `INTERACTIONS` that vary."""
    present = _present(estimate, settings)
    effects = []
    for factor, other in INTERACTIONS:
        members = {
            k: values
            for k, values in present.items()
            if values[factor] is not None and values[other] is not None
        }
        if not {factor, other} <= set(varying(members)):
            continue
        others = _held(members, [factor, other])
        names, own = _columns(factor, [values[factor] for values in members.values()])
        other_names, by = _columns(other, [values[other] for values in members.values()])
        products = (own[:, :, None] * by[:, None, :]).reshape(len(members), -1)
        design = np.column_stack([_design(members, [*others, factor, other]), products])
        for a, name in enumerate(names):
            for b, other_name in enumerate(other_names):
                change = f"{name}, {other} {other_name}"
                effect = Effect(factor, change, scope, len(members), depends_on=other)
                position = design.shape[1] - products.shape[1] + a * len(other_names) + b
                empty = _empty_cell(members, factor, other, a, b)
                if empty or _is_aliased(design, position):
                    reason = empty or f"can't be told apart from {_listed(others)} in these recipes"
                    effects.append(dataclasses.replace(effect, refused=reason))
                else:
                    effects.append(_estimated(effect, estimate, list(members), design, position, confidence))
    return effects


def _without_classes(effects: Sequence[Effect], scopes: set[str]) -> list[Effect]:
    """Refusals for the questions about resource classes that the study's languages can't answer."""
    absent = [name for name in ("low", "high") if f"class:{name}" not in scopes]
    if not absent:
        return []
    reason = f"no {' and no '.join(absent)}-resource language is scored"
    return [
        Effect(e.factor, e.change, e.scope, e.recipes, refused=reason, depends_on="class")
        for e in effects
        if e.scope == "overall" and e.depends_on is None and e.factor in ASKED_BY_CLASS
    ]


def _present(estimate: Estimate, settings: Mapping[int, Mapping[str, Any]]) -> dict[int, Factors]:
    return factors_of({k: row for k, row in settings.items() if estimate.available_K[k]})


def _held(members: Mapping[int, Factors], apart: Sequence[str]) -> list[str]:
    """The other factors that vary among `members` and that all of them have."""
    return [
        factor
        for factor in varying(members)
        if factor not in apart and all(values[factor] is not None for values in members.values())
    ]


def _design(members: Mapping[int, Factors], factors: Sequence[str]) -> Floats:
    """A column of ones, then the columns of each factor."""
    blocks = [_columns(factor, [values[factor] for values in members.values()])[1] for factor in factors]
    return np.column_stack([np.ones(len(members)), *blocks])


def _columns(factor: str, values: Sequence[Any]) -> tuple[list[str], Floats]:
    """Names and design columns: log₂ for a scale (centred), else one column a level against the first."""
    if factor in SCALES:
        doublings = np.log2(np.array(values, dtype=float))
        return ["per doubling"], (doublings - doublings.mean())[:, None]
    levels = _levels(values)
    columns = np.array([[float(value == level) for level in levels[1:]] for value in values])
    return [f"{level} against {levels[0]}" for level in levels[1:]], columns


def _levels(values: Sequence[Any]) -> list[Any]:
    """Distinct values, the one that others are stated against first: the most bits, or the first by name."""
    return sorted(set(values), key=lambda v: (-v, "") if isinstance(v, (int, float)) else (0, str(v)))


def _is_aliased(design: Floats, position: int) -> bool:
    return np.linalg.matrix_rank(np.delete(design, position, axis=1)) == np.linalg.matrix_rank(design)


def _empty_cell(members: Mapping[int, Factors], factor: str, other: str, a: int, b: int) -> str | None:
    """Which combination of the two levels against their first ones no recipe has; None if all are there."""
    other_levels = _levels([values[other] for values in members.values()])
    for level in (other_levels[0], other_levels[b + 1]):
        found = {values[factor] for values in members.values() if values[other] == level}
        if factor in SCALES:
            if len(found) < 2:
                return f"{other} {level} was tried in one {factor} only"
            continue
        levels = _levels([values[factor] for values in members.values()])
        for own in (levels[0], levels[a + 1]):
            if own not in found:
                return f"no recipe has {factor} {own} with {other} {level}"
    return None


def _estimated(
    effect: Effect,
    estimate: Estimate,
    members: Sequence[int],
    design: Floats,
    position: int,
    confidence: float,
) -> Effect:
    h_C_K = np.zeros((1, len(estimate.means_K)))
    h_C_K[0, members] = np.linalg.pinv(design)[position]
    found = contrasts(estimate, h_C_K)
    low_C, high_C = found.interval(confidence)
    return dataclasses.replace(
        effect,
        difference=float(found.difference_C[0]),
        low=float(low_C[0]),
        high=float(high_C[0]),
        p=float(found.p_C[0]),
        provisional=bool(found.provisional_C[0]),
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names) or "the others"

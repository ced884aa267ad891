"""The result of an analysis: plain frozen data that the report prints and `summary.json` holds."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from babeltune.analysis.comparison import Comparison
from babeltune.analysis.costs import CandidateCost
from babeltune.analysis.effects import Effect
from babeltune.analysis.fairness import Unevenness
from babeltune.analysis.frontier import FrontierPlace
from babeltune.analysis.points import is_loss
from babeltune.analysis.recommend import GuardCheck, LossBound, Recommendation
from babeltune.analysis.references import GapClosed, ReferenceInfo
from babeltune.analysis.scores import TaskInfo
from babeltune.analysis.sensitivity import Sensitivity

Basis = Literal["recipes", "models"]


@dataclass(frozen=True)
class LanguageInfo:
    """A language of the study. `group`: low, middle, high, or None where it has no resource class."""

    code: str
    name: str
    group: str | None
    guard: bool


@dataclass(frozen=True)
class CandidateInfo:
    """A candidate and how far it came: seeds with all overall scores, of those planned."""

    label: str
    recipe: str
    model: str
    method: str
    family: str | None
    untouched: bool
    seeds_done: int
    seeds_planned: int
    runs: tuple[str, ...]


@dataclass(frozen=True)
class RunInfo:
    """One run's state, with what went wrong."""

    run: str
    candidate: str
    seed: int
    state: str
    error: str | None
    score: float | None


@dataclass(frozen=True)
class ScopeInfo:
    """A scope without its weights: cells by task, and their distinct items. `unit`: of its differences."""

    key: str
    kind: str
    label: str
    tasks: tuple[str, ...]
    languages: tuple[str, ...]
    items: int
    unit: str


@dataclass(frozen=True)
class Score:
    """A candidate's score in points over a scope, with its own interval."""

    candidate: str
    scope: str
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class Loss:
    """A candidate's mean in one language, in the metric's own unit: held-out loss, where lower is better, or
    the share of its answers in the language asked for."""

    candidate: str
    task: str
    metric: str
    language: str
    value: float
    change: float | None


@dataclass(frozen=True)
class RunToRun:
    """What is known of the variation between seeds overall, in points. `sd` 0 means none was detected.

    `carried_by`: the candidates with more than one seed, from which it is known.
    """

    family: str
    sd: float
    upper_sd: float
    df: int
    provisional: bool
    borrowed: bool
    carried_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Analysis:
    """Everything that the report and `summary.json` say. Frozen, plain, JSON-able by `to_json`.

    `basis`: `recipes` where some recipe was repeated with another seed; `models` where none was, and
    every interval is about the trained models at hand only. `changes` are against each candidate's own
    untouched model; overall they hold simultaneously, by language they are corrected over the whole map.
    """

    study: str
    basis: Basis
    unit: str
    decide: dict[str, Any]
    currency: str
    languages: tuple[LanguageInfo, ...]
    tasks: tuple[TaskInfo, ...]
    decision_tasks: tuple[str, ...]
    scopes: tuple[ScopeInfo, ...]
    candidates: tuple[CandidateInfo, ...]
    runs: tuple[RunInfo, ...]
    scores: tuple[Score, ...]
    changes: tuple[Comparison, ...]
    pairs: tuple[Comparison, ...]
    bounds: tuple[LossBound, ...]
    guards: tuple[GuardCheck, ...]
    losses: tuple[Loss, ...]
    fidelity: tuple[Loss, ...]
    costs: tuple[CandidateCost, ...]
    frontier: tuple[FrontierPlace, ...]
    effects: tuple[Effect, ...]
    run_to_run: tuple[RunToRun, ...]
    fairness: tuple[Unevenness, ...]
    missing: tuple[str, ...]
    recommendation: Recommendation
    scoped_pairs: tuple[Comparison, ...] = ()
    scoped_bounds: tuple[LossBound, ...] = ()
    references: tuple[ReferenceInfo, ...] = ()
    gaps: tuple[GapClosed, ...] = ()
    power: tuple[Sensitivity, ...] = ()

    @property
    def by_loss(self) -> bool:
        """Whether losses decide: scores are then shown in bits per byte, differences in hundredths of one."""
        metrics = {task.metric for task in self.tasks if task.task in self.decision_tasks}
        return bool(metrics) and all(is_loss(metric) for metric in metrics)

    @property
    def guard_units(self) -> dict[str, str]:
        """Guard to what its differences are in: a guard task is scored in points also where losses decide."""
        return {scope.label: scope.unit for scope in self.scopes if scope.kind == "guard"}

    def to_json(self) -> dict[str, Any]:
        """Plain data for `summary.json`; figures that don't exist are null. Without `scoped_pairs`, which are
        many: they have a table of their own.
        """
        return {key: _plain(value) for key, value in vars(self).items() if key != "scoped_pairs"}

    def records(self, name: str) -> list[dict[str, Any]]:
        """The rows of one of the fields, such as `pairs`, as plain data."""
        return _plain(getattr(self, name))

    def score(self, candidate: str, scope: str) -> Score | None:
        """The score of a candidate over a scope, if it has one."""
        return next((s for s in self.scores if s.candidate == candidate and s.scope == scope), None)

    def change(self, candidate: str, scope: str) -> Comparison | None:
        """The change of a candidate against its untouched model over a scope, if there is one."""
        return next((c for c in self.changes if c.candidate == candidate and c.scope == scope), None)

    def cost(self, candidate: str) -> CandidateCost | None:
        """What a trained candidate cost."""
        return next((c for c in self.costs if c.candidate == candidate), None)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if dataclasses.is_dataclass(value):
        return {key: _plain(inner) for key, inner in vars(value).items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

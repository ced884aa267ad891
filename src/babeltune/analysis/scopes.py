"""Scopes: what figures are stated for: overall, a guard, a language, resource class, script or task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import langcodes

from babeltune import languages as language_table
from babeltune.analysis.forms import base_task
from babeltune.analysis.points import is_decidable, is_loss
from babeltune.analysis.scores import Cell, ScoreArrays, TaskInfo
from babeltune.analysis.weights import Weights, difference, macro
from babeltune.study.expand import whole_task

ScopeKind = Literal["overall", "language", "task", "class", "script", "guard", "gap"]

CLASSES: Final = (
    ("low", "low-resource", (0, 1, 2)),
    ("middle", "middle-resource", (3,)),
    ("high", "high-resource", (4, 5)),
)
"""Key, name and resource classes (Joshi et al. 2020) of the groups of languages."""

COMMON_SHARE = 0.5
"""A cell that fewer of the runs have, in an unfinished study, is left out rather than the runs."""


@dataclass(frozen=True)
class Scope:
    """`key` names it in frames (`language:sw`), `label` for people; `weights` are those of its cells."""

    key: str
    kind: ScopeKind
    label: str
    weights: Weights


def decision_tasks(tasks: Sequence[TaskInfo]) -> list[TaskInfo]:
    """The tasks that the recommendation rests on.

    Those marked primary; without any, all that are scored in points. Loss decides only where it is
    marked primary or nothing else is scored: an average of accuracy and bits per byte means little. The
    form of a task that is answered in writing does not decide beside one by choice: it is there for the
    references.
    """
    usable = [t for t in _without_second_forms(tasks) if is_decidable(t.metric) and not t.guard_only]
    scored = [t for t in usable if not is_loss(t.metric)]
    return [t for t in usable if t.primary] or scored or usable


def _without_second_forms(tasks: Sequence[TaskInfo]) -> list[TaskInfo]:
    by_choice = {base_task(t.task) for t in tasks if not t.written}
    return [t for t in tasks if t.primary or not t.written or base_task(t.task) not in by_choice]


def guard_tasks(tasks: Sequence[TaskInfo]) -> list[str]:
    """The tasks that are guards of their own, each by its whole name; losses are shown but guard nothing."""
    return list(
        dict.fromkeys(
            whole_task(t.task)
            for t in _without_second_forms(tasks)
            if t.guard_only and is_decidable(t.metric) and not is_loss(t.metric)
        )
    )


def common_cells(arrays: ScoreArrays) -> tuple[list[Cell], list[Cell]]:
    """The cells that at least half of the runs have (of those in the fullest cell), and the others."""
    counts = {cell: int(arrays.has_cell_R(cell).sum()) for cell in arrays.cells}
    needed = COMMON_SHARE * max(counts.values(), default=0)
    return [c for c, n in counts.items() if n >= needed], [c for c, n in counts.items() if n < needed]


def scopes_of(
    cells: Sequence[Cell], tasks: Sequence[TaskInfo], target: Sequence[str], guard: Sequence[str]
) -> list[Scope]:
    """Every scope with cells, overall first, then guards, languages (guards first), classes, scripts, tasks.

    Scripts are scopes where the target languages have more than one.
    """
    deciding = {task.task for task in decision_tasks(tasks)}
    counted = [cell for cell in cells if cell[0] in deciding]
    found = [Scope("overall", "overall", "overall", macro(c for c in counted if c[1] in target))]
    for code in guard:
        name = language_name(code)
        found.append(Scope(f"guard:{code}", "guard", name, macro(c for c in counted if c[1] == code)))
        found += [
            Scope(
                f"guard:{code}:{task}",
                "guard",
                f"{name}, {task}",
                macro(c for c in cells if (whole_task(c[0]), c[1]) == (task, code)),
            )
            for task in guard_tasks(tasks)
        ]
    for code in dict.fromkeys([*guard, *target]):
        weights = macro(c for c in counted if c[1] == code)
        found.append(Scope(f"language:{code}", "language", language_name(code), weights))
    groups: dict[str, Mapping[Cell, float]] = {}
    for key, label, _ in CLASSES:
        members = [code for code in target if resource_group(code) == key]
        groups[key] = macro(c for c in counted if c[1] in members)
        found.append(Scope(f"class:{key}", "class", f"{label} languages", groups[key]))
    if groups["low"] and groups["high"]:
        gap = difference(groups["low"], groups["high"])
        found.append(Scope("gap:low-high", "gap", "low- minus high-resource languages", gap))
    by_script: dict[str, list[str]] = {}
    for code in target:
        by_script.setdefault(language_table.get(code).script, []).append(code)
    if len(by_script) > 1:
        found += [
            Scope(
                f"script:{script}", "script", script_name(script), macro(c for c in counted if c[1] in codes)
            )
            for script, codes in by_script.items()
        ]
    found += [
        Scope(
            f"task:{name}",
            "task",
            name,
            macro(c for c in counted if name in (c[0], whole_task(c[0])) and c[1] in target),
        )
        for name in dict.fromkeys(name for t in tasks for name in (whole_task(t.task), t.task))
    ]
    return [scope for scope in found if scope.weights]


def resource_group(code: str) -> str | None:
    """`low`, `middle` or `high`; None where the language has no class."""
    resource_class = language_table.get(code).resource_class
    return next((key for key, _, classes in CLASSES if resource_class in classes), None)


def script_name(script: str) -> str:
    """The name in English of a script given by its ISO 15924 code: `Arabic script`."""
    return f"{langcodes.Language.make(script=script).script_name('en')} script"


def language_name(code: str) -> str:
    """The language's name in English."""
    return language_table.get(code).name

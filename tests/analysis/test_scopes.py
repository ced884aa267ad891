"""Which cells a scope has, and which tasks decide."""

from __future__ import annotations

import polars as pl
import pytest

from babeltune.analysis.forms import base_task
from babeltune.analysis.inventory import scope_info
from babeltune.analysis.scopes import Scope, decision_tasks, scopes_of
from babeltune.analysis.scores import TaskInfo, arrays_of

XNLI, CHAT, GENERATED, CHAT_GENERATED = (
    TaskInfo(name, "accuracy", written="/generate" in name)
    for name in ("xnli", "xnli+chat", "xnli/generate", "xnli/generate+chat")
)


def test_every_kind_of_scope_is_there() -> None:
    target = ["sw", "am", "es", "zh"]
    cells = [("xnli", code) for code in ["en", *target]]
    found = {scope.key: scope for scope in scopes_of(cells, [XNLI], target, ["en"])}
    assert {scope.kind for scope in found.values()} == {
        *("overall", "language", "class", "script", "task", "guard", "gap")
    }
    scripts = {key: set(scope.weights) for key, scope in found.items() if key.startswith("script:")}
    assert scripts == {
        "script:Latn": {("xnli", "sw"), ("xnli", "es")},
        "script:Ethi": {("xnli", "am")},
        "script:Hans": {("xnli", "zh")},
    }
    assert found["script:Ethi"].label == "Ethiopic script"
    for scope in found.values():
        assert sum(scope.weights.values()) == pytest.approx(0 if scope.kind == "gap" else 1)


def test_one_script_is_no_scope_of_its_own() -> None:
    cells = [("xnli", code) for code in ("sw", "es")]
    assert not [s for s in scopes_of(cells, [XNLI], ["sw", "es"], []) if s.kind == "script"]


def test_the_generated_form_decides_only_alone_or_where_it_is_said_to() -> None:
    primary = TaskInfo("xnli/generate", "accuracy", primary=True, written=True)
    xquad = TaskInfo("xquad", "f1", written=True)
    assert decision_tasks([XNLI, GENERATED]) == [XNLI]
    assert decision_tasks([CHAT, CHAT_GENERATED]) == [CHAT]
    assert decision_tasks([GENERATED]) == [GENERATED]
    assert decision_tasks([XNLI, primary]) == [primary]
    assert decision_tasks([XNLI, GENERATED, xquad]) == [XNLI, xquad]


def test_a_generated_guard_task_is_no_second_guard() -> None:
    guards = [
        TaskInfo("mmlu", "accuracy", guard_only=True),
        TaskInfo("mmlu/generate", "accuracy", guard_only=True, written=True),
    ]
    cells = [(task.task, "en") for task in guards]
    found = [s.key for s in scopes_of(cells, [XNLI, *guards], ["sw"], ["en"]) if s.kind == "guard"]
    assert found == ["guard:en:mmlu"]


def test_items_that_two_forms_ask_are_counted_once() -> None:
    frames = [
        pl.DataFrame({"item": [f"i{n}" for n in range(size)], "value": 1.0}).with_columns(
            run=pl.lit("r"), task=pl.lit(task.task), language=pl.lit(language), metric=pl.lit("accuracy")
        )
        for task, language, size in ((XNLI, "sw", 10), (CHAT, "sw", 12), (CHAT, "es", 8))
    ]
    arrays = arrays_of(pl.concat(frames), [XNLI, CHAT], ["r"], {"r": 0}, [None])
    for task, items in ((XNLI, 10), (CHAT, 12)):
        alone = {cell: 1.0 for cell in arrays.cells if cell[0] == task.task}
        assert scope_info(Scope("task", "task", "task", alone), arrays).items == items
    both = dict.fromkeys(arrays.cells, 1 / 3)
    assert scope_info(Scope("overall", "overall", "overall", both), arrays).items == 12


def test_forms_go_back_to_their_task() -> None:
    for info in (XNLI, CHAT, GENERATED, CHAT_GENERATED):
        assert base_task(info.task) == "xnli"

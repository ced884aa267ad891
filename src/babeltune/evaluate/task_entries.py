"""What a task entry of a study file means: one of our tasks, the user's own items, or lm-eval's by name."""

from __future__ import annotations

import difflib
import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from babeltune.errors import TaskError, Unreachable
from babeltune.evaluate import own_items
from babeltune.evaluate.documents import Documents
from babeltune.evaluate.tasks import BUILT_IN, BuiltIn, Kind, built_in_documents
from babeltune.study import schema
from babeltune.study.places import Places

LM_EVAL_PREFIX = "lm_eval/"

# Part of every digest: goes up when items are scored otherwise without any prompt or row having changed.
SCORING_VERSION = 2

_SPELLINGS = {name.replace("-", "").replace("_", ""): name for name in BUILT_IN}


@dataclass(frozen=True)
class TaskInfo:
    """What analysis needs to know. `metric`: the one decided on; `chance`: its value when guessing.

    `classes`: of a judged task's questions, which are averaged first.
    """

    task: str
    metric: str
    chance: float | None
    kind: Kind
    classes: tuple[str, ...] = ()


def built_in(task: schema.Task) -> BuiltIn | None:
    """Our task of that name, in any spelling (`pawsx`, `paws_x`), or None."""
    if task.name is None:
        return None
    return BUILT_IN.get(_SPELLINGS.get(task.name.lower().replace("-", "").replace("_", ""), ""))


def resolve_task(entry: str | schema.Task) -> schema.Task:
    """A task entry of a study file, checked.

    Raises:
        TaskError: no such task (the remedy names the nearest), or a YAML file, which may carry code.
    """
    task = schema.Task(name=entry) if isinstance(entry, str) else entry  # pyright: ignore[reportCallIssue]
    if task.path is not None:
        own_items.check_path(task.path)
        return task
    ours = built_in(task)
    if ours is not None:
        return task.model_copy(update={"name": ours.name})
    from babeltune.evaluate import lm_eval_tasks

    assert task.name is not None
    name = task.name.removeprefix(LM_EVAL_PREFIX)
    if not lm_eval_tasks.exists(name):
        near = difflib.get_close_matches(name, {*BUILT_IN, *lm_eval_tasks.names()}, n=3) or list(BUILT_IN)
        raise TaskError(f"unknown task {task.name!r}", remedy=f"did you mean {', '.join(near)}?")
    return task.model_copy(update={"name": LM_EVAL_PREFIX + name})


def task_languages(task: schema.Task, places: Places) -> set[str]:
    """The languages that a task covers, as normalised codes.

    Raises:
        TaskError: own items can't be read.
    """
    task = resolve_task(task)
    if task.path is not None:
        return set(own_items.read(task, places))
    ours = built_in(task)
    if ours is not None:
        return set(ours.gaps)
    from babeltune.evaluate import lm_eval_tasks

    return set(lm_eval_tasks.subtasks_by_language(_lm_eval_name(task)))


def task_info(task: schema.Task, places: Places) -> TaskInfo:
    """Metric, chance level and kind of a task."""
    task = resolve_task(task)
    if task.path is not None:
        classes: tuple[str, ...] = ()
        with suppress(Unreachable):  # then nothing is scored yet that has a class
            classes = own_items.classes(task, places)
        return TaskInfo(task.short_name, *own_items.metric_and_chance(task, places), classes)
    ours = built_in(task)
    if ours is not None:
        return TaskInfo(ours.name, ours.metric, ours.chance, ours.kind)
    from babeltune.evaluate import lm_eval_tasks

    return TaskInfo(task.short_name, *lm_eval_tasks.metric_and_kind(_lm_eval_name(task)))


def task_note(task: schema.Task, num_fewshot: int | None) -> str | None:
    """What to know of an lm-eval task before believing its scores; None for ours and the user's own."""
    task = resolve_task(task)
    if task.path is not None or built_in(task) is not None:
        return None
    from babeltune.evaluate import lm_eval_tasks

    return lm_eval_tasks.note(_lm_eval_name(task), shots_and_limit(task, num_fewshot, None)[0])


def shown_items(task: schema.Task, language: str, num_fewshot: int | None, places: Places) -> list[str]:
    """Ids of the examples shown before every item; none for lm-eval's own tasks, which may draw anew."""
    task = resolve_task(task)
    shots, _ = shots_and_limit(task, num_fewshot, None)
    documents = task_documents(task, language, places) if shots else None
    return [document["item"] for document in documents.shots[:shots]] if documents else []


def task_documents(task: schema.Task, language: str, places: Places) -> Documents | None:
    """The finished documents of a resolved task in one language; None for lm-eval's own tasks.

    Raises:
        TaskError: the task lacks the language, or its rows can't be read.
    """
    if task.path is not None:
        return own_items.documents(task, language, places)
    ours = built_in(task)
    return built_in_documents(ours.name, language, places.data_root) if ours else None


def task_digest(
    task: schema.Task, language: str, *, num_fewshot: int | None, limit: int | None, places: Places
) -> str:
    """Identity of what is asked: every prompt, choice and reference that is scored, and the examples shown.

    It is computed from the finished documents, so it holds the rows' content and what the prompt code made of
    them; neither a path nor the chat form is part of it. `num_fewshot` and `limit` are the study's, the
    task's own win.

    Raises:
        TaskError: the task lacks the language, or its rows can't be read.
    """
    task = resolve_task(task)
    shots, limit = shots_and_limit(task, num_fewshot, limit)
    documents = task_documents(task, language, places)
    if documents is None:
        from babeltune.evaluate import lm_eval_tasks

        content: Any = lm_eval_tasks.content(_lm_eval_name(task), language, shots, limit, places.data_root)
    else:
        shots = shots or 0
        check_shots(task, documents, shots)
        ours = built_in(task)
        content = {
            "kind": ours.kind if ours else task.metric,
            "gap": ours.gaps[language] if ours else None,
            "scored": documents.scored[:limit],
            "shots": documents.shots[:shots],
        }
        if task.max_gen_toks is not None:
            content["max_gen_toks"] = task.max_gen_toks
        if task.metric in ("exact_match", "f1", "chrf"):
            content["until"] = own_items.answer_end(documents)
    text = json.dumps([SCORING_VERSION, content], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def shots_and_limit(
    task: schema.Task, num_fewshot: int | None, limit: int | None
) -> tuple[int | None, int | None]:
    """The task's own number of examples and limit, or the study's. Own items come without examples.

    None examples are said by neither: lm-eval's tasks then show as many as they say, all others none.
    """
    own = 0 if task.path is not None else num_fewshot
    return own if task.num_fewshot is None else task.num_fewshot, task.limit or limit


def check_shots(task: schema.Task, documents: Documents, shots: int) -> None:
    """Refuse more examples than there are.

    Raises:
        TaskError: says how many there are.
    """
    there = len(documents.shots)
    if shots > there:
        raise TaskError(
            f"{task.short_name} has {there or 'no'} examples to show, not {shots}",
            remedy=f"`num_fewshot: {there}`{' or fewer' if there else ''} for this task",
        )


def _lm_eval_name(task: schema.Task) -> str:
    assert task.name is not None
    return task.name.removeprefix(LM_EVAL_PREFIX)

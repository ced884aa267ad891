"""Scores one model on one task in one language: a frame with one row an item and metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import polars as pl
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from babeltune.errors import TaskError
from babeltune.evaluate import fidelity, lm_eval_tasks, own_items, task_entries
from babeltune.evaluate.heldout import loss_metrics
from babeltune.evaluate.items import ITEM_SCHEMA, examples_among, item_ids, kept_text, prompt_digest
from babeltune.evaluate.own_items import on_own_line
from babeltune.evaluate.prepared import Item, Prepared, Respondent
from babeltune.evaluate.scorer import RequestKind, Scorer
from babeltune.evaluate.task_names import METRIC_NAMES
from babeltune.study import schema
from babeltune.study.places import Places

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ANSWERS_TO_TELL_A_LANGUAGE = 100


def score_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str | schema.Task,
    language: str,
    *,
    num_fewshot: int | None,
    limit: int | None,
    apply_chat_template: bool,
    template_kwargs: dict[str, Any],
    places: Places,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    kept: Callable[[Callable[[], Prepared]], Prepared] | None = None,
) -> pl.DataFrame:
    """Item scores of a loaded model.

    The model is scored as it is: its precision is the caller's choice. It is in eval mode meanwhile.
    `num_fewshot` and `limit` are the study's, the task's own win; see `task_entries.shots_and_limit`.
    `on_progress(done, total)` counts requests to the model; `should_stop()` is asked between batches.
    `kept(prepare)` gives the prompts that the last model with this tokenizer was asked with, or what
    `prepare()` makes (`prepared.Kept`).

    Returns:
        Columns item (shared across parallel languages), metric, value (shares 0 to 1; losses in bits and
        nats), prompt_digest (of all that the model was given), answer (chosen or generated; null for losses),
        prompt and expected (the right answer) as text for a few items, see `items.examples_among`.
        Answers in free text have a `language_fidelity` where it can be told (`fidelity.py`).
        Of judged tasks the answers alone: `value` is null until `judge.scoring.judge_answers` fills it in.

    Raises:
        TaskError: the task lacks the language, or its rows can't be read.
        Interrupted: `should_stop()` said so.
    """
    scorer = Scorer(
        model,
        tokenizer,
        bos=False if apply_chat_template else None,
        template_kwargs=template_kwargs,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    was_training = model.training
    model.eval()
    try:
        return score_by(
            scorer, task, language, num_fewshot=num_fewshot, limit=limit, places=places, kept=kept
        )
    finally:
        model.train(was_training)


def score_by(
    scorer: Respondent,
    task: str | schema.Task,
    language: str,
    *,
    num_fewshot: int | None,
    limit: int | None,
    places: Places,
    kept: Callable[[Callable[[], Prepared]], Prepared] | None = None,
) -> pl.DataFrame:
    """Item scores of whatever answers requests; arguments, columns and errors as `score_task`'s.

    Raises:
        TaskError: the model can't be asked so.
    """
    task = task_entries.resolve_task(task)
    shots, limit = task_entries.shots_and_limit(task, num_fewshot, limit)
    chat = scorer.bos is False
    if task.metric == "bits_per_byte":
        rows = _score_loss(scorer, task, language, limit, places, chat)
    elif task.metric == "judge":
        rows = _answer_questions(scorer, task, language, limit, places, chat)
    else:

        def prepare() -> Prepared:
            return _prepared(scorer, _task_objects(task, language, shots, places, chat), limit)

        is_ours = task.path is not None or task_entries.built_in(task) is not None
        prepared = prepare() if kept is None else kept(prepare)
        rows = _score_lm_eval(scorer, prepared, language, is_ours=is_ours)
    return pl.DataFrame(rows, schema=ITEM_SCHEMA, orient="row")


def _task_objects(
    task: schema.Task, language: str, shots: int | None, places: Places, apply_chat_template: bool
) -> list[Task]:
    ours = task_entries.built_in(task)
    if ours is not None:
        documents = task_entries.task_documents(task, language, places)
        assert documents is not None
        task_entries.check_shots(task, documents, shots or 0)
        return [lm_eval_tasks.built_in(ours, language, num_fewshot=shots or 0, data_root=places.data_root)]
    if task.path is None:
        name = (task.name or "").removeprefix(task_entries.LM_EVAL_PREFIX)
        return [
            lm_eval_tasks.lm_evals_own(subtask, num_fewshot=shots, data_root=places.data_root)
            for subtask in lm_eval_tasks.language_subtasks(name, language)
        ]
    documents = task_entries.task_documents(task, language, places)
    assert documents is not None
    if task.metric == "accuracy":
        return [lm_eval_tasks.own_choices(task.short_name, language, documents)]
    assert task.metric is not None
    return [
        lm_eval_tasks.own_answers(
            task.short_name,
            task.metric,
            documents,
            apply_chat_template=apply_chat_template,
            max_gen_toks=own_items.answer_tokens(task),
        )
    ]


def _prepared(scorer: Respondent, objects: Sequence[Task], limit: int | None) -> Prepared:
    chat = scorer if scorer.bos is False else None
    tasks = [(task, _items(task, limit, chat)) for task in objects]
    by_kind: dict[RequestKind, list[Instance]] = {}
    for _, items in tasks:
        for item in items:
            for request in item.requests:
                by_kind.setdefault(cast("RequestKind", request.request_type), []).append(request)
    readied: dict[RequestKind, tuple[list[Instance], Any]] = {
        kind: (requests, scorer.ready(kind, requests)) for kind, requests in by_kind.items()
    }
    return Prepared(tasks, readied)


def _score_lm_eval(
    scorer: Respondent, prepared: Prepared, language: str, *, is_ours: bool
) -> list[tuple[Any, ...]]:
    for kind, (requests, readied) in prepared.requests.items():
        for request, response in zip(requests, scorer.respond(kind, readied), strict=True):
            request.resps = [response] * (request.repeats or 1)
    rows: list[tuple[Any, ...]] = []
    for task, items in prepared.tasks:
        prefix = f"{task.config.task}/" if len(prepared.tasks) > 1 else ""
        # What is ours is asked in the language that the answer is wanted in; lm-eval's tasks don't say.
        asked_in = language if is_ours or _is_answered_in(language, task, items) else None
        rows += _task_rows(task, items, prefix, asked_in)
    return rows


def _is_answered_in(language: str, task: Task, items: Sequence[Item]) -> bool:
    """Whether right answers of a task are seen to be in this language: not so of numbers or translations."""
    if not items or items[0].requests[0].request_type != "generate_until":
        return False
    answers = [_right_answer(task, item.document) for item in items[:ANSWERS_TO_TELL_A_LANGUAGE]]
    return fidelity.language_fidelity("\n".join(answers), language) == 1.0


def _items(task: Task, limit: int | None, chat: Respondent | None) -> list[Item]:
    """Each document's requests, built as lm-eval builds them; examples are turns of their own in a chat."""
    template = chat.apply_chat_template if chat else None
    documents = [document for _, document in task.doc_iterator(rank=0, limit=limit, world_size=1)]
    found = []
    for position, (item, document) in enumerate(zip(item_ids(documents), documents, strict=True)):
        context = task.fewshot_context(
            document,
            num_fewshot=task.config.num_fewshot or 0,
            apply_chat_template=chat is not None,
            fewshot_as_multiturn=chat is not None,
            chat_template=template,
            gen_prefix=task.doc_to_prefix(document),
        )
        made: Any = task.construct_requests(
            document,
            context,
            metadata=(task.config.task, position, task.config.repeats),
            apply_chat_template=chat is not None,
            chat_template=template,
        )
        found.append(Item(item, document, made if isinstance(made, list) else [made]))
    return found


def _task_rows(task: Task, items: Sequence[Item], prefix: str, language: str | None) -> list[tuple[Any, ...]]:
    """`language`: that of free answers, where it is known."""
    task._instances = cast(Any, [request for item in items for request in item.requests])
    task.apply_filters()
    rows: list[tuple[Any, ...]] = []
    examples = examples_among([item.item for item in items])
    for item in items:
        digest = prompt_digest([[request.request_type, request.args] for request in item.requests])
        answer = _answer(task, item)
        text = _text(task, item) if item.item in examples else (None, None)
        for number, name in enumerate(item.requests[0].filtered_resps):
            results: Any = [request.filtered_resps[name] for request in item.requests]
            scored: Any = task.process_results(item.document, results)
            for metric, value in _scalars(scored).items():
                # Several ways to read one answer: the first is the task's, the others keep their name.
                label = metric if number == 0 else f"{metric} ({name})"
                rows.append((prefix + item.item, label, value, digest, answer, *text))
        if language is not None and item.requests[0].request_type == "generate_until":
            rows += _fidelity_rows(prefix + item.item, str(answer), language, digest)
    if not rows:
        raise TaskError(f"{task.config.task} has no score for single items", remedy="choose another task")
    return rows


def _fidelity_rows(item: str, answer: str, language: str, digest: str) -> list[tuple[Any, ...]]:
    """The item's language fidelity; no row where it can't be told."""
    value = fidelity.language_fidelity(answer, language)
    return [] if value is None else [(item, fidelity.METRIC, value, digest, answer, None, None)]


def _scalars(results: dict[str, Any]) -> dict[str, float]:
    """Metrics that have a value for one item, under our names; corpus metrics are left out."""
    found = {}
    for name, value in results.items():
        if isinstance(value, bool | int | float | np.number):
            found[METRIC_NAMES.get(name, name)] = float(value)
        elif name == "bits_per_byte":
            loglikelihood, size = value
            found[name] = -loglikelihood / size / math.log(2)
            found["nats_per_item"] = -loglikelihood
    return found


def _answer(task: Task, item: Item) -> str | None:
    first = item.requests[0]
    if first.request_type == "generate_until":
        return str(first.resps[0])
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    choices = task.doc_to_choice(item.document)  # pyright: ignore[reportAttributeAccessIssue]
    values = [request.resps[0][0] for request in item.requests[: len(choices)]]
    return str(choices[int(np.argmax(values))])


def _text(task: Task, item: Item) -> tuple[str, str]:
    """The prompt and the right answer, for people to read."""
    return kept_text(_shown(item.requests[0].args[0])), kept_text(_right_answer(task, item.document))


def _right_answer(task: Task, document: Any) -> str:
    """The first, where there are several."""
    target: Any = task.doc_to_target(document)  # pyright: ignore[reportAttributeAccessIssue]
    if task.OUTPUT_TYPE == "multiple_choice" and isinstance(target, int):
        target = task.doc_to_choice(document)[target]  # pyright: ignore[reportAttributeAccessIssue]
    return str(target[0] if isinstance(target, list) and target else target)


def _shown(prompt: Any) -> str:
    """A prompt for people to read; lm-eval wraps chats for an API."""
    return str(getattr(prompt, "prompt", prompt))


def _score_loss(
    scorer: Respondent, task: schema.Task, language: str, limit: int | None, places: Places, chat: bool
) -> list[tuple[Any, ...]]:
    """Loss of references after their prompts, or of whole texts after BOS, which no template wraps."""
    if not isinstance(scorer, Scorer):
        raise TaskError(
            f"{task.short_name} needs a model's losses, which only models loaded here give",
            remedy="leave it out, or score without --backend",
        )
    documents = task_entries.task_documents(task, language, places)
    assert documents is not None
    scored = documents.scored[:limit]
    prompts = [_own_prompt(document["text"], scorer, chat) for document in scored]
    references = [document["references"][0] for document in scored]
    nats = [0.0] * len(scored)
    prompted = [i for i, prompt in enumerate(prompts) if prompt]
    whole = [i for i, prompt in enumerate(prompts) if not prompt]
    for i, value in zip(prompted, scorer.loss([(prompts[i], references[i]) for i in prompted]), strict=True):
        nats[i] = value
    for i, value in zip(whole, scorer.rolling([references[i] for i in whole]), strict=True):
        nats[i] = -value
    rows: list[tuple[Any, ...]] = []
    for document, prompt, reference, value in zip(scored, prompts, references, nats, strict=True):
        digest = prompt_digest([prompt, reference])
        rows += [
            (document["item"], metric, number, digest, None, None, None)
            for metric, number in loss_metrics(value, reference).items()
        ]
    return rows


def _answer_questions(
    scorer: Respondent, task: schema.Task, language: str, limit: int | None, places: Places, chat: bool
) -> list[tuple[Any, ...]]:
    """A judged task's answers, up to the end that the model gives them."""
    documents = task_entries.task_documents(task, language, places)
    assert documents is not None
    scored = documents.scored[:limit]
    options = {"until": [], "do_sample": False, "max_gen_toks": own_items.answer_tokens(task)}
    requests = [
        Instance("generate_until", document, (_own_prompt(document["text"], scorer, chat), options), position)
        for position, document in enumerate(scored)
    ]
    answers = scorer.generate_until(requests)
    examples = examples_among([document["item"] for document in scored])
    rows: list[tuple[Any, ...]] = []
    for document, request, answer in zip(scored, requests, answers, strict=True):
        digest = prompt_digest([[request.request_type, request.args]])
        expected = document["references"][0] if document["references"] else ""
        text = (_shown(request.args[0]), expected) if document["item"] in examples else (None, None)
        rows.append((document["item"], "judge", None, digest, answer, *(t and kept_text(t) for t in text)))
        rows += _fidelity_rows(document["item"], answer, language, digest)
    return rows


def _own_prompt(prompt: str, scorer: Respondent, chat: bool) -> Any:
    if not prompt:
        return ""
    return scorer.apply_chat_template([{"role": "user", "content": prompt}]) if chat else on_own_line(prompt)

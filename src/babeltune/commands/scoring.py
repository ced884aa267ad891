"""Scoring a model now, without a study: what `eval` and `compare` share."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import polars as pl
import yaml
from pydantic import ValidationError
from rich.console import Console

from babeltune.errors import UserError
from babeltune.evaluate.judge.client import check_judge
from babeltune.evaluate.judge.scoring import judge_answers, shortfall
from babeltune.evaluate.replies import Replies, spent
from babeltune.evaluate.task_entries import (
    TaskInfo,
    resolve_task,
    task_documents,
    task_info,
    task_languages,
)
from babeltune.execute.collect import by_class
from babeltune.languages import get, normalise
from babeltune.study import schema
from babeltune.study.jobs import digest_of
from babeltune.study.places import Places

# Item scores of one task in one language; the last argument is told (done, total).
Score = Callable[[schema.Task, str, Callable[[int, int], None]], pl.DataFrame]


@dataclass(frozen=True)
class Scoring:
    """On what a model is scored, and how.

    `metric`, `max_gen_toks`: of own items; `limit`: first items of each task and language. `backend`: what
    runs the model: babeltune, or lm-eval's own for vLLM or for an API at `base_url`.
    """

    tasks: tuple[str, ...]
    languages: tuple[str, ...]
    metric: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    chat: bool = False
    bits: int = 16
    dtype: str = "bfloat16"
    data_root: Path | None = None
    max_gen_toks: int | None = None
    judge: schema.Judge | None = None
    backend: str = "babeltune"
    base_url: str | None = None

    def check(self) -> None:
        """Refuse what is not possible.

        Raises:
            UserError: names the option.
        """
        _check_choice("--bits", self.bits, (16, 8, 4))
        _check_choice("--dtype", self.dtype, ("bfloat16", "float16", "float32"))
        _check_choice("--backend", self.backend, ("babeltune", "vllm", "api"))
        if (self.backend == "api") != (self.base_url is not None):
            raise UserError(
                "an API has an address, and nothing else has",
                where="--backend",
                remedy="write --backend api --base-url https://host/v1",
            )
        for code in self.languages:
            normalise(code)
        if self.metric == "judge" and self.judge is None:
            raise UserError(
                "who is to judge?",
                where="--metric",
                remedy="add --judge '{model: NAME, base_url: \"https://host/v1\"}'",
            )

    def in_words(self) -> dict[str, str]:
        """How models are asked, as `samples.LoggedScores.settings` says it."""
        return {
            "precision": self.dtype,
            "examples shown": "each task's own" if self.num_fewshot is None else str(self.num_fewshot),
            "chat template": "applied" if self.chat else "not applied",
        }

    def entries(self) -> list[schema.Task]:
        """The tasks as a study would name them."""
        # Rows that do not say their language are in the only one that is asked for.
        language = normalise(self.languages[0]) if len(self.languages) == 1 else None
        return [resolve_task(_task(name, self, language)) for name in self.tasks]


def item_scores(
    model: str, *, adapter: Path | None, gguf_file: str | None = None, scoring: Scoring, console: Console
) -> pl.DataFrame:
    """Item scores of one model or adapter: columns task, language and those of `score.score_task`.

    The classes of judged tasks are tasks of their own.

    Raises:
        UserError: the model, a task or a language is unknown, or no task exists in the languages.
    """
    scoring.check()
    codes = [normalise(code) for code in scoring.languages]
    places = _places(scoring)
    entries = scoring.entries()
    if scoring.backend == "babeltune":
        score = _by_babeltune(model, adapter, gguf_file, scoring, places)
    else:
        if adapter is not None or gguf_file is not None or scoring.bits != 16:
            raise UserError(
                f"the {scoring.backend} backend takes a model by its name alone",
                where="--backend",
                remedy="leave --adapter, --gguf-file and --bits out, or --backend",
            )
        score = _by_backend(model, scoring, places)
    if scoring.judge is not None:
        check_judge(scoring.judge)
    frames = []
    for task in entries:
        available = task_languages(task, places)
        for code in codes:
            if code not in available:
                console.print(
                    f"{task.short_name} does not exist in {get(code).name}; left out", style="yellow"
                )
                continue
            with console.status(f"{task.short_name} {code}") as status:
                items = score(
                    task,
                    code,
                    lambda done, total, name=f"{task.short_name} {code}": status.update(
                        f"{name} {done}/{total}"
                    ),
                )
            if task.metric == "judge":
                items = _judged(items, task, code, scoring, console)
            for name, part in by_class(items, task.short_name).items():
                labels = pl.lit(name).alias("task"), pl.lit(code).alias("language")
                frames.append(part.select(*labels, pl.all()))
    if not frames:
        raise UserError("no task exists in these languages", where="--languages")
    return pl.concat(frames, how="diagonal")


def _by_babeltune(
    model: str, adapter: Path | None, gguf_file: str | None, scoring: Scoring, places: Places
) -> Score:
    """Scores by a model loaded here."""
    import torch

    from babeltune.commands.opening import cache_dir
    from babeltune.evaluate.score import score_task
    from babeltune.execute.devices import this_machine
    from babeltune.models.loading import load_tokenizer
    from babeltune.models.session import ModelSession, TrainedModel
    from babeltune.models.source import locate

    machine = this_machine(1)
    torch.set_num_threads(machine.threads)
    located = locate(schema.Model(path=model, gguf_file=gguf_file), places, cache_dir())
    session = ModelSession(machine.devices[0])
    trained = TrainedModel(located, adapter=adapter, bits=cast("schema.Bits", scoring.bits))
    network: Any = session.model_for(trained, dtype=cast("schema.Dtype", scoring.dtype))
    tokenizer = load_tokenizer(located)
    return lambda task, code, on_progress: score_task(
        network,
        tokenizer,
        task,
        code,
        num_fewshot=scoring.num_fewshot,
        limit=scoring.limit,
        apply_chat_template=scoring.chat,
        template_kwargs=located.chat_template_kwargs,
        places=places,
        on_progress=on_progress,
    )


def _by_backend(model: str, scoring: Scoring, places: Places) -> Score:
    """Scores by one of lm-eval's backends. What an API answers is kept in the cache folder."""
    from babeltune.commands.opening import cache_dir
    from babeltune.evaluate.backends import Backend, api_backend, vllm
    from babeltune.evaluate.score import score_by

    asked: dict[str, Any] = {
        "num_fewshot": scoring.num_fewshot,
        "limit": scoring.limit,
        "places": places,
    }
    if scoring.backend == "vllm":
        loaded = vllm(model, dtype=scoring.dtype)
        return lambda task, code, on_progress: score_by(
            Backend(loaded, chat=scoring.chat, group=sys.maxsize, on_progress=on_progress),
            task,
            code,
            **asked,
        )
    assert scoring.base_url is not None
    reference = schema.Reference(model=model, base_url=scoring.base_url)
    kept_in = cache_dir() / "asked" / digest_of([reference.base_url, model])[:16]

    def score(task: schema.Task, code: str, on_progress: Callable[[int, int], None]) -> pl.DataFrame:
        with Replies(kept_in, f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}") as replies:
            return score_by(api_backend(reference, replies, on_progress=on_progress), task, code, **asked)

    return score


def _judged(
    items: pl.DataFrame, task: schema.Task, code: str, scoring: Scoring, console: Console
) -> pl.DataFrame:
    """The answers with their scores. Replies are kept in the cache folder, by the server that gave them."""
    from babeltune.commands.opening import cache_dir

    judge, documents = scoring.judge, task_documents(task, code, _places(scoring))
    assert judge is not None
    assert documents is not None
    kept_in = cache_dir() / "judge" / digest_of([judge.base_url, judge.model])[:16]
    name = f"{task.short_name} {code}, judged by {judge.model}"
    with (
        console.status(name) as status,
        Replies(kept_in, f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}") as replies,
    ):
        judged = judge_answers(
            items,
            {document["item"]: document for document in documents.scored},
            judge,
            replies,
            on_progress=lambda done, total: status.update(f"{name} {done}/{total}"),
        )
        cost = spent(replies, judge)
    if lacking := shortfall(judged):
        console.print(lacking, style="yellow", soft_wrap=True)
    tokens = f", {cost.input_tokens:,} + {cost.output_tokens:,} tokens" if cost.input_tokens else ""
    price = f", {cost.price:.4f} by the given prices" if cost.price is not None else ""
    console.print(f"{name}: {cost.replies} new replies{tokens}{price}", soft_wrap=True)
    return judged


def read_judge(text: str) -> schema.Judge:
    """A judge written as in a study file.

    Raises:
        UserError: a key or a value is wrong.
    """
    try:
        return schema.Judge.model_validate(yaml.safe_load(text))
    except yaml.YAMLError:
        message = "not understood"
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        message = f"{'.'.join(map(str, first['loc'])) or 'judge'}: {first['msg']}"
    raise UserError(message, where="--judge", remedy='write {model: NAME, base_url: "https://host/v1"}')


def task_infos_of(scoring: Scoring) -> list[TaskInfo]:
    """What each task is decided on, and how it is answered."""
    return [task_info(entry, _places(scoring)) for entry in scoring.entries()]


def _places(scoring: Scoring) -> Places:
    from babeltune.commands.opening import places_of

    return places_of(Path.cwd(), scoring.data_root)


def _task(name: str, scoring: Scoring, language: str | None) -> schema.Task:
    if name.endswith(".jsonl") or Path(name).is_dir():
        if scoring.metric is None:
            raise UserError(
                f"own items need a metric: {name}", where="--tasks", remedy="add --metric accuracy"
            )
        return schema.Task(
            path=name,
            metric=cast("schema.Metric", scoring.metric),
            language=language,
            max_gen_toks=scoring.max_gen_toks,
        )
    return schema.Task(name=name)


def _check_choice(option: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise UserError(
            f"{value} is not possible", where=option, remedy=f"one of {', '.join(map(str, choices))}"
        )

"""Models that are not loaded here: behind an OpenAI-compatible API, or in vLLM, by lm-eval's own backends.

An API is asked in chats and for written answers only. What it answered is kept as it comes
(`replies.py`), so that an interrupted task goes on without asking, or paying, twice. The key comes from
the environment, goes into the request and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.models import openai_completions
from lm_eval.models.utils import postprocess_generated_text

from babeltune.errors import Interrupted, JobFailed, TaskError, Unreachable, UserError
from babeltune.evaluate.replies import Replies, Reply
from babeltune.study.jobs import digest_of
from babeltune.study.schema import Reference

# Requests between two looks at whether to stop, for each that is under way at a time.
ROUNDS_BETWEEN_LOOKS = 4
TRIES = 8
SECONDS_A_TRY = 600
# Servers that limit rates do so by the minute.
MOST_SECONDS_WAITED = 60.0


# Its decorator hides its signature from type checkers.
_LocalChatCompletion: Any = openai_completions.LocalChatCompletion


class _Status(Exception):
    """What a server answered a try with. aiohttp's own error holds the request with its key, for any log."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class Backend:
    """One of lm-eval's models as tasks are put to it (`prepared.Respondent`).

    `chat`: whether it is asked in chats. Between groups of `group` requests `on_progress(done, total)` is
    told and `should_stop()` asked; yes raises `Interrupted`.
    """

    def __init__(
        self,
        lm: Any,
        *,
        chat: bool,
        group: int,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.lm, self.group = lm, group
        self.bos = False if chat else None
        self._on_progress, self._should_stop = on_progress, should_stop

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> Any:
        """A chat as this backend takes it."""
        return self.lm.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The model's answers."""
        return self.respond("generate_until", self.ready("generate_until", requests))

    def ready(self, kind: str, requests: Sequence[Instance]) -> Sequence[Instance]:
        """The requests as they are.

        Raises:
            TaskError: the model gives no log-likelihoods.
        """
        if kind != "generate_until" and isinstance(self.lm, ChatApi):
            raise TaskError(
                "an API gives no log-likelihoods, which this task needs",
                remedy="name the form that is answered in writing, such as `xnli/generate`",
            )
        return requests

    def respond(self, kind: str, readied: Sequence[Instance]) -> list[Any]:
        """The model's response to each request, as lm-eval wants it."""
        found: list[Any] = []
        while len(found) < len(readied):
            if self._should_stop():
                raise Interrupted("stopped while scoring")
            self._on_progress(len(found), len(readied))
            group = list(readied[len(found) : len(found) + self.group])
            with _without_bars():
                found += getattr(self.lm, kind)(group)
        self._on_progress(len(found), len(readied))
        return found


def api_backend(
    reference: Reference,
    replies: Replies,
    *,
    on_progress: Callable[[int, int], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> Backend:
    """A model behind an API; `replies` is read first and grows.

    Raises:
        UserError: lm-eval's packages for APIs are missing.
    """
    return Backend(
        ChatApi(reference, replies),
        chat=True,
        group=ROUNDS_BETWEEN_LOOKS * reference.concurrency,
        on_progress=on_progress,
        should_stop=should_stop,
    )


class ChatApi(_LocalChatCompletion):
    """lm-eval's chat-completions backend for one reference, with its replies and their tokens kept."""

    def __init__(self, reference: Reference, replies: Replies) -> None:
        self._reference, self._replies = reference, replies
        self._usage: dict[str, Any] = {}
        try:
            super().__init__(
                base_url=f"{reference.base_url.rstrip('/')}/chat/completions",
                model=reference.model,
                num_concurrent=reference.concurrency,
                max_retries=TRIES,
                timeout=SECONDS_A_TRY,
            )
        except ModuleNotFoundError as error:
            raise UserError(
                f"a model behind an API needs more packages: {error}", remedy="pip install 'babeltune[api]'"
            ) from None
        self.set_cache_hook(self)

    @property
    def api_key(self) -> str:
        """Servers of one's own need none."""
        return os.environ.get(self._reference.api_key_env, "none")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The answer to each request, cut at its first stop string: servers know only a few, or none.

        Raises:
            UserError: the server refuses the key, the model or the request.
            Unreachable: nothing answers at the address.
            JobFailed: every try of a request failed; what was answered is kept.
        """
        asked: list[tuple[Any, dict[str, Any]]] = [cast(Any, request.args) for request in requests]
        new = [
            request
            for request, arguments in zip(requests, asked, strict=True)
            if self._replies.get(self._key(arguments)) is None
        ]
        if new:
            with self._errors_in_words():
                super().generate_until(new, disable_tqdm=disable_tqdm)
        replies = [self._replies.get(self._key(arguments)) for arguments in asked]
        return [
            postprocess_generated_text(
                reply.text if reply else "", stop=kwargs.get("until"), think_end_token=None
            )
            for reply, (_, kwargs) in zip(replies, asked, strict=True)
        ]

    async def amodel_call(self, *arguments: Any, **kwargs: Any) -> Any:
        """lm-eval's request, without the key in what it raises, which is not before the server's own wait."""
        import aiohttp

        try:
            return await super().amodel_call(*arguments, **kwargs)
        except aiohttp.ClientResponseError as error:
            status, wait = error.status, _retry_after(error.headers or {})
        await asyncio.sleep(wait)
        raise _Status(status)

    def model_call(self, *arguments: Any, **kwargs: Any) -> Any:
        """The same where requests go one after another."""
        import requests

        try:
            return super().model_call(*arguments, **kwargs)
        except requests.HTTPError as error:
            answered = cast(requests.Response, error.response)
        time.sleep(_retry_after(answered.headers))
        raise _Status(answered.status_code)

    def parse_generations(self, outputs: Any, **kwargs: Any) -> list[str]:
        """lm-eval's hook. The next that lm-eval does, before it takes in another reply, is `add_partial`."""
        if not isinstance(outputs, dict) or not outputs.get("choices"):
            raise JobFailed(f"what came from {self._reference.base_url} was not a chat completion")
        self._usage = outputs.get("usage") or {}
        return super().parse_generations(outputs, **kwargs)

    def add_partial(self, kind: str, arguments: Any, answer: str) -> None:
        """lm-eval's hook for caches: keep a reply."""
        read, written = (
            count if isinstance(count := self._usage.get(name), int) else None
            for name in ("prompt_tokens", "completion_tokens")
        )
        self._replies.add(self._key(arguments), Reply(answer, read, written))

    def _create_payload(self, *arguments: Any, **kwargs: Any) -> dict[str, Any]:
        payload = super()._create_payload(*arguments, **kwargs)
        if "//api.openai.com/" in self.base_url:  # whose newer models know the limit by this name only
            payload["max_completion_tokens"] = payload.pop("max_tokens")
        return {name: value for name, value in payload.items() if name != "stop" or value}

    def _key(self, arguments: tuple[Any, dict[str, Any]]) -> str:
        chat, kwargs = arguments
        return digest_of([self._reference.model, json.loads(chat.prompt), kwargs])

    @contextlib.contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        import aiohttp

        where, address = "eval.references", self._reference.base_url
        try:
            yield
        except _Status as error:
            status = error.status
            if status in (401, 403):
                name = self._reference.api_key_env
                raise UserError(
                    f"{address} refuses the key in {name} ({status})"
                    if os.environ.get(name)
                    else f"{address} wants a key, and {name} is not set",
                    where=where,
                    remedy=f"`export {name}=…`; another variable is named by `api_key_env`",
                ) from None
            if 400 <= status < 500 and status not in (408, 409, 429):
                raise UserError(
                    f"{address} refuses requests for the model {self._reference.model!r} ({status})",
                    where=where,
                    remedy="check `model` and `base_url`, which ends in /v1 at most servers",
                ) from None
            raise JobFailed(
                f"{address} answered with {status}, {TRIES} times; the same command goes on"
            ) from None
        except (OSError, aiohttp.ClientConnectionError) as error:  # timeouts of both libraries are OSErrors
            raise Unreachable(
                f"{self._reference.model!r} does not answer at {address}: {error}",
                where=where,
                remedy="check `base_url` and the network, or start the server",
            ) from None


def _retry_after(headers: Mapping[str, str]) -> float:
    """How many seconds a server asks to be left alone, beside what lm-eval waits anyway."""
    try:
        return min(max(float(headers.get("Retry-After", 0)), 0.0), MOST_SECONDS_WAITED)
    except ValueError:  # a date
        return 0.0


def vllm(path: str, *, dtype: str) -> Any:
    """A model in lm-eval's vLLM backend, for `Backend`. vLLM itself sees to batches: give it all requests.

    Raises:
        UserError: vLLM is not installed.
    """
    from lm_eval.api.registry import get_model

    try:
        backend: Any = get_model("vllm")
        return backend(pretrained=path, dtype=dtype)
    except ModuleNotFoundError as error:
        raise UserError(
            f"vLLM is not installed: {error}", where="--backend", remedy="pip install 'lm-eval[vllm]'"
        ) from None


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """lm-eval draws a bar for every group of requests and logs each try; what is final is raised."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    # For good: tries that lm-eval leaves behind are reported when they are collected, at any time.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)

"""One judge behind an OpenAI-compatible API, through the `openai` client.

The client itself tries again, with growing waits or as long as `Retry-After` says, after timeouts, lost
connections, rate limits and errors of the server. What it does not know is added here: replies that are not
what the protocol says, and what each final error means to a user.

The key comes from the environment, goes into the request and nowhere else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from babeltune.errors import Unreachable, UserError
from babeltune.evaluate.replies import Message, Reply
from babeltune.study.schema import Judge

if TYPE_CHECKING:
    import openai

WHERE = "eval.judge"
MOST_CHARACTERS_QUOTED = 300


@dataclass(frozen=True)
class Patience:
    """How often one request is tried, and for how many seconds a try may last.

    A local server without a GPU may let a request wait for all those before it.
    """

    tries: int = 8
    seconds: float = 600.0


class Unanswered(Exception):
    """One request got no reply: the server `refused` it as it is, or every try failed."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class JudgeClient:
    """An open connection to the judge.

    Raises:
        UserError: the `openai` package is missing.
    """

    def __init__(self, judge: Judge, patience: Patience) -> None:
        openai = _openai()
        self._judge, self._tries = judge, patience.tries
        self._key = os.environ.get(judge.api_key_env)
        # What newer models of the first such API call it; other servers know the older name only.
        self._limit_name = "max_tokens"
        self._client: openai.AsyncOpenAI = openai.AsyncOpenAI(
            base_url=judge.base_url,
            api_key=self._key or "none",  # servers of one's own need none, but the client does
            max_retries=patience.tries - 1,
            timeout=patience.seconds,
        )

    async def __aenter__(self) -> JudgeClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def ask(self, messages: Sequence[Message]) -> Reply:
        """The judge's reply to a conversation.

        Raises:
            UserError: the judge does not know us or the model: no request will be answered.
            Unreachable: the judge wants a key and none is set.
            Unanswered: this request is refused, or every try failed.
        """
        openai = _openai()
        wait = 0.5
        for _ in range(self._tries):
            try:
                reply = _reply_of(await self._create(messages))
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if self._limit_name == "max_completion_tokens" or "max_completion_tokens" not in str(error):
                    raise Unanswered(self._said(error), refused=True) from None
                self._limit_name = "max_completion_tokens"
                continue
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise self._locked_out(error) from None
            except openai.NotFoundError as error:
                raise UserError(
                    f"{self._judge.base_url} has no model {self._judge.model!r}, or is not the address of an "
                    f"API: {self._said(error)}",
                    where=WHERE,
                    remedy="check `model` and `base_url`, which ends in /v1 at most servers",
                ) from None
            except openai.APIError as error:
                if not isinstance(error, openai.APIResponseValidationError):
                    raise Unanswered(self._said(error)) from None
            except ValueError:  # its body is not JSON, or cut short
                pass
            else:
                if reply is not None:
                    return reply
            await asyncio.sleep(wait)
            wait = min(2 * wait, 8.0)
        raise Unanswered("what came was not a chat completion")

    async def models(self) -> list[str]:
        """Names that the server knows models by; empty where it doesn't say."""
        try:
            return sorted(
                [model.id async for model in self._client.with_options(max_retries=0).models.list()]
            )
        except Exception:  # a courtesy for an error message: whatever fails, it is left out
            return []

    async def _create(self, messages: Sequence[Message]) -> Any:
        asked: Any = {
            "model": self._judge.model,
            "messages": list(messages),
            "temperature": self._judge.temperature,
            self._limit_name: self._judge.max_tokens,
        }
        return await self._client.chat.completions.create(**asked)

    def _locked_out(self, error: openai.APIStatusError) -> UserError:
        name = self._judge.api_key_env
        if self._key is None:
            return Unreachable(
                f"{self._judge.base_url} wants a key, and {name} is not set",
                where=WHERE,
                remedy=f"`export {name}=…`; another variable is named by `api_key_env`",
            )
        return UserError(
            f"{self._judge.base_url} refuses the key in {name}: {self._said(error)}",
            where=WHERE,
            remedy="check the key, and that it may use this model",
        )

    def _said(self, error: openai.APIError) -> str:
        """What the server says, in one line, never with the key."""
        cause = f" ({error.__cause__})" if error.__cause__ is not None else ""
        text = " ".join(f"{error.message}{cause}".split())
        text = text.replace(self._key, "…") if self._key else text
        return text[:MOST_CHARACTERS_QUOTED]


def check_judge(judge: Judge, patience: Patience | None = None) -> None:
    """Ask the judge for a word, before anything rests on its answering.

    Raises:
        UserError: it refuses: an unknown key or model, or settings that it doesn't take.
        Unreachable: no answer came, or it wants a key and none is set.
    """
    asyncio.run(_check(judge, patience or Patience(tries=2, seconds=60.0)))


async def _check(judge: Judge, patience: Patience) -> None:
    # Few tokens, but all else as in earnest: a judge may refuse a temperature.
    async with JudgeClient(judge.model_copy(update={"max_tokens": 16}), patience) as client:
        try:
            await client.ask([{"role": "user", "content": "Reply with the word yes."}])
        except Unanswered as refusal:
            if refusal.refused:
                known = await client.models()
                has = f"; it has the models {', '.join(known[:10])}" if known else ""
                raise UserError(
                    f"{judge.base_url} refuses requests for the model {judge.model!r}: {refusal}",
                    where=WHERE,
                    remedy=f"check `model` and `temperature`{has}",
                ) from None
            raise Unreachable(
                f"the judge {judge.model!r} does not answer at {judge.base_url}: {refusal}",
                where=WHERE,
                remedy="check `base_url` and the network, or start the server",
            ) from None


def _reply_of(completion: Any) -> Reply | None:
    """The first choice's text; None for what is not a chat completion (any JSON, or text, may come back)."""
    choices = getattr(completion, "choices", None)
    first = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(first, "message", None)
    if message is None:
        return None
    text, usage = getattr(message, "content", None), getattr(completion, "usage", None)
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    return Reply(
        text if isinstance(text, str) else "",
        *(n if isinstance(n, int) else None for n in counts),
        cut_off=getattr(first, "finish_reason", None) == "length",
    )


def _openai() -> Any:
    try:
        import openai
    except ImportError:
        raise UserError(
            "a judge needs the openai package", where=WHERE, remedy="pip install 'babeltune[api]'"
        ) from None
    return openai

"""Conversations to tokens, with the mask of what is learned.

The models' templates don't mark the assistant's turns, so they are found by rendering: what the template
writes between the prompt that a model is given when it has to answer and the conversation with that answer
is what it learns to write. Both must be prefixes of the whole, or training would show the model something
else than it will see; such templates are refused. Everything is rendered to text first and tokenised
without special tokens, because the template has written them already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from transformers import PreTrainedTokenizerBase

from babeltune.data.examples import Example
from babeltune.data.layouts import Message
from babeltune.errors import ModelError

# The day that a template is told to be today: prompts must be the same on every day that a study goes on.
TODAY: Final = datetime(2025, 1, 1)
_NOW = re.compile(r"""strftime_now\(\s*(?P<quote>["'])(?P<format>.*?)(?P=quote)\s*\)""")

TEMPLATE_REMEDY = "choose another with `chat_template:` (a Jinja file, or `chatml`)"


@dataclass(frozen=True)
class Encoded:
    """Token ids, and for each whether the model learns to predict it."""

    input_ids: list[int]
    trained: list[bool]
    was_cut: bool = False


@dataclass(frozen=True)
class TemplateFacts:
    """What a chat template does unasked.

    `injected_system`: the system message that it writes where there is none. `is_dated`: it writes today's
    date, for which it gets `TODAY`.
    """

    injected_system: str | None
    is_dated: bool


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The model's chat template, with `TODAY` where it writes today's date.

    Raises:
        ModelError: there is none, or it writes the date in a way that can't be held.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"{_name(tokenizer)} has no chat template",
            remedy="add `chat_template: chatml` (or a Jinja file) to the model",
        )
    template = _NOW.sub(lambda now: repr(TODAY.strftime(now["format"])), str(tokenizer.get_chat_template()))
    if "strftime_now(" in template:
        raise ModelError(
            f"the chat template of {_name(tokenizer)} writes today's date, which would change prompts",
            remedy=TEMPLATE_REMEDY,
        )
    return template


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    template_kwargs: Mapping[str, Any],
) -> str:
    """The text a model is given to answer `messages` (`role` and `content` each), ready for
    `tokenizer(text, add_special_tokens=False)`.

    Raises:
        ModelError: the model has no chat template, or its template refuses the messages.
    """
    return _render(tokenizer, messages, template_kwargs, for_answer=True)


def encode_examples(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    max_length: int,
    template_kwargs: Mapping[str, Any],
) -> list[list[Encoded]]:
    """Each example's tokens: one piece for a conversation, cut at `max_length`; raw text in several.

    In a conversation every assistant turn is trained, with its end-of-turn token. In raw text every token is,
    once, and the end-of-sequence token after it; a piece starts with the last token of the one before.

    Raises:
        ModelError: the tokenizer gives no offsets, or the template can't be used (the row is named).
    """
    if not tokenizer.is_fast:
        raise ModelError(f"{_name(tokenizer)} has no fast tokenizer, so answers can't be found in its tokens")
    rendered = [_render_example(tokenizer, example, template_kwargs) for example in examples]
    batch = tokenizer(
        [text for text, _ in rendered],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    encoded = []
    for example, (_, spans), ids, offsets in zip(
        examples, rendered, batch["input_ids"], batch["offset_mapping"], strict=True
    ):
        if example.messages is None:
            encoded.append(_text_pieces(tokenizer, ids, max_length))
        else:
            trained = _trained_tokens(offsets, spans)
            encoded.append([Encoded(ids[:max_length], trained[:max_length], len(ids) > max_length)])
    return encoded


def template_facts(tokenizer: PreTrainedTokenizerBase, template_kwargs: Mapping[str, Any]) -> TemplateFacts:
    """What the model's chat template adds by itself, found by rendering.

    Raises:
        ModelError: the model has no chat template.
    """
    user, system = "USER-MESSAGE", "SYSTEM-MESSAGE"
    plain = _render(tokenizer, [{"role": "user", "content": user}], template_kwargs)
    is_dated = "strftime_now" in str(tokenizer.chat_template) and "date_string" not in template_kwargs
    try:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        before, found, after = _render(tokenizer, messages, template_kwargs).partition(system)
    except ModelError:  # no system role, so no system message either
        return TemplateFacts(None, is_dated)
    injected = None
    if found and plain.startswith(before) and plain.endswith(after) and len(plain) > len(before) + len(after):
        injected = plain[len(before) : len(plain) - len(after)].strip() or None
    return TemplateFacts(injected, is_dated)


def mark_trained(tokenizer: PreTrainedTokenizerBase, encoded: Encoded) -> str:
    """The tokens as text, what is learned between ⟦ and ⟧."""
    text, start = "", 0
    ids, trained = encoded.input_ids, encoded.trained
    for end in range(1, len(ids) + 1):
        if end == len(ids) or trained[end] != trained[start]:
            run = str(
                tokenizer.decode(
                    ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False
                )
            )
            text += f"⟦{run}⟧" if trained[start] else run
            start = end
    return text


def _render_example(
    tokenizer: PreTrainedTokenizerBase, example: Example, template_kwargs: Mapping[str, Any]
) -> tuple[str, list[tuple[int, int]]]:
    """The example as text, and the spans of characters that are learned (raw text has none marked)."""
    if example.messages is None:
        return example.text or "", []
    try:
        messages = [message._asdict() for message in example.messages]
        text = _render(tokenizer, messages, template_kwargs)
        return text, list(_answer_spans(tokenizer, example.messages, messages, text, template_kwargs))
    except ModelError as error:
        raise ModelError(error.message, where=example.where, remedy=error.remedy) from error


def _answer_spans(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Message],
    messages: Sequence[Mapping[str, str]],
    text: str,
    template_kwargs: Mapping[str, Any],
) -> Iterator[tuple[int, int]]:
    for position, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        prompt = _render(tokenizer, messages[:position], template_kwargs, for_answer=True)
        is_last = position == len(turns) - 1
        answered = text if is_last else _render(tokenizer, messages[: position + 1], template_kwargs)
        if not answered.startswith(prompt):
            raise ModelError(
                f"the chat template of {_name(tokenizer)} asks for an answer with "
                f"{_ending(prompt, answered)!r}, but writes answers that don't begin so "
                f"(chat_template_kwargs: {dict(template_kwargs)})",
                remedy=TEMPLATE_REMEDY + ", or change `chat_template_kwargs`",
            )
        if not text.startswith(answered):
            raise ModelError(
                f"the chat template of {_name(tokenizer)} writes an answer differently once the conversation "
                "goes on (it may drop earlier reasoning), so conversations of several turns can't be trained "
                "as they are used",
                remedy=TEMPLATE_REMEDY,
            )
        written, content = answered[len(prompt) :], turn.content.strip()
        if content not in written and _is_silent(tokenizer, written):
            raise ModelError(
                f"the chat template of {_name(tokenizer)} leaves out what the assistant says, so nothing but "
                "the end of a turn would be learned",
                remedy=TEMPLATE_REMEDY,
            )
        # What the template writes after the end-of-turn token (a line break) is never the model's to write.
        yield len(prompt), max(len(answered.rstrip()), len(prompt))


def _is_silent(tokenizer: PreTrainedTokenizerBase, written: str) -> bool:
    """Whether a template writes special tokens for an answer and nothing else."""
    if not written.strip():  # without any token `preflight` counts it
        return False
    for token in tokenizer.all_special_tokens:
        written = written.replace(token, "")
    return not written.strip()


def _ending(prompt: str, answered: str) -> str:
    """The part of `prompt` after which `answered` goes another way."""
    same = next((i for i, (a, b) in enumerate(zip(prompt, answered, strict=False)) if a != b), len(answered))
    return prompt[same:][:40]


def _trained_tokens(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether each token lies in a span, or reaches into one.

    Several tokens can stand for one character, with the same offsets; one of no width counts by its place.
    """
    trained = [False] * len(offsets)
    remaining = iter(spans)
    start, end = next(remaining, (0, 0))
    for i, (left, right) in enumerate(offsets):
        while left >= end and (following := next(remaining, None)):
            start, end = following
        trained[i] = left < end and (right > start or left >= start)
    return trained


def _text_pieces(tokenizer: PreTrainedTokenizerBase, ids: list[int], max_length: int) -> list[Encoded]:
    """Raw text with the tokenizer's own beginning and the end of sequence, in pieces that share one token."""
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{_name(tokenizer)} has no end-of-sequence token to end raw text with")
    ids = [*_beginning(tokenizer), *ids, int(tokenizer.eos_token_id)]  # type: ignore[arg-type]
    starts = range(0, max(len(ids) - 1, 1), max_length - 1)
    pieces = [ids[start : start + max_length] for start in starts]
    return [Encoded(piece, [False] + [True] * (len(piece) - 1)) for piece in pieces]


def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The BOS token, where the tokenizer puts one before text by itself."""
    bos = tokenizer.bos_token_id
    starts_with_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return [int(bos)] if starts_with_bos else []  # type: ignore[arg-type]


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    template_kwargs: Mapping[str, Any],
    *,
    for_answer: bool = False,
) -> str:
    from jinja2 import TemplateError

    template = template_of(tokenizer)
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=for_answer,
            **template_kwargs,
        )
    except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
        roles = ", ".join(message["role"] for message in messages)
        reason = str(error).strip() or type(error).__name__
        raise ModelError(
            f"the chat template of {_name(tokenizer)} refuses a conversation of {roles}: {reason}",
            remedy="leave out `system`, or " + TEMPLATE_REMEDY if "system" in roles else TEMPLATE_REMEDY,
        ) from error
    return str(text)


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.name_or_path.rstrip("/").split("/")[-1] or "the model"

"""Greedy generation as lm-eval asks for it: contexts and keyword arguments in, texts up to a stop out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from babeltune.errors import TaskError
from babeltune.evaluate.continuous import generate_tokens
from babeltune.evaluate.passes import takes_trees

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_NEW_TOKENS = 256
TOKENS_PER_BATCH = {"cpu": 8192, "cuda": 65536}


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[tuple[Sequence[int], Mapping[str, Any]]],
    *,
    max_length: int,
    on_batch: Callable[[int, int], None],
) -> list[str]:
    """The greedy continuation of each (context ids, lm-eval generation kwargs), cut at its first stop string.

    Of what a model's own generation config may ask for, its repetition penalty counts, as in lm-eval's `hf`.
    Models that take trees share starts and slots (`continuous.py`); others decode in batches of like length.
    `on_batch(done, total)` is called between passes of the model.

    Raises:
        TaskError: the kwargs ask for sampling, or for more tokens than the model has room for.
    """
    answers = [""] * len(requests)
    decode = generate_tokens if takes_trees(model) else _generate_in_batches
    done = 0
    for asked in _alike(requests):
        limits = _limits(requests[asked[0]][1], tokenizer, max_length)
        contexts = [requests[i][0][-(max_length - limits.max_new_tokens) :] for i in asked]
        ends = _Ends(model, tokenizer, limits.stops)
        found = decode(
            model,
            contexts,
            max_new_tokens=limits.max_new_tokens,
            is_end=ends,
            on_step=lambda finished, before=done: on_batch(before + finished, len(requests)),
        )
        for i, tokens in zip(asked, found, strict=True):
            answers[i] = ends.text(tokens)
        done += len(asked)
    return answers


@dataclass(frozen=True)
class _Limits:
    """How far a generation goes. `stops` includes the text of EOS."""

    stops: list[str]
    max_new_tokens: int


def _limits(kwargs: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int) -> _Limits:
    normal = normalize_gen_kwargs(dict(kwargs), MAX_NEW_TOKENS)
    if normal.get("do_sample") or normal.get("temperature"):
        raise TaskError(
            "the task asks for sampling", remedy="babeltune generates greedily; choose another task"
        )
    stops = handle_stop_sequences(list(normal.get("until") or []), eos=str(tokenizer.eos_token))
    max_new_tokens = int(normal.get("max_gen_toks", MAX_NEW_TOKENS))
    if max_new_tokens >= max_length:
        raise TaskError(
            f"the task asks for {max_new_tokens} new tokens, the model has room for {max_length} in all",
            remedy="choose another task, or a model that takes longer text",
        )
    return _Limits(stops, max_new_tokens)


def _alike(requests: Sequence[tuple[Sequence[int], Mapping[str, Any]]]) -> list[list[int]]:
    """Indices of requests with equal kwargs."""
    found: dict[str, list[int]] = {}
    for i, (_, kwargs) in enumerate(requests):
        found.setdefault(repr(kwargs), []).append(i)
    return list(found.values())


class _Ends:
    """Whether new tokens end an answer, and the text of an answer that has ended.

    An answer ends at its first stop string, however that is tokenised, or at a token that ends a turn.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]
    ) -> None:
        self.tokenizer, self.stops = tokenizer, stops
        declared = getattr(model.generation_config, "eos_token_id", None)
        declared = declared if isinstance(declared, list) else [declared]
        found = [tokenizer.eos_token_id, *declared]
        self.tokens = frozenset(token for token in found if isinstance(token, int))
        # A token holds at least one byte: the string that the last token ends began no earlier than this.
        self.lookback = 1 + max(len(stop.encode()) for stop in stops)

    def __call__(self, tokens: Sequence[int]) -> bool:
        if tokens[-1] in self.tokens:
            return True
        tail = str(self.tokenizer.decode(list(tokens[-self.lookback :])))
        return any(stop in tail for stop in self.stops)

    def text(self, tokens: Sequence[int]) -> str:
        """The answer up to its end."""
        kept = itertools.takewhile(lambda token: token not in self.tokens, tokens)
        text = str(self.tokenizer.decode(list(kept), skip_special_tokens=True))
        return postprocess_generated_text(text, stop=list(self.stops), think_end_token=None)


def _generate_in_batches(
    model: PreTrainedModel,
    contexts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    is_end: _Ends,
    on_step: Callable[[int], None],
) -> list[list[int]]:
    """What `generate_tokens` does, by the model's own `generate`: any architecture, nothing shared."""
    budget = TOKENS_PER_BATCH["cuda" if model.device.type == "cuda" else "cpu"]
    order = sorted(range(len(contexts)), key=lambda i: (-len(contexts[i]), *contexts[i]))
    answers: list[list[int]] = [[] for _ in contexts]
    done = 0
    while done < len(order):
        on_step(done)
        longest = len(contexts[order[done]])
        batch = order[done : done + max(1, budget // (longest + max_new_tokens))]
        for i, tokens in zip(
            batch, _generate_batch(model, [contexts[i] for i in batch], max_new_tokens, is_end), strict=True
        ):
            answers[i] = tokens
        done += len(batch)
    on_step(done)
    return answers


def _generate_batch(
    model: PreTrainedModel, contexts: Sequence[Sequence[int]], max_new_tokens: int, is_end: _Ends
) -> list[list[int]]:
    B, L = len(contexts), max(map(len, contexts))
    ids_B_L = torch.zeros(B, L, dtype=torch.long)
    mask_B_L = torch.zeros(B, L, dtype=torch.long)
    for b, context in enumerate(contexts):
        # Padding is masked, but a repetition penalty sees it: so it repeats what is there.
        ids_B_L[b] = context[0]
        ids_B_L[b, L - len(context) :] = torch.tensor(list(context))
        mask_B_L[b, L - len(context) :] = 1
    ends = sorted(is_end.tokens)
    config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=ends[0]
    )
    with torch.inference_mode():
        out_B_T = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=ids_B_L.to(model.device),
            attention_mask=mask_B_L.to(model.device),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([_RowEnds(is_end, L)]),
        )
    return out_B_T[:, L:].tolist()


class _RowEnds(StoppingCriteria):
    """Transformers' hook: each row ends for itself."""

    def __init__(self, is_end: _Ends, start: int) -> None:
        self.is_end, self.start = is_end, start

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        new_B_T = input_ids[:, self.start :].tolist()
        return torch.tensor([self.is_end(tokens) for tokens in new_B_T], device=input_ids.device)

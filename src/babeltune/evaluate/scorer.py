"""Our lm-eval `LM`: the numbers of lm-eval's `hf` backend, with shared tokens computed once.

Works on a Transformers model that is already loaded. Log-likelihoods equal the `hf` backend's to 1e-3 in
float32. They do not depend on which requests are scored together beyond the rounding of the model's own
precision (about 1e-5 in float32), and the same requests give the same bits on the same machine with
the same number of threads.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from babeltune.data.chat import render_prompt, template_of
from babeltune.errors import Interrupted, TaskError
from babeltune.evaluate import trie
from babeltune.evaluate.generation import generate
from babeltune.evaluate.passes import run_prefix, run_rows, takes_trees
from babeltune.evaluate.plain_attention import PLAIN_ATTENTION, plain_attention, row_attention
from babeltune.models.attention import attention_switch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

# Memory of one batch: padded tokens, and numbers in its logits (float32 copies of which are made).
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 16384}
LOGITS_PER_BATCH = {"cpu": 1 << 25, "cuda": 1 << 28}
# Nodes whose logits are turned to float32 at a time. On a CPU they then stay in its cache.
NODES_AT_ONCE = {"cpu": 32, "cuda": 2048}
DEFAULT_MAX_LENGTH = 2048

Pair = tuple[list[int], list[int]]
RequestKind = Literal["loglikelihood", "loglikelihood_rolling", "generate_until"]


@dataclass(frozen=True)
class Readied:
    """Requests in tokens and, for log-likelihoods, their plan: all of scoring that no weights change.

    `lengths`: scored tokens of each sequence of `plan`; `owners`: which of `texts` each belongs to, where
    texts are scored in windows. `contexts`: token ids and lm-eval's keyword arguments, for generation.
    """

    plan: trie.Plan = field(default_factory=trie.Plan)
    lengths: tuple[int, ...] = ()
    owners: tuple[int, ...] = ()
    texts: int = 0
    contexts: tuple[tuple[array[int], Mapping[str, Any]], ...] = ()

    @property
    def tokens(self) -> int:
        """How many tokens are held, roughly what it takes in memory."""
        planned = sum(len(row) + len(row.targets) for row in self.plan.rows)
        return planned + sum(len(ids) for ids, _ in self.contexts)


class Scorer(TemplateLM):
    """lm-eval's view of one model. Holds nothing between calls.

    `bos`: whether text gets the tokenizer's special tokens: None as lm-eval does (unless it starts with BOS),
    False for rendered chat templates, which bring their own.
    Between batches `on_progress(done, total)` is told and `should_stop()` asked; yes raises `Interrupted`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        bos: bool | None = None,
        template_kwargs: dict[str, Any] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer  # pyright: ignore[reportAttributeAccessIssue]
        self._device = model.device
        self.bos = bos
        self._template_kwargs = template_kwargs or {}
        self._on_progress = on_progress or (lambda done, total: None)
        self._should_stop = should_stop or (lambda: False)
        self.max_length = _max_length(model, tokenizer)
        self.shares = takes_trees(model)
        if not self.shares:
            log.info("%s models are scored without sharing prefixes", model.config.model_type)

    # What TemplateLM asks for.

    @property
    def eot_token_id(self) -> int:
        """End of text."""
        assert self.tokenizer is not None
        return int(self.tokenizer.eos_token_id)  # pyright: ignore[reportArgumentType]

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: BOS, or EOS in models that have no BOS."""
        assert self.tokenizer is not None
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)  # pyright: ignore[reportArgumentType]

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's own request cache."""
        assert self.tokenizer is not None
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids as lm-eval's `hf` backend makes them, unless `bos` says otherwise."""
        tokenizer = self.tokenizer
        assert tokenizer is not None
        special = self.bos if add_special_tokens is None else add_special_tokens
        if add_special_tokens is None and has_bos_prefix(string, tokenizer.decode([self.prefix_token_id])):
            special = False
        return (
            tokenizer.encode(string)
            if special is None
            else tokenizer.encode(string, add_special_tokens=special)
        )

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt as training renders it; without a generation prompt the last message goes on."""
        assert self.tokenizer is not None
        if add_generation_prompt:
            return render_prompt(self.tokenizer, chat_history, self._template_kwargs)
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                chat_template=template_of(self.tokenizer),
                tokenize=False,
                continue_final_message=True,
                **self._template_kwargs,
            )
        )

    # What lm-eval calls.

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether greedy decoding gives it."""
        return self.respond("loglikelihood", self.ready("loglikelihood", requests))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """`rolling` for lm-eval."""
        return self.respond("loglikelihood_rolling", self.ready("loglikelihood_rolling", requests))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Greedy continuations, up to a stop string or EOS."""
        return self.respond("generate_until", self.ready("generate_until", requests))

    # What score.py calls.

    def ready(self, kind: RequestKind, requests: Sequence[Instance]) -> Readied:
        """Requests of one kind made ready for this model and others of its tokenizer and architecture."""
        asked: list[Any] = [request.args for request in requests]
        match kind:
            case "loglikelihood":
                return self._planned([self._pair(*texts) for texts in asked])
            case "loglikelihood_rolling":
                return self._windows([text for (text,) in asked])
            case "generate_until":
                contexts = tuple((array("i", self.tok_encode(context)), kwargs) for context, kwargs in asked)
                return Readied(contexts=contexts)

    def respond(self, kind: RequestKind, readied: Readied) -> list[Any]:
        """The model's response to each request, as lm-eval wants it."""
        if kind == "loglikelihood":
            return self._run(readied)
        if kind == "loglikelihood_rolling":
            return self._sums(readied)
        assert self.tokenizer is not None
        return generate(
            self.model,
            self.tokenizer,
            readied.contexts,
            max_length=self.max_length,
            on_batch=self._between_batches,
        )

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """Log-probability of whole texts, each token predicted once, in windows of the model's length.

        The text stands after BOS (see `prefix_token_id`) and gets no special tokens of its own: where a
        tokenizer adds BOS, lm-eval's `hf` backend puts two and scores the second.
        """
        return self._sums(self._windows(texts))

    def loss(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """-ln p(reference | prompt) for (prompt, reference) texts. No part of the prompt is scored.

        Tokens of the joined text that the prompt alone does not have are the reference's, as in training.
        """
        windows: list[list[Pair]] = []
        for pair in pairs:
            before, scored = self._reference_tokens(*pair)
            # One that is longer than the model is read in parts, each after as much of the text as there is
            # room for: at least half of it.
            step = len(scored) or 1 if len(scored) <= self.max_length else self.max_length // 2
            starts = range(0, len(scored), step)
            windows.append([(before + scored[:start], scored[start : start + step]) for start in starts])
        return [-value for value in self._sums(self._planned_windows(windows))]

    # How that is done.

    def _reference_tokens(self, prompt: str, reference: str) -> Pair:
        whole = self.tok_encode(prompt + reference)
        alone = self.tok_encode(prompt)
        shared = next((i for i, (a, b) in enumerate(zip(whole, alone, strict=False)) if a != b), len(alone))
        return (whole[:shared], whole[shared:]) if shared else ([self.prefix_token_id], whole)

    def _pair(self, context: str, continuation: str) -> Pair:
        """Both in tokens, as lm-eval parts them; without a context BOS stands for it."""
        if context:
            return self._encode_pair(context, continuation)
        ids = self.tok_encode(continuation, add_special_tokens=False)
        return (ids[:1], ids[1:]) if ids[0] == self.prefix_token_id else ([self.prefix_token_id], ids)

    def _windows(self, texts: Sequence[str]) -> Readied:
        windows: list[list[Pair]] = []
        for text in texts:
            ids = self.tok_encode(text, add_special_tokens=False)
            rolled: Any = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            parted = (cast(Any, make_disjoint_window(window)) for window in rolled)
            windows.append([(list(context), list(predicted)) for context, predicted in parted])
        return self._planned_windows(windows)

    def _planned_windows(self, texts: Sequence[Sequence[Pair]]) -> Readied:
        """Texts that are scored in windows, each text's together."""
        owners = tuple(i for i, windows in enumerate(texts) for _ in windows)
        planned = self._planned([window for windows in texts for window in windows])
        return replace(planned, owners=owners, texts=len(texts))

    def _sums(self, readied: Readied) -> list[float]:
        sums = [0.0] * readied.texts
        for owner, (value, _) in zip(readied.owners, self._run(readied), strict=True):
            sums[owner] += value
        return sums

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return self._run(self._planned([(context, continuation) for _, context, continuation in requests]))

    def _planned(self, pairs: Sequence[Pair]) -> Readied:
        longest = max((len(continuation) for _, continuation in pairs), default=0)
        if longest > self.max_length:
            raise TaskError(
                f"a choice has {longest} tokens, and the model takes {self.max_length}",
                remedy="leave this task out, or take a model that reads longer texts",
            )
        plan = trie.plan(pairs, self.max_length, share=self.shares)
        return Readied(plan, lengths=tuple(len(continuation) for _, continuation in pairs))

    def _run(self, readied: Readied) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context; whether each token is the likeliest."""
        planned, total = readied.plan, len(readied.lengths)
        kind = "cuda" if self._device.type == "cuda" else "cpu"
        max_targets = max(1, LOGITS_PER_BATCH[kind] // self.model.config.get_text_config().vocab_size)
        values = [np.zeros(length, dtype=np.float64) for length in readied.lengths]
        greedy = [True] * total
        done = 0
        functions = {PLAIN_ATTENTION: plain_attention}
        with torch.inference_mode(), attention_switch(self.model, functions) as use:
            prefix = run_prefix(self.model, planned.prefix) if self.shares else None
            use(row_attention(self.model) if self.shares else None)
            for rows in trie.batches(planned.rows, TOKENS_PER_BATCH[kind], max_targets):
                self._between_batches(done, total)
                logits_N_V = run_rows(self.model, rows, prefix)
                logprobs_N, likeliest_N = _read_logits(logits_N_V, rows, NODES_AT_ONCE[kind])
                targets = [target for row in rows for target in row.targets]
                for target, value, is_likeliest in zip(targets, logprobs_N, likeliest_N, strict=True):
                    values[target.request][target.k] = value
                    greedy[target.request] &= is_likeliest
                done += len({target.request for target in targets})
        self._between_batches(done, total)
        return [(float(value.sum()), is_greedy) for value, is_greedy in zip(values, greedy, strict=True)]

    def _between_batches(self, done: int, total: int) -> None:
        if self._should_stop():
            raise Interrupted("stopped while scoring")
        self._on_progress(done, total)


def _read_logits(
    logits_N_V: torch.Tensor, rows: Sequence[trie.Row], at_once: int
) -> tuple[list[float], list[bool]]:
    """Log-probability of each row's targets, in order, and whether each target is the likeliest token."""
    tokens = [target.token for row in rows for target in row.targets]
    token_N = torch.tensor(tokens, device=logits_N_V.device)
    logprobs: list[torch.Tensor] = []
    likeliest: list[torch.Tensor] = []
    for logits_n_V, token_n in zip(logits_N_V.split(at_once), token_N.split(at_once), strict=True):
        logits_n_V = logits_n_V.float()
        chosen_n = logits_n_V.gather(1, token_n[:, None])[:, 0]
        logprobs.append(chosen_n - logits_n_V.logsumexp(1))
        likeliest.append(logits_n_V.argmax(1) == token_n)
    return torch.cat(logprobs).tolist(), torch.cat(likeliest).tolist()


def _max_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    config = model.config.get_text_config()
    found = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    # Tokenizers without a limit say 1e30.
    return int(found) if found and found < 10**9 else DEFAULT_MAX_LENGTH

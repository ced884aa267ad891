"""Greedy generation for many contexts at once: shared starts computed once, no row waits for another.

What all contexts start with (the examples in the prompt) is one read-only prefix, as in scoring. Contexts
that share more (a passage with several questions) are run as one tree. Each sequence then holds a slot with
its own keys and values; it leaves when it ends, and the next context moves in. Attention of a decoding step
reads the prefix once for all slots, not once for each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Cache
from transformers.cache_utils import DynamicLayer
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from babeltune.evaluate import trie
from babeltune.evaluate.passes import Prefix, as_model_takes, run_prefix, run_rows, windowed
from babeltune.evaluate.plain_attention import HARMLESS, PLAIN_ATTENTION, plain_attention, row_attention
from babeltune.models.attention import attention_switch, refuse_unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEP_ATTENTION = "babeltune_step"

# Tokens of contexts that are run in one batch.
CONTEXT_TOKENS = {"cpu": 1024, "cuda": 16384}
MAX_SLOTS = {"cpu": 64, "cuda": 512}
# What keys and values in slots may take: bytes on a CPU, share of the free memory of a GPU.
SLOT_BYTES_CPU = 1 << 29
SLOT_SHARE_CUDA = 0.5


def generate_tokens(
    model: PreTrainedModel,
    contexts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    is_end: Callable[[Sequence[int]], bool],
    on_step: Callable[[int], None],
    slots: int | None = None,
) -> list[list[int]]:
    """The greedy continuation of each context (not empty), in tokens, the one that ended it included.

    Under the repetition penalty of the model's own generation config, if it has one.
    `is_end(tokens)` is asked after each new token whether the sequence is finished. `on_step(done)` is called
    between passes of the model with the number of finished sequences. `slots`: sequences that are decoded
    at a time; by default what memory allows.
    """
    functions = {PLAIN_ATTENTION: plain_attention, STEP_ATTENTION: step_attention}
    with torch.inference_mode(), attention_switch(model, functions) as use:
        run = _Run(model, contexts, max_new_tokens, is_end, slots)
        while run.unfinished:
            on_step(len(contexts) - run.unfinished)
            if run.wants_contexts():
                use(row_attention(model))
                run.read_contexts()
            else:
                use(STEP_ATTENTION)
                run.step()
        on_step(len(contexts))
        return run.answers


@dataclass(frozen=True)
class _Pending:
    """A context that has been run, its first token known: where its keys and values lie in that batch."""

    request: int
    row: int
    path_T: torch.Tensor


class _Run:
    """The state of one call of `generate_tokens`."""

    def __init__(
        self,
        model: PreTrainedModel,
        contexts: Sequence[Sequence[int]],
        max_new_tokens: int,
        is_end: Callable[[Sequence[int]], bool],
        slots: int | None,
    ) -> None:
        self.model, self.max_new_tokens, self.is_end = model, max_new_tokens, is_end
        self.contexts = contexts
        self.answers: list[list[int]] = [[] for _ in contexts]
        penalty = getattr(model.generation_config, "repetition_penalty", None) or 1.0
        self._penalty = None if penalty == 1.0 else RepetitionPenaltyLogitsProcessor(penalty)
        self.unfinished = len(contexts)
        kind = "cuda" if model.device.type == "cuda" else "cpu"
        # The token after the context is not part of it: any will do.
        planned = trie.plan([(context, (0,)) for context in contexts], max(map(len, contexts), default=1))
        self._prefix = run_prefix(model, planned.prefix, record=True)
        self._batches = deque(trie.batches(planned.rows, CONTEXT_TOKENS[kind], CONTEXT_TOKENS[kind]))
        self._pending: deque[_Pending] = deque()
        capacity = max((max(row.depths) for row in planned.rows), default=0) + 1 + max_new_tokens
        self._slots = _Slots(
            model, slots or min(MAX_SLOTS[kind], len(contexts), _affordable_slots(model, capacity)), capacity
        )

    def wants_contexts(self) -> bool:
        """Whether more contexts are to be run before the next step: half of the slots are empty."""
        return bool(self._batches) and not self._pending and 2 * self._slots.used <= self._slots.size

    def read_contexts(self) -> None:
        """Run a batch of contexts; each gets its first token."""
        rows = self._batches.popleft()
        logits_N_V = run_rows(self.model, rows, self._prefix)
        targets = [(b, row, target) for b, row in enumerate(rows) for target in row.targets]
        tokens = self._likeliest(logits_N_V, [target.request for _, _, target in targets])
        for (b, row, target), token in zip(targets, tokens, strict=True):
            if not self._take(target.request, token):
                path_T = torch.tensor(trie.path(row, target.node), device=self.model.device)
                self._pending.append(_Pending(target.request, b, path_T))
        self._fill_slots()

    def step(self) -> None:
        """One token for every sequence in a slot."""
        slots = self._slots
        last_B = torch.tensor([self.answers[request][-1] for request in slots.requests])
        tokens = self._likeliest(slots.step(self.model, last_B, self._prefix), slots.requests)
        ended = [
            slot
            for slot, (request, token) in enumerate(zip(slots.requests, tokens, strict=True))
            if self._take(request, token)
        ]
        slots.empty(ended)
        self._fill_slots()

    def _likeliest(self, logits_N_V: torch.Tensor, requests: Sequence[int]) -> list[int]:
        """The next token of each of the requests."""
        if self._penalty is not None:
            seen = [[*self.contexts[request], *self.answers[request]] for request in requests]
            longest = max(map(len, seen))
            # A token counts once however often it was seen, so a repeated one fills up.
            filled = [ids + ids[-1:] * (longest - len(ids)) for ids in seen]
            logits_N_V = self._penalty(
                torch.tensor(filled, device=logits_N_V.device),  # pyright: ignore[reportArgumentType]
                logits_N_V.float(),  # pyright: ignore[reportArgumentType]
            )
        return logits_N_V.argmax(1).tolist()

    def _take(self, request: int, token: int) -> bool:
        """Add a token to an answer; whether that ends it."""
        answer = self.answers[request]
        answer.append(token)
        ended = len(answer) == self.max_new_tokens or self.is_end(answer)
        self.unfinished -= ended
        return ended

    def _fill_slots(self) -> None:
        while self._pending and self._slots.used < self._slots.size:
            pending = self._pending.popleft()
            self._slots.fill(pending.request, self._prefix, pending.row, pending.path_T)
        if not self._pending:
            for layer in self._prefix.layers:
                layer.own = None


class _SlotLayer(DynamicLayer):
    """One layer's keys and values by slot (slots, heads, capacity, head_dim), each filled from the left."""

    def __init__(self, slots: _Slots, like: torch.Tensor) -> None:
        super().__init__()
        self.slots = slots
        shape = (slots.size, like.shape[1], slots.capacity, like.shape[3])
        self.stored = like.new_zeros(shape), like.new_zeros(shape)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        used = self.slots.used
        slot_B, length_B = self.slots.number_S[:used], self.slots.length_S[:used]
        keys, values = self.stored
        keys[slot_B, :, length_B] = key_states[:, :, 0]
        values[slot_B, :, length_B] = value_states[:, :, 0]
        return keys[:used, :, : self.slots.reach], values[:used, :, : self.slots.reach]


class _Slots:
    """Sequences being decoded, in the first `used` of `size` slots: requests and own tokens so far."""

    def __init__(self, model: PreTrainedModel, size: int, capacity: int) -> None:
        self.size, self.capacity = max(1, size), capacity
        self.requests: list[int] = []
        self.number_S = torch.arange(self.size, device=model.device)
        self.length_S = torch.zeros(self.size, dtype=torch.long, device=model.device)
        self.reach = 0  # own keys that a step looks at, its new ones included
        self._layers: list[_SlotLayer] = []
        self._cache: Cache | None = None

    @property
    def used(self) -> int:
        return len(self.requests)

    def fill(self, request: int, source: Prefix, row: int, path_T: torch.Tensor) -> None:
        """Take in a sequence whose own tokens were just run behind the prefix, as `path_T` of a row."""
        slot, length = self.used, len(path_T)
        computed = [layer.own for layer in source.layers if layer.own is not None]
        if not self._layers:
            self._layers = [_SlotLayer(self, keys) for keys, _ in computed]
            self._cache = Cache(layers=list(self._layers))
        for layer, own in zip(self._layers, computed, strict=True):
            for mine, theirs in zip(layer.stored, own, strict=True):
                mine[slot, :, :length] = theirs[row][:, path_T]
        self.requests.append(request)
        self.length_S[slot] = length

    def empty(self, slots: Sequence[int]) -> None:
        """Let sequences go; the last ones move into their places."""
        for slot in sorted(slots, reverse=True):
            last = self.used - 1
            if slot != last:
                length = int(self.length_S[last])
                for layer in self._layers:
                    for stored in layer.stored:
                        stored[slot, :, :length] = stored[last, :, :length]
                self.length_S[slot] = length
                self.requests[slot] = self.requests[last]
            self.requests.pop()

    def step(self, model: PreTrainedModel, last_B: torch.Tensor, prefix: Prefix) -> torch.Tensor:
        """Run each sequence's last token; the logits of each one's next (B, vocabulary)."""
        device, P = model.device, prefix.length
        length_B = self.length_S[: self.used]
        self.reach = int(length_B.max()) + 1
        position_B = length_B + P
        own_T = torch.arange(self.reach, device=device)
        seen_B_K = torch.cat(
            [torch.ones(self.used, P, dtype=torch.bool, device=device), own_T <= length_B[:, None]], dim=1
        )
        masks = windowed(
            model,
            seen_B_K[:, None, None],
            position_B[:, None, None, None],
            torch.arange(P + self.reach, device=device),
        )
        logits_B_1_V = model(
            input_ids=last_B[:, None].to(device),
            position_ids=position_B[:, None],
            attention_mask=as_model_takes(model, masks),
            cache=self._cache,
            use_cache=False,
            shared_prefix=prefix,
        ).logits
        length_B += 1
        return logits_B_1_V[:, -1]


def step_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    shared_prefix: Prefix | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one new token of each sequence to a prefix that all share and to its own keys.

    `query` is (B, heads, 1, head_dim), `key` and `value` (B, key heads, T, head_dim), `attention_mask`
    boolean (B, 1, 1, prefix + T). The softmax is over both parts at once, in float32: the result is that
    of attention to the joined keys. Returns (B, 1, heads, head_dim).

    Raises:
        NotImplementedError: the model asks for something that this function does not do.
    """
    refuse_unknown("step attention", rest, HARMLESS)
    if attention_mask is None or query.shape[2] != 1 or shared_prefix is None:
        raise NotImplementedError("step attention takes one token of each sequence, a mask and a prefix")
    B, heads, _, D = query.shape
    H = key.shape[1]
    query_B_H_G_D = query.reshape(B, H, heads // H, D)
    scores_B_H_G_K = query_B_H_G_D @ key.mT
    layer = shared_prefix.layers[int(module.layer_idx)]  # pyright: ignore[reportArgumentType]
    P = shared_prefix.length
    if layer.keys is not None:
        # All sequences' queries against the one prefix, as one product a head.
        query_H_BG_D = query_B_H_G_D.transpose(0, 1).reshape(H, -1, D)
        scores_H_BG_P = query_H_BG_D @ layer.keys[0].mT
        scores_B_H_G_P = scores_H_BG_P.reshape(H, B, -1, P).transpose(0, 1)
        scores_B_H_G_K = torch.cat([scores_B_H_G_P, scores_B_H_G_K], dim=-1)
    scores_B_H_G_K = scores_B_H_G_K.float() * (D**-0.5 if scaling is None else scaling)
    scores_B_H_G_K.masked_fill_(~attention_mask, -torch.inf)
    weights_B_H_G_K = scores_B_H_G_K.softmax(-1).to(value.dtype)
    mixed_B_H_G_D = weights_B_H_G_K[..., P:] @ value
    if layer.values is not None:
        weights_H_BG_P = weights_B_H_G_K[..., :P].transpose(0, 1).reshape(H, -1, P)
        mixed_H_BG_D = weights_H_BG_P @ layer.values[0]
        mixed_B_H_G_D = mixed_B_H_G_D + mixed_H_BG_D.reshape(H, B, -1, D).transpose(0, 1)
    return mixed_B_H_G_D.reshape(B, 1, heads, D), None


def _affordable_slots(model: PreTrainedModel, capacity: int) -> int:
    """Sequences of `capacity` tokens whose keys and values there is room for, at least 1."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_per_token = 2 * config.num_hidden_layers * heads * head_dim * model.dtype.itemsize
    room = SLOT_BYTES_CPU
    if model.device.type == "cuda":
        room = int(SLOT_SHARE_CUDA * torch.cuda.mem_get_info(model.device)[0])
    return max(1, room // (bytes_per_token * capacity))

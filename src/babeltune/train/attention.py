"""Attention kept inside each example of a packed row.

A packed row is several examples one after another, positions restarted at each, with no padding. How its
attention is kept apart depends on the model:

- `blocks`: our own function, registered with transformers' `AttentionInterface`: causal attention within
  each example. On a GPU one kernel for all of them where it is found right; on a CPU plain products over
  short examples; else one example after another. It knows windows and grouped heads, and refuses what it
  does not know.
- `native`: transformers' own packing (restarted `position_ids` and no mask). The reference, and what is
  taken for models whose attention has what `blocks` refuses.
- `single`: one example a row. Right for any causal model; for those whose packing nobody has checked.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from babeltune.models.attention import attention_switch, refuse_unknown
from babeltune.train.example_attention import one_example
from babeltune.train.short_attention import LONGEST, short_attention
from babeltune.train.varlen_attention import varlen_attention, varlen_serves

log = logging.getLogger(__name__)

Packing = Literal["blocks", "native", "single"]

BLOCK_ATTENTION = "babeltune_blocks"
# Architectures for which tests show packed and unpacked losses and gradients to be equal.
BLOCKS_CHECKED = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma3_text"})
NATIVE_CHECKED = BLOCKS_CHECKED | {"gemma2"}
# What models pass along that changes nothing here; anything else might, and is refused.
HARMLESS = frozenset(
    {"position_ids", "use_cache", "output_attentions", "is_causal", "cu_seq_lens_k", "max_length_k"}
)


def packing_for(model: PreTrainedModel, *, packing: bool) -> Packing:
    """How rows of this model's examples are kept apart; says so in the log where it is not `blocks`."""
    kind = model.config.get_text_config().model_type
    if not packing:
        return "single"
    if kind in BLOCKS_CHECKED:
        return "blocks"
    if kind in NATIVE_CHECKED:
        log.warning("%s: packed by transformers' own masks, slower than per-example attention", kind)
        return "native"
    log.warning("%s: packing is not checked for this architecture, so one example a row", kind)
    return "single"


@contextmanager
def attention_of(model: PreTrainedModel, packing: Packing) -> Iterator[None]:
    """Switch the model's attention to what `packing` needs, and back at the end."""
    with attention_switch(model, {BLOCK_ATTENTION: block_attention}) as use:
        use(BLOCK_ATTENTION if packing == "blocks" else None)
        yield


def block_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each example of one packed row.

    `query` is (1, heads, T, head_dim), `key` and `value` may have fewer heads; `cu_seq_lens_q` holds the
    examples' boundaries (0 … T), `max_length_q` is the longest one's length (T if not given); both come
    through the model call. Returns (1, T, heads, head_dim).

    Raises:
        NotImplementedError: the model asks for something that this function does not do.
    """
    refuse_unknown("block attention", rest, HARMLESS)
    if attention_mask is not None or cu_seq_lens_q is None or query.shape[0] != 1:
        raise NotImplementedError("block attention takes one packed row with boundaries and no mask")
    if rest.get("is_causal") is False or not getattr(module, "is_causal", True):
        raise NotImplementedError("block attention is causal")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if not dropout and varlen_serves(query, key, sliding_window):
        longest = query.shape[2] if max_length_q is None else max_length_q
        return varlen_attention(query, key, value, cu_seq_lens_q, longest, scale, sliding_window), None
    # A CPU goes through neighbours that are short together, through others one after another.
    by_products = query.device.type == "cpu" and not dropout
    attended: list[torch.Tensor] = []
    begin = 0
    lengths: list[int] = cu_seq_lens_q.diff().tolist()
    for short, run in itertools.groupby(lengths, lambda length: by_products and length <= LONGEST):
        run_lengths = tuple(run)
        end = begin + sum(run_lengths)
        q, k, v = (x[:, :, begin:end] for x in (query, key, value))
        if short:
            attended.append(short_attention(q, k, v, run_lengths, scale, sliding_window))
        else:
            examples = zip(*(x.split(run_lengths, dim=2) for x in (q, k, v)), strict=True)
            attended += [one_example(q, k, v, dropout, scale, sliding_window) for q, k, v in examples]
        begin = end
    return attended[0] if len(attended) == 1 else torch.cat(attended, dim=1), None

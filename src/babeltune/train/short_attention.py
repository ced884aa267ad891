"""Causal attention of short examples on a CPU: plain matrix products over examples of like length.

torch's fused attention is made for GPUs and long sequences. On a CPU, in 16 bits, it takes three to five
times as long as the products themselves where examples hold some hundred tokens (benchmarks/LOG.md). Here
examples padded to the same length go through each product together. Padding follows the tokens, so that
causal attention never sees it. The probabilities are kept for the backward pass (flash attention computes
them again), which is why this is for short examples only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch

from babeltune.train.example_attention import product_width, seen_in

# Longer examples are left to torch: the probabilities kept for them would take much memory.
LONGEST = 512
# Lengths are padded to multiples of this: few different masks, and products at shapes that suit the CPU.
PADDED_TO = 32


class Span(NamedTuple):
    """Where an example lies in a packed row: tokens `begin` up to, not including, `end`."""

    begin: int
    end: int

    @property
    def length(self) -> int:
        """Its tokens."""
        return self.end - self.begin


def short_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    spans: Sequence[Span],
    scaling: float,
    window: int | None,
) -> list[torch.Tensor]:
    """Attention within each of the spans of one packed row, none of them longer than `LONGEST`.

    `query` is (1, heads, T, head_dim); `key` and `value` may have fewer heads. Each token sees itself and
    those before it in its span, under a `window` only the nearest. Returns (1, length, heads, head_dim) of
    each span. Gradients flow once (there is no second derivative).
    """
    if not spans:
        return []
    # Under autocast models may hand over queries in float32 beside values that are not: as in any product.
    width = product_width("cpu", value.dtype)
    query, key, value = query.to(width), key.to(width), value.to(width)
    return list(
        cast("tuple[torch.Tensor, ...]", _ShortAttention.apply(query, key, value, spans, scaling, window))
    )


class _ShortAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_1_H_T_D: torch.Tensor,
        key_1_G_T_D: torch.Tensor,
        value_1_G_T_D: torch.Tensor,
        spans: Sequence[Span],
        scaling: float,
        window: int | None,
    ) -> tuple[torch.Tensor, ...]:
        heads, key_heads = query_1_H_T_D.shape[1], key_1_G_T_D.shape[1]
        shared_by = heads // key_heads
        attended: dict[int, torch.Tensor] = {}
        saved: list[torch.Tensor] = []
        groups = _like_lengths(spans)
        for length, members in groups.items():
            group = [spans[member] for member in members]
            # Query heads that share a key head lie one under another, in one matrix. B: group × key heads.
            query_B_SL_D, key_B_L_D, value_B_L_D = (
                _padded([x[0, :, span.begin : span.end] for span in group], length).view(
                    len(group) * key_heads, -1, x.shape[-1]
                )
                for x in (query_1_H_T_D, key_1_G_T_D, value_1_G_T_D)
            )
            mask = _mask(length, shared_by, window, query_1_H_T_D.dtype)
            score_B_SL_L = torch.baddbmm(mask, query_B_SL_D, key_B_L_D.mT, alpha=scaling)
            share_B_SL_L = score_B_SL_L.softmax(dim=-1)
            out_N_L_H_D = (
                torch.bmm(share_B_SL_L, value_B_L_D).view(len(group), heads, length, -1).transpose(1, 2)
            )
            for place, (member, span) in enumerate(zip(members, group, strict=True)):
                attended[member] = out_N_L_H_D[place : place + 1, : span.length]
            saved += [query_B_SL_D, key_B_L_D, value_B_L_D, share_B_SL_L]
        ctx.save_for_backward(*saved)
        ctx.groups, ctx.spans, ctx.scaling = groups, spans, scaling
        ctx.heads, ctx.key_heads, ctx.tokens = heads, key_heads, query_1_H_T_D.shape[2]
        return tuple(attended[member] for member in range(len(spans)))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved: tuple[torch.Tensor, ...] = ctx.saved_tensors
        like = grad_outputs[0]
        complete = sum(span.length for span in ctx.spans) == ctx.tokens
        allocate = like.new_empty if complete else like.new_zeros
        # In memory as projections leave them: (T, heads, head_dim).
        grad_query, grad_key, grad_value = (
            allocate(1, ctx.tokens, heads, like.shape[-1]).transpose(1, 2)
            for heads in (ctx.heads, ctx.key_heads, ctx.key_heads)
        )
        for number, (length, members) in enumerate(ctx.groups.items()):
            query_B_SL_D, key_B_L_D, value_B_L_D, share_B_SL_L = saved[4 * number : 4 * number + 4]
            group = [ctx.spans[member] for member in members]
            grads = [grad_outputs[member][0].transpose(0, 1) for member in members]
            grad_B_SL_D = _padded(grads, length).view(query_B_SL_D.shape)
            grad_share_B_SL_L = torch.bmm(grad_B_SL_D, value_B_L_D.mT)
            grad_score_B_SL_L = torch.ops.aten._softmax_backward_data(
                grad_share_B_SL_L, share_B_SL_L, -1, share_B_SL_L.dtype
            ).mul_(ctx.scaling)
            for grad, by_key_head in (
                (grad_query, torch.bmm(grad_score_B_SL_L, key_B_L_D)),
                (grad_key, torch.bmm(grad_score_B_SL_L.mT, query_B_SL_D)),
                (grad_value, torch.bmm(share_B_SL_L.mT, grad_B_SL_D)),
            ):
                grad_N_H_L_D = by_key_head.view(len(group), grad.shape[1], length, -1)
                for place, span in enumerate(group):
                    grad[0, :, span.begin : span.end] = grad_N_H_L_D[place, :, : span.length]
        return grad_query, grad_key, grad_value, None, None, None


def _like_lengths(spans: Sequence[Span]) -> dict[int, list[int]]:
    """Places of the spans that are padded to the same length, by that length."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for place, span in enumerate(spans):
        groups[-(-span.length // PADDED_TO) * PADDED_TO].append(place)
    return dict(groups)


def _padded(parts: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """Parts (heads, their length, width) one over another, each followed by zeros up to `length`."""
    heads, _, width = parts[0].shape
    padded = parts[0].new_zeros(len(parts), heads, length, width)
    for place, part in enumerate(parts):
        padded[place, :, : part.shape[1]] = part
    return padded


@lru_cache(maxsize=64)
def _mask(length: int, shared_by: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """What is added to scores: 0 where a token is seen, -inf elsewhere; (shared_by · length, length)."""
    mask_L_L = torch.zeros(length, length, dtype=dtype).masked_fill_(~seen_in(length, window), -torch.inf)
    return mask_L_L.repeat(shared_by, 1)

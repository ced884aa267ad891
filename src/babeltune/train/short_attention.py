"""Causal attention of short examples on a CPU: plain matrix products over examples of like length.

torch's fused attention is made for GPUs and long sequences. On a CPU, in 16 bits, it takes three to five
times as long as the products themselves where examples hold some hundred tokens (benchmarks/LOG.md). Here
examples padded to the same length go through each product together, their queries in blocks, each against
the keys up to its own end. Padding follows the tokens, so that causal attention never sees it. The
probabilities are kept for the backward pass (flash attention computes them again), which is why this is for
short examples only.

What is gathered and in which order depends on the lengths alone, so all layers share one `_Plan`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch

from babeltune.train.example_attention import product_width, seen_in

# Longer examples are left to torch: the probabilities kept for them would take much memory.
LONGEST = 1024
# Lengths are padded to multiples of this: few different masks, and products at shapes that suit the CPU.
PADDED_TO = 32
# Queries of a block. Smaller ones compute less that the mask then hides, in more and smaller products.
BLOCK = 128


def short_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: tuple[int, ...],
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    """Attention within each of the examples, of these lengths, that lie one after another in a packed row.

    `query` is (1, heads, T, head_dim); `key` and `value` may have fewer heads. Each token sees itself and
    those before it in its example, under a `window` only the nearest. Returns (1, T, heads, head_dim).
    Gradients flow once (there is no second derivative).
    """
    # Under autocast models may hand over queries in float32 beside values that are not: as in any product.
    width = product_width("cpu", value.dtype)
    query, key, value = query.to(width), key.to(width), value.to(width)
    plan = _plan(lengths, query.shape[1], key.shape[1])
    return cast(torch.Tensor, _ShortAttention.apply(query, key, value, plan, scaling, window))


class _Block(NamedTuple):
    """Queries `begin` to `end` of every example of a group, against their keys before `end`."""

    begin: int
    end: int
    queries: slice  # their rows among the gathered queries


class _Group(NamedTuple):
    """Examples padded to the same length. B: examples × key heads; SL: the block's queries of all heads that
    share a key head, one head's under another's."""

    examples: int
    length: int
    keys: slice  # their rows among the gathered keys
    blocks: tuple[_Block, ...]


class _Gather(NamedTuple):
    """Rows (token, head) of a packed row in another order, examples padded: where each one comes from, which
    of them are padding, and where each token's has gone."""

    source: torch.Tensor
    padding: torch.Tensor
    place: torch.Tensor

    def of(self, x_1_H_T_D: torch.Tensor) -> torch.Tensor:
        """Gathered rows (rows, head_dim); padding repeats a token."""
        return _rows(x_1_H_T_D).index_select(0, self.source)

    def back(self, rows: torch.Tensor, heads: int) -> torch.Tensor:
        """Of gathered rows the tokens', (1, T, heads, head_dim)."""
        return rows.index_select(0, self.place).view(1, -1, heads, rows.shape[-1])


class _Plan(NamedTuple):
    groups: tuple[_Group, ...]
    queries: _Gather
    keys: _Gather


class _ShortAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_1_H_T_D: torch.Tensor,
        key_1_G_T_D: torch.Tensor,
        value_1_G_T_D: torch.Tensor,
        plan: _Plan,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        heads, key_heads = query_1_H_T_D.shape[1], key_1_G_T_D.shape[1]
        query = plan.queries.of(query_1_H_T_D)
        key, value = plan.keys.of(key_1_G_T_D), plan.keys.of(value_1_G_T_D)
        attended = torch.empty_like(query)
        shares: list[torch.Tensor] = []
        for group in plan.groups:
            batch = group.examples * key_heads
            key_B_L_D, value_B_L_D = (_batched(x[group.keys], batch) for x in (key, value))
            for block in group.blocks:
                mask_SL_K = _mask(block.begin, block.end, heads // key_heads, window, query.dtype)
                score_B_SL_K = torch.baddbmm(
                    mask_SL_K,
                    _batched(query[block.queries], batch),
                    key_B_L_D[:, : block.end].mT,
                    alpha=scaling,
                )
                share_B_SL_K = torch.softmax(score_B_SL_K, dim=-1, out=score_B_SL_K)
                torch.bmm(
                    share_B_SL_K,
                    value_B_L_D[:, : block.end],
                    out=_batched(attended[block.queries], batch),
                )
                shares.append(share_B_SL_K)
        ctx.save_for_backward(query, key, value, *shares)
        ctx.plan, ctx.scaling, ctx.heads, ctx.key_heads = plan, scaling, heads, key_heads
        return plan.queries.back(attended, heads)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved: tuple[torch.Tensor, ...] = ctx.saved_tensors
        query, key, value = saved[:3]
        shares = iter(saved[3:])
        plan: _Plan = ctx.plan
        grad = plan.queries.of(grad_outputs[0].transpose(1, 2)).index_fill_(0, plan.queries.padding, 0)
        grad_query, grad_key, grad_value = (torch.empty_like(x) for x in (query, key, value))
        for group in plan.groups:
            batch = group.examples * ctx.key_heads
            key_B_L_D, value_B_L_D, grad_key_B_L_D, grad_value_B_L_D = (
                _batched(x[group.keys], batch) for x in (key, value, grad_key, grad_value)
            )
            for block in group.blocks:
                share_B_SL_K = next(shares)
                query_B_SL_D, grad_B_SL_D, grad_query_B_SL_D = (
                    _batched(x[block.queries], batch) for x in (query, grad, grad_query)
                )
                seen = slice(block.end)
                # The first block, the last of the example, is that of all keys.
                onto = 0 if block.end == group.length else 1
                grad_value_B_L_D[:, seen].baddbmm_(share_B_SL_K.mT, grad_B_SL_D, beta=onto)
                grad_share_B_SL_K = torch.bmm(grad_B_SL_D, value_B_L_D[:, seen].mT)
                grad_score_B_SL_K = torch.ops.aten._softmax_backward_data(
                    grad_share_B_SL_K, share_B_SL_K, -1, share_B_SL_K.dtype
                )
                grad_query_B_SL_D.baddbmm_(grad_score_B_SL_K, key_B_L_D[:, seen], beta=0, alpha=ctx.scaling)
                grad_key_B_L_D[:, seen].baddbmm_(
                    grad_score_B_SL_K.mT, query_B_SL_D, beta=onto, alpha=ctx.scaling
                )
        return (
            plan.queries.back(grad_query, ctx.heads).transpose(1, 2),
            plan.keys.back(grad_key, ctx.key_heads).transpose(1, 2),
            plan.keys.back(grad_value, ctx.key_heads).transpose(1, 2),
            None,
            None,
            None,
        )


def _rows(x_1_H_T_D: torch.Tensor) -> torch.Tensor:
    """(T · heads, head_dim): no copy where x is a projection's output, seen by head."""
    return x_1_H_T_D[0].transpose(0, 1).reshape(-1, x_1_H_T_D.shape[-1])


def _batched(rows: torch.Tensor, batch: int) -> torch.Tensor:
    return rows.view(batch, -1, rows.shape[-1])


# A row's layers come one after another, forward and then backward; the next row has other lengths.
@lru_cache(maxsize=8)
def _plan(lengths: tuple[int, ...], heads: int, key_heads: int) -> _Plan:
    """Which examples go together, and where each (token, head) lies then."""
    begins = list(itertools.accumulate(lengths, initial=0))[:-1]
    like: defaultdict[int, list[int]] = defaultdict(list)
    for example, length in enumerate(lengths):
        like[-(-length // PADDED_TO) * PADDED_TO].append(example)
    groups: list[_Group] = []
    query_rows: list[torch.Tensor] = []
    key_rows: list[torch.Tensor] = []
    queries_done = keys_done = 0
    for length, examples in like.items():
        begin_N = torch.tensor([begins[example] for example in examples])
        end_N = begin_N + torch.tensor([lengths[example] for example in examples])
        token_N_L = begin_N[:, None] + torch.arange(length)
        token_N_L = token_N_L.where(token_N_L < end_N[:, None], -1)
        blocks: list[_Block] = []
        # From the last, which sees all keys: its products set what the others' are added to.
        for begin in reversed(range(0, length, BLOCK)):
            end = min(begin + BLOCK, length)
            query_rows.append(_by_head(token_N_L[:, begin:end], heads))
            rows = slice(queries_done, queries_done + query_rows[-1].numel())
            blocks.append(_Block(begin, end, rows))
            queries_done = rows.stop
        key_rows.append(_by_head(token_N_L, key_heads))
        rows = slice(keys_done, keys_done + key_rows[-1].numel())
        groups.append(_Group(len(examples), length, rows, tuple(blocks)))
        keys_done = rows.stop
    return _Plan(tuple(groups), _gather(torch.cat(query_rows)), _gather(torch.cat(key_rows)))


def _by_head(token_N_L: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (token · heads + head), -1 for padding, in the order example, head, token."""
    row_N_H_L = token_N_L[:, None, :] * heads + torch.arange(heads)[None, :, None]
    return row_N_H_L.where(token_N_L[:, None, :] >= 0, -1).flatten()


def _gather(row: torch.Tensor) -> _Gather:
    """How to gather these rows, -1 for padding, and how to bring them back."""
    padded = row < 0
    real = (~padded).nonzero()[:, 0]
    return _Gather(source=row.clamp(min=0), padding=padded.nonzero()[:, 0], place=real[row[real].argsort()])


@lru_cache(maxsize=256)
def _mask(begin: int, end: int, shared_by: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """What is added to a block's scores: 0 where a token is seen, else -inf; (shared_by · queries, end)."""
    seen_L_K = seen_in(end, window)[begin:]
    mask_L_K = torch.zeros(seen_L_K.shape, dtype=dtype).masked_fill_(~seen_L_K, -torch.inf)
    return mask_L_K.repeat(shared_by, 1)

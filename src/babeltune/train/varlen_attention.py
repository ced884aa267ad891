"""Attention of a whole packed row in one kernel, on GPUs: torch's FlashAttention for variable lengths.

One launch for all examples, and nothing read back from the device to learn where they end. The kernel
exists for some GPUs, versions of torch and shapes only, and a kernel that is a little wrong trains a model
that is a little wrong: so before a shape is left to it, it is tried once on that device, forward and
backward, against the examples one by one in float32.
"""

from __future__ import annotations

import itertools
import logging
from functools import lru_cache

import torch

from babeltune.train.example_attention import one_example, product_width

log = logging.getLogger(__name__)

# Lengths that the trial packs: a single token, fewer and more than the kernel's tiles of 64 or 128 hold.
TRIAL_LENGTHS = (1, 37, 200)
# FlashAttention in bfloat16 lies within 1 % of float32 on such inputs; a wrong mask or scale lies far off.
TRIAL_TOLERANCE = 0.03


def varlen_serves(query: torch.Tensor, key: torch.Tensor, window: int | None) -> bool:
    """Whether `varlen_attention` may take these: tried once for a device, width and shape."""
    if query.device.type != "cuda":
        return False
    return _agrees(query.device, _width(query), query.shape[1], key.shape[1], query.shape[-1], window)


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: torch.Tensor,
    longest: int,
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    """Causal attention within each example of one packed row.

    `query` is (1, heads, T, head_dim), `key` and `value` may have fewer heads; `boundaries` are the
    examples' limits (0 … T, int32, on the device), `longest` the longest example's tokens. Returns
    (1, T, heads, head_dim).
    """
    from torch.nn.attention.varlen import varlen_attn

    width = _width(query)
    query_T_H_D, key_T_G_D, value_T_G_D = (x[0].transpose(0, 1).to(width) for x in (query, key, value))
    attended_T_H_D = varlen_attn(
        query_T_H_D,
        key_T_G_D,
        value_T_G_D,
        boundaries,
        boundaries,
        longest,
        longest,
        scale=scaling,
        # It counts the tokens before the one that looks; -1 is all of them.
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended_T_H_D, torch.Tensor)
    return attended_T_H_D[None]


def _width(query: torch.Tensor) -> torch.dtype:
    """Under autocast models may hand over float32, which the kernel does not know."""
    return product_width(query.device.type, query.dtype)


@lru_cache(maxsize=64)
def _agrees(
    device: torch.device, width: torch.dtype, heads: int, key_heads: int, head_dim: int, window: int | None
) -> bool:
    """Whether the kernel's output and gradients are right; says so where they are not."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (sum(TRIAL_LENGTHS), head_dim)
    narrow = [
        torch.randn(1, count, *shape, device=device, generator=generator).to(width).requires_grad_()
        for count in (heads, key_heads, key_heads)
    ]
    exact = [x.detach().float().requires_grad_() for x in narrow]
    boundaries = torch.tensor([0, *itertools.accumulate(TRIAL_LENGTHS)], dtype=torch.int32, device=device)
    # Models train under autocast and inside no_grad alike; the trial is to see neither. Nor is activation
    # checkpointing to see the trial: it would miss its tensors when it computes the layer again.
    with (
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved),
    ):
        blocks = [
            one_example(one_query, one_key, one_value, 0.0, head_dim**-0.5, window)
            for one_query, one_key, one_value in zip(*(x.split(TRIAL_LENGTHS, 2) for x in exact), strict=True)
        ]
        expected = torch.cat(blocks, dim=1)
        weights = torch.randn(expected.shape, device=device, generator=generator)
        (expected * weights).sum().backward()
        try:
            query, key, value = narrow
            longest = max(TRIAL_LENGTHS)
            found = varlen_attention(query, key, value, boundaries, longest, head_dim**-0.5, window)
            (found.float() * weights).sum().backward()
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            log.info("packed rows attend example by example: no kernel for variable lengths (%s)", error)
            return False
    pairs = [
        (found.detach(), expected.detach()),
        *((x.grad, y.grad) for x, y in zip(narrow, exact, strict=True)),
    ]
    off = max(float((x.float() - y).norm() / y.norm()) for x, y in pairs if x is not None and y is not None)
    if not off < TRIAL_TOLERANCE:
        log.warning(
            "packed rows attend example by example: torch's kernel for variable lengths is off by %.0f %% "
            "on this device (%d and %d heads of %d, window %s)",
            *(100 * off, heads, key_heads, head_dim, window),
        )
        return False
    return True

"""Attention of a whole packed row in one kernel, on GPUs: torch's FlashAttention for variable lengths.

One launch for all examples, and nothing read back from the device to learn where they end. The kernel
exists for some GPUs, versions of torch and shapes only, and a kernel that is a little wrong trains a model
that is a little wrong: so before a shape is left to it, it is tried once on that device, forward and
backward, against plain attention in float32.
"""

from __future__ import annotations

import itertools
import logging
from functools import lru_cache

import torch
import torch.nn.functional as F

from babeltune.train.short_attention import seen_in

log = logging.getLogger(__name__)

# Lengths that the trial packs: a single token, fewer and more than the kernel's tiles of 64 or 128 hold.
TRIAL_LENGTHS = (1, 37, 200)
# FlashAttention in bfloat16 lies within 1 % of float32 on such inputs; a wrong mask or scale lies far off.
TRIAL_TOLERANCE = 0.03


def varlen_serves(query: torch.Tensor, key: torch.Tensor, window: int | None) -> bool:
    """Whether `varlen_attention` may take these: tried once for a device, width and shape."""
    if query.device.type != "cuda":
        return False
    return _agrees(
        query.device, _width(query), query.shape[1], key.shape[1], query.shape[-1], _seen_before(window)
    )


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
        window_size=(_seen_before(window), 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended_T_H_D, torch.Tensor)
    return attended_T_H_D[None]


def _seen_before(window: int | None) -> int:
    """The kernel's window counts the tokens before the one that looks; -1 is all of them."""
    return -1 if window is None else window - 1


def _width(query: torch.Tensor) -> torch.dtype:
    """Under autocast models may hand over float32, which the kernel does not know."""
    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype


@lru_cache(maxsize=64)
def _agrees(
    device: torch.device, width: torch.dtype, heads: int, key_heads: int, head_dim: int, seen_before: int
) -> bool:
    """Whether the kernel's output and gradients are those of plain attention; says so where they are not."""
    window = None if seen_before < 0 else seen_before + 1
    generator = torch.Generator(device).manual_seed(0)
    shape = (sum(TRIAL_LENGTHS), head_dim)
    narrow = [
        torch.randn(1, count, *shape, device=device, generator=generator).to(width).requires_grad_()
        for count in (heads, key_heads, key_heads)
    ]
    exact = [x.detach().float().requires_grad_() for x in narrow]
    limits = [0, *itertools.accumulate(TRIAL_LENGTHS)]
    boundaries = torch.tensor(limits, dtype=torch.int32, device=device)
    # Models train under autocast and inside no_grad alike; the trial is to see neither.
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        expected = _plain_attention(exact, limits, head_dim**-0.5, window)
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


def _plain_attention(
    tensors: list[torch.Tensor], limits: list[int], scaling: float, window: int | None
) -> torch.Tensor:
    """What the kernel is held against: each example by itself, its mask written out."""
    query, key, value = tensors
    shared_by = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(shared_by, dim=1) for x in (key, value))
    blocks = []
    for begin, end in itertools.pairwise(limits):
        parts = (x[:, :, begin:end] for x in (query, key, value))
        mask = seen_in(end - begin, window, query.device)
        blocks.append(F.scaled_dot_product_attention(*parts, attn_mask=mask, scale=scaling))
    return torch.cat(blocks, dim=2).transpose(1, 2)

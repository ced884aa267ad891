"""One example's causal attention by torch's own function, and what every kind of attention here agrees on."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def one_example(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    """One example's causal attention, (1, L, heads, head_dim).

    `query` is (1, heads, L, head_dim), `key` and `value` may have fewer heads; under a `window` a token sees
    itself and only the nearest of those before it.
    """
    length = query.shape[2]
    # None where causal says it all.
    mask = seen_in(length, window, query.device) if window is not None and length > window else None
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    ).transpose(1, 2)


def seen_in(length: int, window: int | None, device: torch.device | None = None) -> torch.Tensor:
    """Which tokens (second axis) each token sees: itself and those before it, the nearest `window`."""
    position_L = torch.arange(length, device=device)
    behind_L_L = position_L[:, None] - position_L[None, :]
    return behind_L_L >= 0 if window is None else (behind_L_L >= 0) & (behind_L_L < window)


def product_width(device_type: str, own: torch.dtype) -> torch.dtype:
    """What a matrix product computes in: autocast's width where that is on, else the operand's `own`."""
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else own

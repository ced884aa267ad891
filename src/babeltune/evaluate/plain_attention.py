"""Masked attention as plain matrix products, for rows on a CPU.

torch's fused attention takes two to three times as long there in 16 bits where rows and what they see hold
some hundred tokens (benchmarks/LOG.md). Queries go in parts, so that scores stay in the CPU's cache and no
row is too long for its memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from babeltune.models.attention import refuse_unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAIN_ATTENTION = "babeltune_plain"
# What models pass along that changes nothing here (windows are in the mask); anything else is refused.
HARMLESS = frozenset({"position_ids", "use_cache", "output_attentions", "is_causal", "sliding_window"})
# Scores held at a time: 8 MB in 16 bits.
SCORES_AT_ONCE = 1 << 22


def plain_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Attention under a mask that is added to scores, (B, 1, L, K), without dropout.

    `query` is (B, heads, L, head_dim), `key` and `value` (B, key heads, K, head_dim). Returns
    (B, L, heads, head_dim).

    Raises:
        NotImplementedError: the model asks for something that this function does not do.
    """
    refuse_unknown("plain attention", rest, HARMLESS)
    if attention_mask is None:
        raise NotImplementedError("plain attention takes a mask")
    B, heads, L, D = query.shape
    H, K = key.shape[1:3]
    scale = D**-0.5 if scaling is None else scaling
    key_BH_D_K, value_BH_K_D = key.reshape(B * H, K, D).mT, value.reshape(B * H, K, D)
    out_B_L_H_D = query.new_empty(B, L, heads, value.shape[-1])
    at_once = max(1, SCORES_AT_ONCE // (B * heads * K))
    for start in range(0, L, at_once):
        part_B_H_l_D = query[:, :, start : start + at_once]
        # Queries of the heads that share a key head lie one under another, in one matrix.
        scores_BH_Gl_K = part_B_H_l_D.reshape(B * H, -1, D) @ key_BH_D_K
        scores_BH_Gl_K.mul_(scale).view(B, heads, -1, K).add_(attention_mask[:, :, start : start + at_once])
        mixed_BH_Gl_D = scores_BH_Gl_K.softmax(dim=-1) @ value_BH_K_D
        out_B_L_H_D[:, start : start + at_once] = mixed_BH_Gl_D.view(*part_B_H_l_D.shape[:3], -1).transpose(
            1, 2
        )
    return out_B_L_H_D, None


def row_attention(model: PreTrainedModel) -> str | None:
    """The attention that rows of this model are scored with; None for the model's own.

    On a GPU the fused kernels are the faster.
    """
    return PLAIN_ATTENTION if model.device.type == "cpu" else None

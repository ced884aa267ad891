"""A gated MLP's `silu(gate) · up` with one of its four wide tensors not kept: transformers' result.

autograd keeps `silu(gate)` for the gradient of `up`, a seventh of what a layer keeps; here it is computed
again, and what is needed for a moment only is written over in place.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import SiLUActivation

from babeltune.train.stand_in import standing_in

# Those that are exactly `down(act(gate(x)) · up(x))`; of these, the ones whose activation is SiLU.
KNOWN = frozenset({"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP"})


def gated_products_keeping_less(model: nn.Module) -> AbstractContextManager[int]:
    """Inside, the MLPs of `model` that this module knows compute as it says. Gives how many there are."""
    return standing_in([module for module in model.modules() if _is_known(module)], _KeepingLess)


class _KeepingLess(nn.Module):
    """An MLP's forward. No module is made of this class: MLPs are lent it."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(_GatedSilu.apply(self.gate_proj(x), self.up_proj(x)))


def _is_known(module: nn.Module) -> bool:
    return type(module).__name__ in KNOWN and type(module.act_fn) is SiLUActivation


class _GatedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        (grad,) = grad_outputs
        grad_silu = grad * up
        grad_gate = torch.ops.aten.silu_backward.grad_input(grad_silu, gate, grad_input=grad_silu)
        return cast(torch.Tensor, grad_gate), F.silu(gate).mul_(grad)

"""LoRA's layers computed in the width of the base, over float32 weights: PEFT's result for less work.

PEFT casts every input to float32, multiplies there, scales, adds and casts back: on wide inputs that costs
more than the adapter's own arithmetic. Here the adapter's float32 weights are rounded to the base's width
for the products, as autocast would, and scale and sum happen inside them. Only layers that are exactly
`base(x) + scaling · B(A(x))` are replaced; dropout, DoRA and the like stay PEFT's.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, TypeGuard, cast

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import Linear as LoraLayer
from torch import nn

from babeltune.train.stand_in import standing_in


def adapters_in_base_width(model: nn.Module) -> AbstractContextManager[int]:
    """Inside, plain LoRA layers of `model` compute as this module says. Gives how many there are."""
    return standing_in([module for module in model.modules() if _is_plain(module)], _InBaseWidth)


class _InBaseWidth(LoraLayer):
    """PEFT's layer with another forward. No layer is made of this class: they are lent it."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        (name,) = self.active_adapters
        base = cast(nn.Linear, self.get_base_layer())
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        return cast(
            torch.Tensor, _LoraLinear.apply(x, base.weight, base.bias, a, b, float(self.scaling[name]))
        )


def _is_plain(module: nn.Module) -> TypeGuard[LoraLayer]:
    if type(module) is not LoraLayer or type(module.get_base_layer()) is not nn.Linear:
        return False
    names = list(module.active_adapters)
    return (
        len(names) == 1
        and names[0] in module.lora_A
        and names[0] not in module.lora_variant
        and isinstance(module.lora_dropout[names[0]], nn.Identity)
        and module.lora_B[names[0]].bias is None
        and not module.get_base_layer().weight.requires_grad
        and not module.merged
        and not module.disable_adapters
    )


class _LoraLinear(torch.autograd.Function):
    """`x Wᵀ + bias + scaling · (x Aᵀ) Bᵀ`, W frozen; gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight_O_I: torch.Tensor,
        bias_O: torch.Tensor | None,
        a_R_I: torch.Tensor,
        b_O_R: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        x_N_I = x.reshape(-1, x.shape[-1])
        narrow_a_R_I, narrow_b_O_R = a_R_I.to(x.dtype), b_O_R.to(x.dtype)
        h_N_R = x_N_I @ narrow_a_R_I.T
        y_N_O = F.linear(x_N_I, weight_O_I, bias_O).addmm_(h_N_R, narrow_b_O_R.T, alpha=scaling)
        ctx.save_for_backward(x_N_I, weight_O_I, narrow_a_R_I, narrow_b_O_R, h_N_R)
        ctx.scaling, ctx.shape, ctx.width = scaling, x.shape, a_R_I.dtype
        return y_N_O.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_N_I, weight_O_I, a_R_I, b_O_R, h_N_R = ctx.saved_tensors
        grad_N_O = grad_outputs[0].reshape(-1, grad_outputs[0].shape[-1])
        grad_h_N_R = (grad_N_O @ b_O_R).mul_(ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad_N_O @ weight_O_I).addmm_(grad_h_N_R, a_R_I).view(ctx.shape)
        grad_a_R_I = (grad_h_N_R.T @ x_N_I).to(ctx.width)
        grad_b_O_R = (grad_N_O.T @ h_N_R).to(ctx.width).mul_(ctx.scaling)
        return grad_x, None, None, grad_a_R_I, grad_b_O_R, None

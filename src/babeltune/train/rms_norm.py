"""RMSNorm in half the passes over memory: transformers' result, in float32 inside, gradients written out.

Where nothing fuses them, transformers' own takes a dozen passes, and autograd as many again for the
gradients: on a CPU a twentieth of a step (benchmarks/LOG.md).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import nn

from babeltune.train.stand_in import standing_in

# Those that are exactly `weight · x / √(mean x² + ε)`, rounded before the weight; Gemma's are not.
KNOWN = frozenset({"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"})


def norms_in_few_passes(model: nn.Module) -> AbstractContextManager[int]:
    """Inside, the norms of `model` that this module knows compute as it says. Gives how many there are."""
    return standing_in([m for m in model.modules() if type(m).__name__ in KNOWN], _FewPasses)


class _FewPasses(nn.Module):
    """A norm's forward. No module is made of this class: norms are lent it."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, _RmsNorm.apply(hidden_states, self.weight, self.variance_epsilon))


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight_D: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide = x.float()
        mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = mean_square.add_(epsilon).rsqrt_()
        # A copy already, unless x is float32 itself.
        normed = (wide * inverse if wide is x else wide.mul_(inverse)).to(x.dtype)
        ctx.save_for_backward(normed, weight_D, inverse)
        return weight_D * normed

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normed, weight_D, inverse = ctx.saved_tensors
        grad, wide_normed = grad_outputs[0].float(), normed.float()
        grad_weight_D = None
        if ctx.needs_input_grad[1]:
            grad_weight_D = (grad * wide_normed).flatten(0, -2).sum(0).to(weight_D.dtype)
        grad = grad * weight_D if grad is grad_outputs[0] else grad.mul_(weight_D)
        # As vecdot, which autocast would round.
        along = (grad * wide_normed).sum(-1, keepdim=True).div_(-normed.shape[-1])
        return grad.addcmul_(wide_normed, along).mul_(inverse).to(normed.dtype), grad_weight_D, None

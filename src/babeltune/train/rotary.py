"""Rotary position embedding in half the passes over memory, its gradient written out.

transformers rotates by building the turned halves anew, and autograd takes that apart again: on a CPU a
fortieth of a step (benchmarks/LOG.md). Its models find the function among their module's globals; there ours
stands in, wherever a trial gives the same numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

# What transformers calls it in every architecture that has it.
NAME = "apply_rotary_pos_emb"


@contextmanager
def rotation_in_few_passes(model: nn.Module) -> Iterator[int]:
    """Inside, the model rotates queries and keys by this module. Gives for how many architectures."""
    modules = {sys.modules[type(module).__module__] for module in model.modules()}
    own = {module: getattr(module, NAME) for module in modules if _turns_halves(getattr(module, NAME, None))}
    for module in own:
        setattr(module, NAME, rotate)
    try:
        yield len(own)
    finally:
        for module, function in own.items():
            setattr(module, NAME, function)


def rotate(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys turned by their positions' angles, as transformers' `apply_rotary_pos_emb`.

    `q` and `k` are (batch, heads, T, head_dim), `cos` and `sin` (batch, T, head_dim), or narrower: what they
    don't reach of a head stays as it is. No gradient flows to the angles, and none twice.
    """
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _rotated(q, cos, sin), _rotated(k, cos, sin)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    width = cos.shape[-1]
    if width == x.shape[-1]:
        return cast(torch.Tensor, _Rotation.apply(x, cos, sin))
    rotated = cast(torch.Tensor, _Rotation.apply(x[..., :width], cos, sin))
    return torch.cat((rotated, x[..., width:]), dim=-1)


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.width = x.dtype
        first, second = sin.chunk(2, dim=-1)
        return _turned(x, cos, -first, second)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        first, second = sin.chunk(2, dim=-1)
        return _turned(grad_outputs[0], cos, second, -first).to(ctx.width), None, None


def _turned(
    x: torch.Tensor, cos: torch.Tensor, onto_first: torch.Tensor, onto_second: torch.Tensor
) -> torch.Tensor:
    """`x cos`, and onto each half of it the other half of x times its factor."""
    turned = x * cos
    (first, second), (turned_first, turned_second) = x.chunk(2, dim=-1), turned.chunk(2, dim=-1)
    turned_first.addcmul_(second, onto_first)
    turned_second.addcmul_(first, onto_second)
    return turned


def _turns_halves(function: Callable[..., Any] | None) -> bool:
    """Whether a model's own function does what ours does: tried on a few numbers.

    Most turn whole heads only, and fail with narrower angles, which their models then don't have.
    """
    return function is not None and _agrees(function, 8) is True and _agrees(function, 4) is not False


def _agrees(function: Callable[..., Any], turned: int) -> bool | None:
    """Whether `function` turns the first numbers of heads of 8 as ours does; None where it fails."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, heads, 3, 8, generator=generator) for heads in (2, 1))
    cos, sin = (torch.randn(1, 3, turned, generator=generator) for _ in range(2))
    try:
        return all(
            torch.allclose(ours, theirs, rtol=0, atol=1e-6)
            for ours, theirs in zip(rotate(q, k, cos, sin), function(q, k, cos, sin), strict=True)
        )
    except (TypeError, ValueError, RuntimeError):
        return None  # it takes or gives something of another form

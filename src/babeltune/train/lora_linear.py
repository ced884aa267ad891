"""LoRA's layers computed in the width of the base, over float32 weights: PEFT's result for less work.

PEFT casts every input to float32, multiplies there, scales, adds and casts back: on wide inputs that costs
more than the adapter's own arithmetic. Here the adapter's float32 weights are rounded to the base's width
for the products, as autocast would, and scale and sum happen inside them. Only layers that are exactly
`base(x) + scaling · B(A(x))` are replaced; dropout, DoRA and the like stay PEFT's.

An adapter's products are narrow and mostly wait for memory, so layers that get the same input (query, key
and value; gate and up) read it once for all their adapters, and add up its gradient in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard, cast

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import Linear as LoraLayer
from torch import nn

from babeltune.train.example_attention import product_width
from babeltune.train.stand_in import standing_in

# Layers of one module that models give the same input, one after another.
SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@contextmanager
def adapters_in_base_width(model: nn.Module, *, together: bool = True) -> Iterator[int]:
    """Inside, plain LoRA layers of `model` compute as this module says. Gives how many there are.

    `together`: layers of the same input as one, which compiled code can't follow.
    """
    layers = [module for module in model.modules() if _is_plain(module)]
    feeds = _feeds(model) if together else []
    shared = [layer for _, feed in feeds for layer in feed.layers]
    alone = [layer for layer in layers if layer not in shared]
    for _, feed in feeds:
        for layer in feed.layers:
            layer.feed = feed  # pyright: ignore[reportArgumentType]
    # However a module's forward ends: where memory ran out in it, the row must not stay in memory.
    handles = [module.register_forward_hook(feed.forget, always_call=True) for module, feed in feeds]
    try:
        with standing_in(alone, _Alone), standing_in(shared, _Together):
            yield len(layers)
    finally:
        for handle in handles:
            handle.remove()
        for layer in shared:
            del layer.feed


class _Alone(LoraLayer):
    """PEFT's layer with another forward. No layer is made of this class: they are lent it."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return _outputs(x, [self])[0]


class _Together(LoraLayer):
    """The same for a layer that shares its input."""

    feed: _Feed

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.feed.output(self, x)


class _Feed:
    """Layers of the same input: all are computed when the first gets it, and the others' outputs wait."""

    def __init__(self, layers: Sequence[LoraLayer]) -> None:
        self.layers = layers
        self.input: torch.Tensor | None = None
        self.waiting: dict[LoraLayer, torch.Tensor] = {}

    def output(self, layer: LoraLayer, x: torch.Tensor) -> torch.Tensor:
        """Of one of the layers for `x`."""
        if x is not self.input or layer not in self.waiting:
            self.waiting = dict(zip(self.layers, _outputs(x, self.layers), strict=True))
            self.input = x
        return self.waiting.pop(layer)

    def forget(self, *_: Any) -> None:
        """Hold nothing any more; a hook for the module that the layers belong to."""
        self.input = None
        self.waiting = {}


def _feeds(model: nn.Module) -> list[tuple[nn.Module, _Feed]]:
    """Layers of the same input, each with the module that they belong to."""
    found: list[tuple[nn.Module, _Feed]] = []
    for module in model.modules():
        children = dict(module.named_children())
        for names in SAME_INPUT:
            layers = [layer for name in names if _is_plain(layer := children.get(name))]
            if len(layers) > 1:
                found.append((module, _Feed(layers)))
    return found


def _is_plain(module: nn.Module | None) -> TypeGuard[LoraLayer]:
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


def _outputs(x: torch.Tensor, layers: Sequence[LoraLayer]) -> tuple[torch.Tensor, ...]:
    names = [layer.active_adapters[0] for layer in layers]
    bases = [cast(nn.Linear, layer.get_base_layer()) for layer in layers]
    return cast(
        "tuple[torch.Tensor, ...]",
        _LoraLinears.apply(
            x,
            [float(layer.scaling[name]) for layer, name in zip(layers, names, strict=True)],
            *(base.weight for base in bases),
            *(base.bias for base in bases),
            *(layer.lora_A[name].weight for layer, name in zip(layers, names, strict=True)),
            *(layer.lora_B[name].weight for layer, name in zip(layers, names, strict=True)),
        ),
    )


class _LoraLinears(torch.autograd.Function):
    """`x Wᵀ + bias + scaling · (x Aᵀ) Bᵀ` of one or several layers, W frozen; gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scalings: list[float], *weights: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        layers = len(scalings)
        bases, biases, as_, bs = (weights[part * layers : (part + 1) * layers] for part in range(4))
        # Under autocast a norm or an embedding that is trained hands over float32.
        width = product_width(x.device.type, bases[0].dtype)
        x_N_I = x.reshape(-1, x.shape[-1]).to(width)
        ranks = [a_R_I.shape[0] for a_R_I in as_]
        # S: all layers' ranks, one after another.
        a_S_I = torch.cat(as_).to(width)
        narrow_bs = [b_O_R.to(width) for b_O_R in bs]
        h_N_S = x_N_I @ a_S_I.T
        outputs = [
            F.linear(x_N_I, weight_O_I, bias_O).addmm_(h_N_R, b_O_R.T, alpha=scaling)
            for weight_O_I, bias_O, h_N_R, b_O_R, scaling in zip(
                bases, biases, h_N_S.split(ranks, dim=1), narrow_bs, scalings, strict=True
            )
        ]
        ctx.save_for_backward(x_N_I, a_S_I, h_N_S, *bases, *narrow_bs)
        ctx.scalings, ctx.ranks, ctx.shape = scalings, ranks, x.shape
        ctx.x_width, ctx.width = x.dtype, as_[0].dtype
        return tuple(y_N_O.view(*x.shape[:-1], -1) for y_N_O in outputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[Any, ...]:
        x_N_I, a_S_I, h_N_S, *rest = ctx.saved_tensors
        layers = len(ctx.scalings)
        bases, bs = rest[:layers], rest[layers:]
        grads = [grad.reshape(-1, grad.shape[-1]) for grad in grad_outputs]
        grad_h_N_S = torch.empty_like(h_N_S)
        grad_bs: list[torch.Tensor] = []
        for grad_N_O, b_O_R, h_N_R, grad_h_N_R, scaling in zip(
            grads,
            bs,
            h_N_S.split(ctx.ranks, dim=1),
            grad_h_N_S.split(ctx.ranks, dim=1),
            ctx.scalings,
            strict=True,
        ):
            grad_h_N_R.addmm_(grad_N_O, b_O_R, beta=0, alpha=scaling)
            grad_bs.append((h_N_R.T @ grad_N_O).T.to(ctx.width).mul_(scaling))
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x_N_I = grads[0] @ bases[0]
            for grad_N_O, weight_O_I in zip(grads[1:], bases[1:], strict=True):
                grad_x_N_I.addmm_(grad_N_O, weight_O_I)
            grad_x = grad_x_N_I.addmm_(grad_h_N_S, a_S_I).view(ctx.shape).to(ctx.x_width)
        grad_as = (grad_h_N_S.T @ x_N_I).to(ctx.width).split(ctx.ranks)
        return grad_x, None, *[None] * (2 * layers), *grad_as, *grad_bs

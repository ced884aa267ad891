"""Norms in few passes: transformers' numbers, and transformers' own norms again afterwards."""

from __future__ import annotations

import pytest
import torch
from tiny_training import ARCHITECTURES, build, check_same_inside, loss_and_gradients
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from babeltune.train.rms_norm import norms_in_few_passes

# Norms of three layers and the last one; Qwen 3 has two more a layer, for queries and keys.
COUNTS = {"llama": 7, "mistral": 7, "qwen2": 7, "qwen3": 13, "gemma3_text": 0}


def with_weights(model: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model.train()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_and_gradients_are_transformers(architecture: str) -> None:
    model = with_weights(build(architecture))
    assert check_same_inside(model, norms_in_few_passes) == COUNTS[architecture]


def test_in_bfloat16_it_is_as_near_to_exact_as_transformers() -> None:
    exact, exact_gradients = loss_and_gradients(with_weights(build("llama")).double())
    model = with_weights(build("llama")).bfloat16()
    theirs, their_gradients = loss_and_gradients(model)
    with norms_in_few_passes(model):
        ours, gradients = loss_and_gradients(model)

    def off(found: dict[str, torch.Tensor]) -> float:
        return max(
            float((found[name].double() - gradient).norm() / gradient.norm())
            for name, gradient in exact_gradients.items()
        )

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-3)
    assert abs(ours.item() - exact.item()) < 0.02
    assert off(gradients) < 1.2 * off(their_gradients)


def test_autocast_rounds_nothing_inside() -> None:
    norm = LlamaRMSNorm(48)
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(5, 48, generator=generator) for _ in range(2))
    x.requires_grad_()

    def gradients() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(norm(x), (x, norm.weight), grad)

    expected = gradients()
    with norms_in_few_passes(norm), torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_norms_are_transformers_again_afterwards() -> None:
    model = build("llama")
    before = [type(module) for module in model.modules()]
    with pytest.raises(RuntimeError, match="stop"), norms_in_few_passes(model):
        raise RuntimeError("stop")
    assert [type(module) for module in model.modules()] == before

"""Gated products: transformers' numbers, one tensor fewer kept; its own MLPs again afterwards."""

from __future__ import annotations

import pytest
import torch
from tiny_training import ARCHITECTURES, build, check_same_inside, kept_by_autograd

from babeltune.train.gated_product import gated_products_keeping_less

# Gemma's activation is another.
COUNTS = {"llama": 3, "mistral": 3, "qwen2": 3, "qwen3": 3, "gemma3_text": 0}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_and_gradients_are_transformers(architecture: str) -> None:
    model = build(architecture).train()
    assert check_same_inside(model, gated_products_keeping_less) == COUNTS[architecture]


def test_another_activation_is_left_to_transformers() -> None:
    with gated_products_keeping_less(build("llama", hidden_act="gelu")) as count:
        assert count == 0


def test_the_activated_gate_is_not_kept() -> None:
    model = build("llama").train()
    ids = torch.arange(3, 43).view(2, 20)

    def wide_tensors_kept() -> int:
        """Of all tokens in an MLP's width."""
        kept = kept_by_autograd(lambda: model(input_ids=ids, use_cache=False))
        wide = ids.numel() * model.config.intermediate_size
        return sum(tensor.numel() == wide for tensor in kept.values())

    layers = 3
    assert wide_tensors_kept() == 4 * layers
    with gated_products_keeping_less(model):
        assert wide_tensors_kept() == 3 * layers


def test_mlps_are_transformers_again_afterwards() -> None:
    model = build("llama")
    before = [type(module) for module in model.modules()]
    with pytest.raises(RuntimeError, match="stop"), gated_products_keeping_less(model):
        raise RuntimeError("stop")
    assert [type(module) for module in model.modules()] == before

"""Rotary embedding in few passes: transformers' numbers, and transformers' own function again afterwards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import ARCHITECTURES, build, check_same_inside, settings, train_on_prepared
from transformers.models.llama import modeling_llama

from babeltune.models.adapters import attach_new
from babeltune.train.rotary import NAME, rotate, rotation_in_few_passes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_and_gradients_are_transformers(architecture: str) -> None:
    model = build(architecture).train()
    assert check_same_inside(model, rotation_in_few_passes) == 1


# Their heads are turned in part.
@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("gpt_neox", {}),
        ("phi3", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    ],
)
def test_heads_may_be_turned_in_part(architecture: str, changes: dict[str, Any]) -> None:
    model = build(architecture, **changes).train()
    assert check_same_inside(model, rotation_in_few_passes) == 1


def test_a_model_whose_heads_are_turned_in_part_is_trained(tmp_path: Path) -> None:
    stage = settings(max_steps=1, num_train_epochs=None)
    model = attach_new(build("gpt_neox"), stage, seed=0, base_name="tiny")
    assert len(train_on_prepared(model, stage, tmp_path).history) == 1


@pytest.mark.parametrize("width", [torch.float64, torch.bfloat16])
def test_queries_keys_and_their_gradients(width: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(heads: int) -> torch.Tensor:
        tensor = torch.randn(1, 5, heads, 16, generator=generator, dtype=torch.float64)
        return tensor.to(width).transpose(1, 2).requires_grad_()

    # Angles in float32, as under autocast; the two halves unlike, as no model has them.
    cos, sin = (torch.randn(1, 5, 16, generator=generator) for _ in range(2))
    inputs = (drawn(4), drawn(2))
    results = []
    for function in (modeling_llama.apply_rotary_pos_emb, rotate):
        outputs = function(*inputs, cos, sin)
        gradients = torch.autograd.grad(outputs, inputs, [2 * x.detach() for x in outputs])
        results.append((*outputs, *gradients))
    rounding = 2**-6 if width == torch.bfloat16 else 1e-12
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=rounding, atol=4 * rounding)


def test_a_function_of_another_form_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def neighbours(q: torch.Tensor, k: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
        return tuple(torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2) for x in (q, k))

    def only_queries(*of_both: Any) -> torch.Tensor:
        return rotate(*of_both)[0]

    def half_of_the_keys(*of_both: Any) -> tuple[torch.Tensor, ...]:
        queries, keys = rotate(*of_both)
        return queries, keys[..., :4]

    model = build("llama")

    def turns_the_end_where_angles_are_narrower(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        if cos.shape[-1] == q.shape[-1]:
            return rotate(q, k, cos, sin)
        return tuple(x.flip(-1) for x in rotate(q.flip(-1), k.flip(-1), cos, sin))

    wants_more = lambda q, k, cos, sin, ids: (q, k)  # noqa: E731
    wrong = lambda q, k, cos, sin: (q, k[..., :4])  # noqa: E731
    for other in (
        neighbours,
        wants_more,
        wrong,
        only_queries,
        half_of_the_keys,
        turns_the_end_where_angles_are_narrower,
    ):
        monkeypatch.setattr(modeling_llama, NAME, other)
        with rotation_in_few_passes(model) as count:
            assert count == 0
            assert getattr(modeling_llama, NAME) is other


def test_the_models_own_function_is_back_afterwards() -> None:
    model = build("mistral")
    module = sys.modules[type(model).__module__]
    own = getattr(module, NAME)
    assert own.__module__ == module.__name__
    with rotation_in_few_passes(model):
        assert getattr(module, NAME) is rotate
    assert getattr(module, NAME) is own
    with pytest.raises(RuntimeError, match="stop"), rotation_in_few_passes(model):
        raise RuntimeError("stop")
    assert getattr(module, NAME) is own

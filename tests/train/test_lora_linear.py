"""Adapters in the base's width: PEFT's numbers, and PEFT's own layers again afterwards."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLayer
from tiny_training import build, loss_and_gradients
from transformers import PreTrainedModel

from babeltune.train.lora_linear import adapters_in_base_width


def adapted(base: PreTrainedModel, **options: Any) -> PeftModel:
    torch.manual_seed(1)
    config = LoraConfig(
        r=4,
        lora_alpha=12,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        init_lora_weights=False,
        **options,
    )
    model = cast("PeftModel", get_peft_model(base, config))
    return model.train()


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 3}}])
@pytest.mark.parametrize("attention_bias", [False, True])
def test_in_float32_it_is_pefts_result(options: dict[str, Any], attention_bias: bool) -> None:
    model = adapted(build("llama", attention_bias=attention_bias), **options)
    expected, expected_gradients = loss_and_gradients(model)
    with adapters_in_base_width(model) as count:
        found, gradients = loss_and_gradients(model)
    assert count == 3 * 7
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(gradients[name] / scale, gradient / scale, rtol=0, atol=1e-5, msg=name)


def test_in_bfloat16_it_is_as_near_to_float32_as_pefts() -> None:
    exact, _ = loss_and_gradients(adapted(build("llama")))
    model = adapted(build("llama").bfloat16())
    pefts, pefts_gradients = loss_and_gradients(model)
    with adapters_in_base_width(model):
        ours, gradients = loss_and_gradients(model)
    assert abs(float(ours - exact)) <= abs(float(pefts - exact)) + 0.02
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        cosine = torch.cosine_similarity(gradient.flatten(), pefts_gradients[name].flatten(), dim=0)
        assert cosine > 0.98, name


@pytest.mark.parametrize("options", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}])
def test_what_is_more_than_lora_stays_pefts(options: dict[str, Any]) -> None:
    with adapters_in_base_width(adapted(build("llama"), **options)) as count:
        assert count == 0


def test_layers_are_pefts_again_afterwards() -> None:
    model = adapted(build("llama"))
    before = [type(module) for module in model.modules()]
    with pytest.raises(RuntimeError, match="stop"), adapters_in_base_width(model) as count:
        raise RuntimeError("stop")
    assert count == before.count(LoraLayer) > 0
    assert [type(module) for module in model.modules()] == before

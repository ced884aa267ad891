"""Adapters in the base's width: PEFT's numbers, and PEFT's own layers again afterwards."""

from __future__ import annotations

import gc
import weakref
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLayer
from tiny_training import build, loss_and_gradients
from torch import nn
from transformers import PreTrainedModel

from babeltune.train import lora_linear
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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 3}},
        {"rank_pattern": {"k_proj": 2, "up_proj": 7}},
    ],
)
@pytest.mark.parametrize("attention_bias", [False, True])
@pytest.mark.parametrize("together", [True, False])
def test_in_float32_it_is_pefts_result(options: dict[str, Any], attention_bias: bool, together: bool) -> None:
    model = adapted(build("llama", attention_bias=attention_bias), **options)
    expected, expected_gradients = loss_and_gradients(model)
    with adapters_in_base_width(model, together=together) as count:
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


@pytest.mark.parametrize("trained", ["input_layernorm", "embed_tokens"])
def test_under_autocast_it_takes_what_a_trained_norm_or_embedding_gives(trained: str) -> None:
    """Those are float32 masters, and hand float32 to layers of a base in 16 bits."""
    base = build("llama", tie_word_embeddings=False).bfloat16()
    model = adapted(base, modules_to_save=[trained])
    for parameter in model.parameters():
        parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pefts, pefts_gradients = loss_and_gradients(model)
        with adapters_in_base_width(model) as count:
            ours, gradients = loss_and_gradients(model)
    assert count > 0
    torch.testing.assert_close(ours, pefts, rtol=0, atol=0.02)
    assert gradients.keys() == pefts_gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        cosine = torch.cosine_similarity(gradient.flatten(), pefts_gradients[name].flatten(), dim=0)
        assert cosine > 0.98, name


@pytest.mark.parametrize("options", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}])
def test_what_is_more_than_lora_stays_pefts(options: dict[str, Any]) -> None:
    with adapters_in_base_width(adapted(build("llama"), **options)) as count:
        assert count == 0


class Attends(nn.Module):
    """Layers of the names that share an input, called as `calls` says."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(8, 6), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, calls: list[tuple[str, torch.Tensor]]) -> torch.Tensor:
        return torch.cat([getattr(self, name)(x) for name, x in calls], dim=-1)


@pytest.mark.parametrize("names", ["qkv", "vkq", "qk", "qqkv"])
@pytest.mark.parametrize("crossed", [False, True])
def test_layers_of_one_input_may_be_called_in_any_way(names: str, crossed: bool) -> None:
    torch.manual_seed(0)
    model = get_peft_model(
        cast("Any", Attends()),
        LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj"], init_lora_weights=False),
    )
    x, other = torch.randn(2, 3, 8, requires_grad=True), torch.randn(2, 3, 8, requires_grad=True)
    # Crossed as in attention to another text: keys and values have an input of their own.
    calls = [(f"{name}_proj", other if crossed and name != "q" else x) for name in names]

    def result() -> tuple[torch.Tensor, ...]:
        out = model(calls)
        wanted = [p for p in model.parameters() if p.requires_grad] + [x]
        gradients = torch.autograd.grad(out.square().sum(), wanted, allow_unused=True)
        return out, *(torch.zeros_like(w) if g is None else g for w, g in zip(wanted, gradients, strict=True))

    expected = result()
    with adapters_in_base_width(model) as count:
        for _ in range(2):
            for found, wanted in zip(result(), expected, strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert count == 3


def test_no_output_outlives_the_layers_that_share_its_input() -> None:
    model = adapted(build("llama"))
    with adapters_in_base_width(model):
        loss_and_gradients(model)
        feeds = [cast("Any", module).feed for module in model.modules() if hasattr(module, "feed")]
    assert len(feeds) == 3 * 5
    assert all(feed.input is None and not feed.waiting for feed in feeds)
    assert not any(hasattr(module, "feed") or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("between", [False, True])
def test_nothing_of_a_row_that_memory_ran_out_in_is_held(
    between: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the products of an input, or between its layers."""

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory, for the test")

    model = adapted(build("llama"))
    attends = cast("Any", model.get_base_model()).model.layers[1].self_attn
    seen: list[weakref.ref[torch.Tensor]] = []

    def see(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(weakref.ref(inputs[0]))
        if not between:
            monkeypatch.setattr(lora_linear, "_outputs", fail)

    attends.q_proj.register_forward_pre_hook(see)
    if between:
        attends.k_proj.register_forward_pre_hook(fail)
    with adapters_in_base_width(model):
        with pytest.raises(torch.OutOfMemoryError):
            loss_and_gradients(model)
        gc.collect()
        feeds = [cast("Any", module).feed for module in model.modules() if hasattr(module, "feed")]
        assert all(feed.input is None and not feed.waiting for feed in feeds)
        assert [row() for row in seen] == [None]


def test_layers_are_pefts_again_afterwards() -> None:
    model = adapted(build("llama"))
    before = [type(module) for module in model.modules()]
    with pytest.raises(RuntimeError, match="stop"), adapters_in_base_width(model) as count:
        raise RuntimeError("stop")
    assert count == before.count(LoraLayer) > 0
    assert [type(module) for module in model.modules()] == before

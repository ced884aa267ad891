"""The memory estimated for a row against what autograd keeps of one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_training import build, kept_by_autograd
from torch import nn
from transformers import PreTrainedModel

from babeltune.models.adapters import attach_new
from babeltune.models.loading import computed_dtype
from babeltune.models.memory import row_bytes_per_token, stage_size
from babeltune.study.settings import StageSettings
from babeltune.train import loop
from babeltune.train.attention import attention_of
from babeltune.train.batches import Row
from babeltune.train.lora_linear import adapters_in_base_width
from babeltune.train.loss import forward_for, row_nll

# Shaped as models are: heads of 64, an MLP of two and a half times the width.
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
EXAMPLES, LENGTH = 4, 96


def row() -> Row:
    """Four examples of the same length, all but their first tokens trained."""
    tokens = EXAMPLES * LENGTH
    place = torch.arange(tokens)
    target = place[place % LENGTH != 0]
    ids = place % 90 + 3
    boundaries = torch.arange(0, tokens + 1, LENGTH, dtype=torch.int32)
    return Row(ids[None], (place % LENGTH)[None], boundaries, LENGTH, target - 1, ids[target])


def kept_bytes_per_token(model: nn.Module, causal: PreTrainedModel, settings: StageSettings) -> float:
    """Of everything that is no weight; what several operations keep counts once."""
    autocast = loop._float32_masters(model, settings, computed_dtype(settings.dtype, "cpu"))
    with (
        attention_of(causal, "blocks"),
        adapters_in_base_width(model),
        loop._sparing_memory(model),
    ):
        forward = forward_for(model, "blocks")
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        rounded = sum(p.numel() * 2 for p in model.parameters() if p.ndim == 2) if autocast else 0
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            kept = kept_by_autograd(lambda: row_nll(forward, row()))
    held = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)
    return (held - rounded) / (EXAMPLES * LENGTH)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "float32"},
        {"lora_dropout": 0.1},
        {"peft": {"use_dora": True}},
        {"method": "full"},
        {"method": "full", "dtype": "float32"},
    ],
    ids=str,
)
def test_the_estimate_is_what_autograd_keeps(architecture: str, options: dict[str, Any]) -> None:
    settings = StageSettings(**{"method": "lora", "learning_rate": 1e-3, "r": 8, **options})
    width = torch.bfloat16 if settings.method == "lora" and settings.dtype == "bfloat16" else torch.float32
    causal = build(architecture, **SHAPE)
    nn.Module.to(causal, width)
    adapted = settings.method == "lora"
    model = attach_new(causal, settings, seed=0, base_name="tiny") if adapted else causal
    size = stage_size(causal.config, settings)
    estimate = row_bytes_per_token(causal.config, settings, size.adapted_inputs, on_cpu=True)
    kept = kept_bytes_per_token(model.train(), causal, settings)
    # Gemma has twice the norms, and in full they are float32.
    least = 0.55 if architecture == "gemma3_text" and not adapted else 0.75
    assert least < estimate / kept < 1.4

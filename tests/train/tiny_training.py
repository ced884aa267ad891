"""Tiny causal models of several architectures, and prepared examples, for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import AutoConfig

from babeltune.data.prepare import Prepared
from babeltune.models.source import LocatedModel, locate
from babeltune.study.places import Places
from babeltune.study.schema import Model
from babeltune.study.settings import StageSettings
from babeltune.train.loop import TrainResult, train

VOCABULARY = 97
WINDOW = 8
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "gemma3_text": {
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}


def build(kind: str, **changes: Any) -> PreTrainedModel:
    """A random float32 model of one architecture, attention windows shorter than the examples."""
    config = AutoConfig.for_model(kind, **{**SHAPE, **ARCHITECTURES.get(kind, {}), **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    # Random models attend almost evenly; larger weights make a leak between examples show.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
    return model


def loss_and_gradients(model: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A model's loss on two fixed rows, and the gradients of what is trained."""
    ids = torch.arange(3, 43).view(2, 20)
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def check_same_inside(model: nn.Module, inside: Callable[[nn.Module], AbstractContextManager[int]]) -> int:
    """Check that `inside(model)` leaves losses and float32 gradients the same. Returns what it gives."""
    expected, expected_gradients = loss_and_gradients(model)
    with inside(model) as count:
        found, gradients = loss_and_gradients(model)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    return count


def kept_by_autograd(forward: Callable[[], object]) -> dict[int, torch.Tensor]:
    """What `forward` leaves for a backward pass, weights included, by the place of its memory: each once,
    however many operations keep it."""
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return kept


def frame(count: int, *, seed: int = 0, shortest: int = 3, longest: int = 30) -> pl.DataFrame:
    """Prepared rows that can be learned: each token is the one before plus a step of the row's own."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        length = int(random.integers(shortest, longest))
        start, step = int(random.integers(VOCABULARY)), int(random.integers(1, 4))
        ids = [(start + step * place) % (VOCABULARY - 10) + 10 for place in range(length - 1)] + [2]
        prompt = int(random.integers(1, length))
        rows.append(
            {
                "id": str(index),
                "language": ("en", "sw")[index % 2],
                "input_ids": ids,
                "trained": [place >= prompt for place in range(length)],
            }
        )
    columns = {
        "id": pl.String,
        "language": pl.String,
        "input_ids": pl.List(pl.Int32),
        "trained": pl.List(pl.Boolean),
    }
    return pl.DataFrame(rows, schema=columns)


def prepared(count: int = 48, held_out: int = 12) -> Prepared:
    return Prepared(frame(count), frame(held_out, seed=1), {})


def settings(method: str = "lora", **changes: Any) -> StageSettings:
    """Settings of a short float32 training."""
    defaults = {"learning_rate": 1e-2, "dtype": "float32", "batch_size": 16, "num_train_epochs": 2.0}
    return StageSettings(method=method, **{**defaults, **changes})  # pyright: ignore[reportArgumentType]


def train_on_prepared(
    model: nn.Module,
    stage: StageSettings,
    work_dir: Path,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    sharded: bool = False,
) -> TrainResult:
    """Train on `prepared()` with seed 0 on the CPU, or go on from what lies in `work_dir`."""
    return train(
        model,
        prepared(),
        stage,
        seed=0,
        work_dir=work_dir,
        on_progress=lambda progress: None,
        should_stop=should_stop,
        device="cpu",
        sharded=sharded,
    )


def located(folder: Path, cache: Path) -> LocatedModel:
    return locate(Model(path=str(folder)), Places(folder), cache)

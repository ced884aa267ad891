"""Rows as long as is fastest, or as memory holds, and smaller ones where it turns out not to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tiny_training import build, located, settings, train_on_prepared
from transformers import LlamaConfig

from babeltune.errors import ModelError
from babeltune.models import memory
from babeltune.models.adapters import attach_new
from babeltune.models.memory import training_memory
from babeltune.train import loop, row_budget
from babeltune.train.group import Group
from babeltune.train.row_budget import halved, training_bytes
from babeltune.train.sharding import must_shard

LLAMA_7B = LlamaConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
)
GIB = 1024**3
LORA_7B = settings(dtype="bfloat16", max_length=1024)
FULL_7B = settings("full", dtype="bfloat16", max_length=1024)


def budget(
    monkeypatch: pytest.MonkeyPatch, total: float, optim: Any = "adamw_torch_fused", **options: Any
) -> int:
    """The budget of a tiny adapted model on a machine of so many bytes."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"total": int(total)}))
    stage = settings(optim=optim)
    model = attach_new(build("llama"), stage, seed=0, base_name="tiny")
    return row_budget.row_budget(model, model.config, stage, "cpu", **options)  # pyright: ignore


def test_memory_enough_gives_the_fastest_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert budget(monkeypatch, 1e9) == row_budget.CPU_ROW_TOKENS


def test_less_memory_gives_shorter_rows_and_processes_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = budget(monkeypatch, 3e6)
    assert 100 < alone < row_budget.CPU_ROW_TOKENS
    assert budget(monkeypatch, 2e6) < alone
    assert budget(monkeypatch, 6e6, processes=2) == alone
    assert budget(monkeypatch, 1) == 1  # the longest example goes through alone, or fails


def test_moments_in_8_bits_leave_room_for_longer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = budget(monkeypatch, 2e6)
    # This model's tensors are so small that no optimizer packs their moments.
    assert budget(monkeypatch, 2e6, "adamw_8bit") == wide
    monkeypatch.setattr(memory, "FEWEST_8BIT_NUMBERS", 1)
    assert wide < budget(monkeypatch, 2e6, "adamw_8bit") < budget(monkeypatch, 2e6, "paged_adamw_8bit")


def test_weights_rounded_for_autocast_take_their_part(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    stage = settings("full", dtype="bfloat16")
    weights = sum(parameter.numel() for parameter in model.parameters())
    # Weight, gradient and two moments, in float32.
    total = 16 * weights + 1e6
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"total": int(total)}))

    def rows(autocast: torch.dtype | None) -> int:
        return row_budget.row_budget(model, model.config, stage, "cpu", autocast=autocast)

    assert 1 < rows(None) < row_budget.CPU_ROW_TOKENS
    assert rows(torch.bfloat16) == pytest.approx(rows(None) * (1 - 2 * weights / 1e6), abs=1)


def test_a_training_under_autocast_counts_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counted: list[torch.dtype | None] = []

    def budget_of(*_: Any, autocast: torch.dtype | None, **options: Any) -> int:
        counted.append(autocast)
        return row_budget.CPU_ROW_TOKENS

    monkeypatch.setattr(loop, "row_budget", budget_of)
    for dtype in ("bfloat16", "float32"):
        stage = settings("full", dtype=dtype, max_steps=1, num_train_epochs=None)
        train_on_prepared(build("llama"), stage, tmp_path / dtype)
    assert counted == [torch.bfloat16, None]


def test_halving_ends_at_the_longest_example() -> None:
    assert halved(1024, 300) == 512
    assert halved(512, 300) == 300
    assert halved(300, 300) is None
    assert halved(1, 300) is None


def test_a_recipe_fits_where_its_longest_example_does() -> None:
    """A device that holds less than the fastest row gets shorter ones, and the recipe is not left out."""
    memory = training_memory(LLAMA_7B, LORA_7B)
    between = memory.of(2000)
    assert memory.tokens_within(between) in (1999, 2000)
    assert training_bytes(LLAMA_7B, LORA_7B, "cuda", between) <= between
    assert training_bytes(LLAMA_7B, LORA_7B, "cuda", 200 * GIB) == memory.of(8192)
    too_small = memory.of(1000)
    assert training_bytes(LLAMA_7B, LORA_7B, "cuda", too_small) == memory.of(1024) > too_small


def test_what_one_device_does_not_hold_several_do() -> None:
    alone = training_bytes(LLAMA_7B, FULL_7B, "cuda", 80 * GIB)
    four = training_bytes(LLAMA_7B, FULL_7B, "cuda", 80 * GIB, devices=4)
    assert four < 80 * GIB < alone
    # Of an adapter's base every device holds all.
    assert training_bytes(LLAMA_7B, LORA_7B, "cuda", 8 * GIB, devices=4) > 8 * GIB


def test_a_model_is_divided_only_where_it_must_be(
    monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path, tmp_path: Path
) -> None:
    start = located(tiny_model_dir, tmp_path)
    monkeypatch.setattr(Group, "of_first", lambda self, value: value)
    two, full = Group(0, 2), settings("full")
    assert not must_shard(start, full, "cpu", two)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"total": 1000}))
    assert must_shard(start, full, "cpu", two)
    assert not must_shard(start, settings(), "cpu", two)
    assert not must_shard(start, full, "cpu", Group())
    for wrong in (settings("full", dtype="float16"), settings("full", optim="adamw_8bit")):
        with pytest.raises(ModelError, match="divided"):
            must_shard(start, wrong, "cpu", two)


def test_no_memory_for_the_longest_example_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from test_loop import fresh, prepared, run

    from babeltune.train.passes import Passes

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory, for the test")

    stage = settings()
    # Held-out loss is given, so that the first pass is one of training.
    monkeypatch.setattr(Passes, "nll", fail)
    with pytest.raises(torch.OutOfMemoryError):
        run(fresh(stage), prepared(), stage, tmp_path, held_out_before={})

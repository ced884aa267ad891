"""One loop for every method: what it learns, what it refuses, what it leaves."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import build, frame, prepared, settings
from torch import nn

from babeltune.data.prepare import Prepared
from babeltune.errors import DataError, JobFailed
from babeltune.models import loading
from babeltune.models.adapters import attach_new
from babeltune.study.settings import StageSettings
from babeltune.train import passes, row_budget
from babeltune.train.batches import Examples, plan_updates
from babeltune.train.history import HistoryRow, divergence
from babeltune.train.loop import TrainResult, train


def run(model: nn.Module, data: Prepared, stage: StageSettings, work: Path, **options: Any) -> TrainResult:
    arguments: dict[str, Any] = {
        "seed": 0,
        "work_dir": work,
        "on_progress": lambda progress: None,
        "should_stop": lambda: False,
        "device": "cpu",
    }
    return train(model, data, stage, **{**arguments, **options})


def fresh(stage: StageSettings, dtype: torch.dtype = torch.float32) -> nn.Module:
    model = build("llama")
    if stage.method == "full":
        return model
    return attach_new(model.to(dtype), stage, seed=0, base_name="tiny")  # pyright: ignore


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_lowers_held_out_loss(method: str, tmp_path: Path) -> None:
    stage = settings(method, num_train_epochs=12.0)
    result = run(fresh(stage), prepared(), stage, tmp_path)
    assert len(result.history) == 36
    assert result.held_out_before.keys() == result.held_out_after.keys() == {"en", "sw"}
    assert all(result.held_out_after[code] < result.held_out_before[code] - 0.2 for code in ("en", "sw"))


def test_the_order_depends_on_the_seed_and_the_rows_on_the_budget_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of any size, and no packing at all, give the same training."""
    stage = settings()
    reference = run(fresh(stage), prepared(), stage, tmp_path / "a")
    monkeypatch.setattr(row_budget, "CPU_ROW_TOKENS", 40)
    small_rows = run(fresh(stage), prepared(), stage, tmp_path / "b")
    single = run(fresh(stage), prepared(), replace(stage, packing=False), tmp_path / "c")
    for other in (small_rows, single):
        for one, two in zip(reference.history, other.history, strict=True):
            assert one.loss == pytest.approx(two.loss, abs=1e-4)
            assert (one.tokens, one.trained_tokens) == (two.tokens, two.trained_tokens)
    other_seed = run(fresh(stage), prepared(), stage, tmp_path / "d", seed=1)
    assert [row.tokens for row in other_seed.history] != [row.tokens for row in reference.history]


def test_an_update_is_normalised_over_all_its_trained_tokens(tmp_path: Path) -> None:
    """The first loss is the plain mean over every trained token of the update, however uneven the rows."""
    stage = settings(batch_size=48)
    data = prepared()
    model = fresh(stage)
    total, count = 0.0, 0
    for ids, trained in zip(data.train["input_ids"].to_list(), data.train["trained"].to_list(), strict=True):
        with torch.no_grad():
            log_probabilities = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        for place in range(1, len(ids)):
            if trained[place]:
                total -= float(log_probabilities[place - 1, ids[place]])
                count += 1
    result = run(model, data, stage, tmp_path)
    assert result.history[0].trained_tokens == count
    assert result.history[0].loss == pytest.approx(total / count, rel=1e-5)


def test_every_example_is_seen_once_an_epoch() -> None:
    examples = Examples.from_frame(frame(50))
    updates = plan_updates(examples, settings(batch_size=16, num_train_epochs=2.5), seed=3)
    assert [len(update.examples) for update in updates] == [16, 16, 16, 2] * 2 + [16, 16]
    for epoch in range(2):
        seen = np.concatenate([update.examples for update in updates[4 * epoch : 4 * epoch + 4]])
        assert sorted(seen) == list(range(50))
    assert updates[3].epoch == 1.0
    assert len(plan_updates(examples, settings(max_steps=7, num_train_epochs=None), seed=3)) == 7


def test_updates_by_tokens_hold_as_many_as_fit() -> None:
    examples = Examples.from_frame(frame(50))
    stage = settings(batch_size=None, batch_tokens=100, num_train_epochs=1.0)
    updates = plan_updates(examples, stage, seed=3)
    sizes = [int(examples.lengths[update.examples].sum()) for update in updates]
    assert all(size <= 100 for size in sizes)
    assert sum(sizes) == examples.lengths.sum()
    longest = examples.lengths.max()
    assert all(size > 100 - longest for size in sizes[:-1])


def test_full_training_moves_float32_masters_at_rates_that_bfloat16_rounds_away(tmp_path: Path) -> None:
    stage = settings(
        "full", dtype="bfloat16", learning_rate=1e-6, num_train_epochs=4.0, lr_scheduler_type="constant"
    )
    model = fresh(stage)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run(model, prepared(), stage, tmp_path)
    after = dict(model.named_parameters())
    assert all(p.dtype == torch.float32 for p in after.values())
    changed = np.mean([float((after[name] != p).float().mean()) for name, p in before.items() if p.ndim == 2])
    survives_bfloat16 = np.mean(
        [
            float((after[name].bfloat16() != p.bfloat16()).float().mean())
            for name, p in before.items()
            if p.ndim == 2
        ]
    )
    assert changed > 0.9
    assert survives_bfloat16 < 0.2


def test_a_cpu_without_bfloat16_products_trains_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {"float32": settings("full", dtype="float32"), "autocast": settings("full", dtype="bfloat16")}
    results = {name: run(fresh(stage), prepared(), stage, tmp_path / name) for name, stage in stages.items()}
    monkeypatch.setattr(loading, "_cpu_multiplies_bfloat16", lambda: False)
    stage = stages["autocast"]
    results["no autocast"] = run(fresh(stage), prepared(), stage, tmp_path / "no autocast")
    curves = {name: [row.loss for row in result.history] for name, result in results.items()}
    assert curves["no autocast"] == curves["float32"] != curves["autocast"]


def test_what_peft_trains_beside_lora_has_float32_masters_too(tmp_path: Path) -> None:
    stage = settings(
        dtype="bfloat16",
        target_modules=("q_proj",),
        peft={"modules_to_save": ["lm_head"]},
        learning_rate=1e-3,
    )
    model = build("llama", tie_word_embeddings=False).to(torch.bfloat16)  # pyright: ignore
    adapted = attach_new(model, stage, seed=0, base_name="tiny")
    result = run(adapted, prepared(), stage, tmp_path)
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert any("lm_head" in name for name in trained)
    assert all(p.dtype == torch.float32 for p in trained.values())
    assert result.history[-1].loss < result.history[0].loss


def test_the_end_token_is_learned(tmp_path: Path) -> None:
    """Every answer ends with token 2; after training the model says so where an answer ends."""
    stage = settings("full", num_train_epochs=30.0, learning_rate=3e-3)
    model = fresh(stage)
    rows = frame(48)
    run(model, Prepared(rows, rows[:8], {}), stage, tmp_path)
    model.eval()
    hits = 0
    for ids in rows["input_ids"].to_list()[:12]:
        with torch.no_grad():
            hits += int(model(input_ids=torch.tensor([ids[:-1]])).logits[0, -1].argmax()) == 2
    assert hits >= 8


@pytest.mark.parametrize(
    "stage", [settings(gradient_checkpointing=True), settings("full", gradient_checkpointing=True)]
)
def test_activation_checkpointing_changes_nothing(stage: StageSettings, tmp_path: Path) -> None:
    plain = replace(stage, gradient_checkpointing=False)
    reference = run(fresh(plain), prepared(), plain, tmp_path / "a")
    model = fresh(stage)
    other = run(model, prepared(), stage, tmp_path / "b")
    assert [row.loss for row in other.history] == pytest.approx(
        [row.loss for row in reference.history], abs=1e-5
    )
    assert not any(module._forward_hooks for module in model.modules())  # a kept base is used again


def test_a_diverged_training_is_stopped_with_its_curve(tmp_path: Path) -> None:
    stage = settings("full", learning_rate=50.0, warmup_ratio=0.0, max_grad_norm=1e9, num_train_epochs=20.0)
    with pytest.raises(JobFailed, match="diverged"):
        run(fresh(stage), prepared(), stage, tmp_path)
    curve = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert 0 < len(curve) < 60


def test_a_training_lost_at_its_first_update_has_no_start_to_be_compared_with() -> None:
    def after(*losses: float) -> list[HistoryRow]:
        return [HistoryRow(n, 0.0, loss, 1.0, 1.0, 1, 1, 1.0) for n, loss in enumerate(losses, 1)]

    lost = after(4.7, *[30000.0] * 9)
    assert "rose from 4.57" in str(divergence(lost, vocabulary=97, scaled=False))
    assert divergence(after(4.7, 13.0, 9.0, 7.0, 6.0), vocabulary=97, scaled=False) is None


def test_a_model_that_nothing_reaches_any_more_is_a_divergence() -> None:
    """Weights of a million overflow its norms: all activations are zero, and the loss is that of guessing."""
    dead = [
        HistoryRow(1, 0.0, 4.7, 1.0, 1.0, 1, 1, 1.0),
        HistoryRow(2, 0.0, math.log(97), 1.0, 0.0, 1, 1, 1.0),
    ]
    assert "gradient is zero" in str(divergence(dead, vocabulary=97, scaled=False))
    learned = [HistoryRow(1, 0.0, 0.0, 1.0, 0.0, 1, 1, 1.0)]
    assert divergence(learned, vocabulary=97, scaled=False) is None


def test_a_loss_that_is_not_a_number_is_a_divergence(tmp_path: Path) -> None:
    stage = settings()
    model = fresh(stage)
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).fill_(math.nan)
    with pytest.raises(JobFailed, match="nan"):
        run(model, prepared(), stage, tmp_path)
    assert json.loads((tmp_path / "history.jsonl").read_text().splitlines()[0])["loss"] is None


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    rows = frame(10)
    with pytest.raises(DataError, match="no example"):
        run(fresh(settings()), Prepared(rows.clear(), rows, {}), settings(), tmp_path)


def test_float16_scales_its_loss(tmp_path: Path) -> None:
    stage = settings("full", dtype="float16")
    result = run(fresh(stage), prepared(), stage, tmp_path)
    assert result.history[-1].loss < result.history[0].loss


def test_meters_add_up(tmp_path: Path) -> None:
    stage = settings(num_train_epochs=1.0)
    data = prepared()
    result = run(fresh(stage), data, stage, tmp_path)
    meters = result.meters
    assert meters.tokens == data.train["input_ids"].list.len().sum()
    assert meters.trained_tokens == sum(row.trained_tokens for row in result.history)
    assert meters.wall_seconds >= meters.train_seconds > 0
    assert meters.device_seconds > 0
    assert meters.peak_memory_bytes > 50e6
    assert meters.energy_joules is None
    json.dumps(meters.to_json())


@pytest.mark.parametrize(
    ("changes", "cpu", "cuda"),
    [
        ({"packing": False, "max_length": 512}, 512, 512),
        ({"max_length": 512}, 2048, 8192),
        ({"max_length": 4096}, 4096, 8192),
        ({"max_length": 512, "batch_size": 3}, 1536, 1536),
        ({"max_length": 512, "batch_size": None, "batch_tokens": 3000}, 2048, 3000),
        ({"max_length": 512, "batch_size": None, "batch_tokens": 100}, 512, 512),
    ],
)
def test_the_row_that_memory_must_hold(changes: dict[str, Any], cpu: int, cuda: int) -> None:
    stage = settings(**changes)
    wanted = row_budget.wanted_row_tokens
    assert (wanted(stage, "cpu"), wanted(stage, "cuda")) == (cpu, cuda)


def test_no_row_of_a_training_is_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_budget, "CPU_ROW_TOKENS", 64)
    stage = settings(max_length=30, batch_size=48)
    lengths: list[int] = []
    build_row = passes.build_row

    def noting(*arguments: Any) -> Any:
        row = build_row(*arguments)
        lengths.append(row.tokens)
        return row

    monkeypatch.setattr(passes, "build_row", noting)
    run(fresh(stage), prepared(), stage, tmp_path)
    assert 30 < max(lengths) <= row_budget.wanted_row_tokens(stage, "cpu") == 64

"""Interrupted anywhere and continued equals never interrupted, bit for bit."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import build, settings, train_on_prepared
from torch import nn

from babeltune.errors import Interrupted
from babeltune.models.adapters import attach_new
from babeltune.study.settings import StageSettings
from babeltune.train import checkpoint, loop, row_budget
from babeltune.train.loop import TrainResult

STAGES = {
    "lora with dropout": settings(lora_dropout=0.3, learning_rate=3e-3),
    "lora with dropout, 16 bit": settings(lora_dropout=0.3, dtype="bfloat16", learning_rate=3e-3),
    "full": settings("full", learning_rate=1e-3),
    "full, autocast": settings("full", dtype="bfloat16", learning_rate=1e-3),
}


def attempt(
    stage: StageSettings, work: Path, should_stop: Callable[[], bool]
) -> tuple[TrainResult, dict[str, torch.Tensor]]:
    """Train a new copy of the model, as a new process would; give back the weights trained."""
    model: nn.Module = build("llama")
    if stage.method == "lora":
        width = torch.bfloat16 if stage.dtype == "bfloat16" else torch.float32
        model = attach_new(model.to(width), stage, seed=0, base_name="tiny")  # pyright: ignore
    # Whatever the process drew before must not matter.
    torch.manual_seed(time.time_ns() % 2**31)
    result = train_on_prepared(model, stage, work, should_stop=should_stop)
    return result, {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def stop_at(asked: int) -> Callable[[], bool]:
    """True at the given question and from then on."""
    questions = iter(range(10**9))
    return lambda: next(questions) >= asked


@pytest.mark.parametrize("name", STAGES)
def test_interrupted_equals_uninterrupted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = STAGES[name]
    monkeypatch.setattr(
        row_budget, "CPU_ROW_TOKENS", 64
    )  # several rows an update, so that stops fall inside one
    whole, expected = attempt(stage, tmp_path / "whole", lambda: False)
    interruptions = 0
    for asked in (1, 9, 12, 17, 30):
        try:
            attempt(stage, tmp_path / "cut", stop_at(asked))
        except Interrupted:
            interruptions += 1
    continued, found = attempt(stage, tmp_path / "cut", lambda: False)
    assert interruptions >= 3
    for key, weight in expected.items():
        assert torch.equal(found[key], weight), key
    assert [row.loss for row in continued.history] == [row.loss for row in whole.history]
    assert continued.held_out_after == whole.held_out_after
    assert continued.held_out_before == whole.held_out_before
    assert continued.meters.tokens == whole.meters.tokens
    assert continued.meters.flops == whole.meters.flops


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = STAGES["lora with dropout"]
    _, expected = attempt(stage, tmp_path / "whole", lambda: False)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", float("inf"))
    with pytest.raises(Interrupted):
        attempt(stage, tmp_path / "cut", stop_at(6))
    kept = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    assert len(kept) == 2
    tensors = kept[-1] / "tensors.pt"
    content = bytearray(tensors.read_bytes())
    content[len(content) // 2] ^= 0xFF
    tensors.write_bytes(content)
    with caplog.at_level(logging.INFO):
        _, found = attempt(stage, tmp_path / "cut", lambda: False)
    assert "damaged" in caplog.text
    assert f"after update {int(kept[0].name[5:])} of" in caplog.text
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_half_written_checkpoint_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / ".part-step-00000009").mkdir()
    assert checkpoint.load_newest(tmp_path) is None
    checkpoint.save(tmp_path, checkpoint.Checkpoint(1, {"w": torch.ones(2)}, {"a": 1}), beside=None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert (found.step, found.state, found.tensors["w"].tolist()) == (1, {"a": 1}, [1.0, 1.0])


def test_interrupted_in_the_last_evaluation_repeats_no_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = STAGES["lora with dropout"]
    whole, expected = attempt(stage, tmp_path / "whole", lambda: False)
    with monkeypatch.context() as patched:
        evaluations = iter(range(10))
        take = loop.held_out_loss

        def stopped_the_second_time(*arguments: Any, **options: Any) -> dict[str, float]:
            if next(evaluations) == 1:
                raise Interrupted("stopped")
            return take(*arguments, **options)

        patched.setattr(loop, "held_out_loss", stopped_the_second_time)
        with pytest.raises(Interrupted):
            attempt(stage, tmp_path / "cut", lambda: False)
    with monkeypatch.context() as patched:
        patched.setattr(loop._Training, "_one_update", lambda *_: pytest.fail("an update was repeated"))
        continued, found = attempt(stage, tmp_path / "cut", lambda: False)
    assert continued.held_out_after == whole.held_out_after
    assert [row.loss for row in continued.history] == [row.loss for row in whole.history]
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_no_more_than_two_checkpoints_ever_lie_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    write = torch.save

    def counting(tensors: dict[str, Any], path: Path) -> None:
        write(tensors, path)
        seen.append(sorted(place.name for place in tmp_path.iterdir()))

    monkeypatch.setattr(torch, "save", counting)
    for step in range(1, 5):
        checkpoint.save(tmp_path, checkpoint.Checkpoint(step, {"w": torch.ones(2)}, {}), beside=step - 1)
    assert [len(names) for names in seen] == [1, 2, 2, 2]
    assert seen[-1] == [".part-step-00000004", "step-00000003"]
    assert [place.name for place in sorted(tmp_path.iterdir())] == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("next_step", [15, 20, 25])
def test_a_damaged_checkpoint_does_not_outlive_the_good_one_before_it(next_step: int, tmp_path: Path) -> None:
    def save(step: int, beside: int | None) -> None:
        checkpoint.save(tmp_path, checkpoint.Checkpoint(step, {"w": torch.ones(2)}, {}), beside=beside)

    def newest() -> int:
        found = checkpoint.load_newest(tmp_path)
        assert found is not None
        return found.step

    save(10, None)
    save(20, 10)
    (tmp_path / "step-00000020" / "tensors.pt").write_bytes(b"damaged")
    assert newest() == 10
    save(next_step, 10)
    assert newest() == next_step
    assert sorted(place.name for place in tmp_path.iterdir()) == ["step-00000010", f"step-{next_step:08d}"]


def test_a_training_keeps_the_good_checkpoint_that_it_went_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = STAGES["lora with dropout"]
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", float("inf"))
    with pytest.raises(Interrupted):
        attempt(stage, tmp_path, stop_at(6))
    good, damaged = sorted((tmp_path / "checkpoints").iterdir())
    (damaged / "tensors.pt").write_bytes(b"damaged")
    # Until it is past the damaged one.
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 1e9)
    with pytest.raises(Interrupted):
        attempt(stage, tmp_path, stop_at(2))
    left = sorted((tmp_path / "checkpoints").iterdir())
    assert left[0] == good
    assert len(left) == 2
    assert left[1] > damaged


def test_random_states_return_through_a_file(tmp_path: Path) -> None:
    checkpoint.save(
        tmp_path, checkpoint.Checkpoint(1, {"random": checkpoint.random_state("cpu")}, {}), beside=None
    )
    expected = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    checkpoint.set_random_state(found.tensors["random"], "cpu")
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == expected

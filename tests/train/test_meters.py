"""Costs are measured, and the formula for arithmetic counts what torch counts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import build, frame, settings, train_on_prepared
from torch.utils.flop_counter import FlopCounterMode

from babeltune.errors import Interrupted
from babeltune.models.adapters import attach_new
from babeltune.study.settings import StageSettings
from babeltune.train import attention, checkpoint, loop, meters
from babeltune.train.attention import attention_of
from babeltune.train.batches import Examples, build_row
from babeltune.train.loss import forward_for, row_nll
from babeltune.train.meters import FlopsFormula, Meters, flops_formula, metering


@pytest.mark.parametrize(
    ("stage", "tolerance"),
    [
        (settings("full"), 0.0),
        (settings(), 0.03),
        (settings(peft={"modules_to_save": ["lm_head"]}), 0.03),
        (settings(target_modules=("lm_head", "q_proj", "up_proj")), 0.03),
    ],
    ids=["full", "lora", "head trained in full", "lora on the head"],
)
def test_the_flops_formula_counts_the_matrix_products_that_torch_counts(
    stage: StageSettings, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch's own attention, which its counter tells from other products; ours would count its padding too.
    monkeypatch.setattr(attention, "LONGEST", 0)
    base = build("llama", num_hidden_layers=8, tie_word_embeddings=False)
    model = base if stage.method == "full" else attach_new(base, stage, seed=0, base_name="x")
    examples = Examples.from_frame(frame(6))
    row = build_row(examples, range(6), "cpu")
    formula = flops_formula(model, base.get_output_embeddings(), base.config)
    with attention_of(base, "blocks"):
        forward = forward_for(model, "blocks")
        with FlopCounterMode(display=False) as counter:
            row_nll(forward, row).backward()
    products = counter.get_flop_counts()["Global"]
    counted = sum(count for kind, count in products.items() if "attention" not in str(kind))
    without_attention = FlopsFormula(formula.body_per_token, formula.head_per_trained_token, 0.0, ())
    # LoRA: torch skips the gradient of the first layer's input, which nothing is trained before.
    assert without_attention.of(examples.lengths, len(row.target_N)) == pytest.approx(
        counted, rel=tolerance or 1e-9
    )


def test_attention_is_counted_by_what_it_sees() -> None:
    lengths = np.array([3, 5])
    whole = FlopsFormula(0.0, 0.0, 1.0, (None,))
    windowed = FlopsFormula(0.0, 0.0, 1.0, (2, None))
    assert whole.of(lengths, 0) == (1 + 2 + 3) + (1 + 2 + 3 + 4 + 5)
    assert windowed.of(lengths, 0) == whole.of(lengths, 0) + (1 + 2 + 2) + (1 + 2 + 2 + 2 + 2)


def test_the_peak_is_that_of_the_work_not_of_the_process() -> None:
    with metering("cpu") as first:
        block = torch.ones(60_000_000)
        time.sleep(0.3)
        del block
    with metering("cpu") as second:
        time.sleep(0.2)
    assert first.read().peak_memory_bytes > second.read().peak_memory_bytes + 200e6


def test_costs_of_two_parts_add_up() -> None:
    one = Meters(wall_seconds=1, tokens=10, flops=5, peak_memory_bytes=7, trainable_parameters=3)
    two = Meters(wall_seconds=2, tokens=20, flops=6, peak_memory_bytes=4, trainable_parameters=3)
    both = one.plus(two)
    assert (both.wall_seconds, both.tokens, both.flops, both.peak_memory_bytes) == (3, 30, 11, 7)
    assert both.trainable_parameters == 3
    assert both.energy_joules is None


@pytest.mark.parametrize("counter", [True, False])
def test_a_training_says_what_energy_it_took_where_that_is_counted(
    counter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joules = itertools.count(100.0, 5.0)
    monkeypatch.setattr(meters, "_energy_joules", lambda device: next(joules) if counter else None)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", float("inf"))
    stage = settings()
    asked = itertools.count()

    def attempt(should_stop: Callable[[], bool]) -> float | None:
        model = attach_new(build("llama"), stage, seed=0, base_name="tiny")
        return train_on_prepared(model, stage, tmp_path, should_stop=should_stop).meters.energy_joules

    with pytest.raises(Interrupted):
        attempt(lambda: next(asked) > 3)
    saved = checkpoint.load_newest(tmp_path / "checkpoints")
    assert saved is not None
    before = saved.state["meters"]["energy_joules"]
    after = attempt(lambda: False)
    if counter:
        assert after > before > 0  # pyright: ignore[reportOptionalOperand]
    else:
        assert before is None
        assert after is None

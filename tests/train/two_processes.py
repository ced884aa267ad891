"""What the tests of several devices have two processes do: small trainings, their results left in a folder.

Trainings of a name are the same whether one process does them (`train_alone`) or two (`main`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_training import build, located, settings, train_on_prepared
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from babeltune.errors import Interrupted
from babeltune.execute.processes import joined
from babeltune.models import loading
from babeltune.models.adapters import attach_new
from babeltune.models.session import ModelSession, TrainedModel
from babeltune.study.settings import StageSettings
from babeltune.train import checkpoint, gradients, row_budget, stage
from babeltune.train.group import Group, current_group
from babeltune.train.loop import TrainResult
from babeltune.train.passes import Passes
from babeltune.train.sharding import own_part, unsharded, whole_here

# Computing in 16 bits is tested on every machine.
loading._cpu_multiplies_bfloat16 = lambda: True
ROW_TOKENS = 64
# With the usual 1e-8 Adam makes a whole step out of rounding where a gradient is all but zero.
LORA = settings(learning_rate=3e-3, adam_epsilon=1e-4)
FULL = settings("full", learning_rate=1e-3, adam_epsilon=1e-4)
STAGES: dict[str, StageSettings] = {
    "lora": LORA,
    "lora with dropout": replace(LORA, lora_dropout=0.3),
    "full": FULL,
    "sharded": FULL,
    "sharded, tied": FULL,
    "sharded, 16 bit": replace(FULL, dtype="bfloat16"),
    "sharded, checkpointed": replace(FULL, gradient_checkpointing=True),
    # One process has nothing to do.
    "lora, one example": replace(LORA, batch_size=1, max_steps=3, num_train_epochs=None),
    "sharded, one example": replace(FULL, batch_size=1, max_steps=3, num_train_epochs=None),
}
# Trainings that are interrupted, and at which question whether to.
CUT, ASKED = ("lora", "lora with dropout", "sharded"), 9


def never() -> bool:
    return False


def train_once(name: str, work: Path, should_stop: Callable[[], bool] = never) -> dict[str, Any]:
    """One training from the start, or from the checkpoint in `work`; its history, weights, last gradients."""
    how, group = STAGES[name], current_group()
    sharded = name.startswith("sharded") and group.size > 1
    model: Any = build("llama", tie_word_embeddings="tied" in name)
    if how.method == "lora":
        model = attach_new(model, how, seed=0, base_name="tiny")
    result: TrainResult = train_on_prepared(model, how, work, should_stop=should_stop, sharded=sharded)
    saved = unsharded(model, group) if sharded else None
    for module in model.modules():
        if isinstance(module, FSDPModule):  # what was computed with last is still whole
            module.reshard()
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert all(isinstance(p, DTensor) for p in trained.values()) == sharded
    return {
        "history": [(row.loss, row.gradient_norm, row.tokens, row.trained_tokens) for row in result.history],
        "held_out": (result.held_out_before, result.held_out_after),
        "weights": {key: whole_here(p.detach()).clone() for key, p in trained.items()},
        "gradients": {key: whole_here(p.grad).clone() for key, p in trained.items() if p.grad is not None},
        "sharded": isinstance(model, FSDPModule),
        "held": sum(own_part(p).numel() for p in trained.values()),
        "saved": saved and {key: value.clone() for key, value in saved.state_dict().items()},
        "devices": [(meters.device_seconds, meters.peak_memory_bytes) for meters in result.devices],
        "meters": (result.meters.device_seconds, result.meters.peak_memory_bytes),
    }


def cut(name: str, work: Path, asked: int) -> int:
    """Interrupt a training at its `asked`-th question; in a group only the first process is asked to stop.

    Returns the step of the checkpoint.
    """
    questions = iter(range(10**9))

    def stop() -> bool:
        return current_group().is_first and next(questions) >= asked

    try:
        train_once(name, work, stop)
    except Interrupted:
        found = checkpoint.load_newest(work / "checkpoints")
        assert found is not None
        return found.step
    raise AssertionError("it was not interrupted")


class NoMemory:
    """Runs out of memory once, in the last process, at its `at`-th row."""

    def __init__(self, at: int) -> None:
        self.nll, self.at, self.calls = Passes.nll, at, 0

    def __call__(self, passes: Passes, *arguments: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and current_group().rank == current_group().size - 1:
            self.calls += 1
            if self.calls == self.at:
                raise torch.OutOfMemoryError("out of memory, for the test")
        return self.nll(passes, *arguments)


def train_without_memory(name: str, work: Path, at: int = 7) -> dict[str, Any]:
    """A training that runs out of memory once, with the rows' sizes at its end."""
    patched = NoMemory(at)
    sizes = []
    halved = gradients.halved

    def noting(*arguments: Any) -> int | None:
        sizes.append(halved(*arguments))
        return sizes[-1]

    Passes.nll = lambda self, *arguments: patched(self, *arguments)  # pyright: ignore
    gradients.halved = noting  # pyright: ignore
    try:
        return {**train_once(name, work), "halved": sizes}
    finally:
        Passes.nll = patched.nll  # pyright: ignore
        gradients.halved = halved


def divided_stage(folder: Path, out: Path, work: Path) -> None:
    """A whole stage from `folder/model` on `folder/data`; in `main` its model is divided."""
    start = TrainedModel(located(folder / "model", folder / "cache"))
    around = stage.Surroundings(
        session=ModelSession("cpu"),
        start=start,
        prepared_dir=folder / "data",
        work_dir=work,
        out=out,
        on_progress=lambda progress: None,
        should_stop=never,
    )
    stage.train_stage(FULL, 0, around)


def main(rank: int, size: int, folder: Path) -> None:
    """Everything that two processes are to do; results go to `folder/RANK.pt`."""
    torch.set_num_threads(1)
    row_budget.CPU_ROW_TOKENS = ROW_TOKENS
    stage.must_shard = lambda *_: True
    results: dict[str, Any] = {}
    with joined(rank, size, "cpu", str(folder / "store")):
        assert current_group() == Group(rank, size)
        for name in STAGES:
            results[name] = train_once(name, folder / name)
        for name in CUT:
            results[f"{name}, cut at"] = cut(name, folder / f"{name}, cut by two", ASKED)
            results[f"{name}, continued"] = train_once(name, folder / f"{name}, cut by two")
            cut(name, folder / f"{name}, cut for one", ASKED)
            results[f"{name}, continued from one"] = train_once(name, folder / f"{name}, cut by one")
        divided_stage(folder, folder / f"stage{rank}", folder / "stage work")
        results["lora, without memory"] = train_without_memory("lora", folder / "memory")
    torch.save(results, folder / f"{rank}.pt")

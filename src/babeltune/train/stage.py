"""One training stage from start to artifact: take the model, train it, leave what was trained in a folder.

The folder then holds `adapter/` (a plain PEFT folder) or `model/` (a plain transformers folder: trained in
full, or merged because a later stage starts from it), `history.jsonl` (the updates), `held_out.json` (loss by
language, before and after) and, of a training over several devices, `devices.json` (what each of them spent).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from torch import nn

from babeltune.data.prepare import read_prepared
from babeltune.errors import ModelError
from babeltune.models.adapters import save_adapter
from babeltune.models.export import export_merged, save_chat_template, save_model
from babeltune.models.session import ModelSession, TrainedModel
from babeltune.study.settings import StageSettings
from babeltune.train.group import current_group
from babeltune.train.history import Progress, write_history
from babeltune.train.loop import TrainResult, train
from babeltune.train.sharding import must_shard, unsharded

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Surroundings:
    """Where a stage is trained: everything that says nothing about how.

    `start` is the untouched base or what the stage before left. `prepared_dir` holds the examples,
    `work_dir` keeps checkpoints between interruptions, `out` takes the results.
    """

    session: ModelSession
    start: TrainedModel
    prepared_dir: Path
    work_dir: Path
    out: Path
    on_progress: Callable[[Progress], None]
    should_stop: Callable[[], bool]


@dataclass(frozen=True)
class StageResult:
    """What a stage left in its folder (`kind` names the subfolder), and how the training went."""

    kind: Literal["adapter", "model"]
    training: TrainResult


def train_stage(
    settings: StageSettings, seed: int, around: Surroundings, *, merge_after: bool = False
) -> StageResult:
    """Train one stage and write its artifact; the session is left clean.

    With `merge_after` (a later stage starts from merged weights) a LoRA stage leaves `model/` instead of
    `adapter/`.

    Raises:
        Interrupted: after a checkpoint; the same call continues.
        JobFailed: the training diverged.
        UserError: the adapter does not fit the model, or the optimizer does not fit the device.
    """
    start, out = around.start, around.out
    prepared = read_prepared(around.prepared_dir)
    check_continues(start, settings)
    out.mkdir(parents=True, exist_ok=True)
    initial = around.work_dir / "initial"
    group = current_group()
    with model_to_train(around, settings, seed) as (model, sharded):
        if settings.changes_base and start.adapter is None and settings.method == "lora" and group.is_first:
            save_adapter(cast("PeftModel", model), initial)
        result = train(
            model,
            prepared,
            settings,
            seed=seed,
            work_dir=around.work_dir,
            on_progress=around.on_progress,
            should_stop=around.should_stop,
            device=around.session.device,
            sharded=sharded,
        )
        whole = unsharded(cast("PreTrainedModel", model), group) if sharded else model
        if group.is_first:
            _save(whole, around, settings, initial)
        del model, whole
    if settings.method == "lora" and merge_after and group.is_first:
        _merge_in_place(around, settings)
    if group.is_first:
        _write_records(out, result)
    return StageResult("model" if settings.method == "full" or merge_after else "adapter", result)


@contextmanager
def model_to_train(
    around: Surroundings, settings: StageSettings, seed: int
) -> Iterator[tuple[nn.Module, bool]]:
    """The model that a stage trains, and whether to shard it; at the end the session is left clean."""
    session, start = around.session, around.start
    sharded = must_shard(start.under, settings, session.device, current_group())
    try:
        if settings.method == "full":
            yield session.full_to_train(start, settings, device="cpu" if sharded else None), sharded
        else:
            yield session.adapter_to_train(start, settings, seed=seed), sharded
    finally:
        session.discard() if settings.method == "full" else session.release()


def check_continues(start: TrainedModel, settings: StageSettings) -> None:
    """Refuse to train an adapter further as something else than what it is.

    Raises:
        ModelError: its rank or the width under it differs from the settings.
    """
    if start.adapter is None or settings.method == "full":
        return
    rank = json.loads((start.adapter / "adapter_config.json").read_text())["r"]
    if (rank, start.bits) != (settings.r, settings.bits):
        raise ModelError(
            f"a stage that keeps training an adapter of rank {rank} on {start.bits} bits can't change it to "
            f"rank {settings.r} on {settings.bits} bits",
            remedy="give both stages the same `r` and `bits`, or let the first one merge (`then: merge`)",
        )


def _save(model: nn.Module | None, around: Surroundings, settings: StageSettings, initial: Path) -> None:
    """Write what was trained; `initial` is the adapter before training, where it changed its base."""
    base, out = around.start.base, around.out
    if settings.method == "full":
        save_model(cast("PreTrainedModel", model), base, out / "model", dtype=settings.dtype)
    else:
        save_adapter(cast("PeftModel", model), out / "adapter", initial=initial if initial.is_dir() else None)
        save_chat_template(base, out / "adapter")


def _write_records(out: Path, result: TrainResult) -> None:
    write_history(out / "history.jsonl", result.history)
    held_out = {"before": result.held_out_before, "after": result.held_out_after}
    (out / "held_out.json").write_text(json.dumps(held_out, indent=1))
    if len(result.devices) > 1:
        (out / "devices.json").write_text(json.dumps([one.to_json() for one in result.devices], indent=1))


def _merge_in_place(around: Surroundings, settings: StageSettings) -> None:
    """Replace `adapter/` by the merged `model/`: the unpacked base plus the adapter."""
    start, session, out = around.start, around.session, around.out
    trained = TrainedModel(start.base, weights=start.weights, adapter=out / "adapter", bits=settings.bits)
    session.discard()
    export_merged(trained, out / "model", dtype=settings.dtype, device=session.device)
    shutil.rmtree(out / "adapter")

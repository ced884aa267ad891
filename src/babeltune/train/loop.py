"""The training loop: one, for every method.

An update is some examples in an order that depends on seed and examples only. They are shared out among the
processes of the group, packed into rows, each row's summed loss is divided by the trained tokens of the whole
update, and gradients add up over rows and processes. An interrupted training continues as if it had not been:
a checkpoint holds the trained weights, optimizer, schedule, random states, place in the data, history and
costs, all as of the start of an update.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from babeltune.errors import Interrupted, JobFailed
from babeltune.models.loading import computed_dtype
from babeltune.study.settings import StageSettings
from babeltune.train import checkpoint
from babeltune.train.attention import attention_of, packing_for
from babeltune.train.batches import Examples, Row, Update, plan_updates
from babeltune.train.compiling import compiled_layers
from babeltune.train.gated_product import gated_products_keeping_less
from babeltune.train.gradients import take_gradients
from babeltune.train.group import current_group
from babeltune.train.heldout import EXAMPLES_PER_LANGUAGE, held_out_loss
from babeltune.train.history import HistoryRow, Progress, divergence, progress_since, write_history
from babeltune.train.lora_linear import adapters_in_base_width
from babeltune.train.loss import Forward, forward_for, row_nll
from babeltune.train.meters import Meter, Meters, flops_formula, matmul_peak, metering
from babeltune.train.optimizer import make_optimizer, make_schedule
from babeltune.train.passes import Passes
from babeltune.train.rms_norm import norms_in_few_passes
from babeltune.train.rotary import rotation_in_few_passes
from babeltune.train.row_budget import row_budget
from babeltune.train.sharding import (
    copy_whole,
    optimizer_state_in_parts,
    shard,
    through_shards,
    whole,
    whole_here,
)

if TYPE_CHECKING:
    from babeltune.data.prepare import Prepared

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 60.0
# Large checkpoints come less often, so that writing them never takes more than this share of the time.
CHECKPOINT_SHARE = 0.05
# Between the seeds of a group's processes: farther apart than the seeds of a study's runs.
SEED_STEP = 1_000_003


@dataclass(frozen=True)
class TrainResult:
    """What a training left besides its weights; the same in every process of the group.

    Held-out losses are nats per trained token, by language; `held_out_after` is empty where the training
    was given up. `devices`: what each process spent since this attempt began.
    """

    history: tuple[HistoryRow, ...]
    meters: Meters
    held_out_before: dict[str, float]
    held_out_after: dict[str, float]
    devices: tuple[Meters, ...]


@dataclass
class _Place:
    """How far a training is: the part of its state that is plain data."""

    step: int = 0
    history: list[HistoryRow] = field(default_factory=list)
    # No energy yet, and not no meter: of what has none the sum has none either.
    earlier: Meters = field(default_factory=lambda: Meters(energy_joules=0.0))
    flops: float = 0.0
    held_out_before: dict[str, float] | None = None


def train(
    model: nn.Module,
    prepared: Prepared,
    settings: StageSettings,
    *,
    seed: int,
    work_dir: Path,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    device: str,
    held_out_per_language: int = EXAMPLES_PER_LANGUAGE,
    held_out_before: dict[str, float] | None = None,
    give_up: Callable[[Sequence[HistoryRow]], bool] = lambda history: False,
    sharded: bool = False,
) -> TrainResult:
    """Train the unfrozen weights of `model` (bare, or with a PEFT adapter) in place.

    Continues from the last good checkpoint in `work_dir`, which belongs to this training alone. The model
    comes freshly loaded or with a fresh adapter. Held-out loss is taken after training, and before unless
    `held_out_before` says what it was. `give_up`, asked after each update, ends the training early; there
    is no held-out loss after it then.

    Every process of a group calls this alike, with its own `device`; the first one's callbacks count, and it
    alone writes. With `sharded` the model comes on the CPU, and each process keeps a part on its device.

    Raises:
        Interrupted: `should_stop` said so; a checkpoint lies in `work_dir`.
        JobFailed: the training diverged; its curve is in `work_dir/history.jsonl`.
    """
    causal = cast("PreTrainedModel", model.get_base_model() if isinstance(model, PeftModel) else model)
    packing = packing_for(causal, packing=settings.packing)
    with (
        metering(device) as meter,
        attention_of(causal, packing),
        adapters_in_base_width(model, together=not settings.torch_compile),
        # Compiled, transformers' own are one pass.
        nullcontext() if settings.torch_compile else _sparing_memory(model),
        _checkpointed(causal, settings),
        compiled_layers(causal, settings),
    ):
        training = _Training(
            model, forward_for(model, packing), prepared, settings, seed, work_dir, device, sharded
        )
        training.held_out_per_language = held_out_per_language
        training.place.held_out_before = held_out_before
        training.resume()
        return training.run(on_progress, should_stop, give_up, meter)


class _Training:
    """The state of one training; `run` is the loop."""

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        prepared: Prepared,
        settings: StageSettings,
        seed: int,
        work_dir: Path,
        device: str,
        sharded: bool,
    ) -> None:
        self.model, self.forward, self.settings, self.device = model, forward, settings, device
        self.group, self.sharded = current_group(), sharded
        self.examples = Examples.from_frame(prepared.train)
        self.held_out = Examples.from_frame(prepared.held_out)
        self.updates = plan_updates(self.examples, settings, seed)
        self.checkpoints = work_dir / "checkpoints"
        self.curve = work_dir / "history.jsonl"
        self.width = computed_dtype(settings.dtype, device)
        self.autocast = _float32_masters(model, settings, self.width)
        nll: Callable[[Row], torch.Tensor] = partial(row_nll, forward)
        if sharded:
            shard(forward.causal, device, self.group, self.autocast)
            nll = through_shards(forward.causal, nll)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(model, settings)
        self.schedule = make_schedule(self.optimizer, settings, len(self.updates))
        # float16 gradients underflow without it; for the other widths it does nothing.
        self.scaler = torch.amp.GradScaler(torch.device(device).type, enabled=self.width == torch.float16)
        fitting = row_budget(
            model,
            forward.causal.config,
            settings,
            device,
            autocast=self.autocast,
            processes=self.group.size,
        )
        self.passes = Passes(
            forward,
            nll,
            device,
            self.autocast,
            self.group,
            sharded,
            row_tokens=min(self.group.gather(fitting)),
        )
        self.flops = flops_formula(model, forward.causal.get_output_embeddings(), forward.causal.config)
        self.place = _Place()
        self.held_out_per_language = EXAMPLES_PER_LANGUAGE
        self.saved_step: int | None = None
        self.saved_at, self.saving_took = time.perf_counter(), 0.0
        if not sharded:
            self.group.copy_from_first(self.trained.values())
        # Each process draws its own dropout; the first draws what a process alone would.
        torch.manual_seed(seed + SEED_STEP * self.group.rank)

    def run(
        self,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
        give_up: Callable[[Sequence[HistoryRow]], bool],
        meter: Meter,
    ) -> TrainResult:
        """Everything that is left to do. See `train`."""

        def stop_if_asked() -> None:
            if self.group.largest(int(should_stop())):
                raise Interrupted("stopped while held-out loss was taken")

        began = self.place.step
        if self.place.held_out_before is None:
            self.place.held_out_before = self._held_out_loss(stop_if_asked)
        before = self.place.held_out_before
        for update in self.updates[began:]:
            random = checkpoint.random_state(self.device)
            try:
                self._one_update(update, should_stop, random)
            except Interrupted as error:
                # Nothing but the random state has moved since the update began.
                self._save(meter, random)
                done = f"{self.place.step} of {len(self.updates)} updates"
                raise Interrupted(f"training stopped after {done}") from error
            self._fail_if(
                divergence(
                    self.place.history,
                    vocabulary=self.forward.causal.config.get_text_config().vocab_size,
                    scaled=self.scaler.is_enabled(),
                )
            )
            if self.group.is_first:
                on_progress(progress_since(began, self.place.history, len(self.updates)))
            giving_up, save = self.group.of_first((give_up(self.place.history), self._checkpoint_is_due()))
            if giving_up:
                return self._result(meter, before, {})
            if save:
                self._save(meter, checkpoint.random_state(self.device))
        random = checkpoint.random_state(self.device)
        try:
            after = self._held_out_loss(stop_if_asked)
        except Interrupted:
            self._save(meter, random)
            raise
        finite = all(math.isfinite(loss) for loss in after.values())
        self._fail_if(None if finite else "the held-out loss is not finite")
        return self._result(meter, before, after)

    def resume(self) -> None:
        """Take up the newest good checkpoint, if there is one."""
        found = checkpoint.load_newest(self.checkpoints)
        if found is None:
            return
        for name, parameter in self.trained.items():
            copy_whole(parameter, found.tensors["weights"][name])
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.optimizer.load_state_dict(optimizer_state_in_parts(found.tensors["optimizer"], parameters))
        self.schedule.load_state_dict(found.tensors["schedule"])
        self.scaler.load_state_dict(found.tensors["scaler"])
        # More processes than before: the new ones go on from their seeds.
        if self.group.rank < len(found.tensors["random"]):
            checkpoint.set_random_state(found.tensors["random"][self.group.rank], self.device)
        self.place = _Place(
            step=found.step,
            history=[HistoryRow(**row) for row in found.state["history"]],
            earlier=Meters(**found.state["meters"]),
            flops=found.state["flops"],
            held_out_before=found.state["held_out_before"],
        )
        # The same rows as before, so that the same bits come of them.
        self.passes.row_tokens = min(self.passes.row_tokens, found.state["row_tokens"])
        self.saved_step = found.step
        log.info("training continues after update %d of %d", found.step, len(self.updates))

    def _one_update(self, update: Update, should_stop: Callable[[], bool], random: dict[str, Any]) -> None:
        """Forward, backward and one optimizer step over the update's examples; one more row of history."""
        began = time.perf_counter()
        lengths = self.examples.lengths[update.examples]
        trained_tokens = int(self.examples.trained_counts[update.examples].sum())
        self.model.train()
        loss = take_gradients(
            self.trained.values(),
            self.passes,
            self.examples,
            update.examples,
            scaler=self.scaler,
            should_stop=should_stop,
            random=random,
        )
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trained.values(), self.settings.max_grad_norm)
        learning_rate = float(self.schedule.get_last_lr()[0])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.place.step += 1
        row = HistoryRow(
            step=self.place.step,
            epoch=update.epoch,
            loss=loss,
            learning_rate=learning_rate,
            gradient_norm=float(whole_here(norm)),
            trained_tokens=trained_tokens,
            tokens=int(lengths.sum()),
            seconds=time.perf_counter() - began,
        )
        self.place.history.append(row)
        self.place.flops += self.flops.of(lengths, trained_tokens)

    def _held_out_loss(self, stop_if_asked: Callable[[], None]) -> dict[str, float]:
        return held_out_loss(
            self.passes, self.held_out, per_language=self.held_out_per_language, before_row=stop_if_asked
        )

    def _fail_if(self, why: str | None) -> None:
        if why is None:
            return
        if self.group.is_first:
            write_history(self.curve, self.place.history)
        raise JobFailed(f"training diverged: {why} (learning rate {self.settings.learning_rate:g})")

    def _checkpoint_is_due(self) -> bool:
        since = time.perf_counter() - self.saved_at
        return since > max(CHECKPOINT_SECONDS, self.saving_took / CHECKPOINT_SHARE)

    def _save(self, meter: Meter, random: dict[str, Any]) -> None:
        """A checkpoint as of now, with the random state that the next update begins with; once a step."""
        if self.place.step == self.saved_step:
            return
        began = time.perf_counter()
        weights = {name: parameter.detach() for name, parameter in self.trained.items()}
        tensors = {
            "weights": whole(weights, self.group),
            "optimizer": whole(self.optimizer.state_dict(), self.group),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": self.group.gather(random),
        }
        state = {
            "history": [asdict(row) for row in self.place.history],
            "meters": self._meters(meter).to_json(),
            "flops": self.place.flops,
            "held_out_before": self.place.held_out_before,
            "row_tokens": self.passes.row_tokens,
        }
        if self.group.is_first:
            now = checkpoint.Checkpoint(self.place.step, tensors, state)
            checkpoint.save(self.checkpoints, now, beside=self.saved_step)
        self.group.wait_for_all()  # when this returns, it lies there
        self.saved_step, self.saved_at = self.place.step, time.perf_counter()
        self.saving_took = self.saved_at - began

    def _result(self, meter: Meter, before: dict[str, float], after: dict[str, float]) -> TrainResult:
        devices = tuple(self.group.gather(meter.read()))
        return TrainResult(tuple(self.place.history), self._meters(meter), before, after, devices)

    def _meters(self, meter: Meter) -> Meters:
        """Clocks from before an interruption and since; tokens from the history, which holds both."""
        history = self.place.history
        return replace(
            self.place.earlier.plus(self.group.meters(meter.read())),
            train_seconds=sum(row.seconds for row in history),
            tokens=sum(row.tokens for row in history),
            trained_tokens=sum(row.trained_tokens for row in history),
            trainable_parameters=sum(parameter.numel() for parameter in self.trained.values()),
            flops=self.place.flops,
            matmul_peak=self.group.sum([matmul_peak(self.device, self.width)])[0],
        )


def _float32_masters(model: nn.Module, settings: StageSettings, width: torch.dtype) -> torch.dtype | None:
    """Make every trained weight float32; `width`, to compute in by autocast, where the model needs that.

    In pure 16-bit weights small updates round away and little is learned. LoRA's own matrices are
    float32 already and PEFT casts around them; all else that is trained computes under autocast.
    """
    narrow = [p for p in model.parameters() if p.requires_grad and p.dtype != torch.float32]
    for parameter in narrow:
        parameter.data = parameter.data.float()
    if width == torch.float32 or (settings.method == "lora" and not narrow):
        return None
    return width


@contextmanager
def _sparing_memory(model: nn.Module) -> Iterator[None]:
    """What stands between the products, inside, with fewer passes over memory and less of it kept."""
    with (
        norms_in_few_passes(model),
        rotation_in_few_passes(model),
        gated_products_keeping_less(model),
    ):
        yield


@contextmanager
def _checkpointed(causal: PreTrainedModel, settings: StageSettings) -> Iterator[None]:
    """Activation checkpointing inside, if the stage asks for it."""
    if not settings.gradient_checkpointing:
        yield
        return
    causal.activation_checkpointing_enable({"use_reentrant": False})
    # Only reentrant checkpoints need inputs with gradients. The hooks for them would stay on a kept base.
    causal.disable_input_require_grads()
    try:
        yield
    finally:
        causal.activation_checkpointing_disable()

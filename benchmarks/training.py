"""Training speed: our loop against TRL's `SFTTrainer`, interleaved, each training in a process of its own.

    pip install trl
    python benchmarks/training.py --rows multialpaca/es.jsonl [--method lora] [--rounds 3]

Both train the same tokenised examples on the same weights: SmolLM2-135M, LoRA of rank 16 on all linear layers
over a bfloat16 base, or every weight (float32 masters under bfloat16 autocast on both sides). An update holds
the same 32 examples on both, so the losses must agree: the first is printed. TRL is first tried in several
settings (examples at a time, packing) for one update each and then runs in the fastest whose loss is right.
Counted are useful tokens, not padding, in whole updates after the first. Memory that one side leaves behind
in a process slows the other by up to a fifth: hence a new process for each training.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from embedded import as_in_a_worker, embedded_model, prepared_rows
from peft import LoraConfig
from transformers import TrainerCallback

from babeltune.data.prepare import read_prepared
from babeltune.models.loading import load_base, load_tokenizer
from babeltune.models.session import ModelSession, TrainedModel
from babeltune.models.source import LocatedModel
from babeltune.study.settings import StageSettings
from babeltune.train.loop import train

EXAMPLES, UPDATES, SEED = 32, 4, 0


@dataclass(frozen=True)
class Peer:
    """How TRL runs: examples (or packed rows) at a time, and tokens of a packed row."""

    batch: int
    row_tokens: int | None = None
    by_length: bool = False

    def __str__(self) -> str:
        rows = f"rows of {self.row_tokens}" if self.row_tokens else "examples"
        return f"{self.batch} {rows} at a time{', grouped by length' if self.by_length else ''}"


PEERS = (
    Peer(1),
    Peer(2),
    Peer(4),
    Peer(8),
    Peer(2, by_length=True),
    Peer(4, by_length=True),
    Peer(1, row_tokens=512),
    Peer(1, row_tokens=1024),
)


@dataclass(frozen=True)
class Measured:
    """Losses and seconds of each update."""

    losses: tuple[float, ...]
    seconds: tuple[float, ...]

    def tokens_per_second(self, tokens: int) -> float:
        """Useful tokens a second, the first update (warming up) left out where there are more."""
        counted = self.seconds[1:] or self.seconds
        return tokens * len(counted) / sum(counted)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, required=True, help="a JSONL of instruction, input, output")
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    as_in_a_worker()  # the peer gets the same
    located = embedded_model()
    prepared_dir = prepared_rows(arguments.rows, load_tokenizer(located), EXAMPLES)
    tokens = int(read_prepared(prepared_dir).train["input_ids"].list.len().sum())
    settings = StageSettings(
        method=arguments.method,
        learning_rate=2e-4 if arguments.method == "lora" else 1e-5,
        batch_size=EXAMPLES,
        max_steps=UPDATES,
        num_train_epochs=None,
        warmup_ratio=0.0,
        lr_scheduler_type="constant",
    )
    print(f"{EXAMPLES} examples, {tokens} tokens an update; {torch.get_num_threads()} threads", flush=True)
    ours = _alone(_ours, located, prepared_dir, settings)
    print(f"babeltune: loss {ours.losses[0]:.4f}, {ours.tokens_per_second(tokens):.0f} tokens/s", flush=True)
    best, best_speed = PEERS[0], 0.0
    for peer in PEERS:
        measured = _alone(_theirs, located, prepared_dir, replace(settings, max_steps=2), peer)
        speed = measured.tokens_per_second(tokens)
        right = abs(measured.losses[0] - ours.losses[0]) < 0.02
        print(
            f"TRL, {peer}: loss {measured.losses[0]:.4f}, {speed:.0f} tokens/s{'' if right else ' (wrong)'}",
            flush=True,
        )
        if right and speed > best_speed:
            best, best_speed = peer, speed
    ratios = []
    for number in range(arguments.rounds):
        theirs = _alone(_theirs, located, prepared_dir, settings, best)
        ours = _alone(_ours, located, prepared_dir, settings)
        speeds = ours.tokens_per_second(tokens), theirs.tokens_per_second(tokens)
        ratios.append(speeds[0] / speeds[1])
        print(
            f"round {number + 1}: babeltune {speeds[0]:.0f}, TRL {speeds[1]:.0f} tokens/s; losses "
            f"{_losses(ours)} and {_losses(theirs)}",
            flush=True,
        )
    print(
        f"{arguments.method}: {statistics.median(ratios):.2f} × TRL at its best ({best}), "
        f"{min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} rounds"
    )


def _alone(training: Callable[..., Measured], *arguments: Any) -> Measured:
    """A training in a new process, which ends with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(training, *arguments).result()


def _ours(located: LocatedModel, prepared_dir: Path, settings: StageSettings) -> Measured:
    session = ModelSession("cpu")
    start = TrainedModel(located)
    model = (
        session.full_to_train(start, settings)
        if settings.method == "full"
        else session.adapter_to_train(start, settings, seed=SEED)
    )
    with tempfile.TemporaryDirectory() as work:
        result = train(
            model,
            read_prepared(prepared_dir),
            settings,
            seed=SEED,
            work_dir=Path(work),
            on_progress=lambda _: None,
            should_stop=lambda: False,
            device="cpu",
        )
    return Measured(tuple(row.loss for row in result.history), tuple(row.seconds for row in result.history))


def _theirs(located: LocatedModel, prepared_dir: Path, settings: StageSettings, peer: Peer) -> Measured:
    from datasets import Dataset as Rows
    from trl.data_utils import pack_dataset  # pyright: ignore[reportMissingImports]
    from trl.trainer.sft_config import SFTConfig  # pyright: ignore[reportMissingImports]
    from trl.trainer.sft_trainer import SFTTrainer  # pyright: ignore[reportMissingImports]

    full = settings.method == "full"
    prepared = read_prepared(prepared_dir)
    rows = Rows.from_dict(
        {
            "input_ids": prepared.train["input_ids"].to_list(),
            "completion_mask": [[int(flag) for flag in row] for row in prepared.train["trained"].to_list()],
        }
    )
    count = EXAMPLES
    if peer.row_tokens:
        count = len(pack_dataset(rows.select_columns(["input_ids"]), peer.row_tokens, "bfd"))
    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out,
            use_cpu=True,
            # LoRA: a bfloat16 base, as ours. In full: float32 masters under autocast, as ours.
            bf16=full,
            per_device_train_batch_size=peer.batch,
            gradient_accumulation_steps=-(-count // peer.batch),
            max_steps=settings.max_steps or 0,
            learning_rate=settings.learning_rate or 0.0,
            lr_scheduler_type="constant",
            weight_decay=settings.weight_decay,
            gradient_checkpointing=False,
            max_length=peer.row_tokens or settings.max_length,
            packing=peer.row_tokens is not None,
            train_sampling_strategy="group_by_length" if peer.by_length else "random",
            completion_only_loss=True,
            logging_steps=1,
            logging_strategy="steps",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=SEED,
        )
        clock = _Clock()
        trainer = SFTTrainer(
            model=load_base(located, dtype="bfloat16", device="cpu", trainable_full=full),
            args=config,
            train_dataset=rows,
            processing_class=load_tokenizer(located),
            peft_config=None
            if full
            else LoraConfig(
                task_type="CAUSAL_LM",
                r=settings.r,
                lora_alpha=int(settings.lora_alpha),
                target_modules="all-linear",
            ),
            callbacks=[clock],
        )
        trainer.train()
    losses = tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return Measured(losses, tuple(clock.seconds))


class _Clock(TrainerCallback):
    """Seconds of each update."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self._began)


def _losses(measured: Measured) -> str:
    return " ".join(f"{loss:.3f}" for loss in measured.losses)


if __name__ == "__main__":
    main()

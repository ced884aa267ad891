"""Training speed: our loop against TRL's `SFTTrainer`, interleaved, each training in a process of its own.

    pip install trl
    python benchmarks/training.py --rows multialpaca/es.jsonl [--method lora] [--rounds 3]
    python benchmarks/training.py --rows … --device cuda --shape 7b --examples 128 [--bits 4]

Both train the same tokenised examples on the same weights: SmolLM2-135M or a random LLaMA, LoRA of rank 16 on
all linear layers over a bfloat16 or 4-bit base, or every weight (float32 masters under bfloat16 autocast on
both sides). An update holds the same examples on both, so the losses must agree: the first is printed. TRL is
first tried in several settings (examples at a time, packing; on a GPU also FlashAttention and Liger, where
they are installed) for one update each, then the fastest three whose loss is right for all updates; it runs
in the fastest of these.
Counted are useful tokens, not padding, in whole updates after the first two, in which a new process touches
its memory for the first time. Memory that one side leaves behind in a process slows the other by up to a
fifth: hence a new process for each training.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from embedded import SHAPES, alone, as_in_a_worker, model_of_shape, prepared_rows, train_ours
from peft import LoraConfig
from transformers import TrainerCallback

from babeltune.data.prepare import read_prepared
from babeltune.models.loading import computed_dtype, load_base, load_tokenizer
from babeltune.models.source import LocatedModel
from babeltune.study.settings import StageSettings

UPDATES, WARM_UP, SEED = 6, 2, 0
# Of TRL's settings, after one update: a process's first update says who is slow, not who is fastest.
FINALISTS = 3


@dataclass(frozen=True)
class Work:
    """What both sides do, and where."""

    located: LocatedModel
    prepared_dir: Path
    settings: StageSettings
    device: str


@dataclass(frozen=True)
class Peer:
    """How TRL runs: examples (or packed rows) at a time, and tokens of a packed row."""

    batch: int
    row_tokens: int | None = None
    by_length: bool = False
    attention: str = "sdpa"
    liger: bool = False

    def __str__(self) -> str:
        rows = f"rows of {self.row_tokens}" if self.row_tokens else "examples"
        grouped = ", grouped by length" if self.by_length else ""
        return f"{self.batch} {rows} at a time{grouped}, {self.attention}{', Liger' if self.liger else ''}"


def peers(device: str) -> list[Peer]:
    """The settings that TRL is tried in."""
    if device == "cpu":
        whole = [Peer(size, by_length=by_length) for size in (2, 4, 8) for by_length in (False, True)]
        return [Peer(1), *whole, Peer(1, row_tokens=512), Peer(1, row_tokens=1024)]
    ligers = (False, True) if importlib.util.find_spec("liger_kernel") else (False,)
    attention = "flash_attention_2" if importlib.util.find_spec("flash_attn") else "flex_attention"
    return [
        *(Peer(size, by_length=True, liger=liger) for size in (8, 16, 32) for liger in ligers),
        *(
            Peer(1, row_tokens=row, attention=attention, liger=liger)
            for row in (4096, 8192, 16384)
            for liger in ligers
        ),
    ]


@dataclass(frozen=True)
class Measured:
    """Losses and seconds of each update; of ours also what an update would take at the device's peak."""

    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    peak_seconds: float | None = None

    @property
    def update_seconds(self) -> float:
        """Of an update, those of warming up left out where there are more."""
        return statistics.mean(self.seconds[WARM_UP:] or self.seconds)

    def tokens_per_second(self, tokens: int) -> float:
        """Useful tokens a second."""
        return tokens / self.update_seconds

    @property
    def flop_utilisation(self) -> float:
        """Of ours: floating-point operations of an update over what the device's peak would do meanwhile."""
        assert self.peak_seconds is not None
        return self.peak_seconds / self.update_seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, required=True, help="a JSONL of instruction, input, output")
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=("smollm2", *SHAPES), default="smollm2")
    parser.add_argument("--bits", type=int, choices=(16, 8, 4), default=16)
    parser.add_argument("--examples", type=int, default=32)
    arguments = parser.parse_args()
    as_in_a_worker()  # the peer gets the same
    located = model_of_shape(arguments.shape)
    prepared_dir = prepared_rows(arguments.rows, load_tokenizer(located), arguments.examples)
    tokens = int(read_prepared(prepared_dir).train["input_ids"].list.len().sum())
    settings = StageSettings(
        method=arguments.method,
        learning_rate=2e-4 if arguments.method == "lora" else 1e-5,
        bits=arguments.bits,
        batch_size=arguments.examples,
        max_steps=UPDATES,
        num_train_epochs=None,
        warmup_ratio=0.0,
        lr_scheduler_type="constant",
    )
    work = Work(located, prepared_dir, settings, arguments.device)
    print(
        f"{arguments.examples} examples, {tokens} tokens an update; {torch.get_num_threads()} threads",
        flush=True,
    )
    ours = alone(_ours, work)
    print(
        f"babeltune: loss {ours.losses[0]:.4f}, {ours.tokens_per_second(tokens):.0f} tokens/s, "
        f"FLOP utilisation {ours.flop_utilisation:.2f}",
        flush=True,
    )
    tried: dict[Peer, float] = {}
    for peer in peers(arguments.device):
        try:
            measured = alone(_theirs, replace(work, settings=replace(settings, max_steps=1)), peer)
        except (RuntimeError, BrokenProcessPool) as error:  # out of memory, mostly
            print(f"TRL, {peer}: {type(error).__name__} {str(error)[:100]}", flush=True)
            continue
        speed = measured.tokens_per_second(tokens)
        right = abs(measured.losses[0] - ours.losses[0]) < 0.02
        print(
            f"TRL, {peer}: loss {measured.losses[0]:.4f}, {speed:.0f} tokens/s{'' if right else ' (wrong)'}",
            flush=True,
        )
        if right:
            tried[peer] = speed
    if not tried:
        sys.exit("TRL is right in none of these settings")
    finals: dict[Peer, float] = {}
    for peer in sorted(tried, key=tried.__getitem__, reverse=True)[:FINALISTS]:
        finals[peer] = alone(_theirs, work, peer).tokens_per_second(tokens)
        print(f"TRL, {peer}: {finals[peer]:.0f} tokens/s in later updates", flush=True)
    best = max(finals, key=finals.__getitem__)
    ratios = []
    for number in range(arguments.rounds):
        theirs = alone(_theirs, work, best)
        ours = alone(_ours, work)
        speeds = ours.tokens_per_second(tokens), theirs.tokens_per_second(tokens)
        ratios.append(speeds[0] / speeds[1])
        print(
            f"round {number + 1}: babeltune {speeds[0]:.0f}, TRL {speeds[1]:.0f} tokens/s; losses "
            f"{_losses(ours)} and {_losses(theirs)}; FLOP utilisation {ours.flop_utilisation:.2f}",
            flush=True,
        )
    print(
        f"{arguments.method}: {statistics.median(ratios):.2f} × TRL at its best ({best}), "
        f"{min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} rounds"
    )


def _ours(work: Work) -> Measured:
    result = train_ours(work.located, work.prepared_dir, work.settings, seed=SEED, device=work.device)
    meters, history = result.meters, result.history
    assert meters.matmul_peak is not None
    return Measured(
        tuple(row.loss for row in history),
        tuple(row.seconds for row in history),
        meters.flops / len(history) / meters.matmul_peak,
    )


def _theirs(work: Work, peer: Peer) -> Measured:
    from datasets import Dataset as Rows
    from trl.data_utils import pack_dataset  # pyright: ignore[reportMissingImports]
    from trl.trainer.sft_config import SFTConfig  # pyright: ignore[reportMissingImports]
    from trl.trainer.sft_trainer import SFTTrainer  # pyright: ignore[reportMissingImports]

    settings, cpu = work.settings, work.device == "cpu"
    full = settings.method == "full"
    prepared = read_prepared(work.prepared_dir)
    rows = Rows.from_dict(
        {
            "input_ids": prepared.train["input_ids"].to_list(),
            "completion_mask": [[int(flag) for flag in row] for row in prepared.train["trained"].to_list()],
        }
    )
    count = len(rows)
    if peer.row_tokens:
        count = len(pack_dataset(rows.select_columns(["input_ids"]), peer.row_tokens, "bfd"))
    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out,
            use_cpu=cpu,
            use_liger_kernel=peer.liger,
            # LoRA: the base as ours holds it. In full: float32 masters, under autocast where ours are.
            bf16=full and computed_dtype(settings.dtype, work.device) == torch.bfloat16,
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
        clock = _Clock(work.device)
        model = load_base(
            work.located, bits=settings.bits, dtype="bfloat16", device=work.device, trainable_full=full
        )
        model.set_attn_implementation(peer.attention)
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=rows,
            processing_class=load_tokenizer(work.located),
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

    def __init__(self, device: str) -> None:
        self.seconds: list[float] = []
        self._device, self._began = device, 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = self._now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(self._now() - self._began)

    def _now(self) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _losses(measured: Measured) -> str:
    return " ".join(f"{loss:.3f}" for loss in measured.losses)


if __name__ == "__main__":
    main()

"""What 16-bit numbers cost on this CPU: held as they are against held in float32, training and scoring.

    python benchmarks/cpu_precision.py --rows multialpaca/es.jsonl --data-root DIR [--rounds 3]

First large products, alone: in float32, in bfloat16, and in bfloat16 without oneDNN, which is what torch uses
on CPUs without AVX-512. Then LoRA of rank 16 on SmolLM2-135M and XCOPA scored by it, both ways in turn, each
in a process of its own. The ratio is what `models/loading.py::computed_dtype` gains where it says float32.
A CPU that has the instructions stands in for one without under `ONEDNN_MAX_CPU_ISA=AVX512_CORE` (or `AVX2`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from embedded import alone, as_in_a_worker, embedded_model, prepared_rows, train_ours

from babeltune.evaluate.score import score_task
from babeltune.models import loading
from babeltune.models.loading import computed_dtype, load_tokenizer
from babeltune.models.session import ModelSession, TrainedModel
from babeltune.study.places import Places
from babeltune.study.schema import Task
from babeltune.study.settings import StageSettings
from babeltune.train.meters import matmul_peak

UPDATES, WARM_UP, EXAMPLES, ITEMS = 5, 2, 16, 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, required=True, help="a JSONL of instruction, input, output")
    parser.add_argument("--data-root", type=Path, required=True, help="a mirror that holds XCOPA")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    as_in_a_worker()
    _print_products()
    print(f"this CPU is taken to compute bfloat16 in {computed_dtype('bfloat16', 'cpu')}", flush=True)
    prepared_dir = prepared_rows(arguments.rows, load_tokenizer(embedded_model()), EXAMPLES)
    works: dict[str, tuple[Callable[..., float], Path]] = {
        "training": (_trained_tokens_a_second, prepared_dir),
        "scoring": (_items_a_second, arguments.data_root),
    }
    for name, (work, path) in works.items():
        ratios = []
        for _ in range(arguments.rounds):
            narrow, wide = (alone(work, path, held_narrow) for held_narrow in (True, False))
            ratios.append(wide / narrow)
            print(f"{name}: bfloat16 {narrow:.1f}, float32 {wide:.1f} a second", flush=True)
        print(
            f"{name}: float32 {statistics.median(ratios):.2f} × bfloat16, "
            f"{min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} rounds"
        )


def _print_products() -> None:
    for name, width, onednn in (
        ("float32", torch.float32, True),
        ("bfloat16", torch.bfloat16, True),
        ("bfloat16 without oneDNN", torch.bfloat16, False),
    ):
        matmul_peak.cache_clear()
        with torch.backends.mkldnn.flags(enabled=onednn):
            print(f"{name}: {matmul_peak('cpu', width) / 1e9:.0f} GFLOP/s", flush=True)


def _trained_tokens_a_second(prepared_dir: Path, held_narrow: bool) -> float:
    loading._cpu_multiplies_bfloat16 = lambda: held_narrow
    settings = StageSettings(
        method="lora", learning_rate=2e-4, batch_size=EXAMPLES, max_steps=UPDATES, num_train_epochs=None
    )
    result = train_ours(embedded_model(), prepared_dir, settings, seed=0, device="cpu")
    print("losses " + " ".join(f"{row.loss:.3f}" for row in result.history), flush=True)
    later = result.history[WARM_UP:]
    return sum(row.tokens for row in later) / sum(row.seconds for row in later)


def _items_a_second(data_root: Path, held_narrow: bool) -> float:
    loading._cpu_multiplies_bfloat16 = lambda: held_narrow
    model = ModelSession("cpu").model_for(TrainedModel(embedded_model()))
    began = time.perf_counter()
    score_task(
        model,  # pyright: ignore[reportArgumentType]
        load_tokenizer(embedded_model()),
        Task(name="xcopa"),
        "it",
        num_fewshot=4,
        limit=ITEMS,
        apply_chat_template=False,
        template_kwargs={},
        places=Places(Path.cwd(), data_root),
    )
    return ITEMS / (time.perf_counter() - began)


if __name__ == "__main__":
    main()

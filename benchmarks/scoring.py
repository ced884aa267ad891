"""Scoring speed: our scorer against lm-eval's `hf` backend, side by side in one process.

    python benchmarks/scoring.py --data-root DIR [--work xcopa:it:8 xquad:es:4 …] [--items 100] [--rounds 3]
    python benchmarks/scoring.py --data-root DIR --device cuda --shape 7b --items 500

Both score the same rows (task:language:examples) with the same model in bfloat16 (SmolLM2-135M, or a random
LLaMA), interleaved, `hf` at the best of several batch sizes, found on a part of the rows. Printed for each:
the median ratio of times and its spread, and how far the results differ in bfloat16 (float32 equality is in
`equality.py` and the tests).
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, cast

import torch
from embedded import SHAPES, model_of_shape
from lm_eval.api.instance import Instance

from babeltune.evaluate.lm_eval_tasks import built_in
from babeltune.evaluate.scorer import Scorer
from babeltune.evaluate.tasks import BUILT_IN
from babeltune.models.loading import load_base, load_tokenizer

WORK = ("xcopa:it:8", "xnli:es:8", "xcopa:it:0", "xnli:es:0", "belebele:en:0", "xquad:es:4")
BATCH_SIZES = {"cpu": (1, 4, 8, 16, 32), "cuda": (8, 32, 64, 128)}
ITEMS_TO_FIND_BATCH_SIZE = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--work", nargs="+", default=WORK)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=("smollm2", *SHAPES), default="smollm2")
    arguments = parser.parse_args()

    located = model_of_shape(arguments.shape)
    model = load_base(located, bits=16, dtype="bfloat16", device=arguments.device).eval()
    tokenizer = load_tokenizer(located)
    peers = {size: _peer(model, tokenizer, size) for size in BATCH_SIZES[arguments.device]}
    for work in arguments.work:
        name, language, shots = work.split(":")
        task = built_in(BUILT_IN[name], language, num_fewshot=int(shots), data_root=arguments.data_root)
        task.build_all_requests(limit=arguments.items, rank=0, world_size=1)
        requests: list[Instance] = task.instances
        some = requests[: ITEMS_TO_FIND_BATCH_SIZE * len(requests) // arguments.items]
        best = min(peers, key=lambda size, some=some: _timed(peers[size], some)[0])
        ratios, differences = [], []
        for _ in range(arguments.rounds):
            theirs, their_results = _timed(peers[best], requests)
            ours, our_results = _timed(Scorer(model, tokenizer), requests)
            ratios.append(theirs / ours)
            differences.append(_difference(our_results, their_results))
        print(
            f"{name} {language}, {arguments.items} items, {shots} shots: {statistics.median(ratios):.2f} × "
            f"(rounds {min(ratios):.2f} to {max(ratios):.2f}; hf at batch size {best}; {differences[-1]})",
            flush=True,
        )


def _peer(model: Any, tokenizer: Any, batch_size: int) -> Any:
    from lm_eval.models.huggingface import HFLM

    # Its class is decorated in a way that hides its parameters from type checkers.
    return cast("Any", HFLM)(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


def _timed(scorer: Any, requests: list[Instance]) -> tuple[float, list[Any]]:
    """Seconds, tokenising included, and the responses."""
    started = time.perf_counter()
    with torch.inference_mode():
        responses = getattr(scorer, requests[0].request_type)(requests, disable_tqdm=True)
    return time.perf_counter() - started, responses


def _difference(ours: list[Any], theirs: list[Any]) -> str:
    if isinstance(ours[0], str):
        return f"{sum(a == b for a, b in zip(ours, theirs, strict=True))} of {len(ours)} strings equal"
    largest = max(abs(a[0] - b[0]) for a, b in zip(ours, theirs, strict=True))
    return f"largest difference {largest:.3f} nats"


if __name__ == "__main__":
    main()

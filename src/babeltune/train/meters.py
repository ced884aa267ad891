"""What a training cost: time, tokens, memory, arithmetic, energy. Measured, or empty where no meter is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import psutil
import torch
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedConfig

# How often a CPU process's memory is looked at; the largest value seen is the peak.
SAMPLE_SECONDS = 0.05
# Sides of the square matrices that the matmul peak is measured on, and how often: under a second.
PEAK_SIDE = {"cpu": 2048, "cuda": 8192}
PEAK_REPEATS = 6


@dataclass(frozen=True)
class Meters:
    """Costs so far. `device_seconds`: seconds of the GPU, or the process's CPU seconds where there is none.

    `train_seconds`: wall time inside updates alone, so tokens per second do not depend on how often
    held-out loss is taken. `peak_memory_bytes`: RSS of the process on a CPU, reserved memory on CUDA
    (`peak_allocated_bytes`: what tensors held of it). `matmul_peak`: what large matrix products reach on
    this device in the width of the training, FLOP/s, measured beside it.
    """

    wall_seconds: float = 0.0
    device_seconds: float = 0.0
    train_seconds: float = 0.0
    tokens: int = 0
    trained_tokens: int = 0
    trainable_parameters: int = 0
    flops: float = 0.0
    peak_memory_bytes: int = 0
    peak_allocated_bytes: int | None = None
    energy_joules: float | None = None
    matmul_peak: float | None = None

    def plus(self, later: Meters) -> Meters:
        """The cost of both: sums, and the larger peak."""
        sums = {
            name: getattr(self, name) + getattr(later, name)
            for name in (
                "wall_seconds",
                "device_seconds",
                "train_seconds",
                "tokens",
                "trained_tokens",
                "flops",
            )
        }
        return replace(
            later,
            **sums,
            peak_memory_bytes=max(self.peak_memory_bytes, later.peak_memory_bytes),
            peak_allocated_bytes=_larger(self.peak_allocated_bytes, later.peak_allocated_bytes),
            energy_joules=_both(self.energy_joules, later.energy_joules),
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


class Meter:
    """Reads the clocks of this process between its making and each `read`."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.peak_rss = psutil.Process().memory_info().rss
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._energy = _energy_joules(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def read(self) -> Meters:
        """What the process spent since the meter was made."""
        wall = time.perf_counter() - self._wall
        cuda = self.device.type == "cuda"
        energy = _energy_joules(self.device)
        return Meters(
            wall_seconds=wall,
            device_seconds=wall if cuda else time.process_time() - self._cpu,
            peak_memory_bytes=torch.cuda.max_memory_reserved(self.device) if cuda else self.peak_rss,
            peak_allocated_bytes=torch.cuda.max_memory_allocated(self.device) if cuda else None,
            energy_joules=None if energy is None or self._energy is None else energy - self._energy,
        )


@contextmanager
def metering(device: str) -> Iterator[Meter]:
    """A running meter. On a CPU a thread samples RSS: the system's own peak is of the whole process life."""
    meter = Meter(device)
    done = threading.Event()
    process = psutil.Process()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            meter.peak_rss = max(meter.peak_rss, process.memory_info().rss)

    sampler = threading.Thread(target=sample, name="memory-meter", daemon=True)
    if meter.device.type == "cpu":
        sampler.start()
    try:
        yield meter
    finally:
        done.set()
        if sampler.is_alive():
            sampler.join()


@dataclass(frozen=True)
class FlopsFormula:
    """Floating-point operations of training, from a model's shape.

    A matrix of `in × out` costs 2·in·out a token forward, as much again for the gradient of its input,
    and as much again for its own where it is trained. The output layer runs on trained tokens only.
    Attention costs 4·width a query and key it sees, and twice that backward. What activation
    checkpointing computes again is not counted: these are the operations the work needs.
    """

    body_per_token: float
    head_per_trained_token: float
    attention_per_pair: float
    windows: tuple[int | None, ...]

    def of(self, lengths: np.ndarray, trained_tokens: int) -> float:
        """FLOPs of one pass, forward and backward, over examples of these lengths."""
        pairs = sum(float(_visible_pairs(lengths, window)) for window in self.windows)
        tokens = float(lengths.sum())
        return (
            self.body_per_token * tokens
            + self.head_per_trained_token * trained_tokens
            + self.attention_per_pair * pairs
        )


def flops_formula(model: nn.Module, head: nn.Module | None, config: PreTrainedConfig) -> FlopsFormula:
    """The formula of a model as it stands, adapters and frozen weights included."""
    text = config.get_text_config()
    # An adapter's parts on the output layer run where that runs; what a trained copy replaces does not run.
    of_head = set(head.modules()) if head is not None else set[nn.Module]()
    replaced = {
        part
        for module in model.modules()
        if isinstance(module, ModulesToSaveWrapper)
        for part in module.original_module.modules()
    }
    body = head_cost = 0.0
    for module in model.modules():
        # bitsandbytes' layers are Linear too; their packed weights have another shape, so count by features.
        if not isinstance(module, nn.Linear) or module in replaced:
            continue
        cost = (6.0 if module.weight.requires_grad else 4.0) * module.in_features * module.out_features
        if module in of_head:
            head_cost += cost
        else:
            body += cost
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    return FlopsFormula(
        body_per_token=body,
        head_per_trained_token=head_cost,
        attention_per_pair=12.0 * heads * head_dim,
        windows=layer_windows(text),
    )


def layer_windows(config: PreTrainedConfig) -> tuple[int | None, ...]:
    """Each layer's attention window, None where it sees everything."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return (window,) * config.num_hidden_layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


@cache
def matmul_peak(device: str, width: torch.dtype) -> float:
    """The FLOP/s of the best of a few large square matrix products; measured once a process.

    Model FLOP utilisation is a training's FLOPs over its seconds times this (PaLM, arXiv 2204.02311,
    appendix B, with the measured peak in place of the data sheet's, which CPUs don't have).
    """
    kind = torch.device(device).type
    side = PEAK_SIDE[kind]
    matrix_S_S = torch.ones(side, side, device=device, dtype=width)
    best = float("inf")
    for _ in range(PEAK_REPEATS):
        began = time.perf_counter()
        torch.mm(matrix_S_S, matrix_S_S)
        if kind == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2.0 * side**3 / best


def _visible_pairs(lengths: np.ndarray, window: int | None) -> int:
    """How many (query, key) pairs causal attention sees in examples of these lengths."""
    seen = lengths.astype(np.int64)
    pairs = seen * (seen + 1) // 2
    if window is not None:
        hidden = np.maximum(seen - window, 0)
        pairs = pairs - hidden * (hidden + 1) // 2
    return int(pairs.sum())


def _energy_joules(device: torch.device) -> float | None:
    """The GPU's energy counter (Volta and later, with the `gpu` extra); None without one."""
    if device.type != "cuda":
        return None
    with suppress(Exception):  # no library, no driver, no counter: no meter
        import pynvml  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000.0
    return None


def _larger(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _both(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other

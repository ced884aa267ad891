"""How many tokens go through the model at once: as many as are fastest, or as the device's memory holds.

This is about speed and memory alone. It changes neither which examples an update holds nor what is learned
from them, however small it is: the loss is normalised over the whole update.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import psutil
import torch

from babeltune.models.memory import (
    held_moment_bytes,
    row_bytes_per_token,
    training_memory,
    unpackable_moments,
)
from babeltune.study.settings import StageSettings
from babeltune.train.sharding import own_part

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

log = logging.getLogger(__name__)

# Tokens of a packed row. On a CPU 1,024 took 7 % longer a token, 4,096 would save 4 % and double the memory.
CPU_ROW_TOKENS = 2048
CUDA_ROW_TOKENS = 8192
# Of what the estimate leaves free, this much is used: the allocator wastes some.
SHARE_OF_FREE = 0.8
GRADIENT_BYTES = 4


def wanted_row_tokens(settings: StageSettings, device_type: str) -> int:
    """Tokens of the longest row that a training would put through the model at once with memory enough.

    `device_type`: `cpu` or `cuda`. A packed row holds no more than an update does, and at least one example.
    """
    longest = settings.max_length
    if not settings.packing:
        return longest
    update = settings.batch_tokens or (settings.batch_size or 1) * longest
    return max(longest, min(update, _fastest(device_type)))


def training_bytes(
    config: PreTrainedConfig,
    settings: StageSettings,
    device_type: str,
    memory_bytes: int,
    *,
    devices: int = 1,
) -> int:
    """What a training takes of each of `devices` devices of `memory_bytes`; more where it can't fit.

    Rows are as long as wanted, or as the device holds, or at least as the longest example. What is trained in
    full and does not fit one of several devices is divided over them.

    Raises:
        ModelError: see `models/memory.py`.
    """
    on_cpu = device_type == "cpu"
    memory = training_memory(config, settings, on_cpu=on_cpu)
    if settings.method == "full" and memory.of(settings.max_length) > memory_bytes:
        memory = training_memory(config, settings, on_cpu=on_cpu, shards=devices)
    wanted = min(wanted_row_tokens(settings, device_type), memory.tokens_within(memory_bytes))
    return memory.of(max(settings.max_length, wanted))


def row_budget(
    model: nn.Module,
    config: PreTrainedConfig,
    settings: StageSettings,
    device: str,
    *,
    autocast: torch.dtype | None = None,
    processes: int = 1,
) -> int:
    """Up to how many tokens examples are packed side by side, by what `device` has free beside the model.

    `autocast`: the width that trained weights are rounded to for a whole update, beside themselves.
    `processes`: how many share the device. On a CPU the machine's memory in all counts and not what is free
    at this moment, so that a training cut short and continued computes in the same rows.
    """
    kind = torch.device(device).type
    fastest = _fastest(kind)
    if not settings.packing:
        return fastest
    adapted = sum(module.in_features or 0 for module in model.modules() if hasattr(module, "lora_A"))  # pyright: ignore
    trained = sum(own_part(p).numel() for p in model.parameters() if p.requires_grad)
    moments = held_moment_bytes(trained, unpackable_moments(model), settings.optim)
    rounded = 0 if autocast is None else autocast.itemsize * trained
    free = _free_bytes(model, device, processes) - GRADIENT_BYTES * trained - rounded - moments
    per_token = row_bytes_per_token(config, settings, adapted, on_cpu=kind == "cpu")
    fits = int(SHARE_OF_FREE * free / per_token)
    if fits < fastest:
        log.info("rows of up to %d tokens fit this device's memory", fits)
    return max(1, min(fastest, fits))


def halved(row_tokens: int, longest: int) -> int | None:
    """The next smaller budget for an update whose longest example is `longest`; None if there is none."""
    return max(row_tokens // 2, longest) if row_tokens > longest else None


def _fastest(device_type: str) -> int:
    return CUDA_ROW_TOKENS if device_type == "cuda" else CPU_ROW_TOKENS


def _free_bytes(model: nn.Module, device: str, processes: int) -> int:
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    weights = sum(own_part(p).numel() * p.element_size() for p in model.parameters())
    return psutil.virtual_memory().total // processes - weights

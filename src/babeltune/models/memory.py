"""What a stage needs before it is run: trainable parameters, memory, disk. Estimates from shapes alone.

Models are built on the meta device, so the figures of a 13B model cost milliseconds and no weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from babeltune.errors import ModelError
from babeltune.models.adapters import check_targets, check_unpacked, lora_config, put_on
from babeltune.models.loading import computed_dtype
from babeltune.study.settings import StageSettings

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

# Weight and gradient of a trained number, each float32; and AdamW's two moments, in 32 and in 8 bits (with a
# scale for every 256). bitsandbytes keeps small tensors in 32 bits, and our optimizer embeddings.
TRAINED_BYTES = 8
MOMENTS_BYTES, MOMENTS_8BIT_BYTES = 8, 2 * (1 + 4 / 256)
FEWEST_8BIT_NUMBERS = 4096
# nf4 values with their double-quantised scales; int8 values with a scale a row.
BASE_BYTES = {16: 2.0, 8: 1.01, 4: 0.516}
# What PEFT's layers keep of each number of an adapter's input, as counted (tests/train/test_kept_bytes.py).
DROPOUT_BYTES, DORA_BYTES = 7.0, 11.0
# The last one, and the one before it or the next being written.
CHECKPOINTS_AT_ONCE = 2
# Python with torch, transformers and bitsandbytes loaded.
PROCESS_BYTES = 0.8e9


@dataclass(frozen=True)
class StageSize:
    """Counts of parameters: all, those in linear layers that quantisation packs, those trained.

    `unpackable_moments`: those trained whose moments no optimizer keeps in 8 bits.
    """

    parameters: int
    packable: int
    trainable: int
    adapted_inputs: int
    unpackable_moments: int


def stage_size(config: PreTrainedConfig, settings: StageSettings) -> StageSize:
    """Count a model of this configuration as a stage would train it.

    Raises:
        ModelError: it is no causal language model, an adapter target matches no module, or PEFT refuses
            the adapter's options.
    """
    from peft.tuners.lora import LoraLayer
    from torch import nn

    model = _on_meta(config)
    parameters = model.num_parameters()
    head = model.get_output_embeddings()
    packable: int = sum(
        module.in_features * module.out_features
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not head
    )
    if settings.method == "full":
        return StageSize(parameters, packable, parameters, 0, unpackable_moments(model))
    check_targets(model, settings, tied=bool(config.get_text_config().tie_word_embeddings))
    # Values do not matter here, and some initialisations would need them.
    plain = replace(settings, peft={**settings.peft, "init_lora_weights": False})
    lora_config(settings)
    adapted = put_on(model, lora_config(plain))
    trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    inputs = sum(module.in_features or 0 for module in adapted.modules() if isinstance(module, LoraLayer))
    return StageSize(parameters, packable, trainable, inputs, unpackable_moments(adapted))


def unpackable_moments(model: nn.Module) -> int:
    """How many of the model's trained numbers no optimizer keeps 8-bit moments of."""
    from torch import nn

    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return sum(
        parameter.numel()
        for parameter in model.parameters()
        if parameter.requires_grad
        and (parameter.numel() < FEWEST_8BIT_NUMBERS or id(parameter) in embeddings)
    )


def moment_bytes(trainable: int, unpackable: int, optim: str) -> float:
    """What AdamW keeps beside weights and gradients; of `unpackable` numbers in 32 bits, whatever `optim`."""
    if optim == "adamw_torch_fused":
        return trainable * MOMENTS_BYTES
    return unpackable * MOMENTS_BYTES + (trainable - unpackable) * MOMENTS_8BIT_BYTES


def held_moment_bytes(trainable: int, unpackable: int, optim: str) -> float:
    """Of these, what stays on a device that has no room for more: paged moments leave it."""
    return 0.0 if optim == "paged_adamw_8bit" else moment_bytes(trainable, unpackable, optim)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one device's memory: `fixed`, whatever goes through the model, and `per_token` of a row."""

    fixed: float
    per_token: float

    def of(self, tokens: int) -> int:
        """The peak with rows of `tokens` tokens."""
        return int(self.fixed + tokens * self.per_token)

    def tokens_within(self, memory_bytes: float) -> int:
        """The longest row that memory of this size holds; 0 where not even the weights fit."""
        return max(0, int((memory_bytes - self.fixed) / self.per_token))


def training_memory(
    config: PreTrainedConfig, settings: StageSettings, *, on_cpu: bool = False, shards: int = 1
) -> TrainingMemory:
    """What training needs on each device, its weights in `shards` parts on as many devices.

    On a CPU a quantised base is held unpacked, and the process itself counts. Good to about a third (less
    for architectures with more norms, in full): the allocator's waste is not in it.

    Raises:
        ModelError: see `stage_size` and `check_unpacked`.
    """
    if settings.method == "lora":
        check_unpacked(settings, on_cpu=on_cpu)
    size = stage_size(config, settings)
    width = _computed_width(settings, on_cpu=on_cpu)
    moments = held_moment_bytes(size.trainable, size.unpackable_moments, settings.optim)
    if settings.method == "full":
        weights = size.parameters * (TRAINED_BYTES + (0 if width == 4 else width)) + moments
        if shards > 1:
            # Weights and gradients are whole only where they are being computed with.
            weights = (size.parameters * TRAINED_BYTES + moments) / shards
            weights += 2 * 4 * _gathered_at_once(config, size)
    else:
        packed = BASE_BYTES[settings.bits] if settings.bits != 16 and not on_cpu else float(width)
        weights = size.packable * packed + (size.parameters - size.packable) * width
        weights += size.trainable * TRAINED_BYTES + moments
    return TrainingMemory(
        fixed=weights + _logits_bytes(config, settings) + (PROCESS_BYTES if on_cpu else 0),
        per_token=row_bytes_per_token(config, settings, size.adapted_inputs, on_cpu=on_cpu),
    )


def row_bytes_per_token(
    config: PreTrainedConfig, settings: StageSettings, adapted_inputs: int, *, on_cpu: bool
) -> float:
    """Memory that a token of a row takes between the forward and the backward pass.

    `adapted_inputs`: the widths of all inputs that an adapter gets (`StageSize`).
    """
    text = config.get_text_config()
    width = _computed_width(settings, on_cpu=on_cpu)
    heads, groups = text.num_attention_heads, getattr(text, "num_key_value_heads", None)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    # Kept for the backward pass by one layer, a token: residual stream and norms (wider where weights are
    # float32 under autocast), queries, keys, values and the attention's output, and the gated product's
    # widths. Attention counts half as much again, for its padding and probabilities.
    layer = (
        (12 if settings.method == "full" and width < 4 else 8) * text.hidden_size
        + 3 * (heads + (groups or heads)) * head_dim
        + 4 * text.intermediate_size
    )
    layers = text.num_hidden_layers
    if settings.gradient_checkpointing:
        return width * (layers * text.hidden_size + layer)
    return width * layers * layer + _adapter_bytes(settings, on_cpu=on_cpu) * adapted_inputs


def _computed_width(settings: StageSettings, *, on_cpu: bool) -> int:
    """Bytes of a number that the stage computes with."""
    return computed_dtype(settings.dtype, "cpu" if on_cpu else "cuda").itemsize


def _adapter_bytes(settings: StageSettings, *, on_cpu: bool) -> float:
    """What an adapter keeps of each number of its input, beside the layer's own."""
    if settings.method == "full":
        return 0.0
    if settings.peft.get("use_dora"):
        return DORA_BYTES
    if settings.lora_dropout:
        return DROPOUT_BYTES
    # Plain layers read the base's own input; over packed weights PEFT takes a copy in float32.
    return 0.0 if settings.bits == 16 or on_cpu else 4.0


def estimate_disk_bytes(config: PreTrainedConfig, settings: StageSettings, *, merged: bool = False) -> int:
    """Disk that a stage needs while it runs: its checkpoints and what it leaves."""
    size = stage_size(config, settings)
    width = 4 if settings.dtype == "float32" else 2
    whole = settings.method == "full" or merged
    left = size.parameters * width if whole else size.trainable * 4
    # A checkpoint holds weights and two moments.
    moments = moment_bytes(size.trainable, size.unpackable_moments, settings.optim)
    return int(left + CHECKPOINTS_AT_ONCE * (4 * size.trainable + moments))


def _logits_bytes(config: PreTrainedConfig, settings: StageSettings) -> int:
    """A chunk of the output layer: logits, which their gradient replaces, and what softmax needs, in float32.

    In full a chunk's logits take as much as the output layer's gradient (`train/loss.py`).
    """
    text = config.get_text_config()
    logits = 4 * max(256, text.hidden_size if settings.method == "full" else 0)
    return (logits + 2 * 4 * 256) * text.vocab_size


def _gathered_at_once(config: PreTrainedConfig, size: StageSize) -> float:
    """Parameters that a device holds whole for a moment: embeddings and output layer, and two layers."""
    text = config.get_text_config()
    outside = text.vocab_size * text.hidden_size * (1 if text.tie_word_embeddings else 2)
    return outside + 2 * (size.parameters - outside) / text.num_hidden_layers


def _on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise ModelError(
            f"transformers has no causal language model of type {config.model_type!r}",
            remedy="give a causal language model whose code is part of transformers",
        ) from error

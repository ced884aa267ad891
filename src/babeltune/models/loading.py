"""Base models and tokenizers from a located folder, in the width a recipe asks for.

The rules for quantised models are learned the hard way: on a CPU, bitsandbytes repacks 4-bit weights in
place at the first forward in eval mode and gives wrong gradients ever after, and 8-bit layers compute
different things in train and eval mode. So on a CPU a quantised model is unpacked once, before any
forward: the values are those of the quantised model, the gradients exact, the memory a 16-bit model's.

Few CPUs multiply 16-bit numbers. On the others torch makes do, and takes 3 times as long as in float32
with oneDNN and up to 90 without (`benchmarks/LOG.md`, 2026-11-21): there its 16-bit values
are held in float32.
"""

from __future__ import annotations

import functools
import logging
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babeltune.errors import ModelError
from babeltune.models.source import LocatedModel, quiet_transformers, read_object
from babeltune.study.schema import Bits, Dtype

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """The torch dtype of a study's `dtype`."""
    import torch

    return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[dtype]


def computed_dtype(dtype: Dtype, device: str) -> torch.dtype:
    """What a study's `dtype` is held and computed in on `device`: float32 on CPUs fast at nothing else."""
    import torch

    if torch.device(device).type == "cpu" and not (dtype == "bfloat16" and _cpu_multiplies_bfloat16()):
        return torch.float32
    return torch_dtype(dtype)


@functools.cache
def _cpu_multiplies_bfloat16() -> bool:
    import torch

    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported()  # AMX comes with it
    # On x86 oneDNN calls bfloat16 supported where it is emulated; on ARM it asks for the instructions.
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def load_config(folder: Path) -> PreTrainedConfig:
    """The configuration in a model's folder, without its weights.

    Raises:
        ModelError: it is no configuration that transformers knows by itself, or of quantised weights.
    """
    from transformers import AutoConfig

    where = folder / "config.json"
    if not where.is_file():
        raise ModelError("the model has no config.json", where=str(folder), remedy="give the model's folder")
    kind = read_object(where).get("model_type")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        parts = (config, config.get_text_config(decoder=True))
    # A configuration's own class computes with whatever the file says, so nonsense there can raise anything.
    except Exception as error:
        raise ModelError(
            f"transformers can't use this configuration (model_type {kind!r}): {_first_line(error)}",
            where=str(where),
            remedy="babeltune loads models that transformers knows, and runs no code that comes with a model",
        ) from error
    if any(getattr(part, "quantization_config", None) for part in parts):
        raise ModelError(
            "the model's weights are quantised already (`quantization_config`), and other widths can't be "
            "made of them",
            where=str(where),
            remedy="give the model with 16-bit weights, and say `bits: 4` or `bits: 8` in the recipe",
        )
    return config


def load_tokenizer(located: LocatedModel) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with the study's chat template where it gives one.

    Raises:
        ModelError: the folder has no tokenizer that can be loaded, or it has no end-of-text token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(located.folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the tokenizer of {located.name} can't be loaded: {_first_line(error)}",
            where=str(located.folder),
            remedy="it must hold tokenizer.json, or another file that needs no code of its own",
        ) from error
    if located.chat_template is not None:
        tokenizer.chat_template = located.chat_template
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {located.name} has no end-of-text token, so no answer would ever end",
            where=str(located.folder),
            remedy="set `eos_token` in tokenizer_config.json",
        )
    return tokenizer


def load_base(
    located: LocatedModel,
    *,
    bits: Bits = 16,
    dtype: Dtype = "bfloat16",
    device: str = "cpu",
    trainable_full: bool = False,
    unpacked: bool = False,
) -> PreTrainedModel:
    """The base model on `device`, in eval mode, its weights frozen.

    `bits` 4 and 8 quantise the linear layers (4: nf4, double quantised), by bitsandbytes. On a CPU the
    quantised values are unpacked again at once (see the module's text); with `unpacked` on every device,
    which is what merging needs. With `trainable_full` the weights are float32 masters, unfrozen, to be
    computed with under autocast in `dtype`. All others have the values of `dtype`, and are held in its
    `computed_dtype`.

    Raises:
        ModelError: the folder can't be loaded, its weights are quantised already, or a quantised model is
            asked for in full.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if trainable_full and bits != 16:
        raise ModelError(
            f"a {bits}-bit model can't be trained in full",
            remedy="use `method: lora` with `bits`, or `bits: 16` with `method: full`",
        )
    load_config(located.folder)
    on_cpu = torch.device(device).type == "cpu"
    options: dict[str, Any] = {"dtype": torch.float32 if trainable_full else torch_dtype(dtype)}
    if bits != 16:
        options["quantization_config"] = _quantisation(bits, options["dtype"])
        options["device_map"] = {"": device}
    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(
                located.folder,
                use_safetensors=True,
                trust_remote_code=False,
                **options,
            )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{located.name} can't be loaded: {_first_line(error)}",
            where=str(located.folder),
            remedy="babeltune loads causal language models that transformers knows, in safetensors",
        ) from error
    if bits != 16 and (on_cpu or unpacked):
        model = model.dequantize(dtype=options["dtype"])
        # What is left is an ordinary model; this mark would make PEFT and save_pretrained treat it otherwise.
        model.is_loaded_in_4bit = model.is_loaded_in_8bit = False
        log.info("%s: its %d-bit values are unpacked, so no memory is saved", located.name, bits)
    elif bits == 16:
        model.to(device)  # pyright: ignore[reportArgumentType]  (transformers' wrapper hides the signature)
    if options["dtype"] != computed_dtype(dtype, device) and not trainable_full:
        log.info("%s: this CPU has no %s products, so they are float32", located.name, dtype)
        model.to(torch.float32)  # pyright: ignore[reportArgumentType]
    model.requires_grad_(trainable_full)
    return model.eval()


def _quantisation(bits: Bits, compute: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]

"""LoRA adapters through PEFT: made from a stage's settings, attached, detached, merged.

A detached base is the base that was there before, byte for byte, except after the initialisations in
`BASE_CHANGING_INITS`, which move part of the base's weights into the adapter, and after adapters from
elsewhere that do more than LoRA does. Whoever keeps the base must then load it anew
(`StageSettings.changes_base`, `saved_changes_base`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from babeltune.errors import ModelError
from babeltune.models.source import read_object
from babeltune.study.settings import BASE_CHANGING_INITS, StageSettings

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel

PLAIN_INITS = (True, False, "gaussian", "orthogonal")
EMBEDDING_NAMES = ("lm_head", "embed_tokens")
# These would change the base that other runs share, or leave with the adapter something that is not LoRA.
REFUSED_OPTIONS = ("bias", "layer_replication", "trainable_token_indices", "megatron_config")
# Whatever these say, such an adapter comes off again and leaves nothing behind.
DETACHABLE_OPTIONS = frozenset(
    {
        "alpha_pattern",
        "base_model_name_or_path",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "modules_to_save",
        "peft_version",
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "task_type",
        "use_dora",
        "use_rslora",
    }
)


def saved_changes_base(folder: Path) -> bool:
    """Whether an adapter from a PEFT folder, trained here or elsewhere, may change what it is attached to.

    True for every kind and option that isn't known to come off again.

    Raises:
        ModelError: the folder is no PEFT adapter in safetensors.
    """
    from peft import LoraConfig

    saved, plain = _saved_config(folder), LoraConfig().to_dict()
    if saved.get("peft_type") != "LORA" or saved.get("init_lora_weights", True) not in PLAIN_INITS:
        return True
    known = {*DETACHABLE_OPTIONS, "init_lora_weights"}
    # An option that PEFT does not know (any more, or yet) does nothing.
    return any(saved[name] != plain[name] for name in saved.keys() & plain.keys() - known)


def lora_config(settings: StageSettings) -> LoraConfig:
    """PEFT's configuration for a stage; `settings.peft` is passed through by PEFT's names.

    Raises:
        ModelError: PEFT knows no such option, or the initialisation needs what babeltune doesn't have.
    """
    from peft import LoraConfig

    init = settings.peft.get("init_lora_weights", True)
    if init not in PLAIN_INITS and not settings.changes_base:
        raise ModelError(
            f"`init_lora_weights: {init}` needs data or a second model, which babeltune does not give it",
            remedy=f"use one of {', '.join(map(str, PLAIN_INITS + BASE_CHANGING_INITS))}",
        )
    refused = [name for name in REFUSED_OPTIONS if settings.peft.get(name) not in (None, "none")]
    if refused:
        raise ModelError(
            f"the PEFT option {refused[0]!r} changes the model under the adapter, which other runs share",
            remedy="leave it out, or train with `method: full`",
        )
    modules = settings.target_modules
    try:
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.r,
            lora_alpha=cast(int, settings.lora_alpha),  # PEFT annotates an int and takes a float
            lora_dropout=settings.lora_dropout,
            target_modules=list(modules) if isinstance(modules, tuple) else modules,
            **settings.peft,
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(
            f"PEFT refuses the adapter: {error}", remedy="see peft.LoraConfig for its options"
        ) from error


def check_targets(model: nn.Module, settings: StageSettings, *, tied: bool) -> None:
    """Refuse target modules that match nothing in `model`, and tied embeddings as targets.

    Works on a model on the meta device, so that it can be asked before any weights are loaded.

    Raises:
        ModelError: naming the nearest module names there are.
    """
    modules = settings.target_modules
    names = (modules,) if isinstance(modules, str) else modules
    saved = settings.peft.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        raise ModelError(
            f"`modules_to_save: {saved}` is not a list of module names",
            remedy="write it as a list, such as [norm]",
        )
    embedding = [name for name in (*names, *saved) if name.split(".")[-1] in EMBEDDING_NAMES]
    if tied and embedding:
        raise ModelError(
            f"{embedding[0]!r} can't be a target: this model uses one matrix as embedding and output layer",
            remedy=f"leave {' and '.join(EMBEDDING_NAMES)} out of `target_modules` and `modules_to_save`",
        )
    there = [name for name, _ in model.named_modules() if name]
    # A string is `all-linear` or a pattern over full names; PEFT refuses one that matches nothing.
    exact = saved if isinstance(modules, str) else (*modules, *saved)
    for wanted in exact:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in there):
            last_parts = sorted({name.split(".")[-1] for name in there if not name.split(".")[-1].isdigit()})
            near = difflib.get_close_matches(wanted, last_parts, n=3, cutoff=0.5) or last_parts
            raise ModelError(
                f"the adapter's target {wanted!r} matches no module of the model",
                remedy=f"there are: {', '.join(near)}",
            )


def check_unpacked(settings: StageSettings, *, on_cpu: bool) -> None:
    """Refuse an initialisation that changes its base where that stays packed.

    Raises:
        ModelError: it can't be, or not without rounding the base once more.
    """
    if settings.changes_base and settings.bits != 16 and not on_cpu:
        raise ModelError(
            f"`init_lora_weights: {settings.peft['init_lora_weights']}` changes the base's weights, which on "
            f"a GPU stay packed in {settings.bits} bits",
            remedy="write `bits: 16`, or leave `init_lora_weights` out",
        )


def attach_new(base: PreTrainedModel, settings: StageSettings, *, seed: int, base_name: str) -> PeftModel:
    """Attach a fresh adapter, initialised from `seed` whatever the random state; float32, ready to train.

    `base_name` is what the saved adapter will name as its base (`hub id@commit`), never a local path.

    Raises:
        ModelError: it matches no module, or PEFT refuses its options.
    """
    import torch

    check_targets(base, settings, tied=bool(base.config.get_text_config().tie_word_embeddings))
    config = lora_config(settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = put_on(base, config)
    _name_base(model, base_name)
    return model


def put_on(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Put an adapter of this configuration on a model, which may lie on the meta device.

    Raises:
        ModelError: PEFT finds no module for it, or an option makes no sense to it.
    """
    from peft import get_peft_model

    try:
        return cast("PeftModel", get_peft_model(model, config, autocast_adapter_dtype=True))
    # PEFT looks into its options as it goes, so one of the wrong type fails wherever it is first used.
    except (AttributeError, KeyError, TypeError, ValueError, re.error) as error:
        raise ModelError(
            f"PEFT can't attach the adapter: {error}",
            remedy="check `target_modules` (a list of names, `all-linear`, or a pattern over full names) "
            "and the options under `peft`",
        ) from error


def attach_saved(base: PreTrainedModel, folder: Path, *, trainable: bool, base_name: str) -> PeftModel:
    """Attach an adapter from a PEFT folder (safetensors only).

    Raises:
        ModelError: the folder is not such an adapter, or it belongs to another architecture.
    """
    from peft import PeftModel

    _saved_config(folder)
    try:
        model = PeftModel.from_pretrained(
            base, str(folder), is_trainable=trainable, autocast_adapter_dtype=True
        )
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"the adapter does not fit {base_name}: {str(error).strip().splitlines()[0]}",
            where=str(folder),
            remedy="an adapter fits only the model that it was trained on",
        ) from error
    _check_complete(model, folder, base_name)
    _name_base(model, base_name)
    return model if trainable else cast("PeftModel", model.eval())


def detach(model: PeftModel) -> PreTrainedModel:
    """Take the adapter off and give back the base, frozen and in eval mode, as it was before."""
    from peft.utils.other import ModulesToSaveWrapper

    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.set_adapter([])  # with one active, PEFT leaves its trained copy in the base
    base = cast("PreTrainedModel", model.unload())
    base.requires_grad_(False)
    return base.eval()


def merge(model: PeftModel) -> PreTrainedModel:
    """Add the adapter into its base's weights; the base is then another model.

    Raises:
        ModelError: the base is still quantised; adding into packed weights gives another model.
    """
    base = cast("PreTrainedModel", model.get_base_model())
    if getattr(base, "is_quantized", False):
        raise ModelError("an adapter is merged into the unpacked base, not into quantised weights")
    merged = cast("PreTrainedModel", model.merge_and_unload(safe_merge=True))
    merged.requires_grad_(False)
    return merged.eval()


def save_adapter(model: PeftModel, folder: Path, *, initial: Path | None = None) -> None:
    """Write a plain PEFT folder that fits the untouched base.

    `initial` is the folder of the same adapter before training, for those that changed their base:
    what is saved is then the difference, as plain LoRA of twice the rank.
    """
    options: dict[str, Any] = {}
    if initial is not None:
        options["path_initial_model_for_weight_conversion"] = str(initial)
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False, **options)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card; export writes a real one


def trainable_parameters(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)


def _saved_config(folder: Path) -> dict[str, Any]:
    """A PEFT folder's adapter_config.json.

    Raises:
        ModelError: it lacks a file, or that one is no JSON object.
    """
    config = folder / "adapter_config.json"
    if not config.is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            "this is not a PEFT adapter in safetensors",
            where=str(folder),
            remedy="a folder with adapter_config.json and adapter_model.safetensors is needed",
        )
    return read_object(config)


def _check_complete(model: PeftModel, folder: Path, base_name: str) -> None:
    """Refuse an adapter of which PEFT silently left something out, or that left something untouched."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        saved = set(file.keys())
    used = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if saved != used:
        model.unload()
        raise ModelError(
            f"the adapter does not fit {base_name}: {len(saved - used)} of its {len(saved)} weights have no "
            f"place in the model, {len(used - saved)} places have no weight",
            where=str(folder),
            remedy="an adapter fits only the model that it was trained on",
        )


def _name_base(model: Any, base_name: str) -> None:
    for config in model.peft_config.values():
        config.base_model_name_or_path = base_name

"""Resolved settings: what jobs are made of, with every default filled in and nothing left to look up.

These are plain frozen dataclasses because they travel to worker processes and are hashed into job
identities. A field belongs here only if changing it can change a result.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from babeltune.study.schema import Bits, Dtype, Method
from babeltune.study.values import Optimizer

# Values of `init_lora_weights` that begin with these.
BASE_CHANGING_INITS = ("pissa", "olora")
LORA_ONLY = ("r", "lora_alpha", "lora_dropout", "target_modules", "peft", "then", "loraplus_lr_ratio")
# What an adapter is; a later stage that trains it further can't make it another. PEFT's options too.
OF_THE_ADAPTER = ("r", "lora_alpha", "lora_dropout", "target_modules", "bits")
# Younger than studies that people have finished: while they say what was done before, identities must stay.
LEFT_OUT_AT_DEFAULT = ("loraplus_lr_ratio", "optim", "torch_compile")


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """One training stage, complete. `learning_rate` is None where a search job finds it.

    `then` says what a LoRA stage leaves behind: its adapter (`keep`) or merged weights (`merge`).
    """

    method: Method
    learning_rate: float | None
    bits: Bits = 16
    dtype: Dtype = "bfloat16"
    r: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    peft: dict[str, Any] = field(default_factory=dict)
    num_train_epochs: float | None = 3.0
    max_steps: int | None = None
    batch_size: int | None = 32
    batch_tokens: int | None = None
    max_length: int = 1024
    packing: bool = True
    warmup_ratio: float = 0.03
    warmup_steps: int | None = None
    lr_scheduler_type: str = "cosine"
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    loraplus_lr_ratio: float = 1.0
    optim: Optimizer = "adamw_torch_fused"
    torch_compile: bool = False
    then: Literal["merge", "keep"] = "keep"

    @property
    def changes_base(self) -> bool:
        """Whether attaching this adapter changes the weights it is attached to (PiSSA, OLoRA)."""
        init = self.peft.get("init_lora_weights", True)
        return isinstance(init, str) and init.lower().startswith(BASE_CHANGING_INITS)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON-ready data, for identities, the lock file and workers.

        Settings that cannot matter are left out (LoRA's under `full`), so that they do not
        change an identity either; so are younger ones at their defaults.
        """
        data = dataclasses.asdict(self)
        if isinstance(self.target_modules, tuple):
            data["target_modules"] = list(self.target_modules)
        if self.method == "full":
            for key in LORA_ONLY:
                del data[key]
        for setting in dataclasses.fields(self):
            if setting.name in LEFT_OUT_AT_DEFAULT and data.get(setting.name) == setting.default:
                data.pop(setting.name, None)
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StageSettings:
        """The inverse of `to_json`."""
        modules = data.get("target_modules", "all-linear")
        return cls(**{**data, "target_modules": tuple(modules) if isinstance(modules, list) else modules})


def why_not_kept(stage: StageSettings, following: StageSettings) -> str | None:
    """Why the next stage can't go on with the adapter that a stage keeps; None where it can or need not."""
    if stage.method == "full" or stage.then != "keep":
        return None
    if stage.changes_base:
        init = stage.peft["init_lora_weights"]
        return f"an adapter of `init_lora_weights: {init}` is left as one of another rank, and can't be kept"
    other = [name for name in OF_THE_ADAPTER if getattr(stage, name) != getattr(following, name)]
    options = dict.fromkeys([*stage.peft, *following.peft])
    other += [name for name in options if stage.peft.get(name) != following.peft.get(name)]
    if not other:
        return None
    return f"`keep` goes on with the same adapter, but the next stage has another `{other[0]}`"

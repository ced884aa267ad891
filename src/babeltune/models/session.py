"""What a worker process keeps between jobs: one base model, and the adapter that is on it.

Adapters come and go without touching the base; a base that one did change is not kept. When another base
is asked for, the one before is given back to the machine first, so that two never lie in memory at once.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from babeltune.models.adapters import (
    attach_new,
    attach_saved,
    detach,
    merge,
    saved_changes_base,
)
from babeltune.models.loading import load_base
from babeltune.models.source import LocatedModel
from babeltune.study.schema import Bits, Dtype
from babeltune.study.settings import StageSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """A model to score, to export or to train further.

    `weights`: a stage's `model/` folder, in place of the base's own weights. `adapter`: a PEFT folder
    that sits on those. `bits`: the width of what the adapter sits on; the 16-bit base and the 4-bit
    base are different models.
    """

    base: LocatedModel
    weights: Path | None = None
    adapter: Path | None = None
    bits: Bits = 16

    @property
    def under(self) -> LocatedModel:
        """What the adapter sits on, as a located model (its tokenizer is the base's)."""
        if self.weights is None:
            return self.base
        # A finished stage's folder never changes, so its place says what it is.
        return replace(self.base, folder=self.weights, weights_digest=f"folder:{self.weights.resolve()}")


class ModelSession:
    """Holds at most one base and at most one adapter on it. `device`: `cpu`, `cuda`, `cuda:1` …"""

    def __init__(self, device: str) -> None:
        self.device = device
        self._base: PreTrainedModel | None = None
        self._base_key: tuple[str, Bits, Dtype] | None = None
        self._adapted: PeftModel | None = None
        self._adapter: Path | None = None
        self._base_is_changed = False

    def base(self, located: LocatedModel, *, bits: Bits = 16, dtype: Dtype = "bfloat16") -> PreTrainedModel:
        """The bare base, frozen and in eval mode, kept for the next call.

        The caller leaves it as it was, or calls `discard`.
        """
        key = (located.weights_digest, bits, dtype)
        self._take_adapter_off()
        if self._base is None or self._base_key != key:
            self.discard()
            log.info("loading %s (%d bits, %s)", located.name, bits, dtype)
            self._base = load_base(located, bits=bits, dtype=dtype, device=self.device)
            self._base_key = key
            # Looking for garbage after each run then passes by the base and all that came before it.
            gc.collect()
            gc.freeze()
        return self._base

    def model_for(self, trained: TrainedModel, *, dtype: Dtype = "bfloat16") -> PreTrainedModel | PeftModel:
        """The model to score, in eval mode: the base with the trained adapter on it, if it has one.

        Asked again for the same model, it is the same object; the adapter comes off when something
        else is asked for.
        """
        key = (trained.under.weights_digest, trained.bits, dtype)
        if (
            self._adapted is not None
            and trained.adapter
            and (self._base_key, self._adapter) == (key, trained.adapter)
        ):
            return self._adapted.eval()
        base = self.base(trained.under, bits=trained.bits, dtype=dtype)
        if trained.adapter is None:
            return base
        with self._discarding_on_error():
            self._base_is_changed = saved_changes_base(trained.adapter)
            self._adapted = attach_saved(
                base, trained.adapter, trainable=False, base_name=trained.base.origin
            )
        self._adapter = trained.adapter
        return self._adapted

    def adapter_to_train(self, start: TrainedModel, settings: StageSettings, *, seed: int) -> PeftModel:
        """The base with a fresh adapter to train on it, or with `start`'s own, to train further.

        Call `release` when done, whatever happened.
        """
        base = self.base(start.under, bits=settings.bits, dtype=settings.dtype)
        with self._discarding_on_error():
            if start.adapter is not None:
                self._base_is_changed = saved_changes_base(start.adapter)
                self._adapted = attach_saved(base, start.adapter, trainable=True, base_name=start.base.origin)
            else:
                self._base_is_changed = settings.changes_base
                self._adapted = attach_new(base, settings, seed=seed, base_name=start.base.origin)
        self._adapter = None
        return self._adapted

    def full_to_train(
        self, start: TrainedModel, settings: StageSettings, *, device: str | None = None
    ) -> PreTrainedModel:
        """The whole model as float32 masters to train, an adapter of `start` added into it first.

        It is the caller's alone: the kept base is given back, and nothing of this one is kept. `device`:
        where it is to lie, if not on the session's.
        """
        self.discard()
        device = device or self.device
        if start.adapter is None:
            return load_base(start.under, dtype=settings.dtype, device=device, trainable_full=True)
        model = load_base(start.under, bits=start.bits, dtype="float32", device=device, unpacked=True)
        merged = merge(attach_saved(model, start.adapter, trainable=False, base_name=start.base.origin))
        return merged.requires_grad_(True)

    def release(self) -> None:
        """Take the adapter off; a base that the adapter changed is given back too."""
        self._take_adapter_off()

    def discard(self) -> None:
        """Give everything back to the machine."""
        self._adapted = self._adapter = None
        self._drop_base()
        give_memory_back(self.device)

    @contextmanager
    def _discarding_on_error(self) -> Iterator[None]:
        """Should attaching inside fail half-way, nobody uses this base again."""
        try:
            yield
        except BaseException:
            self.discard()
            raise

    def _take_adapter_off(self) -> None:
        if self._adapted is None:
            return
        adapted, self._adapted, self._adapter = self._adapted, None, None
        if self._base_is_changed:
            self._drop_base()
        else:
            self._base = detach(adapted)
        del adapted
        give_memory_back(self.device)

    def _drop_base(self) -> None:
        self._base = self._base_key = None
        self._base_is_changed = False
        gc.unfreeze()


def give_memory_back(device: str) -> None:
    """Free what nothing refers to any more, to the operating system or the device."""
    import torch

    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        # glibc keeps freed blocks for itself; the next model would then be loaded on top of them.
        ctypes.CDLL(None).malloc_trim(0)

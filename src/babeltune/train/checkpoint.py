"""Checkpoints that can be trusted after a `kill -9`: complete or absent, verified when read.

A checkpoint is a folder `step-00000120` with `tensors.pt` and `state.json`, and a `digests.json` over both.
It is written under a temporary name and renamed. Two are kept, so that a damaged one has another before
it; the older one goes before the next is written, so that there are never more than two on the disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

log = logging.getLogger(__name__)

FILES = ("tensors.pt", "state.json")


@dataclass(frozen=True)
class Checkpoint:
    """`tensors`: nested dicts of tensors and numbers, on the CPU. `state`: JSON-ready data."""

    step: int
    tensors: dict[str, Any]
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, *, beside: int | None) -> None:
    """Write a checkpoint into `folder`, in place of all there but that of the step `beside`.

    `beside`: what this training read or wrote last, so that it is known to be whole; None if there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = _place(folder, checkpoint.step)
    temporary = folder / f".part-{final.name}"
    kept = None if beside is None else _place(folder, beside)
    for place in (*folder.glob(".part-*"), *_all(folder)):
        if place != kept:
            shutil.rmtree(place)
    temporary.mkdir()
    torch.save(checkpoint.tensors, temporary / "tensors.pt")
    (temporary / "state.json").write_text(json.dumps(checkpoint.state))
    digests = {name: _digest(temporary / name) for name in FILES}
    (temporary / "digests.json").write_text(json.dumps(digests))
    for name in (*FILES, "digests.json"):
        _to_disk(temporary / name)
    temporary.replace(final)
    _to_disk(folder)


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; a damaged one is passed over with a message. None without any."""
    for place in reversed(_all(folder)):
        try:
            digests = json.loads((place / "digests.json").read_text())
            for name in FILES:
                if _digest(place / name) != digests[name]:
                    raise ValueError(f"{name} is not what was written")
            tensors = torch.load(place / "tensors.pt", map_location="cpu", weights_only=True)
            state = json.loads((place / "state.json").read_text())
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            log.warning("checkpoint %s is damaged (%s); taking the one before it", place, error)
            continue
        return Checkpoint(step=int(place.name.removeprefix("step-")), tensors=tensors, state=state)
    return None


def random_state(device: str) -> dict[str, Any]:
    """The state of every random generator a training may draw from, as `torch.load` reads without pickle."""
    version, keys, gauss = random.getstate()
    algorithm, words, position, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(keys), gauss],
        "numpy": [
            algorithm,
            torch.from_numpy(np.asarray(words).astype(np.int64)),
            position,
            has_gauss,
            cached,
        ],
    }
    if torch.device(device).type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: str) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["torch"])
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    algorithm, words, position, has_gauss, cached = state["numpy"]
    np.random.set_state((algorithm, words.numpy().astype(np.uint32), position, has_gauss, cached))
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _place(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    """Make a file's or folder's content survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

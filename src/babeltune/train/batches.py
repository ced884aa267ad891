"""From prepared examples to updates and packed rows: which examples, in what order, side by side.

The order depends on the seed and the examples only. How an update is cut into rows depends on the device
and changes nothing but speed: the loss is normalised over the whole update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import torch

from babeltune.data.packing import pack
from babeltune.errors import DataError
from babeltune.study.settings import StageSettings


@dataclass(frozen=True)
class Examples:
    """Encoded examples, end to end: example i is `ids[offsets[i]:offsets[i + 1]]`.

    `targets`: True where a token is trained on; never at an example's first token, which nothing predicts.
    """

    ids: np.ndarray
    targets: np.ndarray
    offsets: np.ndarray
    languages: tuple[str, ...]

    @classmethod
    def from_frame(cls, frame: pl.DataFrame) -> Examples:
        """From prepared rows (`input_ids`, `trained`, `language`), without those that train no token.

        Such an example changes no gradient, so leaving it out changes only the count of an update.
        """
        # `trained` at position 0 never counts, so it is the rest of the row that decides.
        kept = frame.filter(pl.col("trained").list.slice(1).list.any())
        lengths = kept["input_ids"].list.len().to_numpy()
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])
        ids = (
            kept["input_ids"].explode().to_numpy().astype(np.int64) if kept.height else np.zeros(0, np.int64)
        )
        targets = kept["trained"].explode().to_numpy().astype(bool) if kept.height else np.zeros(0, bool)
        targets = targets.copy()
        targets[offsets[:-1]] = False
        return cls(ids=ids, targets=targets, offsets=offsets, languages=tuple(kept["language"]))

    def __len__(self) -> int:
        return len(self.languages)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each example."""
        return np.diff(self.offsets)

    @cached_property
    def trained_counts(self) -> np.ndarray:
        """Trained tokens of each example."""
        return (
            np.add.reduceat(self.targets, self.offsets[:-1], dtype=np.int64)
            if len(self)
            else np.zeros(0, int)
        )


@dataclass(frozen=True)
class Row:
    """One packed row of T tokens, on the device.

    `source_N`: the positions whose next token is trained, `target_N`: those tokens. `boundaries` are the
    examples' limits in it (0 … T), `longest` is the longest example's tokens.
    """

    ids_1_T: torch.Tensor
    positions_1_T: torch.Tensor
    boundaries: torch.Tensor
    longest: int
    source_N: torch.Tensor
    target_N: torch.Tensor

    @property
    def tokens(self) -> int:
        """Its length."""
        return self.ids_1_T.shape[1]


@dataclass(frozen=True)
class Update:
    """The examples of one optimizer step. `epoch` is the share of all epochs done after it, in epochs."""

    epoch: float
    examples: np.ndarray


def plan_updates(examples: Examples, settings: StageSettings, seed: int) -> list[Update]:
    """Every update of a training, in order.

    Each epoch has its own shuffle, drawn from (seed, epoch). An update holds `batch_size` examples, or as
    many as fit `batch_tokens` (at least one); an epoch's last update holds what is left.

    Raises:
        DataError: there is nothing to train on.
    """
    if not len(examples):
        raise DataError(
            "there is no example with a trained token", remedy="look at the mixture with `babeltune check`"
        )
    updates: list[Update] = []
    steps = settings.max_steps
    epochs = settings.num_train_epochs if steps is None else math.inf
    assert epochs is not None
    epoch = 0
    while epoch < epochs and (steps is None or len(updates) < steps):
        order = np.random.default_rng([seed, epoch]).permutation(len(examples))
        groups = _groups(order, examples.lengths, settings)
        ends = np.cumsum([len(group) for group in groups]) / len(order)
        wanted = math.ceil(min(1.0, epochs - epoch) * len(groups))
        updates += [Update(epoch + float(end), group) for end, group in zip(ends, groups, strict=True)][
            :wanted
        ]
        epoch += 1
    return updates[:steps]


def _groups(order: np.ndarray, lengths: np.ndarray, settings: StageSettings) -> list[np.ndarray]:
    """Cut an epoch's order into updates."""
    if settings.batch_tokens is None:
        size = settings.batch_size
        assert size is not None
        return [order[start : start + size] for start in range(0, len(order), size)]
    starts, held = [0], 0
    for position, example in enumerate(order):
        if held and held + lengths[example] > settings.batch_tokens:
            starts.append(position)
            held = 0
        held += int(lengths[example])
    return [order[start:end] for start, end in zip(starts, [*starts[1:], len(order)], strict=True)]


def rows_of(
    examples: Examples, chosen: Sequence[int] | np.ndarray, *, row_tokens: int, packed: bool
) -> list[list[int]]:
    """Divide examples among rows of at most `row_tokens`; a longer example has a row of its own."""
    indices = [int(index) for index in chosen]
    if not packed:
        return [[index] for index in indices]
    lengths = [int(examples.lengths[index]) for index in indices]
    return [[indices[place] for place in row] for row in pack(lengths, max(row_tokens, *lengths, 1))]


def build_row(examples: Examples, members: Sequence[int], device: str) -> Row:
    """The tensors of one row."""
    spans = [slice(examples.offsets[index], examples.offsets[index + 1]) for index in members]
    lengths = [int(span.stop - span.start) for span in spans]
    ids = np.concatenate([examples.ids[span] for span in spans])
    targets = np.concatenate([examples.targets[span] for span in spans])
    at = np.flatnonzero(targets)
    positions = np.concatenate([np.arange(length) for length in lengths])

    def tensor(array: np.ndarray, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=dtype)

    return Row(
        ids_1_T=tensor(ids)[None],
        positions_1_T=tensor(positions)[None],
        boundaries=tensor(np.concatenate([[0], np.cumsum(lengths)]), torch.int32),
        longest=max(lengths),
        source_N=tensor(at - 1),
        target_N=tensor(ids[at]),
    )

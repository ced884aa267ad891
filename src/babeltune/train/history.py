"""What a training tells of itself: its updates one by one, and whether they still lead down."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# A run has diverged when its loss, averaged over a few updates, exceeds this multiple of its start by a nat.
DIVERGED_TIMES, DIVERGED_MARGIN, DIVERGED_WINDOW = 3.0, 1.0, 5


@dataclass(frozen=True)
class Progress:
    """Where a training is, for people. `tokens_per_second` counts since this process began with it."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float


@dataclass(frozen=True)
class HistoryRow:
    """One update. `loss` is in nats per trained token; `seconds` is the update's wall time."""

    step: int
    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float
    trained_tokens: int
    tokens: int
    seconds: float


def progress_since(began: int, history: Sequence[HistoryRow], steps: int) -> Progress:
    """Where a training of `steps` updates is, that this process began with after update `began`."""
    done = history[began:]
    return Progress(
        step=done[-1].step,
        steps=steps,
        loss=done[-1].loss,
        learning_rate=done[-1].learning_rate,
        gradient_norm=done[-1].gradient_norm,
        tokens_per_second=sum(row.tokens for row in done) / sum(row.seconds for row in done),
    )


def divergence(history: Sequence[HistoryRow], *, vocabulary: int, scaled: bool) -> str | None:
    """What is wrong with the newest update, if that ends the training.

    `vocabulary`: how many tokens the model chooses from. Guessing among them evenly is the worst that counts
    as a start, so that a training that is lost at its first update is seen as well. `scaled`: with a loss
    scaler an update of infinite gradients is skipped and its scale lowered.
    """
    losses = [row.loss for row in history]
    start, newest = min(_mean(losses[:DIVERGED_WINDOW]), math.log(vocabulary)), history[-1]
    if not math.isfinite(newest.loss):
        return f"the loss is {newest.loss} at update {newest.step}"
    if not math.isfinite(newest.gradient_norm) and not scaled:
        return f"the gradient is {newest.gradient_norm} at update {newest.step}"
    if newest.gradient_norm == 0 and newest.loss > 0:
        # Weights so large that norms overflow make everything after them zero: the loss stays finite.
        return f"the gradient is zero at update {newest.step}, at a loss of {newest.loss:.2f}"
    if _mean(losses[-DIVERGED_WINDOW:]) > DIVERGED_TIMES * start + DIVERGED_MARGIN:
        return f"the loss rose from {start:.2f} to {newest.loss:.2f} by update {newest.step}"
    return None


def write_history(path: Path, history: Iterable[HistoryRow]) -> None:
    """One JSON object a line; a loss that is not finite is null, as JSON has no such numbers."""
    lines = [
        json.dumps({key: value if math.isfinite(value) else None for key, value in asdict(row).items()})
        for row in history
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)

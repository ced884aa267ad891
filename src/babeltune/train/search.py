"""A learning rate for a recipe, found on held-out loss: short trainings on a log grid, then between.

Every candidate sees the same examples in the same order, so their losses can be compared update by update
and a loser is given up half-way. A short training favours slightly larger rates than a long one does; it
does so for every recipe alike.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from babeltune.data.prepare import Prepared, read_prepared
from babeltune.errors import JobFailed
from babeltune.study.settings import StageSettings
from babeltune.train.batches import Examples, plan_updates
from babeltune.train.group import current_group
from babeltune.train.heldout import mean_loss
from babeltune.train.history import HistoryRow
from babeltune.train.loop import TrainResult, train
from babeltune.train.meters import Meters, metering
from babeltune.train.stage import Surroundings, check_continues, model_to_train

log = logging.getLogger(__name__)

# Where the best rates of most models lie: about ten times higher for LoRA than in full (arXiv 2602.04998).
CENTRE = {"lora": 2e-4, "full": 1e-5}
COARSE, FINE = 4.0, 2.0
# The grid follows its best value outwards at most this often.
EXTENSIONS = 2
SHARE_OF_STEPS, FEWEST_STEPS, MOST_STEPS = 0.08, 8, 60
HELD_OUT_PER_LANGUAGE = 48
RECORD = "candidate.json"
# Given up when the mean loss of the last updates is this much above the best candidate's over the same ones.
GIVE_UP_TIMES, GIVE_UP_WINDOW = 1.05, 4


@dataclass(frozen=True)
class Candidate:
    """One learning rate tried. `held_out_loss`: nats per trained token, mean over languages, if `done`."""

    learning_rate: float
    state: str  # done, given up, diverged
    held_out_loss: float | None
    losses: tuple[float, ...]
    held_out_before: dict[str, float]
    meters: Meters


def search_learning_rate(settings: StageSettings, seed: int, around: Surroundings) -> dict[str, Any]:
    """Find the learning rate of a stage and write `search.json`; the session is left clean.

    Under LoRA+ it is the base rate, that of the A matrices. Returns what is in that file: `learning_rate`,
    `curve` (every rate tried, with its state and held-out loss, ascending), `steps` of each short training,
    `meters` of all of them. Candidates that are done are kept in the work folder, so an interrupted search
    goes on.

    Raises:
        Interrupted: `should_stop` said so.
        JobFailed: there is nothing held out to choose by, or every candidate diverged.
    """
    prepared = read_prepared(around.prepared_dir)
    check_continues(around.start, settings)
    if not len(Examples.from_frame(prepared.held_out)):
        raise JobFailed("a learning rate is searched on held-out examples, and the mixture holds none out")
    short = _shortened(settings, prepared, seed)
    tried: dict[float, Candidate] = {}

    def attempt(learning_rate: float) -> None:
        if learning_rate not in tried:
            tried[learning_rate] = _attempt(
                replace(short, learning_rate=learning_rate),
                seed,
                replace(around, work_dir=around.work_dir / f"{learning_rate:.3e}"),
                prepared,
                best=_best(tried),
            )

    centre = CENTRE[settings.method]
    # The centre goes first: the others can then be given up against it.
    for rate in (centre, centre * COARSE, centre / COARSE):
        attempt(rate)
    for _ in range(EXTENSIONS):
        best = _best(tried)
        if best is None:
            attempt(min(tried) / COARSE)
        elif best.learning_rate == max(tried):
            attempt(best.learning_rate * COARSE)
        elif best.learning_rate == min(tried):
            attempt(best.learning_rate / COARSE)
    best = _best(tried)
    if best is None:
        raise JobFailed(f"every learning rate from {min(tried):g} to {max(tried):g} diverged")
    for rate in (best.learning_rate * FINE, best.learning_rate / FINE):
        attempt(rate)
    best = _best(tried)
    assert best is not None
    found = {
        "learning_rate": best.learning_rate,
        "curve": [
            {"learning_rate": rate, "state": tried[rate].state, "held_out_loss": tried[rate].held_out_loss}
            for rate in sorted(tried)
        ],
        "steps": short.max_steps,
        "meters": _sum_of([candidate.meters for candidate in tried.values()]).to_json(),
    }
    around.out.mkdir(parents=True, exist_ok=True)
    (around.out / "search.json").write_text(json.dumps(found, indent=2))
    return found


def search_steps(steps: int) -> int:
    """Updates of each short training, for a stage of `steps` updates."""
    return min(steps, MOST_STEPS, max(FEWEST_STEPS, math.ceil(SHARE_OF_STEPS * steps)))


def _shortened(settings: StageSettings, prepared: Prepared, seed: int) -> StageSettings:
    """The settings of the short trainings: fewer updates, the warm-up shortened in proportion."""
    whole = replace(settings, learning_rate=CENTRE[settings.method])
    steps = len(plan_updates(Examples.from_frame(prepared.train), whole, seed))
    warmup = settings.warmup_steps
    ratio = settings.warmup_ratio if warmup is None else min(1.0, warmup / steps)
    return replace(
        settings,
        max_steps=search_steps(steps),
        num_train_epochs=None,
        warmup_ratio=ratio,
        warmup_steps=None,
    )


def _attempt(
    settings: StageSettings,
    seed: int,
    around: Surroundings,
    prepared: Prepared,
    *,
    best: Candidate | None,
) -> Candidate:
    """One short training, or what is known of it from before an interruption."""
    work_dir, device = around.work_dir, around.session.device
    record, group = work_dir / RECORD, current_group()
    if group.of_first(record.is_file()):
        data = json.loads(record.read_text())
        return Candidate(**{**data, "losses": tuple(data["losses"]), "meters": Meters(**data["meters"])})
    assert settings.learning_rate is not None
    with metering(device) as meter:
        try:
            with model_to_train(around, settings, seed) as (model, sharded):
                result = train(
                    model,
                    prepared,
                    settings,
                    seed=seed,
                    work_dir=work_dir,
                    on_progress=around.on_progress,
                    should_stop=around.should_stop,
                    device=device,
                    held_out_per_language=HELD_OUT_PER_LANGUAGE,
                    held_out_before=best.held_out_before if best else None,
                    give_up=lambda history: best is not None and _is_losing(history, best, settings),
                    sharded=sharded,
                )
                del model
            candidate = _candidate(settings.learning_rate, result)
        except JobFailed as error:
            log.info("%s", error)
            before = best.held_out_before if best else {}
            spent = group.meters(meter.read())
            candidate = Candidate(settings.learning_rate, "diverged", None, (), before, spent)
    if group.is_first:
        _keep(candidate, work_dir)
    return candidate


def _keep(candidate: Candidate, work_dir: Path) -> None:
    """Write it down, whole or not at all: a search interrupted here tries this candidate again."""
    work_dir.mkdir(parents=True, exist_ok=True)
    temporary = work_dir / f"{RECORD}.part"
    temporary.write_text(json.dumps(asdict(candidate)))
    temporary.replace(work_dir / RECORD)
    shutil.rmtree(work_dir / "checkpoints", ignore_errors=True)


def _candidate(learning_rate: float, result: TrainResult) -> Candidate:
    done = bool(result.held_out_after)
    return Candidate(
        learning_rate=learning_rate,
        state="done" if done else "given up",
        held_out_loss=mean_loss(result.held_out_after) if done else None,
        losses=tuple(row.loss for row in result.history),
        held_out_before=result.held_out_before,
        meters=result.meters,
    )


def _is_losing(history: Sequence[HistoryRow], best: Candidate, settings: StageSettings) -> bool:
    """Whether a candidate, from half-way on, is clearly behind the best over the same updates."""
    assert settings.max_steps is not None
    at = len(history)
    if at < max(GIVE_UP_WINDOW, settings.max_steps // 2) or at >= settings.max_steps or at > len(best.losses):
        return False
    ours = sum(row.loss for row in history[-GIVE_UP_WINDOW:])
    return ours > GIVE_UP_TIMES * sum(best.losses[at - GIVE_UP_WINDOW : at])


def _best(tried: dict[float, Candidate]) -> Candidate | None:
    done = [candidate for candidate in tried.values() if candidate.held_out_loss is not None]
    return min(done, key=lambda candidate: candidate.held_out_loss or 0.0, default=None)


def _sum_of(meters: list[Meters]) -> Meters:
    total = meters[0]
    for more in meters[1:]:
        total = total.plus(more)
    return total

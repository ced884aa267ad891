"""What jobs would take, from measured rates: time for `plan` and for a budget, memory and disk by shape."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from babeltune.commands.opening import OpenedStudy
from babeltune.commands.probe import Rates, stage_key
from babeltune.errors import UserError
from babeltune.execute.devices import Machine
from babeltune.models.loading import load_config
from babeltune.models.source import LocatedModel
from babeltune.study.jobs import WITHOUT_DEVICE, Job
from babeltune.study.settings import StageSettings

# A learning-rate search has five to seven short trainings, some given up half-way, each with held-out loss.
SEARCH_TRAININGS = 6


@dataclass(frozen=True)
class RunEstimate:
    """What one run would take: wall seconds of one worker (None: not known) and peak bytes."""

    run: str
    train_seconds: float | None
    score_seconds: float | None
    memory_bytes: int | None
    disk_bytes: int | None


def job_seconds(opened: OpenedStudy, rates: Rates) -> dict[str, float]:
    """Job id to wall seconds on one worker, for the jobs whose rate was measured and whose data is there."""
    items = opened.item_counts
    found = {}
    for job in opened.jobs.jobs:
        seconds = 0.0 if job.kind in WITHOUT_DEVICE else _seconds_of(job, opened, rates, items)
        if seconds is not None:
            found[job.id] = seconds
    return found


def estimate_runs(opened: OpenedStudy, seconds: Mapping[str, float], machine: Machine) -> list[RunEstimate]:
    """Time, memory and disk of each run, what is done already included."""
    estimates = []
    for run in opened.jobs.runs:
        memory = disk = 0
        located = opened.resolved.contents.models[run.run.model].located
        for stage in run.run.stages if located else ():
            stage_memory, stage_disk = stage_bytes(located, stage.settings, machine, run.run.devices)
            memory, disk = max(memory, stage_memory), disk + stage_disk
        estimates.append(
            RunEstimate(
                run.run.name,
                _sum_of(seconds, run.training),
                _sum_of(seconds, run.scoring),
                memory or None,
                disk or None,
            )
        )
    return estimates


def stage_bytes(
    located: Mapping[str, object], settings: StageSettings, machine: Machine, devices: int
) -> tuple[int, int]:
    """Memory (of each device) and disk of a stage; zeros where its adapter fits nothing, which `check` finds.

    Raises:
        ModelError: the model's configuration can't be read.
    """
    from babeltune.models.memory import estimate_disk_bytes
    from babeltune.train.row_budget import training_bytes

    config = load_config(LocatedModel.from_json(dict(located)).folder)
    devices = min(devices, len(machine.devices))
    try:
        memory = training_bytes(config, settings, machine.device_type, machine.memory_bytes, devices=devices)
        return memory, estimate_disk_bytes(config, settings, merged=settings.then == "merge")
    except UserError:
        return 0, 0


def _seconds_of(
    job: Job, opened: OpenedStudy, rates: Rates, items: Mapping[tuple[str, str], int]
) -> float | None:
    if job.kind == "score":
        rate = rates.score.get((job.means["model"], job.means["task_name"]))
        count = items.get((job.means["task_name"], job.means["language"]))
        return None if rate is None or count is None else rate[0] + rate[1] * count
    settings = StageSettings.from_json(job.meaning["settings"])
    rate = rates.train.get((job.means["model"], stage_key(settings)))
    length = _stage_length(opened, job, settings)
    if rate is None or length is None:
        return None
    updates, tokens = length
    return rate * tokens * (searched_updates(updates) if job.kind == "search" else updates)


def searched_updates(updates: int) -> float:
    """Updates of all short trainings of the search before a stage of `updates`."""
    from babeltune.train.search import search_steps

    return SEARCH_TRAININGS * search_steps(updates)


def _stage_length(opened: OpenedStudy, job: Job, settings: StageSettings) -> tuple[int, float] | None:
    """Updates of a stage and tokens of each, from its prepared data; None while that is not prepared."""
    summary_file = opened.folder.artifact(job.needs["data"]) / "summary.json"
    if not summary_file.is_file():
        return None
    train = json.loads(summary_file.read_text(encoding="utf-8"))["train"]
    an_example = train["tokens"] / max(train["examples"], 1)
    an_update = min(settings.batch_tokens or (settings.batch_size or 1) * an_example, train["tokens"])
    if settings.max_steps is not None:
        return settings.max_steps, an_update
    tokens = train["tokens"] * (settings.num_train_epochs or 1)
    updates = max(1, math.ceil(tokens / max(an_update, 1)))
    return updates, tokens / updates


def _sum_of(seconds: Mapping[str, float], jobs: Sequence[str]) -> float | None:
    return sum(seconds[job] for job in jobs) if all(job in seconds for job in jobs) else None

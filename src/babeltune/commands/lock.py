"""`study.lock.yaml`: everything resolved, so that a study can be repeated and its figures traced."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import yaml

from babeltune import __version__
from babeltune.commands.opening import OpenedStudy
from babeltune.data.hub import hub_commits
from babeltune.data.sources import source_commit
from babeltune.evaluate.task_entries import shown_items
from babeltune.execute.devices import Machine
from babeltune.models.loading import computed_dtype
from babeltune.study.expand import expand_tasks
from babeltune.study.graph import LOCATION_FIELDS

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "datasets",
    "lm_eval",
    "tokenizers",
    "polars",
    "scipy",
)


def lock_of(opened: OpenedStudy, machine: Machine) -> dict[str, Any]:
    """What the study resolved to: contents by digest, versions, machine, runs with their job ids."""
    contents = opened.resolved.contents
    return {
        "babeltune": __version__,
        "python": sys.version.split()[0],
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "machine": {
            "system": platform.platform(),
            "devices": machine.description,
            "workers": len(machine.devices),
            "threads_per_worker": machine.threads,
            "bfloat16_computed_in": str(computed_dtype("bfloat16", machine.device_type)).removeprefix(
                "torch."
            ),
        },
        "models": {
            name: {
                "origin": model.located.get("origin"),
                "weights": model.weights,
                "tokenizer": model.tokenizer,
            }
            for name, model in contents.models.items()
        },
        "datasets": {name: _dataset(opened, name) for name in contents.datasets},
        "tasks": {f"{task}/{language}": digest for (task, language), digest in contents.tasks.items()},
        # Where they lie on the hub, the rows of training data and of tasks were read at these commits.
        "hub": hub_commits(),
        "examples": _examples(opened),
        "runs": {
            run.run.name: {
                "training": list(run.training),
                "answers": {f"{task}/{language}": job for (task, language), job in run.answers.items()},
                "scores": {f"{task}/{language}": job for (task, language), job in run.scores.items()},
            }
            for run in opened.jobs.all_runs
        },
        "study": opened.study.model_dump(mode="json", exclude_defaults=True),
    }


def _dataset(opened: OpenedStudy, name: str) -> dict[str, Any]:
    """Where its rows lie, as the study says it; the commit, if on the hub; the digest of its content."""
    dataset = opened.study.datasets[name]
    commit = source_commit(dataset, opened.places)
    return {
        **dataset.model_dump(mode="json", include=LOCATION_FIELDS, exclude_defaults=True),
        **({"commit": commit} if commit else {}),
        "digest": opened.resolved.contents.datasets[name],
    }


def _examples(opened: OpenedStudy) -> dict[str, list[str]]:
    """Ids of the examples shown by task and language."""
    tasks = {plan.name: plan for plan in expand_tasks(opened.study)}
    found = {}
    for (name, language), digest in opened.resolved.contents.tasks.items():
        if not digest.startswith("unresolved:"):
            task, shots = tasks[name].task, tasks[name].num_fewshot
            found[f"{name}/{language}"] = shown_items(task, language, shots, opened.places)
    return {cell: items for cell, items in found.items() if items}


def write_lock(opened: OpenedStudy, machine: Machine) -> None:
    """Write the lock file, whole or not at all."""
    path = opened.folder.root / "study.lock.yaml"
    temporary = path.with_suffix(".part")
    temporary.write_text(
        yaml.safe_dump(lock_of(opened, machine), sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    temporary.replace(path)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

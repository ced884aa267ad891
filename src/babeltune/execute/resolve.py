"""Look at everything a study refers to and take its digests: models, datasets, tasks, adapters.

What can't be reached (a hub id without internet) gets a placeholder, so that `check` and `plan` can still
count the work; `run` refuses to start until `missing` is empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from babeltune.data.examples import languages_in
from babeltune.data.kept import kept
from babeltune.data.sources import source_digest
from babeltune.errors import Unreachable, UserError
from babeltune.evaluate.task_entries import (
    resolve_task,
    task_digest,
    task_info,
    task_languages,
    task_note,
)
from babeltune.models.source import adapter_digest, answer_settings, locate
from babeltune.study.expand import expand_tasks
from babeltune.study.findings import Finding
from babeltune.study.graph import LOCATION_FIELDS, Contents, ModelContent
from babeltune.study.jobs import digest_of
from babeltune.study.places import Places
from babeltune.study.schema import StudyFile


@dataclass
class Resolved:
    """What a study refers to: `contents`, what was noticed (`findings`), and what can't be reached from here.

    `missing` maps what it is (`model llama-7b`, `xnli sw`) to why.
    """

    contents: Contents
    missing: dict[str, Unreachable] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def resolve(
    study: StudyFile, places: Places, cache_dir: Path, *, on_step: Callable[[str], None] = lambda _: None
) -> Resolved:
    """Digests of all that the study names. `on_step` is told what is being looked at.

    Raises:
        UserError: something is not there or not what it says (other than an unreachable hub).
    """
    missing: dict[str, Unreachable] = {}
    findings: list[Finding] = []
    models = {}
    for model in study.models:
        on_step(f"model {model.short_name}")
        try:
            located = locate(model, places, cache_dir)
            # What a template is given is part of what the tokenizer makes of a conversation.
            tokenizer = digest_of([located.tokenizer_digest, located.chat_template_kwargs])
            models[model.short_name] = ModelContent(
                located.weights_digest, tokenizer, located.to_json(), answer_settings(located.folder)
            )
        except Unreachable as error:
            missing[f"model {model.short_name}"] = error
            placeholder = f"unresolved:{model.path}@{model.revision or 'main'}"
            models[model.short_name] = ModelContent(placeholder, placeholder, {})
    datasets: dict[str, str] = {}
    languages: dict[str, list[str]] = {}
    for name, dataset in study.datasets.items():
        on_step(f"dataset {name}")
        try:
            datasets[name] = source_digest(dataset, places, cache_dir)
            if dataset.language is None:
                read = dataset.model_dump(mode="json", exclude=LOCATION_FIELDS)
                languages[name] = kept(
                    cache_dir,
                    "languages",
                    [datasets[name], read, sorted(study.languages.target)],
                    partial(languages_in, name, dataset, places, study.languages.target),
                )
        except Unreachable as error:
            missing[f"dataset {name}"] = error
            datasets[name] = f"unresolved:{digest_of(dataset.model_dump(mode='json'))}"
    adapters = {
        recipe.adapter: adapter_digest(recipe.adapter, places, cache_dir)
        for recipe in study.recipes.values()
        if recipe.adapter
    }
    tasks = _task_digests(study, places, missing, findings, on_step)
    contents = Contents(
        models,
        datasets,
        tasks,
        languages,
        adapters,
        answered=_answered(study, places) if study.eval.references else frozenset(),
        places={
            "study_dir": str(places.study_dir),
            "data_root": str(places.data_root) if places.data_root else None,
        },
    )
    return Resolved(contents, missing, findings)


def _answered(study: StudyFile, places: Places) -> frozenset[str]:
    """Names of the tasks that are answered in writing."""
    plans = expand_tasks(study)
    return frozenset(plan.name for plan in plans if task_info(plan.task, places).kind == "answer")


def _task_digests(
    study: StudyFile,
    places: Places,
    missing: dict[str, Unreachable],
    findings: list[Finding],
    on_step: Callable[[str], None],
) -> dict[tuple[str, str], str]:
    """(task, language) to digest, for the study's languages that each task has."""
    guards = study.languages.guard
    wanted = list(dict.fromkeys([*study.languages.target, *guards]))
    digests: dict[tuple[str, str], str] = {}
    for plan in expand_tasks(study):
        on_step(f"task {plan.name}")
        task = resolve_task(plan.task)
        languages = guards if plan.guard_only else wanted
        note = task_note(task, plan.num_fewshot)
        if note and not any(finding.where == task.short_name for finding in findings):
            findings.append(Finding("warn", note, where=task.short_name))
        try:
            available = task_languages(task, places)
        except Unreachable as error:
            missing[plan.name] = error
            available = None
        lacking = [code for code in languages if available is not None and code not in available]
        if lacking and len(lacking) == len(languages):
            raise UserError(
                f"the task {plan.name} has none of the study's languages ({', '.join(languages)})",
                where="eval.tasks",
                remedy=f"it has: {', '.join(sorted(available or ()))}",
            )
        if lacking:
            findings.append(
                Finding("warn", f"{plan.name} does not exist in {', '.join(lacking)}; not scored there")
            )
        for language in languages:
            if language in lacking:
                continue
            try:
                digests[plan.name, language] = task_digest(
                    task, language, num_fewshot=plan.num_fewshot, limit=plan.limit, places=places
                )
            except Unreachable as error:
                missing[f"{plan.name} {language}"] = error
                digests[plan.name, language] = (
                    f"unresolved:{plan.name}:{language}:{plan.num_fewshot}:{plan.limit}"
                )
    return digests

"""From runs to jobs: what has to be done, in which order, each job identified by what it means.

Pure: the digests of models, data and tasks are given (`Contents`), so the same file over the same
contents gives the same job ids on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from babeltune.study.chains import datasets_used, mixture_chain
from babeltune.study.expand import REFERENCE, RunSpec, StageSpec, TaskPlan, expand_runs, expand_tasks
from babeltune.study.jobs import Job, digest_of
from babeltune.study.schema import Dataset, Judge, Mixture, Reference, StudyFile, Task

# Fields of a dataset entry that don't change a row: its content's digest stands for where it lies.
LOCATION_FIELDS = {"path", "name", "split", "revision", "data_files", "data_dir", "license"}
SEARCH_SEED = 0

Cell = tuple[str, str]
"""A task's name and a language."""


@dataclass(frozen=True)
class ModelContent:
    """A located base model: digests of what it is, and `located`, how a worker finds it again.

    `generation`: what its own generation config says that changes written answers.
    """

    weights: str
    tokenizer: str
    located: dict[str, Any]
    generation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """Digests of everything a study refers to.

    `tasks` maps (task name, language) to the digest of its definition and rows; a pair that is absent
    is a language the task does not have. `languages`: target languages that a dataset has rows in, for
    datasets whose rows say their own language. `leaked`: by what a recipe's `data` names, the rows that must
    not be trained on, each with the reason. `answered`: names of the tasks that are answered in writing,
    which references can be asked. `places` tells workers where relative paths start.
    """

    models: Mapping[str, ModelContent]
    datasets: Mapping[str, str]
    tasks: Mapping[tuple[str, str], str]
    languages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    leaked: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    answered: frozenset[str] = frozenset()
    places: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class RunJobs:
    """The jobs of one run.

    `training`: prepare, search and train jobs in order. `scores`: one job a task and language. `answers`:
    for judged tasks, the job that generated what the one in `scores` judges.
    """

    run: RunSpec
    training: tuple[str, ...]
    scores: Mapping[Cell, str]
    answers: Mapping[Cell, str] = field(default_factory=dict)

    @property
    def scoring(self) -> tuple[str, ...]:
        """All jobs after training: the answers to be judged, then the scores."""
        return (*self.answers.values(), *self.scores.values())


@dataclass(frozen=True)
class StudyJobs:
    """All jobs of a study in the order they are best done, and which run each belongs to.

    `references`: the larger models to compare with, which nobody trains, loads or recommends.
    """

    jobs: tuple[Job, ...]
    runs: tuple[RunJobs, ...]
    references: tuple[RunJobs, ...] = ()

    @property
    def all_runs(self) -> tuple[RunJobs, ...]:
        """The runs, and then the references."""
        return (*self.runs, *self.references)

    def by_id(self) -> dict[str, Job]:
        """Job id to job."""
        return {job.id: job for job in self.jobs}


def build_jobs(study: StudyFile, contents: Contents) -> StudyJobs:
    """The whole study as jobs, each once: a job that several runs share is shared."""
    jobs: dict[str, Job] = {}
    tasks = {task.name: task for task in expand_tasks(study)}
    searched: dict[tuple[str, str, int], str] = {}

    def add(job: Job) -> str:
        jobs.setdefault(job.id, job)
        return job.id

    cells = [
        (tasks[name], language, digest)
        for (name, language), digest in contents.tasks.items()
        if not tasks[name].guard_only or language in study.languages.guard
    ]

    def with_judge(scored: Mapping[Cell, Job]) -> tuple[dict[Cell, str], dict[Cell, str]]:
        """Scores, and the answers that those of judged tasks are given to."""
        scores, answers = {cell: add(job) for cell, job in scored.items()}, {}
        for cell, job in scored.items():
            if tasks[cell[0]].task.metric == "judge" and study.eval.judge is not None:
                answers[cell] = job.id
                scores[cell] = add(judge_job(study.eval.judge, job))
        return scores, answers

    run_jobs = []
    for run in expand_runs(study):
        model = contents.models[run.model]
        training: list[str] = []
        start: str | None = None
        for position, stage in enumerate(run.stages):
            data = add(prepare_job(study, contents, model, stage))
            training.append(data)
            search: str | None = None
            if stage.settings.learning_rate is None:
                key = (run.recipe, run.model, position)
                if key not in searched:  # one search a recipe, whatever its seeds
                    searched[key] = add(search_job(model, stage, run, data, start, position))
                search = searched[key]
                training.append(search)
            start = add(train_job(study, model, stage, run, data, start, search, position))
            training.append(start)
        scored = {
            (plan.name, language): score_job(study, contents, run, plan, language, digest, start)
            for plan, language, digest in cells
        }
        run_jobs.append(RunJobs(run, tuple(dict.fromkeys(training)), *with_judge(scored)))
    references = []
    for reference in study.eval.references:
        asked = {
            (plan.name, language): ask_job(contents, reference, plan, language, digest)
            for plan, language, digest in cells
            if plan.name in contents.answered
        }
        references.append(RunJobs(RunSpec(REFERENCE, reference.model, 0), (), *with_judge(asked)))
    return StudyJobs(tuple(jobs.values()), tuple(run_jobs), tuple(references))


def prepare_job(study: StudyFile, contents: Contents, model: ModelContent, stage: StageSpec) -> Job:
    """Data to tokens: depends on the rows, the mixture, the tokenizer with its template, the length limit."""
    name = stage.data
    datasets = {source: study.datasets[source] for source in _sources(study, name)}
    leaked = contents.leaked.get(name, {})
    return Job(
        "prepare",
        meaning={
            **data_meaning(study, contents, name),
            "tokenizer": model.tokenizer,
            "max_length": stage.settings.max_length,
            **({"leaked": digest_of(leaked)} if leaked else {}),
        },
        means={
            "name": name,
            "datasets": {source: _as_written(dataset) for source, dataset in datasets.items()},
            "mixtures": {key: _as_written(value) for key, value in study.mixtures.items()},
            "leaked": dict(leaked),
            "located": model.located,
            "places": dict(contents.places),
        },
        label=f"prepare {name}",
    )


def data_meaning(study: StudyFile, contents: Contents, name: str) -> dict[str, Any]:
    """What the examples that `name` (a mixture or a dataset) stands for follow from; JSON-ready."""
    chain = mixture_chain(name, study.mixtures, study.datasets)
    datasets = {source: study.datasets[source] for source in _sources(study, name)}
    return {
        "mixture": [_mixture_meaning(link) for link in chain],
        "datasets": sorted((dataset_meaning(study, contents, source) for source in datasets), key=str),
        "languages": trained_languages(chain[-1], datasets, contents.languages),
    }


def dataset_meaning(study: StudyFile, contents: Contents, source: str) -> dict[str, Any]:
    """What the rows of a dataset follow from, and how they are read; JSON-ready."""
    read = study.datasets[source].model_dump(mode="json", exclude=LOCATION_FIELDS)
    return {"content": contents.datasets[source], **read}


def _sources(study: StudyFile, name: str) -> list[str]:
    return datasets_used(name, study.mixtures, study.datasets)


def trained_languages(
    mixture: Mixture, datasets: Iterable[str], found: Mapping[str, Sequence[str]]
) -> list[str]:
    """The languages whose rows are trained on: the mixture's own list, or the targets that the data has.

    Only those that have rows count, so measuring one more language retrains nothing.
    """
    if mixture.languages is not None:
        return sorted(mixture.languages)
    return sorted({language for dataset in datasets for language in found.get(dataset, ())})


def search_job(
    model: ModelContent, stage: StageSpec, run: RunSpec, data: str, start: str | None, position: int
) -> Job:
    """The learning rate of one stage, found on held-out loss; its seed is no run's, so seeds can be added."""
    return Job(
        "search",
        meaning=_training_meaning(model, stage, SEARCH_SEED),
        needs={"data": data, **({"start": start} if start else {})},
        means=_training_means(model, stage, run),
        label=f"search learning rate {_stage_label(run, position)}",
    )


def train_job(
    study: StudyFile,
    model: ModelContent,
    stage: StageSpec,
    run: RunSpec,
    data: str,
    start: str | None,
    search: str | None,
    position: int,
) -> Job:
    """One stage of one run."""
    needs = {"data": data, "start": start, "learning_rate": search}
    return Job(
        "train",
        meaning=_training_meaning(model, stage, run.seed),
        needs={role: job for role, job in needs.items() if job},
        means={
            **_training_means(model, stage, run),
            "report_to": study.trackers,
            "study": study.name,
            "run": _stage_label(run, position),
        },
        label=f"train {_stage_label(run, position)}",
    )


def score_job(
    study: StudyFile,
    contents: Contents,
    run: RunSpec,
    plan: TaskPlan,
    language: str,
    task_digest: str,
    trained: str | None,
) -> Job:
    """One task in one language on one run's final model.

    The weights come from the run's last training job, whose id stands for them, or from the base alone.
    """
    model = contents.models[run.model]
    last = run.stages[-1].settings if run.stages else None
    meaning: dict[str, Any] = {
        "task": task_digest,
        "chat": plan.chat,
        "dtype": study.eval.dtype,
        "tokenizer": model.tokenizer,
    }
    if model.generation:
        meaning["generation"] = dict(model.generation)
    if trained is None:
        meaning["model"] = model.weights
        if run.adapter:
            meaning["adapter"] = contents.adapters[run.adapter]
    return Job(
        "score",
        meaning=meaning,
        needs={"model": trained} if trained else {},
        means={
            "task": _as_written(plan.task),
            "task_name": plan.name,
            "model": run.model,
            "num_fewshot": plan.num_fewshot,
            "limit": plan.limit,
            "language": language,
            "located": model.located,
            "adapter": run.adapter,
            "places": dict(contents.places),
            "affinity": f"seed{run.seed}/{run.model}/{last.bits if last else 16}",
        },
        label=f"score {run.name} on {plan.name} {language}",
    )


def ask_job(contents: Contents, reference: Reference, plan: TaskPlan, language: str, task_digest: str) -> Job:
    """One task in one language answered by a model behind an API, always in a chat.

    Where the API is, how fast it is asked and what it costs changes nothing.
    """
    return Job(
        "ask",
        meaning={"task": task_digest, "model": reference.model},
        means={
            "task": _as_written(plan.task),
            "task_name": plan.name,
            "model": reference.model,
            "reference": _as_written(reference),
            "num_fewshot": plan.num_fewshot,
            "limit": plan.limit,
            "language": language,
            "places": dict(contents.places),
        },
        label=f"ask {reference.model} on {plan.name} {language}",
    )


def judge_job(judge: Judge, answers: Job) -> Job:
    """The answers of a scoring job judged. Where the judge is, and how fast it is asked, changes nothing."""
    meaning = judge.model_dump(mode="json", include={"model", "passes", "temperature", "max_tokens"})
    return Job(
        "judge",
        meaning={"judge": meaning},
        needs={"answers": answers.id},
        means={**answers.means, "judge": _as_written(judge)},
        label=f"judge {answers.label.partition(' ')[2]}",
    )


def _training_meaning(model: ModelContent, stage: StageSpec, seed: int) -> dict[str, Any]:
    return {"model": model.weights, "settings": stage.settings.to_json(), "seed": seed}


def _training_means(model: ModelContent, stage: StageSpec, run: RunSpec) -> dict[str, Any]:
    return {
        "located": model.located,
        "model": run.model,
        "if_unfit": run.if_unfit,
        "devices": run.devices,
        "affinity": f"seed{run.seed}/{run.model}/{stage.settings.bits}",
    }


def _as_written(entry: Dataset | Mixture | Task | Judge | Reference) -> dict[str, Any]:
    """An entry of the study file, to be read again by a worker: what was left out stays left out."""
    return entry.model_dump(mode="json", exclude_unset=True)


def _stage_label(run: RunSpec, position: int) -> str:
    return run.name + (f" stage {position + 1}" if len(run.stages) > 1 else "")


def _mixture_meaning(mixture: Mixture) -> dict[str, Any]:
    meaning = mixture.model_dump(mode="json", exclude={"datasets", "subset_of"})
    return {**meaning, "languages": sorted(mixture.languages) if mixture.languages is not None else None}

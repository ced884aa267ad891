"""From artifacts to frames: item scores, costs and runs, as far as the study has come."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any

import polars as pl

from babeltune.execute.columns import COST_COLUMNS, SCORE_COLUMNS
from babeltune.execute.folder import StudyFolder
from babeltune.execute.ledger import JobRow
from babeltune.execute.prompts import PromptsSeen
from babeltune.study.expand import REFERENCE, UNTOUCHED, RunSpec, class_name
from babeltune.study.graph import RunJobs, StudyJobs
from babeltune.study.jobs import Job


def collect_scores(study_name: str, jobs: StudyJobs, folder: StudyFolder) -> pl.DataFrame:
    """One row an item and metric, of every scoring job that is done, in the study's order.

    Raises:
        UserError: two runs were not asked the same.
    """
    frames = []
    prompts = PromptsSeen()
    for run_jobs in jobs.all_runs:
        run = run_jobs.run
        for (task, language), job_id in run_jobs.scores.items():
            path = folder.artifact(job_id) / "items.parquet"
            if path.exists():
                names = {
                    "study": study_name,
                    "model": run.model,
                    "recipe": run.recipe,
                    "run": run.name,
                    "seed": run.seed,
                    "task": task,
                    "language": language,
                }
                columns = ("item", "metric", "value", "class", "prompt_digest")
                wanted = [column for column in columns if column in pl.read_parquet_schema(path)]
                found = pl.read_parquet(path, columns=wanted)
                if "prompt_digest" in wanted:
                    asked = found.select("item", "prompt_digest")
                    prompts.add(run, task, language, asked, folder.artifact(job_id))
                    found = found.drop("prompt_digest")
                for name, items in by_class(found, task).items():
                    labels = {**names, "task": name}
                    frames.append(
                        items.select(*(pl.lit(value).alias(key) for key, value in labels.items()), pl.all())
                    )
    if not frames:
        return pl.DataFrame(schema=SCORE_COLUMNS)
    return pl.concat(frames).select(pl.col(name).cast(kind) for name, kind in SCORE_COLUMNS.items())


def by_class(items: pl.DataFrame, task: str) -> dict[str, pl.DataFrame]:
    """Item scores by their task's name in tables, where each class of a judged task is a task of its own."""
    if "class" not in items.columns:
        return {task: items}
    parts = items.partition_by("class", as_dict=True, maintain_order=True, include_key=False)
    return {task if label is None else class_name(task, label): part for (label,), part in parts.items()}


def collect_items(
    jobs: StudyJobs, folder: StudyFolder, runs: Collection[str], metrics: Mapping[str, str]
) -> pl.DataFrame:
    """Items whose text was kept, with the answers of `runs`.

    `metrics`: the one of each task whose value is wanted. Columns run, task, language, item, value, answer,
    prompt, expected.
    """
    columns = ["item", "value", "answer", "prompt", "expected"]
    frames = []
    for run_jobs in jobs.all_runs:
        if run_jobs.run.name not in runs:
            continue
        for (task, language), job_id in run_jobs.scores.items():
            path = folder.artifact(job_id) / "items.parquet"
            if not path.exists() or "prompt" not in pl.read_parquet_schema(path):
                continue  # not done, or scored before texts were kept
            metric = "judge" if (task, language) in run_jobs.answers else metrics.get(task, "")
            wanted = (pl.col("metric") == metric) & pl.col("prompt").is_not_null()
            names = {"run": run_jobs.run.name, "task": task, "language": language}
            frames.append(
                pl.scan_parquet(path)
                .filter(wanted)
                .select(*(pl.lit(value).alias(key) for key, value in names.items()), *columns)
                .collect()
            )
    return pl.concat(frames, how="vertical_relaxed") if frames else pl.DataFrame()


def collect_costs(jobs: StudyJobs, folder: StudyFolder) -> pl.DataFrame:
    """What every finished job cost, a row for each run that has to pay for it.

    A training that several runs share (the first stage of two recipes) is paid by each: each needs it. A
    learning-rate search is paid by every recipe that needs it, in each by the first run. Data preparation is
    nobody's: its `run` is null. Adapters trained elsewhere have the cost that the study file gives.
    """
    kinds = {job.id: job.kind for job in jobs.jobs}
    searched: set[tuple[str, str, str]] = set()
    rows = []
    for job_id, kind in kinds.items():
        if kind == "prepare":
            rows += _cost_rows(folder, job_id, kind, None)
    for run_jobs in jobs.all_runs:
        run = run_jobs.run
        if "gpu_hours" in run.given_cost:
            seconds = run.given_cost["gpu_hours"] * 3600
            rows.append(
                {"run": run.name, "job": f"given-{run.name}", "kind": "train", "device_seconds": seconds}
            )
        for job_id in [*run_jobs.training, *run_jobs.scoring]:
            kind, payer = kinds[job_id], (job_id, run.recipe, run.model)
            if kind == "prepare" or (kind == "search" and payer in searched):
                continue
            searched |= {payer} if kind == "search" else set()
            rows += _cost_rows(folder, job_id, kind, run.name)
    return pl.DataFrame([{key: row.get(key) for key in COST_COLUMNS} for row in rows], schema=COST_COLUMNS)


def _cost_rows(folder: StudyFolder, job_id: str, kind: str, run: str | None) -> list[dict[str, Any]]:
    """The job's row, or none while it is not done."""
    record = folder.record(job_id)
    return [{**record["costs"], "run": run, "job": job_id, "kind": kind}] if record else []


def collect_runs(
    study_name: str,
    jobs: StudyJobs,
    folder: StudyFolder,
    ledger: Mapping[str, JobRow],
    mixture_of: Mapping[str, str],
) -> pl.DataFrame:
    """One row a run: its state and every factor as a column.

    `mixture_of`: each name of data to the mixture that it is one size of.
    """
    by_id = jobs.by_id()
    rows = [
        {
            **_run_row(study_name, run_jobs, by_id, folder, ledger),
            "mixture": " → ".join(mixture_of[stage.data] for stage in run_jobs.run.stages) or None,
        }
        for run_jobs in jobs.all_runs
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _run_row(
    study_name: str,
    run_jobs: RunJobs,
    by_id: Mapping[str, Job],
    folder: StudyFolder,
    ledger: Mapping[str, JobRow],
) -> dict[str, Any]:
    run = run_jobs.run
    wanted = [*run_jobs.training, *run_jobs.scoring]
    open_jobs = [job for job in wanted if not folder.is_done(job)]
    broken = next(
        (ledger[job] for job in open_jobs if job in ledger and ledger[job].state in ("failed", "skipped")),
        None,
    )
    row: dict[str, Any] = {
        "study": study_name,
        "model": run.model,
        "recipe": run.recipe,
        "run": run.name,
        "seed": run.seed,
        "state": broken.state if broken else ("open" if open_jobs else "done"),
        "error": broken.error if broken else None,
        "method": _method(run),
        "num_stages": len(run.stages),
        "data": " → ".join(stage.data for stage in run.stages) or None,
    }
    if run.stages:
        settings = dataclasses.asdict(run.stages[-1].settings)
        modules = settings.pop("target_modules")
        peft_options = settings.pop("peft")
        row |= {key: value for key, value in settings.items() if key not in ("method", "then")}
        row["target_modules"] = modules if isinstance(modules, str) else ",".join(modules)
        row["peft"] = json.dumps(peft_options, sort_keys=True) if peft_options else None
        if row["method"] == "full":
            for key in ("r", "lora_alpha", "lora_dropout", "loraplus_lr_ratio", "target_modules", "peft"):
                row[key] = None
        row["learning_rate_searched"] = settings["learning_rate"] is None
        if row["learning_rate_searched"]:
            row["learning_rate"] = _found_rate(run_jobs, by_id, folder)
        row |= _data_counts(run_jobs, by_id, folder)
    return row


def _method(run: RunSpec) -> str:
    if run.adapter or run.recipe == REFERENCE:
        return "adapter" if run.adapter else REFERENCE
    return " → ".join(stage.settings.method for stage in run.stages) or UNTOUCHED


def _found_rate(run_jobs: RunJobs, by_id: Mapping[str, Job], folder: StudyFolder) -> float | None:
    searches = [job for job in run_jobs.training if by_id[job].kind == "search"]
    path = folder.artifact(searches[-1]) / "search.json"
    return json.loads(path.read_text())["learning_rate"] if path.exists() else None


def _data_counts(run_jobs: RunJobs, by_id: Mapping[str, Job], folder: StudyFolder) -> dict[str, int | None]:
    """Examples and trained tokens of all stages' data, once through."""
    totals: dict[str, int | None] = {"train_examples": None, "train_trained_tokens": None}
    for job_id in run_jobs.training:
        path = folder.artifact(job_id) / "train.parquet"
        if by_id[job_id].kind == "prepare" and path.exists():
            counts = pl.scan_parquet(path).select(
                pl.len().alias("examples"), pl.col("trained").list.sum().sum().alias("trained")
            )
            examples, trained = counts.collect().row(0)
            totals["train_examples"] = (totals["train_examples"] or 0) + examples
            totals["train_trained_tokens"] = (totals["train_trained_tokens"] or 0) + trained
    return totals

"""From a study's artifacts to its tables, analysis and page: what `run` ends with and `report` repeats."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from babeltune.analysis.analyse import analyse
from babeltune.analysis.result import Analysis
from babeltune.analysis.scores import TaskInfo
from babeltune.analysis.tables import Tables
from babeltune.commands.locked import machine_of, read_lock
from babeltune.commands.opening import OpenedStudy, command_again
from babeltune.evaluate.task_entries import task_info
from babeltune.execute.collect import collect_costs, collect_items, collect_runs, collect_scores
from babeltune.execute.ledger import read_rows
from babeltune.report.checklist import SEARCH_COLUMNS, checklist
from babeltune.report.examples import example_runs, examples_of
from babeltune.report.page import HISTORY_COLUMNS, Background, Running
from babeltune.report.share import SHARED, without_private
from babeltune.report.write import write_report
from babeltune.study.chains import same_but_for_size
from babeltune.study.expand import class_name, expand_tasks
from babeltune.study.findings import Finding

FINDINGS = "findings.json"


def tables_of(opened: OpenedStudy) -> Tables:
    """The frames of what is finished."""
    study, folder = opened.study, opened.folder
    ledger = {row.id: row for row in read_rows(folder.ledger)}
    mixture_of = {
        stage.data: same_but_for_size(stage.data, study.mixtures, study.datasets)
        for run in opened.jobs.runs
        for stage in run.run.stages
    }
    return Tables(
        scores=collect_scores(study.name, opened.jobs, folder),
        costs=collect_costs(opened.jobs, folder),
        runs=collect_runs(study.name, opened.jobs, folder, ledger, mixture_of),
    )


def results_of(opened: OpenedStudy) -> tuple[Tables, Analysis]:
    """Frames and analysis of what is finished."""
    study, tables = opened.study, tables_of(opened)
    analysis = analyse(
        tables.scores,
        tables.costs,
        tables.runs,
        task_infos(opened),
        study.decide,
        target=study.languages.target,
        guard=study.languages.guard,
        budget=study.budget,
    )
    return tables, analysis


def write_page(
    opened: OpenedStudy,
    tables: Tables,
    analysis: Analysis,
    findings: Sequence[Finding],
    *,
    running: Running | None = None,
    share: bool = False,
) -> Path:
    """Tables and page on disk; returns the page's path.

    `findings`: what was warned of before the study; `running`: while it runs; `share`: the form without texts
    and paths, in a folder of its own.
    """
    background = dataclasses.replace(background_of(opened, tables, analysis, findings), running=running)
    root = opened.folder.root
    if share:
        return write_report(root / SHARED, *without_private(tables, analysis, background))
    kept = json.dumps([dataclasses.asdict(finding) for finding in findings], ensure_ascii=False)
    (opened.folder.jobs / FINDINGS).write_text(kept, encoding="utf-8")
    return write_report(root, analysis, tables, background)


def kept_findings(opened: OpenedStudy) -> list[Finding]:
    """What was warned of when the page was last written."""
    file = opened.folder.jobs / FINDINGS
    return (
        [Finding(**found) for found in json.loads(file.read_text(encoding="utf-8"))] if file.is_file() else []
    )


def background_of(
    opened: OpenedStudy, tables: Tables, analysis: Analysis, findings: Sequence[Finding]
) -> Background:
    """What the page shows besides the analysis."""
    root = opened.folder.root
    lock_text, lock = read_lock(root)
    machine = machine_of(lock)
    best = next((c for c in analysis.candidates if c.label == analysis.recommendation.candidate), None)
    export = f"{command_again('export', opened)} --to DIR" if best and not best.untouched else ""
    runs = example_runs(analysis, tables.scores["run"].unique().to_list())
    metrics = {task.task: task.metric for task in analysis.tasks}
    searches = learning_rates(opened)
    return Background(
        history=learning_curves(opened),
        searches=searches,
        examples=examples_of(collect_items(opened.jobs, opened.folder, runs, metrics), runs),
        study_text=opened.path.read_text(encoding="utf-8"),
        lock_text=lock_text,
        command=command_again("run", opened),
        export_command=export,
        machine=machine,
        findings=tuple(findings),
        checklist=tuple(checklist(analysis, tables, searches, machine)),
    )


def learning_rates(opened: OpenedStudy) -> pl.DataFrame:
    """Every learning rate tried, by recipe and model, once each: `checklist.SEARCH_COLUMNS`."""
    kinds = {job.id: job.kind for job in opened.jobs.jobs}
    seen: set[str] = set()
    rows = []
    for run_jobs in opened.jobs.runs:
        for job_id in run_jobs.training:
            path = opened.folder.artifact(job_id) / "search.json"
            if kinds[job_id] != "search" or job_id in seen or not path.is_file():
                continue
            seen.add(job_id)
            found = json.loads(path.read_text(encoding="utf-8"))
            rows += [
                (
                    run_jobs.run.recipe,
                    run_jobs.run.model,
                    tried["learning_rate"],
                    tried["state"],
                    tried["held_out_loss"],
                    tried["learning_rate"] == found["learning_rate"],
                )
                for tried in found["curve"]
            ]
    return pl.DataFrame(rows, schema=SEARCH_COLUMNS, orient="row")


def learning_curves(opened: OpenedStudy) -> pl.DataFrame:
    """Loss by step of every run's last training stage: columns run, recipe, seed, step, loss."""
    rows = []
    for run_jobs in opened.jobs.runs:
        run = run_jobs.run
        if not run_jobs.training:
            continue
        curve = opened.folder.artifact(run_jobs.training[-1]) / "history.jsonl"
        if curve.is_file():
            for line in curve.read_text(encoding="utf-8").splitlines():
                point = json.loads(line)
                rows.append((run.name, run.recipe, run.seed, point["step"], point["loss"]))
    return pl.DataFrame(rows, schema=HISTORY_COLUMNS, orient="row")


def task_infos(opened: OpenedStudy) -> list[TaskInfo]:
    """What the analysis must know of each task; the classes of a judged task are tasks of their own to it."""
    infos = []
    for plan in expand_tasks(opened.study):
        found = task_info(plan.task, opened.places)
        names = [class_name(plan.name, label) for label in found.classes] or [plan.name]
        infos += [
            TaskInfo(
                task=name,
                metric=found.metric,
                primary=plan.task.primary,
                guard_only=plan.guard_only,
                chance=found.chance,
                written=found.kind == "answer",
            )
            for name in names
        ]
    return infos


def link_models(opened: OpenedStudy) -> None:
    """`models/<run name>` links to each finished run's weights, by a relative path so the folder can move."""
    root = opened.folder.root / "models"
    for run_jobs in opened.jobs.runs:
        if not run_jobs.training:
            continue
        artifact = opened.folder.artifact(run_jobs.training[-1])
        weights = next((artifact / name for name in ("model", "adapter") if (artifact / name).is_dir()), None)
        link = root / run_jobs.run.name
        if link.is_symlink():
            link.unlink()
        if weights is not None:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(os.path.relpath(weights, link.parent)))

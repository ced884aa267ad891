"""`babeltune run`: check, do what is not done yet, write the answer. Also what `demo` does."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from babeltune.analysis.result import Analysis
from babeltune.commands.check import PERFORM, Checked, check_study, print_findings, refuse
from babeltune.commands.estimate import job_seconds
from babeltune.commands.live import LivePage
from babeltune.commands.lock import write_lock
from babeltune.commands.opening import OpenedStudy, need_all, open_study
from babeltune.commands.probe import measured_rates
from babeltune.commands.results import link_models, results_of, write_page
from babeltune.commands.screen import print_json, screen
from babeltune.errors import Interrupted, StudyFailed
from babeltune.execute.budget import budget_guard
from babeltune.execute.devices import Machine, this_machine
from babeltune.execute.disk import prune
from babeltune.execute.events import Event
from babeltune.execute.folder import is_local
from babeltune.execute.ledger import open_ledger
from babeltune.execute.progress import Price, shown_progress
from babeltune.execute.runner import Outcome, run_jobs
from babeltune.execute.schedule import jobs_to_do
from babeltune.report.page import Running
from babeltune.report.terminal import print_results
from babeltune.study.findings import Finding
from babeltune.study.jobs import Job

# Seconds that a stopped run may take to write its page once more.
PATIENCE_AT_STOP = 10.0


def run(path: Path, *, out: Path | None, data_root: Path | None, workers: int | None, as_json: bool) -> None:
    """Do the study at `path`, or what is left of it, and print the answer.

    Raises:
        UserError: the study is refused, or its folder is in use.
        StudyFailed: some jobs failed; the rest is done and reported.
        Interrupted: stopped by a signal; the same command goes on.
    """
    console = screen(stderr=as_json)
    opened = open_study(path, out=out, data_root=data_root, console=console)
    need_all(opened)
    machine = this_machine(workers)
    with opened.folder.exclusive():
        say_what_is_done(console, opened, machine)
        checked = check_study(opened, machine, console)
        print_findings(console, checked)
        refuse(checked)
        write_lock(opened, machine)
        outcome = _work(opened, checked, machine, console)
        if outcome.interrupted:
            raise Interrupted("stopped; the same command goes on from here")
        analysis = write_results(opened, checked.findings)
    if as_json:
        print_json(analysis.to_json())
    else:
        print_results(analysis, console)
    _print_failures(console, opened.jobs.by_id(), outcome)
    console.print(f"Report: {opened.folder.root / 'report.html'}", soft_wrap=True)
    if outcome.failed:
        raise StudyFailed(f"{len(outcome.failed)} jobs failed; the same command tries them again")


def say_what_is_done(console: Console, opened: OpenedStudy, machine: Machine) -> None:
    """One line: how much there is to do, and where."""
    jobs = opened.jobs.jobs
    to_do = opened.jobs_to_do()
    again = sum(opened.folder.is_done(job.id) for job in to_do)
    trained = sum(bool(run.training) for run in opened.jobs.runs)
    left = f"{len(to_do)} of {len(jobs)} jobs to do" if to_do else "everything is done"
    if again:
        left += f" ({again} trainings again: their weights were not kept)"
    console.print(
        f"{opened.study.name}: {trained} trainings, {len(jobs)} jobs, {left}, on {machine.description}",
        soft_wrap=True,
    )


def write_results(opened: OpenedStudy, findings: Sequence[Finding]) -> Analysis:
    """Tables, page, links to models; then weights that nobody keeps are removed."""
    tables, analysis = results_of(opened)
    winners = _winners(opened, analysis)
    with opened.folder.exclusive():
        write_page(opened, tables, analysis, findings)
        if winners or opened.study.keep != "winner":  # while nobody has won, everybody stays
            prune(opened.folder, opened.jobs.jobs, keep=opened.study.keep, winners=winners)
        link_models(opened)
    return analysis


def write_page_so_far(opened: OpenedStudy, findings: Sequence[Finding], how_far: str | None) -> None:
    """Tables and page of what is finished; with `how_far` they are of a study under way."""
    tables, analysis = results_of(opened)
    running = Running(how_far, time.strftime("%H:%M:%S")) if how_far else None
    write_page(opened, tables, analysis, findings, running=running)


def _work(opened: OpenedStudy, checked: Checked, machine: Machine, console: Console) -> Outcome:
    left_out = _jobs_only_of(opened, checked.unfit)
    jobs = [job for job in opened.jobs.jobs if job.id not in left_out]
    _record_unfit(opened, checked.unfit, left_out)
    budget = opened.study.budget
    price = Price(budget.price_per_gpu_hour, budget.currency) if budget.price_per_gpu_hour else None
    if not jobs_to_do(jobs, opened.folder, keep=opened.weights_to_keep):
        return Outcome(tuple(job.id for job in jobs), (), {}, {}, frozenset(), (), interrupted=False)
    guard = budget_guard(budget)
    estimates: dict[str, float] = {}
    if guard is not None:
        rates = measured_rates(opened, machine, checked.unfit, console)
        busy = machine.device_seconds_per_second
        estimates = {job: seconds * busy for job, seconds in job_seconds(opened, rates).items()}
    live = LivePage(lambda how_far: write_page_so_far(opened, checked.findings, how_far))

    def tell(event: Event) -> None:
        show(event)
        live(event)

    with shown_progress(console, price) as show:
        outcome = run_jobs(
            jobs,
            opened.folder,
            perform=PERFORM,
            devices=machine.devices,
            threads=machine.threads,
            keep=opened.weights_to_keep,
            budget=guard,
            estimates=estimates,
            on_event=tell,
        )
    live.close()
    if outcome.interrupted and live.seconds_for_last is not None and live.seconds_for_last < PATIENCE_AT_STOP:
        write_page_so_far(opened, checked.findings, None)  # one that doesn't reload itself any more
    return outcome


def _jobs_only_of(opened: OpenedStudy, runs: Mapping[str, str]) -> set[str]:
    """Jobs that only the named runs need."""
    of_others = {
        job
        for run in opened.jobs.all_runs
        if run.run.name not in runs
        for job in [*run.training, *run.scoring]
    }
    return {job.id for job in opened.jobs.jobs} - of_others


def _record_unfit(opened: OpenedStudy, unfit: Mapping[str, str], left_out: Collection[str]) -> None:
    """Have the ledger, and so the page, say which runs don't fit and why."""
    by_id = opened.jobs.by_id()
    reasons = {
        job: unfit[run.run.name]
        for run in opened.jobs.runs
        if run.run.name in unfit
        for job in run.training
        if job in left_out and not opened.folder.is_done(job)
    }
    if reasons:
        with open_ledger(opened.folder, wal=is_local(opened.folder.root)) as ledger:
            for job, reason in reasons.items():
                ledger.skip(by_id[job], reason)


def _winners(opened: OpenedStudy, analysis: Analysis) -> list[str]:
    """The last training job of each seed of the recommended recipe, and of each single run's."""
    chosen = analysis.recommendation.candidate
    runs = next((c.runs for c in analysis.candidates if c.label == chosen), ())
    return [run.training[-1] for run in opened.jobs.runs if run.run.name in runs and run.training]


def _print_failures(console: Console, jobs: Mapping[str, Job], outcome: Outcome) -> None:
    if outcome.not_started:
        console.print(
            f"{len(outcome.not_started)} jobs were not started: the budget is used up", style="yellow"
        )
    if not outcome.failed and not outcome.skipped:
        return
    table = Table("job", "what happened", title="Not done", title_justify="left")
    for job_id, reason in [*outcome.failed.items(), *outcome.skipped.items()]:
        table.add_row(jobs[job_id].label, reason.partition("\n")[0])
    console.print(table)

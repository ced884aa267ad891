"""`babeltune plan`: what `run` would do, what it would cost, and what the study can show."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from babeltune.analysis.pilot import Pilot, pilot_of
from babeltune.analysis.points import is_loss, unit_in_words
from babeltune.analysis.power import Assumptions, Power, TaskSize, few_seeds_warnings, power
from babeltune.analysis.scopes import decision_tasks
from babeltune.commands.check import GIB, Checked, check_study, is_reachable, print_findings, refuse
from babeltune.commands.estimate import RunEstimate, estimate_runs, job_seconds
from babeltune.commands.opening import OpenedStudy, command_again, open_study
from babeltune.commands.probe import Rates, measured_rates
from babeltune.commands.results import tables_of, task_infos
from babeltune.commands.screen import print_json, screen
from babeltune.execute.devices import Machine, this_machine
from babeltune.execute.progress import duration
from babeltune.languages import get
from babeltune.study.settings import StageSettings


def plan(path: Path, *, out: Path | None, data_root: Path | None, probe: bool, as_json: bool) -> None:
    """Check the study at `path` and print what running it means.

    Raises:
        UserError: something must be mended first.
    """
    console = screen(stderr=as_json)
    opened = open_study(path, out=out, data_root=data_root, console=console)
    machine = this_machine(None)
    checked = check_study(opened, machine, console)
    print_findings(console, checked)
    refuse(checked)
    rates = measured_rates(opened, machine, checked.unfit, console) if probe else Rates({}, {})
    seconds = job_seconds(opened, rates)
    estimates = estimate_runs(opened, seconds, machine)
    pilot = pilot_scores(opened)
    powers = what_it_can_show(opened, pilot)
    if as_json:
        print_json(_as_json(opened, checked, estimates, powers, pilot))
    else:
        _print_recipes(console, opened)
        _print_jobs(console, opened)
        _print_estimates(console, opened, machine, estimates, seconds)
        _print_power(console, opened, powers, pilot)
    console.print(f"Next: {command_again('run', opened)}", soft_wrap=True)


def what_it_can_show(opened: OpenedStudy, pilot: Pilot | None) -> list[Power]:
    """Smallest detectable differences; empty where losses decide and there is no pilot to go by.

    `pilot`: scores to go by instead of defaults.
    """
    items = opened.item_counts
    infos = task_infos(opened)
    deciding = {info.task for info in decision_tasks(infos)}
    sizes, guard_sizes = [], []
    for info in infos:
        if is_loss(info.metric) and (pilot is None or info.task not in pilot.assumptions):
            continue
        counts = {language: count for (task, language), count in items.items() if task == info.task}
        if counts and (info.guard_only or info.task in deciding):
            size = TaskSize(info.task, max(counts.values()), tuple(counts))
            (guard_sizes if info.guard_only else sizes).append(size)
    recipes = len({(run.run.recipe, run.run.model) for run in opened.jobs.runs if run.run.stages})
    if not sizes or not recipes:
        return []
    return power(
        sizes,
        recipes=recipes,
        seeds=_seeds(opened),
        guard_languages=opened.study.languages.guard,
        guard_tasks=guard_sizes,
        assumptions=pilot.assumptions if pilot else None,
        confidence=opened.study.decide.confidence,
    )


def pilot_scores(opened: OpenedStudy) -> Pilot | None:
    """What the study's folder already holds of scores, in an earlier or unfinished run of it."""
    languages = opened.study.languages
    tables = tables_of(opened)
    return pilot_of(tables.scores, tables.runs, task_infos(opened), languages.target, languages.guard)


def _seeds(opened: OpenedStudy) -> int:
    seeds = opened.study.seeds
    return seeds if isinstance(seeds, int) else len(seeds)


def _first_seed(opened: OpenedStudy) -> int:
    seeds = opened.study.seeds
    return 0 if isinstance(seeds, int) else seeds[0]


def _print_recipes(console: Console, opened: OpenedStudy) -> None:
    """Every recipe with what it does, defaults filled in."""
    table = Table(title="Recipes", title_justify="left", box=None)
    for column in ("recipe", "method", "learning rate", "data", "for", "batch", "length"):
        table.add_column(column, no_wrap=column in ("recipe", "for"))
    shown: set[str] = set()
    for run in opened.jobs.runs:
        if run.run.recipe in shown:
            continue
        shown.add(run.run.recipe)
        for position, stage in enumerate(run.run.stages):
            settings = stage.settings
            rate = "search" if settings.learning_rate is None else f"{settings.learning_rate:g}"
            epochs = f"{settings.num_train_epochs:g} epochs" if settings.num_train_epochs else ""
            table.add_row(
                run.run.recipe if position == 0 else "  then",
                _method(settings),
                rate,
                stage.data,
                f"{settings.max_steps} steps" if settings.max_steps else epochs,
                f"{settings.batch_tokens} tokens" if settings.batch_tokens else str(settings.batch_size),
                str(settings.max_length),
            )
    console.print(table)


def _method(settings: StageSettings) -> str:
    """`full`, `lora r8`, `lora r64 on 4 bits`."""
    if settings.method == "full":
        return "full"
    return f"lora r{settings.r}" + (f" on {settings.bits} bits" if settings.bits != 16 else "")


def _print_jobs(console: Console, opened: OpenedStudy) -> None:
    jobs = opened.jobs.jobs
    total = Counter(job.kind for job in jobs)
    left = Counter(job.kind for job in opened.jobs_to_do())
    seeds = _seeds(opened)
    runs = sum(bool(run.run.stages) for run in opened.jobs.runs)
    parts = [
        f"{count} {kind}" + (f" ({count - left[kind]} done)" if left[kind] < count else "")
        for kind, count in total.items()
    ]
    console.print(
        f"{runs} trainings ({seeds} seed{'s' * (seeds != 1)}), {len(jobs)} jobs: {', '.join(parts)}."
    )
    by_id = opened.jobs.by_id()
    unreachable = sum(not is_reachable(job, by_id) for job in jobs)
    if unreachable:
        console.print(f"{unreachable} jobs rest on what can't be reached from here.", style="yellow")


def _print_estimates(
    console: Console,
    opened: OpenedStudy,
    machine: Machine,
    estimates: list[RunEstimate],
    seconds: Mapping[str, float],
) -> None:
    table = Table(
        title=f"Estimates for one run, measured on {machine.description}", title_justify="left", box=None
    )
    for column in ("recipe on model", "training", "scoring", "memory", "disk"):
        table.add_column(column, justify="left" if column == "recipe on model" else "right")
    for estimate in estimates:
        recipe, _, seed = estimate.run.partition("/seed")
        if seed in ("", str(_first_seed(opened))) and estimate.score_seconds is not None:
            table.add_row(
                recipe,
                _seconds(estimate.train_seconds) if estimate.memory_bytes else "",
                _seconds(estimate.score_seconds),
                _gib(estimate.memory_bytes),
                _gib(estimate.disk_bytes),
            )
    if table.row_count:
        console.print(table)
    left = [job.id for job in opened.jobs_to_do()]
    known = [job for job in left if job in seconds]
    unknown = len(left) - len(known)
    if unknown:
        console.print(f"Time: not known for {unknown} jobs.")
    # Jobs that need no device are known to take no device time: alone they say nothing about a study's.
    if any(seconds[job] for job in known):
        wall = sum(seconds[job] for job in known) / len(machine.devices)
        hours = sum(seconds[job] for job in known) * machine.device_seconds_per_second / 3600
        budget = opened.study.budget
        price = (
            f", {hours * budget.price_per_gpu_hour:.2f} {budget.currency}"
            if budget.price_per_gpu_hour
            else ""
        )
        others = ", the others" if unknown else ""
        console.print(f"Time left{others}: about {duration(wall)}; {hours:.2f} device hours{price}.")


def _scope_words(scope: str) -> str:
    """`overall`, `Swahili`, `English (guard)`, `English, mmlu (guard)`."""
    kind, _, rest = scope.partition(":")
    language, _, task = rest.partition(":")
    if kind == "overall":
        return scope
    name = get(language).name + (f", {task}" if task else "")
    return f"{name} (guard)" if kind == "guard" else name


def _print_assumptions(console: Console, pilot: Pilot, tasks: Collection[str], unit: str) -> None:
    """What the scores say of each of `tasks`, beside what is assumed without any."""
    for task, found in pilot.assumptions.items():
        if task not in tasks:
            continue
        console.print(
            f"{task}: correlation of an item's scores between seeds {found.between_seeds:.2f} "
            f"(default {Assumptions.between_seeds:g}), between recipes {found.between_recipes:.2f} "
            f"({Assumptions.between_recipes:g}), between languages {found.between_languages:.2f} "
            f"({Assumptions.between_languages:g}); run-to-run SD {found.seed_sd:.2f} {unit} "
            f"({Assumptions.seed_sd:g} points; {pilot.seed_df} degrees of freedom)",
            style="dim",
        )


def _print_power(console: Console, opened: OpenedStudy, powers: list[Power], pilot: Pilot | None) -> None:
    decide = opened.study.decide
    if not powers:
        console.print(
            "What it can show: no forecast. Without scores to go by, it is made for shares of right answers; "
            "here held-out loss decides, or the tasks can't be reached."
        )
        return
    infos = task_infos(opened)
    deciding = decision_tasks(infos)
    unit = unit_in_words(deciding[0].metric)
    basis = (
        f"from the scores of {pilot.runs} runs in {opened.folder.root}"
        if pilot
        else "from defaults, before any score"
    )
    table = Table(
        title=f"What it can show, in {unit}, with 80 % probability ({basis})", title_justify="left", box=None
    )
    for column in ("scope", "one pair", "any against one", "certifiable margin"):
        table.add_column(column, justify="left" if column == "scope" else "right")
    for found in powers:
        margin = f"{found.certifiable_margin:.1f}" if found.certifiable_margin is not None else "–"
        table.add_row(_scope_words(found.scope), f"{found.pair:.1f}", f"{found.among_all:.1f}", margin)
    console.print(table)
    if pilot:
        asked = {info.task for info in (*deciding, *(info for info in infos if info.guard_only))}
        _print_assumptions(console, pilot, asked, unit)
    for kind, words, wanted in (
        ("overall", "margin", decide.margin),
        ("guard", "guard margin", decide.guard_margin),
    ):
        margins = [p.certifiable_margin or 0.0 for p in powers if p.scope.partition(":")[0] == kind]
        if max(margins, default=0.0) > wanted:
            console.print(
                f"A {words} of {wanted:g} points is tighter than these items and seeds can certify "
                f"({max(margins):.1f}); more items, more seeds or a wider margin would.",
                style="yellow",
            )
    families = Counter(
        run.run.stages[-1].settings.method
        for run in opened.jobs.runs
        if run.run.stages and run.run.seed == _first_seed(opened)
    )
    for warning in few_seeds_warnings(families, _seeds(opened)):
        console.print(warning, style="yellow")


def _seconds(seconds: float | None) -> str:
    return "not known" if seconds is None else duration(seconds)


def _gib(count: int | None) -> str:
    return f"{count / GIB:.1f} GiB" if count else ""


def _as_json(
    opened: OpenedStudy,
    checked: Checked,
    estimates: list[RunEstimate],
    powers: list[Power],
    pilot: Pilot | None,
) -> dict[str, Any]:
    return {
        "jobs": [
            {"id": job.id, "label": job.label, "done": opened.folder.is_done(job.id)}
            for job in opened.jobs.jobs
        ],
        "runs": [dataclasses.asdict(estimate) for estimate in estimates],
        "power": [dataclasses.asdict(found) for found in powers],
        "pilot": dataclasses.asdict(pilot) if pilot else None,
        "findings": [vars(finding) for finding in checked.findings],
        "unfit": checked.unfit,
    }

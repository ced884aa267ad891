"""`babeltune check`: everything that would waste money, found on the real rows before any is spent.

Data preparation is done here as ordinary jobs, so `run` finds it done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import regex
from rich.console import Console
from rich.table import Table
from rich.text import Text

from babeltune.commands.opening import OpenedStudy, command_again, open_study
from babeltune.commands.screen import print_json, screen
from babeltune.errors import Interrupted, StudyFailed, Unreachable, UserError
from babeltune.execute.devices import Machine, this_machine
from babeltune.execute.progress import shown_progress
from babeltune.execute.runner import run_jobs
from babeltune.execute.workers import available_cores, threads_per_worker
from babeltune.models.source import LocatedModel
from babeltune.study.findings import Finding
from babeltune.study.jobs import Job
from babeltune.study.values import Dtype
from babeltune.train.trackers import check_trackers

GIB = 1024**3
PERFORM = "babeltune.execute.perform:perform"
# Each holds its rows in memory.
MOST_PREPARED_AT_ONCE = 4
# Characters of a shown example's trained and other parts.
SHOWN = 600
_TRAINED = regex.compile("⟦(.*?)⟧", regex.DOTALL)
# Text from right to left, other words within it as well, but none of a template's own signs.
_RIGHT_TO_LEFT = regex.compile(r"[\p{bc=R}\p{bc=AL}](?:[^\n<>|\[\]]*[\p{bc=R}\p{bc=AL}])?[^\w\s<>|\[\]]*")


@dataclass
class Checked:
    """What a check found. `unfit`: run name to why it is left out on this machine."""

    findings: list[Finding] = field(default_factory=list)
    summaries: list[dict[str, Any]] = field(default_factory=list)
    unfit: dict[str, str] = field(default_factory=dict)


def check(path: Path, *, out: Path | None, data_root: Path | None, as_json: bool) -> None:
    """Check the study at `path` and print what was found.

    Raises:
        UserError: something must be mended.
    """
    console = screen(stderr=as_json)
    opened = open_study(path, out=out, data_root=data_root, console=console)
    checked = check_study(opened, this_machine(None), console)
    if as_json:
        print_json(
            {
                "findings": [vars(finding) for finding in checked.findings],
                "data": checked.summaries,
                "unfit": checked.unfit,
            }
        )
    else:
        for summary in checked.summaries:
            print_data(console, summary)
    print_findings(console, checked)
    refuse(checked)
    so_far = "nothing that can be reached stands" if opened.resolved.missing else "nothing stands"
    console.print(f"{path}: {so_far} in the way. Next: {command_again('plan', opened)}", soft_wrap=True)


def check_study(opened: OpenedStudy, machine: Machine, console: Console) -> Checked:
    """Prepare the data that can be reached, and look at it, at the adapters and at the memory they need.

    Raises:
        UserError: a row is not what it should be, or a tracker is not installed.
        StudyFailed: data could not be prepared for another reason.
        Interrupted: stopped by a signal.
    """
    check_trackers(opened.study.trackers)
    checked = Checked(list(opened.resolved.findings))
    if opened.study.eval.references and not opened.resolved.contents.answered:
        message = "no task is answered in writing, and an API gives nothing else: references are not asked"
        remedy = "name generative forms, such as `xnli/generate`, among the tasks"
        checked.findings.append(Finding("warn", message, "eval.references", remedy))
    missing = opened.resolved.missing
    if missing:
        checked.findings.append(
            Finding(
                "warn",
                f"{len(missing)} sources can't be reached from here, so nothing about them is checked: "
                + ", ".join(missing),
                remedy="`babeltune fetch` where there is a network, or --data-root with a local mirror",
            )
        )
    by_id = opened.jobs.by_id()
    prepare = [job for job in by_id.values() if job.kind == "prepare" and is_reachable(job, by_id)]
    to_do = sum(not opened.folder.is_done(job.id) for job in prepare)
    if to_do:
        workers = min(to_do, MOST_PREPARED_AT_ONCE, available_cores())
        with shown_progress(console) as show:
            outcome = run_jobs(
                prepare,
                opened.folder,
                perform=PERFORM,
                devices=["cpu"] * workers,
                threads=threads_per_worker(workers),
                on_event=show,
            )
        if outcome.interrupted:
            raise Interrupted("stopped while data was prepared; the same command goes on")
        if outcome.failed:
            kind = UserError if outcome.refused else StudyFailed
            raise kind("\n".join(outcome.failed.values()))
    for job in prepare:
        if opened.folder.is_done(job.id):
            _look_at_data(job, opened, checked)
    _look_at_stages(opened, machine, checked)
    _look_at_precision(opened, machine, checked)
    _look_at_judge(opened, checked)
    return checked


def is_reachable(job: Job, by_id: Mapping[str, Job]) -> bool:
    """Whether all that the job's meaning names was found, and that of the jobs it needs."""
    found = "unresolved:" not in str(job.meaning)
    return found and all(is_reachable(by_id[need], by_id) for need in job.needs.values())


def refuse(checked: Checked) -> None:
    """Stop if something must be mended.

    Raises:
        UserError: with the number of things.
    """
    count = sum(finding.level == "refuse" for finding in checked.findings)
    if count:
        raise UserError(
            f"refused: {count} thing{'s' * (count > 1)} above would waste the study",
            remedy="mend and check again",
        )


def print_findings(console: Console, checked: Checked) -> None:
    """Everything found, gravest first."""
    styles = {"refuse": "bold red", "warn": "yellow", "note": "dim"}
    for level, style in styles.items():
        for finding in checked.findings:
            if finding.level == level:
                head, *rest = finding.lines()
                console.print(Text(f"{level}: {head}", style=style))
                for line in rest:
                    console.print(Text(line))
    for run, reason in checked.unfit.items():
        console.print(Text(f"skipped: {run}: {reason}", style="yellow"))


def print_data(console: Console, summary: dict[str, Any]) -> None:
    """What a recipe trains on: how rows were understood, counts, and one example a language."""
    for sentence in summary["recognised"]:
        console.print(sentence, markup=False)
    table = Table(title=f"data {summary['name']}", title_justify="left", box=None)
    table.add_column("language")
    for column in ("examples", "tokens", "trained tokens", "cut", "held out"):
        table.add_column(column, justify="right")
    held_out = summary["held_out"]["languages"]
    for language, counts in summary["train"]["languages"].items():
        table.add_row(
            language,
            f"{counts['examples']:,}",
            f"{counts['tokens']:,}",
            f"{counts['trained_tokens']:,}",
            f"{(counts['cut'] + counts['too_long']) / (counts['examples'] + counts['too_long']):.1%}",
            f"{held_out.get(language, {}).get('examples', 0):,}",
        )
    console.print(table)
    if summary["dropped"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in summary["dropped"].items())
        console.print(Text(f"dropped: {reasons}"))
    for language, sample in summary["samples"].items():
        console.print(
            Text(f"{language}: one example, its trained part marked ({sample['where']})", style="dim")
        )
        console.print(shown_example(sample["text"]))


def shown_example(text: str) -> Text:
    """A marked example (`data/chat.py`) for a terminal: long parts shortened, what is trained in colour.

    Text from right to left is isolated, so that it doesn't carry the marks and the template's tokens along.
    """
    shown = Text()
    for number, part in enumerate(_TRAINED.split(text)):
        is_trained = number % 2 == 1
        words = _RIGHT_TO_LEFT.sub(_isolated, _shortened(part))
        shown.append(f"⟦{words}⟧" if is_trained else words, style="green" if is_trained else "")
    return shown


def _shortened(part: str) -> str:
    """Beginning and end of a long part: how it ends matters as much."""
    if len(part) <= SHOWN:
        return part
    return f"{part[: SHOWN // 2]} […] {part[-SHOWN // 2 :]}"


def _isolated(found: regex.Match[str]) -> str:
    return f"\N{FIRST STRONG ISOLATE}{found[0]}\N{POP DIRECTIONAL ISOLATE}"


def _look_at_data(job: Job, opened: OpenedStudy, checked: Checked) -> None:
    from babeltune.data.preflight import preflight
    from babeltune.data.prepare import read_prepared
    from babeltune.models.loading import load_tokenizer

    prepared = read_prepared(opened.folder.artifact(job.id))
    tokenizer = load_tokenizer(LocatedModel.from_json(job.means["located"]))
    checked.summaries.append(prepared.summary)
    checked.findings += preflight(prepared, tokenizer, languages=opened.study.languages.target)


def _look_at_precision(opened: OpenedStudy, machine: Machine, checked: Checked) -> None:
    """Say so where this machine computes in more bits than the study asks for."""
    from babeltune.models.loading import computed_dtype, torch_dtype

    asked: set[Dtype] = {stage.settings.dtype for run in opened.jobs.runs for stage in run.run.stages}
    asked.add(opened.study.eval.dtype)
    for dtype in sorted(asked):
        if computed_dtype(dtype, machine.device_type) != torch_dtype(dtype):
            message = f"this CPU has no fast {dtype} products, so {dtype} values are computed in float32"
            checked.findings.append(Finding("note", message))


def _look_at_judge(opened: OpenedStudy, checked: Checked) -> None:
    """Refuse a judge that refuses us. One that can't be reached may be asked later, from elsewhere."""
    from babeltune.evaluate.judge.client import check_judge

    judge = opened.study.eval.judge
    if judge is None or all(opened.folder.is_done(job.id) for job in opened.jobs.jobs if job.kind == "judge"):
        return
    if judge.passes > 1 and judge.temperature == 0:
        message = f"{judge.passes} passes of a judge at temperature 0 say nearly the same"
        checked.findings.append(
            Finding("warn", message, "eval.judge", "one pass, or a temperature such as 0.7")
        )
    try:
        check_judge(judge)
    except Unreachable as error:
        message = f"{error.message}; answers are generated all the same, and judged by a later `run`"
        checked.findings.append(Finding("warn", message, error.where, error.remedy))
    except UserError as error:
        checked.findings.append(Finding("refuse", error.message, error.where, error.remedy))


def _look_at_stages(opened: OpenedStudy, machine: Machine, checked: Checked) -> None:
    """Refuse adapters that match nothing, and optimizers and compilers that this machine does not have.

    Leave out (or refuse, as the recipe says) what does not fit.
    """
    from babeltune.models.loading import load_config
    from babeltune.train.compiling import check_compiler
    from babeltune.train.optimizer import check_optimizer
    from babeltune.train.row_budget import training_bytes

    there = len(machine.devices)
    for recipe, asked in {run.run.recipe: run.run.devices for run in opened.jobs.runs}.items():
        if asked > there:
            message = f"asks for {asked} devices, and there {'is' if there == 1 else 'are'} {there}"
            remedy = "on a CPU `--workers` says how many processes there are" if machine.on_cpu else None
            checked.findings.append(Finding("warn", message, recipe, remedy))
    needed: dict[str, int] = {}
    for run_jobs_ in opened.jobs.runs:
        run = run_jobs_.run
        located = opened.resolved.contents.models[run.model].located
        for stage in run.stages if located else ():
            devices = min(run.devices, len(machine.devices))
            key = f"{run.model}:{devices}:{stage.settings}"
            if key not in needed:
                config = load_config(LocatedModel.from_json(located).folder)
                try:
                    check_optimizer(stage.settings, machine.device_type)
                    check_compiler(stage.settings, machine.device_type)
                    needed[key] = training_bytes(
                        config, stage.settings, machine.device_type, machine.memory_bytes, devices=devices
                    )
                except UserError as error:
                    needed[key] = 0
                    checked.findings.append(Finding("refuse", error.message, run.recipe, error.remedy))
            if needed[key] > machine.memory_bytes and run.name not in checked.unfit:
                figures = needed[key] / GIB, machine.memory_bytes / GIB
                reason = "needs about {:.1f} GiB, and a worker has {:.1f} GiB".format(*figures)
                if run.if_unfit == "skip":
                    checked.unfit[run.name] = reason
                    continue
                refusal = Finding("refuse", reason, run.recipe, "`if_unfit: skip` leaves it out")
                if refusal not in checked.findings:  # another seed said it already
                    checked.findings.append(refusal)

"""`babeltune report`: tables and page again, from what is finished."""

from __future__ import annotations

from pathlib import Path

from babeltune.commands.locked import read_lock
from babeltune.commands.opening import OpenedStudy, as_typed, command_again, need_all, open_study
from babeltune.commands.results import kept_findings, results_of, write_page
from babeltune.commands.screen import print_json, screen
from babeltune.commands.stored import background_of_stored, read_stored
from babeltune.errors import UserError
from babeltune.report.share import SHARED, without_private
from babeltune.report.terminal import print_results
from babeltune.report.write import write_report


def report(path: Path, *, out: Path | None, data_root: Path | None, share: bool, as_json: bool) -> None:
    """Rewrite the tables and the page of a study, and print the answer.

    `path`: a study file, then jobs that have ended since are taken in; or the folder of its results, then the
    tables in it are analysed again. `share`: write the form that may leave the house, into `shared/` there.

    Raises:
        UserError: nothing has been scored yet.
    """
    console = screen(stderr=as_json)
    if path.is_dir():
        stored = read_stored(path)
        if not stored.lock:
            raise UserError(
                "no study.lock.yaml here: the results of a comparison, or a shared form",
                where=str(path),
                remedy="run `babeltune compare` again, or give the study's own folder",
            )
        tables, analysis = stored.tables, stored.analysis()
        background = background_of_stored(stored, analysis)
        if share:
            page = write_report(path / SHARED, *without_private(tables, analysis, background))
        else:
            page = write_report(path, analysis, tables, background)
    else:
        opened = open_study(path, out=out, data_root=data_root, console=console)
        _refuse_other_work(opened)
        tables, analysis = results_of(opened)
        if tables.scores.is_empty():
            raise UserError(
                f"nothing is scored yet in {opened.folder.root}", remedy=command_again("run", opened)
            )
        with opened.folder.exclusive():
            page = write_page(opened, tables, analysis, kept_findings(opened), share=share)
    if as_json:
        print_json(analysis.to_json())
    else:
        print_results(analysis, console)
    console.print(f"Report: {page}", soft_wrap=True)


def _refuse_other_work(opened: OpenedStudy) -> None:
    """Refuse to write a page without what was trained, in place of one that has it.

    Something that the study names may be out of reach, or its trainings would be others by now: after the
    data has changed, or with another version of babeltune.

    Raises:
        UserError: says how to see what is there.
    """
    as_it_is = f"babeltune report {as_typed(opened.folder.root)}"
    need_all(opened, remedy=f"; `{as_it_is}` shows what is there")
    before = read_lock(opened.folder.root)[1].get("runs", {}).values()
    by_id = opened.jobs.by_id()
    then = {job for run in before for job in run["training"] if job.startswith("train-")}
    now = {job for run in opened.jobs.runs for job in run.training if by_id[job].kind == "train"}
    if now and any(map(opened.folder.is_done, then)) and not any(map(opened.folder.is_done, now)):
        raise UserError(
            "none of the study's trainings is there as it would be done now: its data, its models or "
            "babeltune are others",
            where=str(opened.folder.root),
            remedy=f"`{as_it_is}` shows what is there, `{command_again('run', opened)}` does it anew",
        )

"""`babeltune status`: how far a study is, from its ledger alone, also while it runs."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path

from rich.table import Table

from babeltune.commands.locked import read_lock
from babeltune.commands.opening import study_folder
from babeltune.commands.screen import print_json, screen
from babeltune.execute.folder import is_held
from babeltune.execute.ledger import JobRow, read_rows
from babeltune.study.load import load_study


def status(path: Path, *, out: Path | None, as_json: bool) -> None:
    """Print jobs by kind and state, what is running, what failed and why."""
    study = load_study(path)
    folder = study_folder(study, out)
    rows = read_rows(folder.ledger)
    if as_json:
        print_json({"study": study.name, "folder": str(folder.root), "jobs": [_as_json(row) for row in rows]})
        return
    console = screen()
    if not rows:
        console.print(f"{study.name}: nothing done yet in {folder.root}. Start with: babeltune run {path}")
        return
    console.print(_counts(rows))
    planned = _planned(folder.root)
    if planned:
        done = sum(row.state == "done" for row in rows if row.id in planned)
        console.print(f"{done} of {len(planned)} jobs done.")
    hours = sum(row.spent_seconds for row in rows) / 3600
    console.print(f"{hours:.2f} device hours spent.")
    is_running = is_held(folder)
    for row in rows:
        if row.state == "running" and row.started_at is not None:
            since = datetime.fromtimestamp(row.started_at)
            console.print(
                f"{'running since' if is_running else 'killed; began at'} {since:%F %T}: {row.label}"
            )
    for row in rows:
        if row.state in ("failed", "skipped") and (not planned or row.id in planned):
            console.print(f"{row.state}: {row.label}: {first_line(row.error)}", markup=False)
    report = folder.root / "report.html"
    if report.exists():
        console.print(f"Report: {report}")


def first_line(error: str | None) -> str:
    """The short message of a ledger error; details such as tracebacks follow in later lines."""
    return (error or "").partition("\n")[0]


def _planned(root: Path) -> set[str]:
    """Ids of the jobs that the study, as it was last run, consists of."""
    runs = read_lock(root)[1].get("runs", {}).values()
    return {
        job
        for run in runs
        for job in [*run["training"], *run.get("answers", {}).values(), *run["scores"].values()]
    }


def _counts(rows: list[JobRow]) -> Table:
    table = Table(box=None)
    table.add_column("job")
    states = ("done", "running", "interrupted", "failed", "skipped")
    for state in states:
        table.add_column(state, justify="right")
    counts = Counter((row.kind, row.state) for row in rows)
    for kind in ("prepare", "search", "train", "score", "ask", "judge"):
        if any(row.kind == kind for row in rows):
            table.add_row(kind, *(str(counts[kind, state] or "–") for state in states))
    return table


def _as_json(row: JobRow) -> dict[str, object]:
    return {
        "id": row.id,
        "kind": row.kind,
        "label": row.label,
        "state": row.state,
        "attempts": row.attempts,
        "spent_seconds": row.spent_seconds,
        "costs": row.costs,
        "error": row.error,
    }

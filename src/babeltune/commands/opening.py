"""Open a study: read the file, find its folder, take the digests of all it names, build its jobs."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console

from babeltune.errors import Unreachable, UserError
from babeltune.evaluate.task_entries import task_documents
from babeltune.execute.folder import StudyFolder
from babeltune.execute.leaks import leave_out_leaks
from babeltune.execute.resolve import Resolved, resolve
from babeltune.execute.schedule import jobs_to_do
from babeltune.study.expand import class_name, expand_tasks
from babeltune.study.graph import StudyJobs, build_jobs
from babeltune.study.jobs import Job
from babeltune.study.load import load_study
from babeltune.study.places import Places
from babeltune.study.schema import StudyFile


@dataclass(frozen=True)
class OpenedStudy:
    """A study with everything that is known before any work is done."""

    path: Path
    study: StudyFile
    places: Places
    folder: StudyFolder
    resolved: Resolved
    jobs: StudyJobs

    @property
    def weights_to_keep(self) -> frozenset[str]:
        """Trainings whose weights are wanted on disk whoever wins: with `keep: all` each run's last."""
        runs = self.jobs.runs if self.study.keep == "all" else ()
        return frozenset(run.training[-1] for run in runs if run.training)

    def jobs_to_do(self) -> list[Job]:
        """All jobs of the study whose results are not there, in order."""
        return jobs_to_do(self.jobs.jobs, self.folder, keep=self.weights_to_keep)

    @cached_property
    def item_counts(self) -> dict[tuple[str, str], int]:
        """Items scored by (task, language), where the rows can be reached and counted beforehand.

        A judged task's classes, which are tasks of their own in every table, are counted too.
        """
        counts: dict[tuple[str, str], int] = {}
        plans = {plan.name: plan for plan in expand_tasks(self.study)}
        for (task, language), digest in self.resolved.contents.tasks.items():
            if digest.startswith("unresolved:"):
                continue
            documents = task_documents(plans[task].task, language, self.places)
            if documents is not None:
                scored = documents.scored[: plans[task].limit]
                counts[task, language] = len(scored)
                for label in (document["class"] for document in scored if "class" in document):
                    of_class = class_name(task, label), language
                    counts[of_class] = counts.get(of_class, 0) + 1
        return counts


def open_study(path: Path, *, out: Path | None, data_root: Path | None, console: Console) -> OpenedStudy:
    """Read and resolve the study at `path`.

    Raises:
        UserError: the file or something it names is wrong. What can't be reached is in `resolved.missing`.
    """
    study = load_study(path)
    # A link (studies/quickstart.yaml) stands for the file it points to: relative paths start there.
    places = places_of(path.resolve().parent, data_root)
    with console.status("Reading the study …") as status:

        def on_step(what: str) -> None:
            status.update(f"Looking at {what} …")

        resolved = resolve(study, places, cache_dir(), on_step=on_step)
        resolved.contents, leaks = leave_out_leaks(
            study, resolved.contents, places, cache_dir(), on_step=on_step
        )
        resolved.findings += leaks
    jobs = build_jobs(study, resolved.contents)
    return OpenedStudy(path, study, places, study_folder(study, out), resolved, jobs)


def need_all(opened: OpenedStudy, *, remedy: str = "") -> None:
    """Refuse to go on while something that the study names can't be reached.

    `remedy`: what may be done beside getting it.

    Raises:
        Unreachable: names what.
    """
    if opened.resolved.missing:
        what = ", ".join(opened.resolved.missing)
        fetch = (
            f"`babeltune fetch {opened.path}` where there is a network, or --data-root with a local mirror"
        )
        raise Unreachable(f"not on this machine, and the hub can't be reached: {what}", remedy=fetch + remedy)


def places_of(start: Path, data_root: Path | None) -> Places:
    """Where relative paths start, and the local mirror.

    Raises:
        UserError: there is no such mirror.
    """
    if data_root is not None and not data_root.is_dir():
        raise UserError(
            f"no folder at {data_root}", where="--data-root", remedy="give the folder of your local mirror"
        )
    return Places(start, data_root.resolve() if data_root else None)


def study_folder(study: StudyFile, out: Path | None) -> StudyFolder:
    """The folder of a study's results."""
    return StudyFolder(out or Path("runs") / study.name)


def cache_dir() -> Path:
    """Where converted models and probes are kept: `$BABELTUNE_CACHE`, or the user's cache folder."""
    configured = os.environ.get("BABELTUNE_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "babeltune"


def command_again(verb: str, opened: OpenedStudy) -> str:
    """`babeltune VERB STUDY`, with what else it takes to find the same results from the same folder."""
    parts = [as_typed(opened.path)]
    out = as_typed(opened.folder.root)
    if out != as_typed(study_folder(opened.study, None).root):
        parts += ["--out", out]
    if opened.places.data_root is not None:
        parts += ["--data-root", as_typed(opened.places.data_root)]
    return shlex.join(["babeltune", verb, *parts])


def as_typed(path: Path) -> str:
    """The path as one types it in the current folder: relative where it lies below, else as it was given."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)

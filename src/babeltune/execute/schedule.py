"""Which job comes next: needs first, then jobs for the model that a worker has, then the given order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from babeltune.execute.folder import StudyFolder
from babeltune.study.jobs import Job

# Roles of needs in which the needed job's weights are read, not only its other results.
WEIGHT_ROLES = ("start", "model")


def jobs_to_do(jobs: Sequence[Job], folder: StudyFolder, *, keep: Collection[str] = ()) -> list[Job]:
    """The jobs whose results are not there, in the given order.

    A job whose weights were removed is done, unless one that is not done needs the weights, or they are to
    be kept (`keep`, ids): then it is among them again.

    Raises:
        ValueError: a job needs one that is neither given nor done.
    """
    by_id = {job.id: job for job in jobs}
    wanted: set[str] = set()
    queue = [
        job
        for job in by_id.values()
        if not (folder.has_weights(job.id) if job.id in keep else folder.is_done(job.id))
    ]
    while queue:
        job = queue.pop()
        if job.id in wanted:
            continue
        wanted.add(job.id)
        for role, need in job.needs.items():
            if folder.has_weights(need) or (folder.is_done(need) and role not in WEIGHT_ROLES):
                continue
            if need not in by_id:
                raise ValueError(f"{job.label or job.id} needs {need}, which is not among the jobs")
            queue.append(by_id[need])
    return [job for job in by_id.values() if job.id in wanted]


class Schedule:
    """The jobs of `to_do` that wait, and which may start. A need that is not in `to_do` counts as done."""

    def __init__(self, to_do: Sequence[Job]) -> None:
        self.waiting = {job.id: job for job in to_do}
        self._open = set(self.waiting)

    def take(self, affinity: str | None, may_start: Callable[[Job], bool]) -> Job | None:
        """The next job for a worker that has the model `affinity` loaded; None if none may start now.

        It waits no longer: `done`, `give_up` or `put_back` says later what became of it.
        """
        first = None
        for job in self.waiting.values():
            if any(need in self._open for need in job.needs.values()) or not may_start(job):
                continue
            if affinity is None or job.means.get("affinity") == affinity:
                first = job
                break
            first = first or job
        if first is not None:
            del self.waiting[first.id]
        return first

    def put_back(self, job: Job) -> None:
        """Have a taken job wait again, before all others."""
        self.waiting = {job.id: job, **self.waiting}

    def done(self, job: Job) -> None:
        """A taken job is done: what needs it may start."""
        self._open.discard(job.id)

    def give_up(self, job: Job) -> list[Job]:
        """A taken job will not be done: take out and return those that need it, directly or not."""
        lost = {job.id}
        blocked = []
        while found := [other for other in self.waiting.values() if lost.intersection(other.needs.values())]:
            for other in found:
                del self.waiting[other.id]
            lost.update(other.id for other in found)
            blocked += found
        return blocked

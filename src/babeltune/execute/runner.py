"""Do a study's jobs: what is open, in order, on the workers, within the budget, until done or stopped.

Beside workers on GPUs there is one more, on the CPU, for jobs that need no device: it prepares the data of
the next runs while they train. Beside workers on the CPU there is none: it would take its cores from a
training, whose threads wait for each other at every step and so lose far more than their share. There such
jobs are done by the workers themselves, in their turn.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

from babeltune.execute.budget import BudgetGuard, Estimates
from babeltune.execute.events import (
    AttemptEnd,
    Event,
    JobEnded,
    JobProgress,
    JobStarted,
    Stopping,
    StudyState,
)
from babeltune.execute.folder import StudyFolder, is_local
from babeltune.execute.ledger import Ledger, open_ledger
from babeltune.execute.messages import Done, NotDone, Progressed
from babeltune.execute.schedule import Schedule, jobs_to_do
from babeltune.execute.workers import Report, WorkerPool
from babeltune.study.jobs import WITHOUT_DEVICE, Job

SECONDS_BETWEEN_LOOKS = 0.25
SECONDS_BETWEEN_STATES = 1.0
SECONDS_BETWEEN_RECORDS = 15.0


@dataclass(frozen=True)
class Outcome:
    """What became of the jobs, by id.

    `done`: all whose results are there; `ran`: those of them done just now. `failed`, `skipped` (their recipe
    doesn't fit, or what they need failed or was skipped): with the reason. `refused`: those of `failed` that
    a user's mistake stopped. `not_started`: left because of the budget, or because the run was `interrupted`.
    """

    done: tuple[str, ...]
    ran: tuple[str, ...]
    failed: dict[str, str]
    skipped: dict[str, str]
    refused: frozenset[str]
    not_started: tuple[str, ...]
    interrupted: bool


def run_jobs(
    jobs: Sequence[Job],
    folder: StudyFolder,
    *,
    perform: str,
    devices: Sequence[str],
    threads: int,
    keep: Collection[str] = (),
    budget: BudgetGuard | None = None,
    estimates: Mapping[str, float] | None = None,
    on_event: Callable[[Event], None] = lambda _: None,
    grace_seconds: float = 20.0,
) -> Outcome:
    """Do those of `jobs` whose results are not in `folder` yet.

    `perform`: the function that does a job, "module:function" (`execute/tools.py`). `devices`: a worker for
    each, and one more on the CPU where they are GPUs. `threads`: for each worker. `keep`: see `jobs_to_do`.
    `estimates`: job id to device seconds, where known. A job that fails is not tried again in this call
    (unless its worker crashed: once); those that don't need it go on. The first Ctrl-C or SIGTERM lets jobs
    save a checkpoint for up to `grace_seconds`, a second one doesn't.

    Raises:
        FolderInUse: another run works in `folder`.
        UserError: `folder` can't be written.
    """
    with folder.exclusive(), _StopSignals() as signals:
        folder.remove_leftovers()
        to_do = jobs_to_do(jobs, folder, keep=keep)
        with open_ledger(folder, wal=is_local(folder.root)) as ledger:
            ledger.relabel(jobs)
            beside = [] if any(map(_is_cpu, devices)) else ["cpu"]
            pool = WorkerPool(folder, perform=perform, devices=[*devices, *beside], threads=threads)
            run = _Run(
                jobs, to_do, folder, ledger, pool, devices, budget, Estimates(estimates or {}), on_event
            )
            try:
                run.go(signals, grace_seconds)
            finally:
                pool.close()
            return run.outcome()


@dataclass
class _Attempt:
    job: Job
    started: float
    busy_before: float
    devices: int = 1

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def device_seconds(self) -> float:
        """Seconds for which the attempt has held a device, those of all its devices together."""
        return 0.0 if self.job.kind in WITHOUT_DEVICE else self.seconds * self.devices


class _Run:
    """The state of one call of `run_jobs`."""

    def __init__(
        self,
        jobs: Sequence[Job],
        to_do: Sequence[Job],
        folder: StudyFolder,
        ledger: Ledger,
        pool: WorkerPool,
        devices: Sequence[str],
        budget: BudgetGuard | None,
        estimates: Estimates,
        on_event: Callable[[Event], None],
    ) -> None:
        self._ids = tuple(dict.fromkeys(job.id for job in jobs))
        self._open = {job.id for job in to_do}
        self._schedule = Schedule(to_do)
        self._folder, self._ledger, self._pool = folder, ledger, pool
        self._devices, self._budget, self._estimates, self._on_event = devices, budget, estimates, on_event
        self._attempts: dict[int, _Attempt] = {}
        self._loaded: dict[int, str] = {}
        self._crashed: set[str] = set()
        self._ran: list[str] = []
        self._failed: dict[str, str] = {}
        self._skipped: dict[str, str] = {}
        self._refused: set[str] = set()
        self._interrupted = False
        self._last_state = self._last_record = 0.0
        self._left: float | None = None
        # Of ended attempts: seconds that they held a device, and device seconds that jobs cost (`JobRow`).
        self._busy: dict[str, float] = {}
        self._spent: dict[str, float] = {}
        # Of jobs that go on from a checkpoint: device seconds that they have had.
        self._had: dict[str, float] = {}
        for row in ledger.rows():
            self._busy[row.id], self._spent[row.id] = row.busy_seconds, row.spent_seconds
            if row.state == "interrupted":
                self._had[row.id] = row.spent_seconds
            if row.state == "done":
                estimates.learn(row.kind, row.spent_seconds)
        self._spent_in_all = sum(self._spent.values())

    def go(self, signals: _StopSignals, grace_seconds: float) -> None:
        """Work until nothing is left that can start, or the signals say stop."""
        deadline = None
        while True:
            self._interrupted |= signals.count > 0
            if not self._interrupted:
                self._start_jobs()
            elif deadline is None:
                deadline = time.monotonic() + grace_seconds
                self._on_event(Stopping(grace_seconds))
                self._pool.ask_to_stop()
            self._tell_state()
            if not self._attempts:
                break
            if signals.count > 1 or (deadline is not None and time.monotonic() > deadline):
                self._abandon()
                break
            for report in self._pool.wait(SECONDS_BETWEEN_LOOKS):
                self._take_in(report)
            self._record_time()
        self._tell_state(now=True)

    def outcome(self) -> Outcome:
        """What has become of all jobs."""
        return Outcome(
            done=tuple(job_id for job_id in self._ids if job_id not in self._open),
            ran=tuple(self._ran),
            failed=self._failed,
            skipped=self._skipped,
            refused=frozenset(self._refused),
            not_started=tuple(self._schedule.waiting),
            interrupted=self._interrupted,
        )

    def _start_jobs(self) -> None:
        free = self._pool.free()
        while free:
            worker = free.pop(0)
            further = [other for other in free if other < len(self._devices)]
            job = self._schedule.take(
                self._loaded.get(worker), partial(self._may_start, worker, 1 + len(further))
            )
            if job is None:
                continue
            others = further[: self._devices_of(job) - 1]
            free = [other for other in free if other not in others]
            affinity = job.means.get("affinity")
            if others:  # nothing stays loaded where several work together
                for lent in (worker, *others):
                    self._loaded.pop(lent, None)
            elif affinity is not None:
                self._loaded[worker] = affinity
            device = self._devices[worker] if worker < len(self._devices) else "cpu"
            device += "".join(f", {self._devices[other]}" for other in others)
            self._ledger.start(job, f"{device} #{worker}")
            busy_before = self._busy.get(job.id, 0.0)
            self._attempts[worker] = _Attempt(job, time.monotonic(), busy_before, 1 + len(others))
            self._pool.give(worker, job, others)
            self._on_event(JobStarted(job, worker, device))
            self._tell_state(now=True)

    def _devices_of(self, job: Job) -> int:
        """How many devices a job is spread over: as many as it says, or all there are."""
        return min(job.means.get("devices", 1), len(self._devices))

    def _may_start(self, worker: int, devices_free: int, job: Job) -> bool:
        is_beside = worker >= len(self._devices)
        needs_none = job.kind in WITHOUT_DEVICE
        is_for_worker = is_beside == needs_none or (needs_none and _is_cpu(self._devices[worker]))
        return is_for_worker and self._devices_of(job) <= devices_free and self._is_affordable(job)

    def _is_affordable(self, job: Job) -> bool:
        if self._budget is None:
            return True
        running = sum(
            max(self._still_takes(attempt.job), attempt.device_seconds) for attempt in self._attempts.values()
        )
        return self._budget.allows(self._spent_in_all + running, self._still_takes(job))

    def _still_takes(self, job: Job) -> float:
        """Device seconds from the start of its attempt on, as far as is known; an interrupted job goes on."""
        return max(0.0, (self._estimates.of(job) or 0.0) - self._had.get(job.id, 0.0))

    def _take_in(self, report: Report) -> None:
        job, message = report.job, report.message
        if isinstance(message, Progressed):
            self._on_event(JobProgress(job, report.worker, message.fields))
            return
        if isinstance(message, NotDone):
            # The worker does not come back, and its model with it.
            self._loaded.pop(report.worker, None)
            record = self._folder.record(job.id)
            if message.kind == "crashed" and record is not None and self._folder.has_weights(job.id):
                message = Done(record["costs"])  # it fell only after its results were published
        if isinstance(message, Done):
            self._take_in_done(report.worker, message.costs)
            return
        reason = message.message
        if message.kind == "interrupted" or (message.kind == "crashed" and self._interrupted):
            self._interrupted = True
            self._ledger.interrupted(job.id, reason)
            self._end_attempt(report.worker, "interrupted", reason)
        elif message.kind == "crashed" and job.id not in self._crashed:
            self._crashed.add(job.id)
            self._ledger.interrupted(job.id, f"{reason}\n{message.details}")
            self._schedule.put_back(job)
            self._end_attempt(report.worker, "again", reason)
        elif message.kind == "skipped":
            self._skipped[job.id] = reason
            self._ledger.skip(job, reason)
            self._skip_dependents(job, "was skipped")
            self._end_attempt(report.worker, "skipped", reason)
        else:
            self._failed[job.id] = reason
            if message.kind == "refused":
                self._refused.add(job.id)
            self._ledger.failed(job.id, f"{reason}\n{message.details}".rstrip())
            self._skip_dependents(job, "failed")
            self._end_attempt(report.worker, "failed", reason)

    def _take_in_done(self, worker: int, costs: dict[str, Any]) -> None:
        job = self._attempts[worker].job
        self._ledger.done(job.id, costs)
        self._schedule.done(job)
        self._open.discard(job.id)
        self._ran.append(job.id)
        self._end_attempt(worker, "done", device_seconds=costs.get("device_seconds") or 0.0)
        self._estimates.learn(job.kind, self._spent[job.id])

    def _skip_dependents(self, job: Job, fate: str) -> None:
        for blocked in self._schedule.give_up(job):
            self._skipped[blocked.id] = f"needs {job.label or job.id}, which {fate}"
            self._ledger.skip(blocked, self._skipped[blocked.id])

    def _end_attempt(
        self, worker: int, end: AttemptEnd, message: str = "", *, device_seconds: float = 0.0
    ) -> None:
        attempt = self._attempts.pop(worker)
        job_id = attempt.job.id
        self._busy[job_id] = attempt.busy_before + attempt.device_seconds
        if attempt.job.kind in WITHOUT_DEVICE:
            device_seconds = 0.0
        spent_before = self._spent.get(job_id, 0.0)
        self._spent[job_id] = max(spent_before, self._busy[job_id], device_seconds)
        self._spent_in_all += self._spent[job_id] - spent_before
        self._ledger.busy(job_id, self._busy[job_id])
        self._on_event(JobEnded(attempt.job, worker, end, attempt.seconds, message))
        self._tell_state(now=True)

    def _abandon(self) -> None:
        self._pool.close()
        for worker, attempt in list(self._attempts.items()):
            reason = "stopped before it could save a checkpoint"
            self._ledger.interrupted(attempt.job.id, reason)
            self._end_attempt(worker, "interrupted", reason)

    def _record_time(self) -> None:
        """Now and then, so that a budget counts the time of runs that were killed."""
        if time.monotonic() - self._last_record >= SECONDS_BETWEEN_RECORDS:
            self._last_record = time.monotonic()
            for attempt in self._attempts.values():
                self._ledger.busy(attempt.job.id, attempt.busy_before + attempt.device_seconds)

    def _tell_state(self, *, now: bool = False) -> None:
        is_due = time.monotonic() - self._last_state >= SECONDS_BETWEEN_STATES
        if is_due:
            self._last_state = time.monotonic()
            self._left = self._seconds_left()
        if is_due or now:
            state = StudyState(
                total=len(self._ids),
                done=len(self._ids) - len(self._open),
                failed=len(self._failed),
                skipped=len(self._skipped),
                device_seconds=self._spent_in_all + sum(a.device_seconds for a in self._attempts.values()),
                seconds_left=self._left,
            )
            self._on_event(state)

    def _seconds_left(self) -> float | None:
        """Until all jobs are done, if every worker is busy till then; None while a kind of job is unknown."""
        # Estimates are device seconds: on a CPU those of all threads together.
        seconds_per_device_second = (
            (sum(self._busy.values()) / self._spent_in_all) if self._spent_in_all else 1.0
        )
        left = 0.0
        elapsed = {attempt.job.id: attempt.seconds for attempt in self._attempts.values()}
        for job in [*self._schedule.waiting.values(), *(a.job for a in self._attempts.values())]:
            estimate = self._estimates.of(job)
            if estimate is None:
                return None
            left += max(0.0, estimate * seconds_per_device_second - elapsed.get(job.id, 0.0))
        return left / len(self._devices)


def _is_cpu(device: str) -> bool:
    return device.partition(":")[0] == "cpu"


class _StopSignals:
    """Counts Ctrl-C and SIGTERM while entered, instead of being killed by them."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> _StopSignals:
        self._previous = {}
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1

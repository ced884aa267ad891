"""The record of jobs in SQLite: state, attempts, times, costs, errors.

It can always be rebuilt: which jobs are done is decided by their artifacts (`execute/folder.py`), and a
ledger that is lost or damaged is filled again from them.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from babeltune.errors import UserError
from babeltune.execute.folder import StudyFolder
from babeltune.study.jobs import WITHOUT_DEVICE, Job

log = logging.getLogger(__name__)

JobState = Literal["running", "done", "failed", "interrupted", "skipped"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    label TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    started_at REAL,
    ended_at REAL,
    worker TEXT,
    busy_seconds REAL NOT NULL DEFAULT 0,
    costs TEXT NOT NULL DEFAULT '{}',
    error TEXT,
    meaning TEXT NOT NULL,
    needs TEXT NOT NULL
)
"""
JSON_COLUMNS = ("costs", "meaning", "needs")
INSERT = (
    "INSERT INTO jobs (id, kind, label, state, meaning, needs)"
    " VALUES (:id, :kind, :label, :state, :meaning, :needs) ON CONFLICT DO NOTHING"
)


@dataclass(frozen=True)
class JobRow:
    """What the ledger knows of a job.

    `started_at`, `ended_at`: of the last attempt, seconds since 1970. `busy_seconds`: time that all attempts
    held a device. `error`: a short message in its first line, then details such as a traceback.
    """

    id: str
    kind: str
    label: str
    state: JobState
    attempts: int
    started_at: float | None
    ended_at: float | None
    worker: str | None
    busy_seconds: float
    costs: dict[str, Any]
    error: str | None
    meaning: dict[str, Any]
    needs: dict[str, str]

    @property
    def spent_seconds(self) -> float:
        """Device seconds that the job has cost so far, work lost with killed attempts included."""
        if self.kind in WITHOUT_DEVICE:
            return 0.0
        return max(self.costs.get("device_seconds") or 0.0, self.busy_seconds)


class Ledger:
    """The ledger, open for writing. The caller holds the folder's lock; readers use `read_rows`."""

    def __init__(self, path: Path, *, wal: bool) -> None:
        self._path = path
        self._wal = wal
        self._database = self._open()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        # At rest the ledger is one plain file, readable from a read-only disk.
        with suppress(sqlite3.OperationalError):
            self._database.execute("PRAGMA journal_mode = DELETE")
        self._database.close()

    def start(self, job: Job, worker: str) -> None:
        """A new attempt at `job` begins."""
        self._insert(job.id, job.kind, job.label, job.meaning, job.needs)
        self._write(
            "UPDATE jobs SET state = 'running', attempts = attempts + 1, started_at = ?, ended_at = NULL,"
            " worker = ?, error = NULL WHERE id = ?",
            (time.time(), worker, job.id),
        )

    def busy(self, job_id: str, seconds: float) -> None:
        """All attempts at the job have held a device for `seconds` until now."""
        self._write("UPDATE jobs SET busy_seconds = ? WHERE id = ?", (seconds, job_id))

    def done(self, job_id: str, costs: Mapping[str, Any]) -> None:
        """The job's artifact is published."""
        self._write(
            "UPDATE jobs SET state = 'done', ended_at = ?, costs = ?, error = NULL WHERE id = ?",
            (time.time(), json.dumps(costs), job_id),
        )

    def failed(self, job_id: str, error: str) -> None:
        """The attempt failed; the next run tries again."""
        self._end(job_id, "failed", error)

    def interrupted(self, job_id: str, reason: str) -> None:
        """The attempt was stopped; the job goes on from its checkpoint."""
        self._end(job_id, "interrupted", reason)

    def skip(self, job: Job, reason: str) -> None:
        """The job can't be done now, for `reason`."""
        self._insert(job.id, job.kind, job.label, job.meaning, job.needs)
        self._write("UPDATE jobs SET state = 'skipped', error = ? WHERE id = ?", (reason, job.id))

    def end_killed_attempts(self) -> None:
        """Jobs that still count as running were killed with their run."""
        self._write(
            "UPDATE jobs SET state = 'interrupted', error = 'the run was killed' WHERE state = 'running'"
        )

    def relabel(self, jobs: Iterable[Job]) -> None:
        """Take over what the jobs are called now: names are no part of their identity."""
        for job in jobs:
            self._write(
                "UPDATE jobs SET label = ? WHERE id = ? AND label != ?", (job.label, job.id, job.label)
            )

    def adopt(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take done jobs over from the `job.json` of their artifacts."""
        self._write("BEGIN")
        for record in records:
            costs = record["costs"]
            self._insert(record["id"], record["kind"], record["label"], record["meaning"], record["needs"])
            self._write(
                "UPDATE jobs SET state = 'done', attempts = max(attempts, 1), error = NULL, costs = ?,"
                " busy_seconds = max(busy_seconds, ?) WHERE id = ?",
                (json.dumps(costs), costs.get("wall_seconds") or 0.0, record["id"]),
            )
        self._write("COMMIT")

    def rows(self) -> list[JobRow]:
        """All jobs, in the order they were first started."""
        return _rows(self._database)

    def states(self) -> dict[str, JobState]:
        """Job id to state."""
        return dict(self._database.execute("SELECT id, state FROM jobs ORDER BY rowid"))

    def costs(self) -> dict[str, dict[str, Any]]:
        """Job id to costs, of jobs that are done."""
        done = self._database.execute("SELECT id, costs FROM jobs WHERE state = 'done' ORDER BY rowid")
        return {job_id: json.loads(costs) for job_id, costs in done}

    def _open(self) -> sqlite3.Connection:
        database = self._connect()
        if database is None:
            log.warning("the ledger %s is damaged; it is rebuilt from the artifacts", self._path)
            self._path.replace(self._path.with_suffix(".damaged"))
            for suffix in ("-wal", "-shm", "-journal"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            database = self._connect()
        if database is None:
            raise UserError(f"the ledger {self._path} can't be written", remedy="check the disk")
        return database

    def _connect(self) -> sqlite3.Connection | None:
        """A connection with the table in it, or None if the file is damaged."""
        database = sqlite3.connect(self._path, timeout=30, isolation_level=None)
        try:
            if database.execute("PRAGMA quick_check").fetchone()[0] == "ok":
                database.execute(f"PRAGMA journal_mode = {'WAL' if self._wal else 'DELETE'}")
                database.execute("PRAGMA synchronous = NORMAL")
                database.execute(SCHEMA)
                return database
        except sqlite3.OperationalError as error:
            database.close()
            raise _unwritable(self._path, error) from error
        except sqlite3.DatabaseError:
            pass
        database.close()
        return None

    def _insert(
        self, job_id: str, kind: str, label: str, meaning: Mapping[str, Any], needs: Mapping[str, str]
    ) -> None:
        self._write(
            INSERT,
            {
                "id": job_id,
                "kind": kind,
                "label": label,
                "state": "interrupted",
                "meaning": json.dumps(meaning),
                "needs": json.dumps(needs),
            },
        )

    def _end(self, job_id: str, state: JobState, error: str) -> None:
        self._write(
            "UPDATE jobs SET state = ?, ended_at = ?, error = ? WHERE id = ?",
            (state, time.time(), error, job_id),
        )

    def _write(self, statement: str, values: tuple[Any, ...] | dict[str, Any] = ()) -> None:
        try:
            self._database.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise _unwritable(self._path, error) from error


def open_ledger(folder: StudyFolder, *, wal: bool) -> Ledger:
    """The ledger of `folder`, brought in line with the artifacts that are there."""
    ledger = Ledger(folder.ledger, wal=wal)
    ledger.end_killed_attempts()
    states = ledger.states()
    unknown = [job_id for job_id in folder.published() if states.get(job_id) != "done"]
    ledger.adopt(record for job_id in unknown if (record := folder.record(job_id)) is not None)
    return ledger


def read_rows(path: Path) -> list[JobRow]:
    """All jobs of the ledger at `path`, also while a run writes it; empty where there is none."""
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as database:
            # A run that has just begun has made the file and not its table yet.
            made = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone()
            return _rows(database) if made else []
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"the ledger {path} can't be read: {error}", remedy="the next `babeltune run` rebuilds it"
        ) from error


def _rows(database: sqlite3.Connection) -> list[JobRow]:
    cursor = database.cursor()
    cursor.row_factory = sqlite3.Row
    rows = []
    for row in cursor.execute("SELECT * FROM jobs ORDER BY rowid"):
        fields = dict(row)
        rows.append(JobRow(**fields | {key: json.loads(fields[key]) for key in JSON_COLUMNS}))
    return rows


def _unwritable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"the ledger {path} can't be written: {error}",
        remedy="see that the disk is not full and the folder yours, or give another one with --out",
    )

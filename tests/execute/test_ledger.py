from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from toy_jobs import toy

from babeltune.errors import UserError
from babeltune.execute.folder import StudyFolder
from babeltune.execute.ledger import Ledger, open_ledger, read_rows
from babeltune.study.jobs import Job


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    folder = StudyFolder(tmp_path)
    folder.artifacts.mkdir(parents=True)
    return folder


def publish(folder: StudyFolder, job: Job, costs: dict) -> None:
    out = folder.temporary(job.id)
    out.mkdir()
    (out / "result").write_text(job.label)
    folder.publish(out, job, costs)


def test_states_times_and_costs_are_recorded(folder: StudyFolder) -> None:
    one, two, three = toy("one"), toy("two", needs={"data": "x"}), toy("three")
    with Ledger(folder.ledger, wal=True) as ledger:
        ledger.start(one, "cpu #0")
        ledger.busy(one.id, 2.5)
        ledger.done(one.id, {"device_seconds": 4.0})
        ledger.start(two, "cpu #0")
        ledger.failed(two.id, "diverged\nat step 3")
        ledger.start(two, "cpu #1")
        ledger.interrupted(two.id, "stopped")
        ledger.skip(three, "needs two")
        assert ledger.states() == {one.id: "done", two.id: "interrupted", three.id: "skipped"}
        assert ledger.costs() == {one.id: {"device_seconds": 4.0}}
        first, second, third = read_rows(folder.ledger)  # another connection, while it is being written
    assert (first.label, first.attempts, first.worker, first.spent_seconds) == ("one", 1, "cpu #0", 4.0)
    assert first.started_at is not None
    assert (second.attempts, second.error, second.needs) == (2, "stopped", {"data": "x"})
    assert (third.attempts, third.error) == (0, "needs two")


def test_journal_is_a_plain_file_on_network_disks_and_at_rest(folder: StudyFolder) -> None:
    for wal in (True, False):
        with Ledger(folder.ledger, wal=wal) as ledger:
            ledger.start(toy("one"), "cpu #0")
            assert (folder.jobs / "ledger.sqlite-wal").exists() is wal
        assert [path.name for path in folder.jobs.glob("ledger*")] == ["ledger.sqlite"]
        assert folder.ledger.read_bytes()[18] == 1  # the file format's "legacy" journal; 2 is WAL


def test_a_killed_attempt_is_known_as_interrupted(folder: StudyFolder) -> None:
    with Ledger(folder.ledger, wal=False) as ledger:
        ledger.start(toy("one"), "cpu #0")
    with open_ledger(folder, wal=False) as ledger:
        assert set(ledger.states().values()) == {"interrupted"}


@pytest.mark.parametrize("loss", ["killed between", "ledger gone", "ledger damaged"])
def test_the_ledger_is_rebuilt_from_artifacts(folder: StudyFolder, loss: str) -> None:
    job = toy("one", needs={"data": "x"})
    with Ledger(folder.ledger, wal=False) as ledger:
        ledger.start(job, "cpu #0")
    publish(folder, job, {"wall_seconds": 3.0, "tokens": 5})
    if loss == "ledger gone":
        folder.ledger.unlink()
    if loss == "ledger damaged":
        folder.ledger.write_bytes(b"SQLite format 3\0" + b"garbage" * 1000)
    with open_ledger(folder, wal=False) as ledger:
        (row,) = ledger.rows()
    assert (row.id, row.kind, row.label, row.state) == (job.id, "train", "one", "done")
    assert (row.meaning, row.needs) == (job.meaning, job.needs)
    assert row.costs == {"wall_seconds": 3.0, "tokens": 5}
    assert row.busy_seconds == 3.0


def test_a_job_without_its_artifact_is_not_done(folder: StudyFolder) -> None:
    job = toy("one")
    publish(folder, job, {})
    assert folder.is_done(job.id)
    shutil.rmtree(folder.artifact(job.id))
    assert not folder.is_done(job.id)


def test_a_ledger_that_is_just_being_made_is_empty(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").touch()
    assert read_rows(tmp_path / "ledger.sqlite") == []


def test_reading_where_there_is_none(folder: StudyFolder) -> None:
    assert read_rows(folder.ledger) == []
    folder.ledger.write_text("not a ledger at all")
    with pytest.raises(UserError, match="can't be read"):
        read_rows(folder.ledger)

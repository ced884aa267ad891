from __future__ import annotations

import signal
from pathlib import Path

import pytest
from toy_jobs import toy

from babeltune.execute.budget import BudgetGuard
from babeltune.execute.events import Event, JobEnded, JobProgress, JobStarted, StudyState
from babeltune.execute.folder import StudyFolder
from babeltune.execute.ledger import JobRow, open_ledger, read_rows
from babeltune.execute.runner import Outcome, run_jobs
from babeltune.study.jobs import Job


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "runs" / "toy")


def run(jobs: list[Job], folder: StudyFolder, **options) -> Outcome:
    settings = {"perform": "toy_jobs:perform", "devices": ["cpu"], "threads": 1, **options}
    return run_jobs(jobs, folder, **settings)


def rows(folder: StudyFolder) -> dict[str, JobRow]:
    return {row.label: row for row in read_rows(folder.ledger)}


def test_jobs_run_once_and_after_what_they_need(folder: StudyFolder, tmp_path: Path) -> None:
    trace = str(tmp_path / "trace")
    data = toy("data", trace=trace)
    train = toy("train", needs={"data": data.id}, trace=trace)
    score = toy("score", needs={"model": train.id}, trace=trace)
    outcome = run([score, train, data], folder)  # even if given the wrong way round
    assert outcome.ran == (data.id, train.id, score.id)
    assert outcome.done == (score.id, train.id, data.id)
    assert [line.split()[0] for line in Path(trace).read_text().splitlines()] == ["data", "train", "score"]
    assert rows(folder)["data"].costs == {"device_seconds": 0.0, "tokens": 7}
    assert not list(folder.work.iterdir())

    other = toy("other", needs={"model": train.id}, trace=trace)
    again = run([data, train, score, other], folder)
    assert again.ran == (other.id,)
    assert len(again.done) == 4


def test_folder_can_be_moved_and_labels_changed(folder: StudyFolder, tmp_path: Path) -> None:
    job = toy("one")
    run([job], folder)
    folder.root.rename(tmp_path / "moved")
    moved = StudyFolder(tmp_path / "moved")
    renamed = Job(job.kind, job.meaning, job.needs, {"somewhere": "else"}, "uno")
    assert run([renamed], moved, devices=["cpu", "cpu"]).ran == ()
    assert rows(moved)["uno"].state == "done"


def test_failures_block_only_what_needs_them(folder: StudyFolder) -> None:
    failing = toy("failing", "fail")
    score = toy("score", needs={"model": failing.id})
    table = toy("table", needs={"scores": score.id})
    bug, memory, fine = toy("bug", "bug"), toy("memory", "memory"), toy("fine")
    outcome = run([failing, score, table, bug, memory, fine], folder)
    assert outcome.done == (fine.id,)
    assert outcome.failed == {
        failing.id: "the loss is not a number",
        bug.id: "KeyError: 'no such thing'",
        memory.id: "out of memory: CUDA out of memory. Tried to allocate 20.00 GiB",
    }
    assert outcome.skipped == {
        score.id: "needs failing, which failed",
        table.id: "needs failing, which failed",
    }
    assert not outcome.interrupted
    recorded = rows(folder)
    assert recorded["failing"].error == "the loss is not a number"
    assert "toy_jobs.py" in (recorded["bug"].error or "")
    assert recorded["table"].state == "skipped"
    assert not list(folder.artifacts.glob(".tmp-*"))

    assert set(run([failing, score, table, bug, memory, fine], folder).failed) == set(outcome.failed)
    assert rows(folder)["failing"].attempts == 2


def test_a_recipe_that_does_not_fit_is_skipped(folder: StudyFolder) -> None:
    large = toy("large", "skip")
    score = toy("score", needs={"model": large.id})
    outcome = run([large, score], folder)
    assert outcome.failed == {}
    assert outcome.skipped == {
        large.id: "needs 80 GB, the device has 24 GB",
        score.id: "needs large, which was skipped",
    }


def test_a_crash_ends_one_job_and_is_tried_once_more(folder: StudyFolder) -> None:
    unlucky, doomed, fine = toy("unlucky", "die", times=1), toy("doomed", "die", times=9), toy("fine")
    events: list[Event] = []
    outcome = run([unlucky, doomed, fine], folder, on_event=events.append)
    assert outcome.done == (unlucky.id, fine.id)
    assert outcome.failed == {doomed.id: "the worker was killed by signal 9, probably out of memory"}
    assert "last words" in (rows(folder)["doomed"].error or "")
    assert rows(folder)["unlucky"].attempts == 2
    ends = [(event.job.label, event.end) for event in events if isinstance(event, JobEnded)]
    assert ends == [
        ("unlucky", "again"),
        ("unlucky", "done"),
        ("doomed", "again"),
        ("doomed", "failed"),
        ("fine", "done"),
    ]


def test_a_crash_is_seen_though_a_child_of_the_worker_lives_on(folder: StudyFolder) -> None:
    job = toy("job", "fork and die")
    assert "signal 9" in run([job], folder).failed[job.id]
    with StudyFolder(folder.root).exclusive():  # and the child went with it
        pass


def test_a_segmentation_fault_says_where(folder: StudyFolder) -> None:
    job = toy("job", "die", times=9, signal=signal.SIGSEGV)
    assert run([job], folder).failed == {job.id: "the worker was killed by signal 11 (SIGSEGV)"}
    assert "toy_jobs.py" in (rows(folder)["job"].error or "")


def test_a_function_that_is_not_there_fails_the_job(folder: StudyFolder) -> None:
    job = toy("job")
    assert "no_such_module" in run([job], folder, perform="no_such_module:perform").failed[job.id]


def test_a_worker_takes_jobs_for_its_loaded_model_first(folder: StudyFolder) -> None:
    jobs = [toy(f"{model}{i}", affinity=model) for i in range(3) for model in "ab"]
    outcome = run([*jobs, toy("prepare", kind="prepare")], folder)
    names = {job.id: job.label for job in jobs}
    assert [names.get(job_id, "prepare") for job_id in outcome.ran] == [
        "a0",
        "a1",
        "a2",
        "b0",
        "b1",
        "b2",
        "prepare",
    ]


def test_what_a_worker_keeps_is_gone_after_a_failure(folder: StudyFolder) -> None:
    first, second, failing, last = (
        toy("first", "keep"),
        toy("second", "keep"),
        toy("x", "fail"),
        toy("last", "keep"),
    )
    run([first, second, failing, last], folder)
    assert (folder.artifact(second.id) / "result").read_text() == "first second"
    assert (folder.artifact(last.id) / "result").read_text() == "last"


def test_threads_and_device_reach_the_job(folder: StudyFolder) -> None:
    job = toy("job", "environment")
    run([job], folder, threads=3)
    assert (folder.artifact(job.id) / "result").read_text() == "3 3 cpu"


def test_events_tell_how_far_it_is(folder: StudyFolder) -> None:
    events: list[Event] = []
    jobs = [toy(f"job{i}", "steps", steps=30) for i in range(2)]
    run(jobs, folder, on_event=events.append, estimates={job.id: 50.0 for job in jobs})
    assert [e.job.label for e in events if isinstance(e, JobStarted)] == ["job0", "job1"]
    progress = [e.fields for e in events if isinstance(e, JobProgress)]
    assert progress[0]["total"] == 30
    assert 1 <= len(progress) < 20  # fewer than steps
    states = [e for e in events if isinstance(e, StudyState)]
    assert states[0].seconds_left == pytest.approx(100, abs=2)
    assert [(s.done, s.total) for s in (states[0], states[-1])] == [(0, 2), (2, 2)]


def test_budget_starts_nothing_that_would_exceed_it(folder: StudyFolder) -> None:
    big = [toy(f"big{i}", device_seconds=100.0) for i in range(5)]
    small = toy("small", kind="score", device_seconds=10.0)
    estimates = {job.id: 100.0 for job in big} | {small.id: 10.0}
    outcome = run([*big, small], folder, budget=BudgetGuard(250.0), estimates=estimates)
    assert outcome.ran == (big[0].id, big[1].id, small.id)
    assert outcome.not_started == tuple(job.id for job in big[2:])
    assert not outcome.interrupted
    # What earlier runs spent counts; without estimates, so do jobs of the same kind.
    assert run([*big, small], folder, budget=BudgetGuard(309.0)).ran == ()
    assert run([*big, small], folder, budget=BudgetGuard(311.0)).ran == (big[2].id,)


def test_budget_counts_what_an_interrupted_job_has_had_once(folder: StudyFolder) -> None:
    job = toy("job", device_seconds=100.0)
    with folder.exclusive(), open_ledger(folder, wal=False) as ledger:
        ledger.start(job, "cpu")
        ledger.busy(job.id, 80.0)
        ledger.interrupted(job.id, "stopped")
    estimates = {job.id: 100.0}
    assert run([job], folder, budget=BudgetGuard(99.0), estimates=estimates).ran == ()
    assert run([job], folder, budget=BudgetGuard(101.0), estimates=estimates).ran == (job.id,)


def test_budget_counts_jobs_that_run_side_by_side(folder: StudyFolder) -> None:
    jobs = [toy(f"job{i}", "steps", steps=20) for i in range(2)]
    outcome = run(
        jobs,
        folder,
        devices=["cpu", "cpu"],
        budget=BudgetGuard(15.0),
        estimates={job.id: 10.0 for job in jobs},
    )
    # The second waits while the first may still take its ten seconds; it took one, so there is room.
    assert outcome.ran == (jobs[0].id, jobs[1].id)
    first, second = (rows(folder)[job.label] for job in jobs)
    assert second.started_at is not None
    assert first.ended_at is not None
    assert second.started_at >= first.ended_at


def test_a_need_that_nobody_provides_is_a_mistake_of_ours(folder: StudyFolder) -> None:
    with pytest.raises(ValueError, match="not among the jobs"):
        run([toy("lonely", needs={"data": "prepare-0"})], folder)


def test_the_next_data_is_prepared_while_a_device_trains(folder: StudyFolder, tmp_path: Path) -> None:
    trace = str(tmp_path / "trace")
    data = [toy(f"data{i}", kind="prepare", trace=trace, device_seconds=9.0) for i in range(2)]
    long = toy("long", "steps", needs={"data": data[0].id}, steps=60, trace=trace)
    next_one = toy("next", needs={"data": data[1].id}, trace=trace)
    events: list[Event] = []
    outcome = run([data[0], long, data[1], next_one], folder, devices=["cuda:0"], on_event=events.append)
    assert set(outcome.done) == {data[0].id, long.id, data[1].id, next_one.id}
    order = [
        (type(event).__name__, event.job.label)
        for event in events
        if isinstance(event, JobStarted | JobEnded) and event.job.label in ("long", "data1", "next")
    ]
    assert order.index(("JobEnded", "data1")) < order.index(("JobEnded", "long"))
    devices = {event.job.label: event.device for event in events if isinstance(event, JobStarted)}
    assert devices == {"data0": "cpu", "data1": "cpu", "long": "cuda:0", "next": "cuda:0"}
    assert rows(folder)["data1"].spent_seconds == 0
    assert rows(folder)["long"].spent_seconds >= 1


def test_what_holds_no_device_costs_no_budget(folder: StudyFolder) -> None:
    data = toy("data", "steps", kind="prepare", steps=40)
    train = toy("train", needs={"data": data.id}, device_seconds=0.5)
    events: list[Event] = []
    estimates = {data.id: 0.0, train.id: 0.1}
    outcome = run([data, train], folder, budget=BudgetGuard(0.2), estimates=estimates, on_event=events.append)
    assert outcome.ran == (data.id, train.id)
    spent = [event.device_seconds for event in events if isinstance(event, StudyState)]
    assert (spent[0], spent[-1]) == (0, 0.5)


def test_on_a_cpu_one_worker_does_everything_in_turn(folder: StudyFolder, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    data = [toy(f"data{i}", kind="prepare", trace=str(trace)) for i in range(2)]
    train = toy("train", "steps", needs={"data": data[0].id}, steps=5, trace=str(trace))
    run([data[0], train, data[1]], folder)
    workers = {line.split()[1] for line in trace.read_text().splitlines()}
    assert len(workers) == 1
    assert rows(folder)["data0"].spent_seconds == 0


def test_a_crash_of_the_data_worker_leaves_the_training_alone(folder: StudyFolder) -> None:
    data, doomed = toy("data", kind="prepare"), toy("doomed", "die", kind="prepare", times=9)
    train = toy("train", "steps", needs={"data": data.id}, steps=60)
    lost = toy("lost", needs={"data": doomed.id})
    outcome = run([data, train, doomed, lost], folder, devices=["cuda:0"])
    assert set(outcome.done) == {data.id, train.id}
    assert set(outcome.failed) == {doomed.id}
    assert rows(folder)["train"].attempts == 1

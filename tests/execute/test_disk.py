from __future__ import annotations

from pathlib import Path

import pytest
from toy_jobs import toy

from babeltune.execute.disk import prune
from babeltune.execute.folder import StudyFolder
from babeltune.execute.runner import run_jobs
from babeltune.study.jobs import Job

DATA = toy("data", kind="prepare")
LORA = toy("lora", "weights", needs={"data": DATA.id})
MERGED = toy("merged", "weights", needs={"data": DATA.id}, weights="model")
SECOND = toy("second", "weights", needs={"data": DATA.id, "start": MERGED.id})
FULL = toy("full", "weights", needs={"data": DATA.id}, weights="model")
JOBS = [DATA, LORA, MERGED, SECOND, FULL]
SCORES = [toy(f"score {job.label}", kind="score", needs={"model": job.id}) for job in (LORA, SECOND, FULL)]


def run(jobs: list[Job], folder: StudyFolder) -> tuple[str, ...]:
    return run_jobs(jobs, folder, perform="toy_jobs:perform", devices=["cpu"], threads=1).ran


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    folder = StudyFolder(tmp_path)
    run([*JOBS, *SCORES], folder)
    return folder


def kept(folder: StudyFolder) -> set[str]:
    names = {job.id: job.label for job in JOBS}
    return {names[path.parents[1].name] for path in folder.artifacts.glob("*/*/w.safetensors")}


def test_all_stays_if_asked(folder: StudyFolder) -> None:
    assert prune(folder, [*JOBS, *SCORES], keep="all") == 0
    assert kept(folder) == {"lora", "merged", "second", "full"}


def test_adapters_stay_with_the_stage_they_start_from(folder: StudyFolder) -> None:
    assert prune(folder, [*JOBS, *SCORES], keep="adapters") == 1000
    assert kept(folder) == {"lora", "merged", "second"}


@pytest.mark.parametrize(
    ("winner", "stays"), [(FULL, {"full"}), (SECOND, {"second", "merged"}), (LORA, {"lora"})]
)
def test_winner_stays_with_the_stage_it_starts_from(
    folder: StudyFolder, winner: Job, stays: set[str]
) -> None:
    prune(folder, [*JOBS, *SCORES], keep="winner", winners=[winner.id])
    assert kept(folder) == stays


def test_weights_that_are_to_be_kept_after_all_are_made_again(folder: StudyFolder) -> None:
    prune(folder, [*JOBS, *SCORES], keep="winner", winners=[LORA.id])
    assert run([*JOBS, *SCORES], folder) == ()
    again = run_jobs(
        [*JOBS, *SCORES], folder, perform="toy_jobs:perform", devices=["cpu"], threads=1, keep=[FULL.id]
    )
    assert again.ran == (FULL.id,)
    assert kept(folder) == {"lora", "full"}


def test_weights_that_an_open_job_needs_stay(folder: StudyFolder) -> None:
    later = toy("later", kind="score", needs={"model": FULL.id})
    prune(folder, [*JOBS, *SCORES, later], keep="winner")
    assert kept(folder) == {"full"}


def test_a_job_without_its_weights_is_done_until_a_new_job_needs_them(folder: StudyFolder) -> None:
    prune(folder, [*JOBS, *SCORES], keep="winner")
    assert kept(folder) == set()
    assert (folder.artifact(FULL.id) / "result").exists()
    assert run([*JOBS, *SCORES], folder) == ()

    new = toy("new", kind="score", needs={"model": SECOND.id})
    # Its model again, and the stage that starts from; not the data, and nothing of the others.
    assert run([*JOBS, *SCORES, new], folder) == (MERGED.id, SECOND.id, new.id)
    assert kept(folder) == {"merged", "second"}
    assert folder.has_weights(SECOND.id)


def test_half_removed_weights_do_not_pass_for_whole(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def power_fails(path: Path) -> None:
        raise SystemError

    with monkeypatch.context() as patch:
        patch.setattr("babeltune.execute.disk.shutil.rmtree", power_fails)
        with pytest.raises(SystemError):
            prune(folder, JOBS, keep="winner")
    assert not folder.has_weights(LORA.id)

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from toy_jobs import toy

from babeltune.errors import UserError
from babeltune.execute import folder as folder_module
from babeltune.execute.folder import StudyFolder, file_system, is_held, is_local


@pytest.mark.parametrize(
    ("path", "kind", "local"),
    [
        ("/home/me/study", "nfs4", False),
        ("/home/me/scratch/study", "xfs", True),
        ("/lustre/a", "lustre", False),
        ("/mnt/far", "fuse.sshfs", False),
        ("/other", "ext4", True),
        ("/twice", "cifs", False),
    ],
)
def test_network_disks_are_told_from_local_ones(
    monkeypatch: pytest.MonkeyPatch, path: str, kind: str, local: bool
) -> None:
    mounts = {
        "/": "ext4",
        "/home": "nfs4",
        "/home/me/scratch": "xfs",
        "/lustre": "lustre",
        "/mnt/far": "fuse.sshfs",
    }
    table = [SimpleNamespace(mountpoint=where, fstype=what) for where, what in mounts.items()]
    table += [SimpleNamespace(mountpoint="/twice", fstype=what) for what in ("ext4", "cifs")]
    monkeypatch.setattr(folder_module.psutil, "disk_partitions", lambda all: table)
    assert file_system(Path(path)) == kind
    assert is_local(Path(path)) is local


def test_holder_may_enter_again_and_lock_is_free_after(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with folder.exclusive():
        with folder.exclusive():
            pass
        assert folder.lock_fd is not None
    assert folder.lock_fd is None
    with StudyFolder(tmp_path).exclusive():
        pass


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write in"), StudyFolder(tmp_path / "file").exclusive():
        pass


def test_leftovers_go_and_checkpoints_of_open_jobs_stay(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    finished, going = toy("finished"), toy("going")
    with folder.exclusive():
        for job in (finished, going):
            folder.work_of(job.id).mkdir()
        folder.temporary("half").mkdir()
        out = folder.temporary(finished.id)
        out.mkdir()
        folder.publish(out, finished, {})
        folder.remove_leftovers()
    assert folder.published() == [finished.id]
    assert [path.name for path in folder.artifacts.iterdir()] == [finished.id]
    assert [path.name for path in folder.work.iterdir()] == [going.id]


def test_whether_a_run_works_in_a_folder_can_be_seen(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "study")
    assert not is_held(folder)
    with folder.exclusive():
        assert is_held(folder)
    assert not is_held(folder)

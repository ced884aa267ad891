"""A study's output folder: where its parts lie, the lock that one run holds, and publishing of results.

An artifact folder that exists is complete: results are written under a temporary name, flushed to disk
and renamed. Each holds `job.json`, from which the ledger can be rebuilt.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from babeltune.errors import FolderInUse, UserError
from babeltune.study.jobs import Job

# SQLite's write-ahead log needs shared memory between processes, which only local file systems give.
# What is not known to be local is treated as a network: the older journal works everywhere.
LOCAL_FILE_SYSTEMS = frozenset(
    {
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "zfs",
        "f2fs",
        "bcachefs",
        "jfs",
        "tmpfs",
        "overlay",
        "apfs",
        "hfs",
    }
)
TEMPORARY_PREFIX = ".tmp-"
# Written into an artifact before its weights are removed: from then on they don't count as there.
PRUNED_MARK = "weights.removed"


class StudyFolder:
    """Paths below `root`, and the lock on it (`lock_fd` while this process holds it)."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self.jobs = self.root / ".jobs"
        self.artifacts = self.jobs / "artifacts"
        self.work = self.jobs / "work"
        self.logs = self.jobs / "logs"
        self.ledger = self.jobs / "ledger.sqlite"
        self.lock_fd: int | None = None

    def artifact(self, job_id: str) -> Path:
        """The published results of a job (there once it is done)."""
        return self.artifacts / job_id

    def work_of(self, job_id: str) -> Path:
        """The job's own folder for checkpoints."""
        return self.work / job_id

    def record(self, job_id: str) -> dict[str, Any] | None:
        """What `job.json` of a done job says (id, kind, label, meaning, needs, costs), or None."""
        try:
            record = json.loads((self.artifact(job_id) / "job.json").read_bytes())
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and record.get("id") == job_id else None

    def is_done(self, job_id: str) -> bool:
        """Whether the job's results are there, whole."""
        return (self.artifact(job_id) / "job.json").is_file()

    def has_weights(self, job_id: str) -> bool:
        """Whether the job is done and none of its weights were removed to save disk."""
        return self.is_done(job_id) and not (self.artifact(job_id) / PRUNED_MARK).exists()

    def published(self) -> list[str]:
        """Ids of all artifacts, sorted."""
        if not self.artifacts.is_dir():
            return []
        return sorted(e.name for e in self.artifacts.iterdir() if not e.name.startswith(TEMPORARY_PREFIX))

    def temporary(self, name: str) -> Path:
        """A path beside the artifacts for something of this process that is not whole yet."""
        return self.artifacts / f"{TEMPORARY_PREFIX}{name}-{os.getpid()}"

    def publish(self, out: Path, job: Job, costs: dict[str, Any]) -> None:
        """Turn the folder `out` into the artifact of `job`, in one step; an older artifact is replaced."""
        record = {
            "id": job.id,
            "kind": job.kind,
            "label": job.label,
            "meaning": job.meaning,
            "needs": job.needs,
            "costs": costs,
        }
        (out / "job.json").write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
        _flush_tree(out)
        final = self.artifact(job.id)
        if final.exists():  # its weights were removed and are wanted again
            old = self.temporary(f"old-{job.id}")
            final.rename(old)
            out.rename(final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            out.rename(final)
        _flush(self.artifacts)

    def remove_leftovers(self) -> None:
        """Delete what killed runs left half-written, and checkpoints of jobs that are done."""
        for entry in self.artifacts.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(entry, ignore_errors=True)
        for entry in self.work.iterdir():
            if self.has_weights(entry.name):
                shutil.rmtree(entry, ignore_errors=True)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the folder against other runs; may be entered again by its holder.

        The operating system gives the lock back when the process and its workers are gone, however they end.

        Raises:
            FolderInUse: another run holds it.
            UserError: the folder can't be written or locked.
        """
        if self.lock_fd is not None:
            yield
            return
        try:
            for path in (self.artifacts, self.work, self.logs):
                path.mkdir(parents=True, exist_ok=True)
            self.lock_fd = _take_lock(self.jobs / "lock", self.root)
        except OSError as error:
            raise UserError(
                f"can't write in {self.root}: {error.strerror}", remedy="give another folder with --out"
            ) from error
        try:
            yield
        finally:
            fcntl.flock(self.lock_fd, fcntl.LOCK_UN)
            os.close(self.lock_fd)
            self.lock_fd = None


def is_held(folder: StudyFolder) -> bool:
    """Whether a run works in the folder at this moment, as far as that can be seen from here."""
    try:
        fd = os.open(folder.jobs / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held, or a disk without locks
        return True
    finally:
        os.close(fd)
    return False


def file_system(path: Path) -> str:
    """The type of the file system under `path` ("ext4", "nfs4", "lustre" …), "" where unknown."""
    resolved = path.resolve()
    mounts = [m for m in psutil.disk_partitions(all=True) if resolved.is_relative_to(m.mountpoint)]
    # Of two mounts on one place the later hides the earlier.
    return max(reversed(mounts), key=lambda m: len(m.mountpoint)).fstype if mounts else ""


def is_local(path: Path) -> bool:
    """Whether `path` is surely on a local disk."""
    return file_system(path) in LOCAL_FILE_SYSTEMS


def _take_lock(path: Path, root: Path, patience: float = 15.0) -> int:
    """The descriptor of the locked file.

    A killed run's workers share its lock until they have ended: where the holder is gone already, wait.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = _holder(fd)
                is_gone = _is_gone(holder)
                if is_gone and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
                who += " is gone, but not all that it started" if is_gone else ""
                raise FolderInUse(
                    f"another run works in {root}: {who}",
                    remedy="wait for it or stop it, or give this run another folder with --out",
                ) from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                raise UserError(
                    f"the file system of {root} ({file_system(root)}) has no file locks",
                    remedy="give a folder on another disk with --out",
                ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _holder(fd: int) -> dict[str, Any] | None:
    try:
        return json.loads(os.pread(fd, 4096, 0))
    except ValueError:
        return None  # it has just been locked and is not written yet


def _is_gone(holder: dict[str, Any] | None) -> bool:
    if holder is None or holder["host"] != platform.node():
        return False
    try:
        return psutil.Process(holder["pid"]).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _flush_tree(folder: Path) -> None:
    """Have everything below `folder` on disk before its name says that it is whole."""
    for path in folder.rglob("*"):
        _flush(path)
    _flush(folder)


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

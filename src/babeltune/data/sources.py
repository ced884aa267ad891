"""Where a dataset's rows lie: local files, a local mirror of the hub, or the hub itself."""

from __future__ import annotations

import difflib
import glob
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babeltune.data.hub import config_names, hub_rows, hub_source
from babeltune.data.kept import file_digest, kept
from babeltune.data.rows import SUFFIXES, Row, data_stem, data_suffix, read_file
from babeltune.errors import DataError
from babeltune.study.places import PACKAGE_PREFIX, Places, resolve_path
from babeltune.study.schema import Dataset

# `path` values that name a kind of file, as in `datasets.load_dataset("json", data_files=…)`.
FILE_KINDS = ("json", "csv", "parquet")

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")


@dataclass(frozen=True)
class _Part:
    """Files that belong together under one name (a configuration, or a file's stem)."""

    name: str
    files: tuple[Path, ...]


def read_rows(dataset: Dataset, places: Places) -> Iterator[Row]:
    """The dataset's rows, one after another; nothing is held in memory.

    Raises:
        DataError: a file is missing, empty, broken or not UTF-8 (file and line named).
        Unreachable: the rows lie on the hub, which can't be reached from here.
    """
    parts = _local_parts(dataset, places)
    if parts is None:
        yield from hub_rows(dataset)
        return
    for part in parts:
        for path in part.files:
            for row in read_file(path):
                yield Row(row.values, row.where, part.name)


def source_digest(dataset: Dataset, places: Places, cache_dir: Path) -> str:
    """The identity of the dataset's content (SHA-256, hex): what is in the files, not where they lie.

    Local files count by their bytes, a hub dataset by its rows: a commit that only changed its README
    changes nothing. The names of configurations and files count only where the rows' language is read
    from them. `cache_dir` keeps the digests of files and of a commit's rows.

    Raises:
        DataError: there are no such files, or they can't be read.
        Unreachable: the hub is needed and can't be reached.
    """
    parts = _local_parts(dataset, places)
    if parts is None:
        digests = _hub_digests(dataset, cache_dir)
    else:
        digests = [(part.name, file_digest(path, cache_dir)) for part in parts for path in part.files]
    names_matter = dataset.language is None and dataset.language_column is None
    found = sorted((name if names_matter else "", digest) for name, digest in digests)
    return hashlib.sha256(repr(found).encode()).hexdigest()


def source_commit(dataset: Dataset, places: Places) -> str | None:
    """The commit of a hub dataset's rows; None where they lie on this disk. Errors as `source_digest`."""
    on_disk = _local_parts(dataset, places) is not None
    return None if on_disk else hub_source(dataset.path, dataset.revision).commit


def fetch_dataset(dataset: Dataset, places: Places) -> str:
    """Download what `read_rows` needs into the hub's cache, and say what was done in a sentence.

    Raises:
        DataError: there is no such dataset, configuration or split.
        Unreachable: the hub can't be reached.
    """
    parts = _local_parts(dataset, places)
    if parts is not None:
        return f"{dataset.path}: {sum(len(part.files) for part in parts)} files on this disk"
    rows = sum(1 for _ in hub_rows(dataset))
    return f"{dataset.path}: {rows:,} rows from the hub"


def _hub_digests(dataset: Dataset, cache_dir: Path) -> list[tuple[str, str]]:
    """Each configuration of a hub dataset and the SHA-256 (hex) of its rows, which are read once a commit."""

    def digests() -> dict[str, str]:
        found: dict[str, Any] = {name or "": hashlib.sha256() for name in config_names(dataset)}
        for row in hub_rows(dataset):
            found[row.part].update(
                json.dumps(row.values, sort_keys=True, ensure_ascii=False, default=str).encode()
            )
        return {name: digest.hexdigest() for name, digest in found.items()}

    commit = hub_source(dataset.path, dataset.revision).commit
    read = [dataset.path, commit, config_names(dataset), dataset.split, dataset.data_files, dataset.data_dir]
    return list(kept(cache_dir, "rows", read, digests).items())


def _local_parts(dataset: Dataset, places: Places) -> list[_Part] | None:
    """The files to read, in order; None where the rows lie on the hub."""
    if dataset.path in FILE_KINDS:
        return _given_files(dataset, places)
    local = resolve_path(dataset.path, places)
    if local.is_file():
        return [_Part(data_stem(local), (local,))]
    if local.is_dir():
        return _folder_parts(local, dataset)
    is_hub_id = _HUB_ID.match(dataset.path) and data_suffix(local) is None
    if dataset.path.startswith(PACKAGE_PREFIX) or not is_hub_id:
        raise DataError(
            f"there is no file or folder {dataset.path!r}", where=str(local), remedy=_neighbours(local)
        )
    for folder in _mirrors(dataset.path, places):
        if folder.is_dir():
            return _folder_parts(folder, dataset)
    return None


def _mirrors(hub_id: str, places: Places) -> list[Path]:
    root = places.data_root
    return [] if root is None else [root / "hub" / hub_id, root / hub_id]


def _given_files(dataset: Dataset, places: Places) -> list[_Part]:
    patterns = [dataset.data_files] if isinstance(dataset.data_files, str) else dataset.data_files or []
    if not patterns:
        raise DataError(
            f"`path: {dataset.path}` needs `data_files`", remedy="name the files, relative to the study file"
        )
    return [
        _Part(data_stem(path), (path,))
        for pattern in patterns
        for path in _matching(resolve_path(pattern, places), places)
    ]


def _matching(pattern: Path, places: Places) -> list[Path]:
    """The files a pattern means, by name; a name without wildcards means itself."""
    if pattern.is_file():
        return [pattern]
    starts = [
        start for start in (places.study_dir, places.data_root) if start and pattern.is_relative_to(start)
    ]
    # What the user wrote is a pattern; the folder where that starts is not, whatever it is called.
    start = max(starts, key=lambda start: len(start.parts), default=Path(pattern.anchor))
    escaped = Path(glob.escape(str(start))) / pattern.relative_to(start)
    found = sorted(path for path in map(Path, glob.glob(str(escaped), recursive=True)) if path.is_file())  # noqa: PTH207
    if not found:
        raise DataError("no such data file", where=str(pattern), remedy=_neighbours(pattern))
    return found


def _folder_parts(folder: Path, dataset: Dataset) -> list[_Part]:
    """The files of a dataset's folder, laid out as the hub lays datasets out.

    `<config>/<split>.<suffix>`, `<config>/<split>/…`, `<split>.<suffix>`, `<split>-00000-of-00002.<suffix>`;
    where no file is named for the split and no configuration is asked for, every data file in the folder.
    """
    if dataset.data_files:
        patterns = [dataset.data_files] if isinstance(dataset.data_files, str) else dataset.data_files
        base = folder / (dataset.data_dir or "")
        return [
            _Part(data_stem(path), (path,))
            for pattern in patterns
            for path in _matching(base / pattern, Places(base))
        ]
    if dataset.data_dir:
        folder = folder / dataset.data_dir
    configs = config_names(dataset)
    if configs != [None]:
        return [_Part(str(config), _config_files(folder, str(config), dataset.split)) for config in configs]
    named = _split_files(folder, dataset.split)
    if named:
        return [_Part(dataset.split, named)]
    others = _data_files(folder)
    if others:
        return [_Part(data_stem(path), (path,)) for path in others]
    with_split = [child.name for child in _folders(folder) if _split_files(child, dataset.split)]
    if len(with_split) == 1:
        return [_Part(with_split[0], _split_files(folder / with_split[0], dataset.split))]
    raise DataError(
        "several configurations here; which?"
        if with_split
        else f"no data files for split {dataset.split!r} here",
        where=str(folder),
        remedy=f"add `name`, one or a list of: {', '.join(with_split)}" if with_split else _contents(folder),
    )


def _config_files(folder: Path, config: str, split: str) -> tuple[Path, ...]:
    home = folder / config
    if not home.is_dir():
        names = [child.name for child in _folders(folder)]
        raise DataError(
            f"no configuration {config!r} here",
            where=str(folder),
            remedy=_nearest(config, names, "configurations here"),
        )
    files = _split_files(home, split)
    if not files:
        splits = sorted({re.split(r"-\d", data_stem(path))[0] for path in _data_files(home)})
        raise DataError(
            f"no split {split!r} here", where=str(home), remedy=_nearest(split, splits, "splits here")
        )
    return files


def _split_files(folder: Path, split: str) -> tuple[Path, ...]:
    if (folder / split).is_dir():
        return tuple(_data_files(folder / split))
    name = re.compile(rf"^{re.escape(split)}(-\d+(-of-\d+)?)?$")
    return tuple(path for path in _data_files(folder) if name.match(data_stem(path)))


def _data_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and data_suffix(path))


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _neighbours(path: Path) -> str:
    """A remedy for a path that is not there: the nearest name in the nearest folder that is."""
    folder = path.parent
    while not folder.is_dir():
        path, folder = folder, folder.parent
    names = sorted(child.name for child in folder.iterdir())
    return _nearest(path.name, names, f"in {folder}")


def _contents(folder: Path) -> str:
    names = sorted(child.name for child in folder.iterdir())
    return (
        f"the folder holds {', '.join(names[:8])}"
        if names
        else f"the folder is empty; known suffixes: {', '.join(SUFFIXES)}"
    )


def _nearest(wanted: str, names: list[str], title: str) -> str:
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if not names:
        return f"{title}: nothing"
    return f"{title}: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}"

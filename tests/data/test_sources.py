from __future__ import annotations

import json
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

from babeltune.data.sources import read_rows, source_digest
from babeltune.errors import DataError, Unreachable
from babeltune.study.places import Places
from babeltune.study.schema import Dataset


def _file(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def _digest(dataset: Dataset, places: Places) -> str:
    with tempfile.TemporaryDirectory() as cache:
        return source_digest(dataset, places, Path(cache))


def _texts(dataset: Dataset, places: Places) -> list[tuple[str, str]]:
    return [(row.values["text"], row.part) for row in read_rows(dataset, places)]


def test_files_folders_and_patterns_are_relative_to_the_study_file(tmp_path: Path) -> None:
    _file(tmp_path / "data/sw.jsonl", "a")
    _file(tmp_path / "data/ha.jsonl", "b")
    places = Places(tmp_path)
    assert _texts(Dataset(path="data/sw.jsonl"), places) == [("a", "sw")]
    assert _texts(Dataset(path="data"), places) == [("b", "ha"), ("a", "sw")]
    assert _texts(Dataset(path="json", data_files="data/*.jsonl"), places) == [("b", "ha"), ("a", "sw")]
    assert _texts(Dataset(path="json", data_files=["data/sw.jsonl"]), places) == [("a", "sw")]


def test_a_folder_is_no_pattern_whatever_it_is_called(tmp_path: Path) -> None:
    _file(tmp_path / "run[v2]/data/sw.jsonl", "a")
    places = Places(tmp_path / "run[v2]", tmp_path)
    assert _texts(Dataset(path="json", data_files="data/*.jsonl"), places) == [("a", "sw")]
    in_root = Dataset(path="json", data_files="data-root:run?v2?/data/*.jsonl")
    assert _texts(in_root, places) == [("a", "sw")]
    of_folder = Dataset(path="data", data_files="*.jsonl")
    assert _texts(of_folder, places) == [("a", "sw")]


def test_a_link_is_what_its_own_name_says(tmp_path: Path) -> None:
    """As in the hub's cache, where the files that names link to are called by their digests."""
    blob = _file(tmp_path / "blobs/3f0c", "a")
    (tmp_path / "sw.jsonl").symlink_to(blob)
    assert _texts(Dataset(path="sw.jsonl"), Places(tmp_path)) == [("a", "sw")]


@pytest.mark.parametrize("root", ["hub", ""])
def test_a_local_mirror_stands_in_for_the_hub(root: str, tmp_path: Path) -> None:
    home = tmp_path / "mirror" / root / "org/name"
    _file(home / "sw/train.jsonl", "a")
    _file(home / "ha/train-00000-of-00002.jsonl", "b")
    _file(home / "ha/train-00001-of-00002.jsonl", "c")
    _file(home / "ha/test.jsonl", "no")
    places = Places(tmp_path, tmp_path / "mirror")
    dataset = Dataset(path="org/name", name=["sw", "ha"])
    assert _texts(dataset, places) == [("a", "sw"), ("b", "ha"), ("c", "ha")]
    with pytest.raises(DataError, match="several configurations here") as caught:
        _texts(Dataset(path="org/name"), places)
    assert "ha, sw" in str(caught.value)
    with pytest.raises(DataError, match=r"no configuration 'swa' here") as caught:
        _texts(Dataset(path="org/name", name="swa"), places)
    assert "did you mean sw?" in str(caught.value)
    with pytest.raises(DataError, match=r"no split 'tset' here") as caught:
        _texts(Dataset(path="org/name", name="ha", split="tset"), places)
    assert "did you mean test?" in str(caught.value)


def test_a_mirror_without_configurations(tmp_path: Path) -> None:
    _file(tmp_path / "org/name/train.jsonl", "a")
    assert _texts(Dataset(path="org/name"), Places(tmp_path / "study", tmp_path)) == [("a", "train")]


def test_the_real_mirror(development_data: Path) -> None:
    places = Places(development_data, development_data)
    rows = list(read_rows(Dataset(path="cambridgeltl/xcopa", name="sw", split="validation"), places))
    assert len(rows) == 100
    assert rows[6].where.endswith("cambridgeltl/xcopa/sw/validation.jsonl:7")


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    _file(tmp_path / "data/swahili.jsonl", "a")
    for dataset in (Dataset(path="data/swahii.jsonl"), Dataset(path="json", data_files="data/swahii.jsonl")):
        with pytest.raises(DataError) as caught:
            list(read_rows(dataset, Places(tmp_path)))
        assert caught.value.where == str(tmp_path / "data/swahii.jsonl")
        assert caught.value.remedy == "did you mean swahili.jsonl?"


def test_the_digest_is_of_content_not_of_names(tmp_path: Path) -> None:
    _file(tmp_path / "one/a.jsonl", "x")
    _file(tmp_path / "one/b.jsonl", "y")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two/a.jsonl").rename(tmp_path / "two/z.jsonl")
    places = Places(tmp_path)
    one = _digest(Dataset(path="one", language="sw"), places)
    assert _digest(Dataset(path="two", language="sw"), places) == one
    assert _digest(Dataset(path=str(tmp_path / "one"), language="sw"), places) == one
    assert _digest(Dataset(path="json", data_files="one/*", language="sw"), places) == one
    _file(tmp_path / "two/b.jsonl", "changed")
    assert _digest(Dataset(path="two", language="sw"), places) != one


def test_names_count_where_the_language_is_read_from_them(tmp_path: Path) -> None:
    _file(tmp_path / "es.jsonl", "x")
    _file(tmp_path / "pt.jsonl", "x")
    digests = {_digest(Dataset(path=f"{code}.jsonl"), Places(tmp_path)) for code in ("es", "pt")}
    assert len(digests) == 2


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("_no_network")
def test_an_unreachable_hub_says_what_to_do() -> None:
    dataset = Dataset(path="CohereLabs/aya_dataset_of_nobody")
    for act in (
        lambda: _digest(dataset, Places(Path())),
        lambda: list(read_rows(dataset, Places(Path()))),
    ):
        with pytest.raises(Unreachable) as caught:
            act()
        assert "--data-root" in str(caught.value)
        assert "babeltune fetch" in str(caught.value)

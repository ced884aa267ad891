"""The hub's cache, laid out by hand as the hub's client lays it out, and a hub that answers or doesn't."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from babeltune.data import hub
from babeltune.data.hub import PARQUET_CONVERSION, hub_commits
from babeltune.data.sources import read_rows, source_commit, source_digest
from babeltune.errors import DataError, Unreachable
from babeltune.study.places import Places
from babeltune.study.schema import Dataset

MAIN, CONVERSION, NEWER = ("1" * 40, "2" * 40, "3" * 40)
DATASET = Dataset(path="org/name", name="sw")

Lay = Callable[..., None]


@pytest.fixture
def lay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lay:
    """Put a commit of `org/name` into an empty hub cache, under the name of a revision."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_sources", {})

    def put(revision: str, commit: str, **parquet: list[str]) -> None:
        home = tmp_path / "cache" / "datasets--org--name"
        (home / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
        (home / "refs" / revision).write_text(commit)
        (home / "snapshots" / commit).mkdir(parents=True)
        (home / "snapshots" / commit / ".gitattributes").write_text("")
        for config, texts in parquet.items():
            folder = home / "snapshots" / commit / config / "train"
            folder.mkdir(parents=True)
            pl.DataFrame({"text": texts}).write_parquet(folder / "0000.parquet")

    return put


def _online(monkeypatch: pytest.MonkeyPatch, commits: dict[str, str], files: list[str]) -> None:
    """A hub that knows the commits of revisions, and these files in each."""

    def dataset_info(_: Any, hub_id: str, *, revision: str | None, timeout: float) -> SimpleNamespace:
        siblings = [SimpleNamespace(rfilename=name) for name in files]
        return SimpleNamespace(sha=commits[revision or "main"], siblings=siblings)

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)

    def hf_hub_download(*_: Any, revision: str | None, **__: Any) -> str:
        return f"/cache/{commits[revision or 'main']}/.gitattributes"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)


def test_a_repository_with_a_script_is_its_conversion(lay: Lay, tmp_path: Path) -> None:
    lay("main", MAIN)
    lay(PARQUET_CONVERSION, CONVERSION, sw=["a", "b"])
    [first, second] = read_rows(DATASET, Places(tmp_path))
    assert (first.values, first.where, first.part) == ({"text": "a"}, "org/name sw train row 1", "sw")
    assert second.values == {"text": "b"}
    assert source_commit(DATASET, Places(tmp_path)) == CONVERSION
    assert hub_commits() == {"org/name": CONVERSION}


def test_the_digest_follows_the_rows_and_not_the_commit(
    lay: Lay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(tmp_path)

    def digest(commit: str, *texts: str, dataset: Dataset = DATASET) -> str:
        monkeypatch.setattr(hub, "_sources", {})
        lay(PARQUET_CONVERSION, commit, sw=list(texts))
        return source_digest(dataset, places, tmp_path)

    first = digest(CONVERSION, "a", "b")
    assert digest(NEWER, "a", "b") == first
    assert digest("4" * 40, "a", "c") != first
    assert digest("5" * 40, "ab") != first
    # Told by the configuration's name, the language is part of what the rows are.
    named = DATASET.model_copy(update={"language": "sw"})
    assert digest("6" * 40, "a", "b", dataset=named) != first


def test_the_rows_of_a_commit_are_read_once_for_their_digest(
    lay: Lay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(PARQUET_CONVERSION, CONVERSION, sw=["a"])
    first = source_digest(DATASET, Places(tmp_path), tmp_path)
    monkeypatch.setattr("babeltune.data.sources.hub_rows", lambda _: pytest.fail("read again"))
    assert source_digest(DATASET, Places(tmp_path), tmp_path) == first


def test_without_a_script_the_commit_is_that_of_the_revision(
    lay: Lay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _online(monkeypatch, {"main": MAIN, "v1": NEWER}, ["README.md", "other.py", "sw/train.parquet"])
    assert source_commit(DATASET, Places(tmp_path)) == MAIN
    assert source_commit(DATASET.model_copy(update={"revision": "v1"}), Places(tmp_path)) == NEWER
    assert hub_commits() == {"org/name": MAIN, "org/name@v1": NEWER}


def test_a_name_means_one_commit_within_a_process(
    lay: Lay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _online(monkeypatch, {"main": MAIN}, [])
    assert source_commit(DATASET, Places(tmp_path)) == MAIN
    _online(monkeypatch, {"main": NEWER}, [])
    assert source_commit(DATASET, Places(tmp_path)) == MAIN


def test_a_configuration_that_the_conversion_lacks_is_named(lay: Lay, tmp_path: Path) -> None:
    lay(PARQUET_CONVERSION, CONVERSION, sw=["a"])
    with pytest.raises(DataError, match="no configuration 'ha' with a split 'train'"):
        list(read_rows(DATASET.model_copy(update={"name": "ha"}), Places(tmp_path)))


def test_an_empty_cache_without_a_hub_is_out_of_reach(lay: Lay, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="org/name"):
        source_digest(DATASET, Places(tmp_path), tmp_path)


class _Split(list):
    """What `load_dataset` returns, as far as it is used: rows, and the cache files they lie in."""

    cache_files: list[dict[str, str]]


def _split(commit: str) -> _Split:
    split = _Split([{"text": "a"}])
    split.cache_files = [{"filename": f"/cache/org___name/sw/0.0.0/{commit}/name-train.arrow"}]
    return split


def test_rows_of_another_revision_out_of_the_cache_are_refused(
    lay: Lay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay("main", MAIN)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: _split(MAIN))
    assert [row.values for row in read_rows(DATASET, Places(tmp_path))] == [{"text": "a"}]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: _split(NEWER))
    with pytest.raises(DataError, match="another revision"):
        list(read_rows(DATASET, Places(tmp_path)))

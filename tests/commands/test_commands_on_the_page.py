"""The commands that a page shows work where its study was run, and hold no more of a path than they must."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from babeltune.commands.opening import OpenedStudy, as_typed, command_again


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def opened(path: Path, root: Path, data_root: Path | None = None) -> OpenedStudy:
    parts: dict[str, Any] = {
        "path": path,
        "study": SimpleNamespace(name="own"),
        "folder": SimpleNamespace(root=root),
        "places": SimpleNamespace(data_root=data_root),
    }
    return cast(OpenedStudy, SimpleNamespace(**parts))


def test_paths_below_the_current_folder_are_relative(here: Path) -> None:
    assert as_typed(here / "studies" / "own.yaml") == "studies/own.yaml"
    assert as_typed(Path("studies/own.yaml")) == "studies/own.yaml"
    assert as_typed(Path("../own.yaml")) == "../own.yaml"
    assert as_typed(here.parent / "own.yaml") == str(here.parent / "own.yaml")


def test_a_command_names_only_what_is_not_the_default(here: Path) -> None:
    study = here / "own.yaml"
    assert command_again("export", opened(study, Path("runs/own"))) == "babeltune export own.yaml"
    assert command_again("export", opened(study, here / "runs" / "own")) == "babeltune export own.yaml"
    elsewhere = opened(Path("my study.yaml"), here / "out", here / "mirror")
    assert command_again("run", elsewhere) == ("babeltune run 'my study.yaml' --out out --data-root mirror")

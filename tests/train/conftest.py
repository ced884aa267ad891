"""A tiny model and prepared examples on disk, as a stage finds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny_training import located as locate_tiny

from babeltune.models import loading
from babeltune.models.source import LocatedModel


@pytest.fixture(autouse=True)
def cpu_that_multiplies_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of 16 bits and of autocast test those on every machine."""
    monkeypatch.setattr(loading, "_cpu_multiplies_bfloat16", lambda: True)


@pytest.fixture
def located(tiny_model_dir: Path, tmp_path: Path) -> LocatedModel:
    return locate_tiny(tiny_model_dir, tmp_path / "cache")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Prepared examples on disk, as `prepare` leaves them."""
    random = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in (("train", 48), ("held_out", 8)):
        ids = [[int(random.integers(3, 200))] * int(random.integers(4, 20)) + [2] for _ in range(count)]
        rows = {
            "id": [str(index) for index in range(count)],
            "language": [("en", "sw")[index % 2] for index in range(count)],
            "input_ids": ids,
            "trained": [[place > 1 for place in range(len(row))] for row in ids],
        }
        pl.DataFrame(rows, schema_overrides={"input_ids": pl.List(pl.Int32)}).write_parquet(
            folder / f"{name}.parquet"
        )
    (folder / "summary.json").write_text("{}")
    return folder

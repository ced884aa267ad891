"""A study with a larger model behind an API to compare with, by the real command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.commands.small_study import babeltune, ledger, scores, write_study
from tests.evaluate.judge.server import serving

pytest.importorskip("tenacity", reason="lm-eval's packages for APIs are not installed")


def echo(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"].removeprefix("Say ")


@pytest.mark.slow
def test_a_reference_is_asked_and_stands_apart(tiny_model_dir: Path, tmp_path: Path):
    out = tmp_path / "out"
    with serving(echo) as stub:
        reference = {
            "model": "org/large",
            "base_url": stub.base_url,
            "price_per_million_input_tokens": 2.0,
            "price_per_million_output_tokens": 5.0,
        }
        study = write_study(
            tmp_path / "study",
            tiny_model_dir,
            recipes={"lora": {"method": "lora", "r": 2}},
            eval={
                "tasks": [{"path": "items.jsonl", "metric": "chrf", "max_gen_toks": 8}],
                "references": [reference],
            },
        )
        done = babeltune("run", study, "--out", out, cache=tmp_path / "cache")
        assert done.returncode == 0, done.stderr
        asked = len(stub.asked)
        again = babeltune("run", study, "--out", out, cache=tmp_path / "cache")
        assert again.returncode == 0, again.stderr
        assert len(stub.asked) == asked == 30
    found = scores(out).filter(run="reference/org/large", metric="chrf")
    assert found["value"].to_list() == [1.0] * 30
    runs = pl.read_parquet(out / "tables" / "runs.parquet")
    assert runs.filter(run="reference/org/large").select("method", "state").row(0) == ("reference", "done")
    costs = pl.read_parquet(out / "tables" / "costs.parquet").filter(kind="ask")
    assert costs["api_input_tokens"].sum() == 3000
    assert costs["api_price"].sum() == pytest.approx((3000 * 2 + 300 * 5) / 1e6)
    assert {row.kind for row in ledger(out).values()} >= {"ask", "score"}
    summary = json.loads((out / "tables" / "summary.json").read_text())
    assert all(candidate["recipe"] != "reference" for candidate in summary["candidates"])
    assert [one["label"] for one in summary["references"]] == ["org/large"]
    assert "Asking them cost <bdi>org/large</bdi> 0.0075 USD (3 k tokens read, 300 written)" in (
        (out / "report.html").read_text("utf-8")
    )
    assert pl.read_csv(out / "tables" / "references.csv")["price"].to_list() == pytest.approx([0.0075])
    assert {tuple(gap["tasks"]) for gap in summary["gaps"]} == {("items",)}

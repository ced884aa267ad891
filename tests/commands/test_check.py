"""What `check` finds and shows."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from rich.console import Console

from babeltune.commands.check import SHOWN, Checked, check_study, print_data, print_findings, shown_example
from babeltune.commands.lock import lock_of
from babeltune.commands.opening import OpenedStudy, open_study
from babeltune.commands.results import results_of
from babeltune.commands.run import _jobs_only_of, _record_unfit
from babeltune.data.hub import HubSource
from babeltune.execute.devices import this_machine
from babeltune.execute.ledger import read_rows
from tests.commands.small_study import write_study

ASKED = "¿Qué río atraviesa la ciudad de Sevilla antes de llegar al océano Atlántico por Cádiz?"


def test_right_to_left_text_does_not_carry_marks_and_tokens_along() -> None:
    marked = "<|im_start|>user\nما هي Python؟<|im_end|>\n<|im_start|>assistant\n⟦لغة برمجة.<|im_end|>⟧\n"
    isolated = marked
    for words in ("ما هي Python؟", "لغة برمجة."):
        isolated = isolated.replace(words, f"\u2068{words}\u2069")
    shown = shown_example(marked)
    assert shown.plain == isolated
    assert [shown.plain[span.start : span.end] for span in shown.spans if span.style == "green"] == [
        "⟦\u2068لغة برمجة.\u2069<|im_end|>⟧"
    ]
    assert shown_example("[INST] שלום Python עולם! [/INST] ⟦כן</s>⟧").plain == (
        "[INST] \u2068שלום Python עולם!\u2069 [/INST] ⟦\u2068כן\u2069</s>⟧"
    )


def test_long_parts_are_shown_with_their_end() -> None:
    shown = shown_example(f"question⟦{'a' * 5000} the end<|im_end|>⟧").plain
    assert len(shown) < SHOWN + 50
    assert shown.endswith("the end<|im_end|>⟧")


@pytest.fixture
def opened(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> OpenedStudy:
    """A study in whose Spanish rows stands an item that it scores; its LoRA recipe must fit the machine."""
    monkeypatch.setenv("BABELTUNE_CACHE", str(tmp_path / "cache"))
    recipes = {"lora": {"method": "lora", "if_unfit": "fail"}, "full": {"method": "full"}}
    study = write_study(tmp_path, tiny_model_dir, recipes=recipes, seeds=2)
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.write("\n" + json.dumps({"instruction": f"Responde: {ASKED}", "output": "¡Sí!", "lang": "es"}))
    with (tmp_path / "items.jsonl").open("a") as items:
        items.write("\n" + json.dumps({"item": "river", "language": "es", "prompt": ASKED, "reference": "x"}))
    return open_study(study, out=tmp_path / "out", data_root=None, console=Console(quiet=True))


def _printed(checked: Checked) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    for summary in checked.summaries:
        print_data(console, summary)
    print_findings(console, checked)
    return console.export_text()


@pytest.mark.slow
def test_a_check_says_what_leaks_what_does_not_fit_and_shows_an_example(opened: OpenedStudy) -> None:
    machine = dataclasses.replace(this_machine(None), memory_bytes=1)
    checked = check_study(opened, machine, Console(quiet=True))
    [leak] = [finding for finding in checked.findings if "scored items" in finding.message]
    assert (leak.level, leak.where) == ("warn", "datasets.own")
    assert "es 1, such as rows.jsonl:97, item river: “¿Qué río" in leak.message
    [data] = checked.summaries
    assert data["dropped"]["holds a scored item"] == 1
    [job] = [job for job in opened.jobs.jobs if job.kind == "prepare"]
    trained = pl.read_parquet(opened.folder.artifact(job.id) / "train.parquet")
    assert trained.filter(language="es").height == 24 - 2  # without what is held out

    assert set(checked.unfit) == {"full/tiny/seed0", "full/tiny/seed1"}
    [refused] = [finding for finding in checked.findings if finding.level == "refuse"]
    assert refused.where == "lora"
    assert "GiB" in refused.message

    left_out = _jobs_only_of(opened, checked.unfit)
    with opened.folder.exclusive():
        _record_unfit(opened, checked.unfit, left_out)
    skipped = {row.label: row for row in read_rows(opened.folder.ledger) if row.state == "skipped"}
    assert "needs about" in (skipped["train full/tiny/seed0"].error or "")
    (full,) = results_of(opened)[0].runs.filter(run="full/tiny/seed0").iter_rows(named=True)
    assert full["state"] == "skipped"
    assert "needs about" in full["error"]

    printed = _printed(checked)
    assert "rows that hold scored items of items: es 1" in printed
    assert "dropped: holds a scored item 1" in printed
    assert "es: one example, its trained part marked (" in printed
    assert "<|im_start|>assistant\n⟦hola " in printed
    assert "skipped: full/tiny/seed0: needs about" in printed


@pytest.mark.slow
@pytest.mark.parametrize("multiplies", [True, False])
def test_a_width_other_than_the_one_asked_for_is_said(
    opened: OpenedStudy, multiplies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("babeltune.models.loading._cpu_multiplies_bfloat16", lambda: multiplies)
    machine = dataclasses.replace(this_machine(None), devices=("cpu",))
    checked = check_study(opened, machine, Console(quiet=True))
    said = [finding.message for finding in checked.findings if "computed in float32" in finding.message]
    assert [message.count("bfloat16") for message in said] == ([] if multiplies else [2])


def test_the_lock_says_where_rows_lie_and_at_which_commit(
    opened: OpenedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("babeltune.models.loading._cpu_multiplies_bfloat16", lambda: False)
    monkeypatch.setattr("babeltune.data.hub._sources", {("org/task", None): HubSource("c" * 40, True)})
    machine = dataclasses.replace(this_machine(None), devices=("cpu",))
    lock: dict[str, Any] = yaml.safe_load(yaml.safe_dump(lock_of(opened, machine)))
    digest = opened.resolved.contents.datasets["own"]
    assert lock["datasets"] == {"own": {"path": "rows.jsonl", "digest": digest}}
    assert lock["hub"] == {"org/task": "c" * 40}
    assert set(lock["tasks"]) == {"items/es", "items/sw", "items/en"}
    assert lock["machine"]["bfloat16_computed_in"] == "float32"


def test_items_are_counted_once(opened: OpenedStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened.item_counts == {("items", "es"): 11, ("items", "sw"): 10, ("items", "en"): 10}
    monkeypatch.setattr("babeltune.commands.opening.task_documents", lambda *_: pytest.fail("read again"))
    assert opened.item_counts["items", "es"] == 11

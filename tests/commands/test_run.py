"""The main job through the real command: what reruns, what survives a kill, what a user's mistake prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands.small_study import (
    babeltune,
    command,
    copy_of,
    environment,
    ledger,
    scores,
    write_study,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, cache: Path) -> Path:
    """A folder with `study.yaml` and its finished results in `out`."""
    folder = tmp_path_factory.mktemp("finished")
    done = babeltune("run", write_study(folder, tiny_model_dir), "--out", folder / "out", cache=cache)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The finished folder somewhere else, to be changed."""
    return copy_of(finished, tmp_path / "moved")


def attempts(out: Path) -> dict[str, int]:
    return {job: row.attempts for job, row in ledger(out).items()}


def test_a_finished_study_has_every_item_score_and_the_answer(finished: Path):
    frame = scores(finished / "out")
    per_run = frame.filter(metric="bits_per_byte").group_by("run", "language").len()
    assert set(per_run["len"]) == {10}
    assert per_run.height == 3 * 3  # untouched and two recipes, two targets and the guard
    summary = json.loads((finished / "out" / "tables" / "summary.json").read_text())
    assert summary["recommendation"]["candidate"] in ("lora-r8", "lora-r2")
    assert "<html" in (finished / "out" / "report.html").read_text()


def test_the_same_command_in_a_moved_folder_runs_nothing(copied: Path, cache: Path):
    before = attempts(copied / "out")
    study = copied / "study.yaml"
    study.write_text("# a comment\n" + study.read_text().replace("rows.jsonl", "./rows.jsonl"))
    done = babeltune("run", study, "--out", copied / "out", "--workers", "2", cache=cache)
    assert done.returncode == 0, done.stderr
    assert "everything is done" in done.stdout
    assert attempts(copied / "out") == before


def change(study: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    data = yaml.safe_load(study.read_text())
    edit(data)
    study.write_text(yaml.safe_dump(data, sort_keys=False))


def test_a_new_language_and_a_new_recipe_run_only_what_is_new(copied: Path, cache: Path):
    before = attempts(copied / "out")

    def edit(data: dict[str, Any]) -> None:
        data["languages"]["target"].append("it")
        data["recipes"]["lora"]["grid"]["r"].append(4)

    change(copied / "study.yaml", edit)
    done = babeltune("run", copied / "study.yaml", "--out", copied / "out", cache=cache)
    assert done.returncode == 0, done.stderr
    after = attempts(copied / "out")
    assert {job: after[job] for job in before} == before
    new = sorted(row.label for job, row in ledger(copied / "out").items() if job not in before)
    assert new == [
        "score lora-r2/tiny/seed0 on items it",
        "score lora-r4/tiny/seed0 on items en",
        "score lora-r4/tiny/seed0 on items es",
        "score lora-r4/tiny/seed0 on items it",
        "score lora-r4/tiny/seed0 on items sw",
        "score lora-r8/tiny/seed0 on items it",
        "score untouched/tiny on items it",
        "train lora-r4/tiny/seed0",
    ]


@pytest.mark.parametrize("kind", ["train", "score"])
def test_after_kill_9_the_same_command_gives_the_same_scores(
    kind: str, finished: Path, tmp_path: Path, tiny_model_dir: Path, cache: Path
):
    study, out = write_study(tmp_path, tiny_model_dir), tmp_path / "out"
    process = subprocess.Popen(
        command("run", study, "--out", out),
        env=environment(cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not any(row.kind == kind and row.state == "running" for row in ledger(out).values()):
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "tables" / "scores.parquet").exists()
    done = babeltune("run", study, "--out", out, cache=cache)
    assert done.returncode == 0, done.stderr
    assert scores(out).equals(scores(finished / "out"))


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(tmp_path: Path, tiny_model_dir: Path, cache: Path):
    study, out = write_study(tmp_path, tiny_model_dir), tmp_path / "out"
    process = subprocess.Popen(
        command("run", study, "--out", out),
        env=environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not any(row.kind == "train" for row in ledger(out).values()):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on from here" in stderr


def test_a_recipe_that_diverges_fails_alone(copied: Path, cache: Path):
    def edit(data: dict[str, Any]) -> None:
        data["recipes"]["wild"] = {"method": "full", "learning_rate": 1e6, "max_steps": 30}

    change(copied / "study.yaml", edit)
    done = babeltune("run", copied / "study.yaml", "--out", copied / "out", cache=cache)
    assert done.returncode == 1
    assert "train wild/tiny/seed0" in done.stdout
    assert "lora-r8" in done.stdout
    assert (copied / "out" / "report.html").exists()


def test_a_budget_is_kept(tmp_path: Path, tiny_model_dir: Path, cache: Path):
    study = write_study(tmp_path, tiny_model_dir, budget={"gpu_hours": 1e-9})
    done = babeltune("run", study, "--out", tmp_path / "out", cache=cache)
    assert "not started: the budget is used up" in done.stdout
    assert not any(row.kind == "train" for row in ledger(tmp_path / "out").values())


def test_status_report_and_plan_of_a_finished_study(finished: Path, cache: Path):
    study, out = finished / "study.yaml", finished / "out"
    status = babeltune("status", study, "--out", out, "--json", cache=cache)
    assert {job["state"] for job in json.loads(status.stdout)["jobs"]} == {"done"}
    report = babeltune("report", study, "--out", out, cache=cache)
    assert (report.returncode, "lora-r8" in report.stdout) == (0, True), report.stderr
    plan = babeltune("plan", study, "--out", out, "--json", cache=cache)
    planned = json.loads(plan.stdout)
    assert all(job["done"] for job in planned["jobs"])
    assert all(run["train_seconds"] is not None for run in planned["runs"])
    assert planned["pilot"] is None  # of losses, one seed does not tell how runs vary


def test_a_page_is_not_written_over_by_one_without_what_was_trained(copied: Path, cache: Path):
    """As after the data has changed: none of its trainings is there then."""
    with (copied / "rows.jsonl").open("a") as rows:
        rows.write("\n" + json.dumps({"instruction": "Say more", "output": "más", "lang": "es"}))
    before = (copied / "out" / "report.html").read_bytes()
    done = babeltune("report", copied / "study.yaml", "--out", copied / "out", cache=cache)
    assert done.returncode == 2
    assert "none of the study's trainings is there" in done.stderr
    assert (copied / "out" / "report.html").read_bytes() == before
    shown = babeltune("report", copied / "out", cache=cache)
    assert (shown.returncode, "lora-r8" in shown.stdout) == (0, True), shown.stderr


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_what_is_exported_scores_as_what_was_trained(form: str, finished: Path, tmp_path: Path, cache: Path):
    arguments = ["--form", form, "--to", tmp_path / form, "--verify", "--out", finished / "out"]
    done = babeltune("export", finished / "study.yaml", *arguments, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Verified" in done.stdout
    card = (tmp_path / form / "README.md").read_text()
    assert "| r | " in card
    assert "Swahili" in card


def test_a_folder_that_is_taken_is_not_written_to(finished: Path, tmp_path: Path, cache: Path):
    (tmp_path / "mine.txt").write_text("kept")
    done = babeltune(
        "export", finished / "study.yaml", "--to", tmp_path, "--out", finished / "out", cache=cache
    )
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_eval_scores_one_model_without_a_study(finished: Path, tiny_model_dir: Path, cache: Path):
    arguments = [
        "--tasks",
        finished / "items.jsonl",
        "--metric",
        "bits_per_byte",
        "--languages",
        "swh_Latn,en",
    ]
    done = babeltune("eval", tiny_model_dir, *arguments, "--json", cache=cache)
    rows = json.loads(done.stdout)
    by_language = {row["language"]: row["mean"] for row in rows if row["metric"] == "bits_per_byte"}
    in_study = scores(finished / "out").filter(recipe="untouched", metric="bits_per_byte")
    for language in ("sw", "en"):
        assert by_language[language] == pytest.approx(in_study.filter(language=language)["value"].mean())


def test_a_bad_row_is_the_users_mistake_and_is_named(tmp_path: Path, tiny_model_dir: Path, cache: Path):
    study = write_study(tmp_path, tiny_model_dir, datasets={"own": {"path": "rows.jsonl", "language": "es"}})
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.write('\n{"instruction": 5}')
    done = babeltune("check", study, "--out", tmp_path / "out", cache=cache)
    assert done.returncode == 2
    assert "rows.jsonl:97" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_an_adapter_that_matches_nothing_is_refused(tmp_path: Path, tiny_model_dir: Path, cache: Path):
    recipes = {"lora": {"method": "lora", "target_modules": ["q_prj"]}}
    done = babeltune(
        "run", write_study(tmp_path, tiny_model_dir, recipes=recipes), "--out", tmp_path / "out", cache=cache
    )
    assert done.returncode == 2
    assert "q_proj" in done.stdout
    assert not any(row.kind == "train" for row in ledger(tmp_path / "out").values())


def test_a_recipe_over_the_memory_is_left_out(copied: Path, cache: Path, tiny_model_dir: Path):
    """A model too large for any machine, by its configuration alone: its run is skipped, the rest goes on."""
    config = json.loads((tiny_model_dir / "config.json").read_text())
    wide = {**config, "vocab_size": 2**31, "hidden_size": 2**14}
    folder = copied / "wide"
    folder.mkdir()
    for file in tiny_model_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "config.json").write_text(json.dumps(wide))

    def edit(data: dict[str, Any]) -> None:
        data["models"].append({"path": "wide"})
        data["eval"]["tasks"][0]["limit"] = 2

    change(copied / "study.yaml", edit)
    done = babeltune("check", copied / "study.yaml", "--out", copied / "out", "--json", cache=cache)
    assert list(json.loads(done.stdout)["unfit"]) == ["lora-r8/wide/seed0", "lora-r2/wide/seed0"]

"""One training over two processes (gloo) is the training that one process does."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import frame
from two_processes import (
    ASKED,
    ROW_TOKENS,
    STAGES,
    cut,
    divided_stage,
    main,
    train_once,
    train_without_memory,
)

from babeltune.train import row_budget
from babeltune.train.passes import shares

pytestmark = pytest.mark.slow

Results = list[dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def _rows_of_both() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(row_budget, "CPU_ROW_TOKENS", ROW_TOKENS)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def two(folder: Path, tiny_model_dir: Path) -> Results:
    """What each of two processes says of every training; see `two_processes.main`."""
    for name in ("lora", "sharded"):
        cut(name, folder / f"{name}, cut by one", ASKED)
    cut("lora with dropout", folder / "lora with dropout, cut by one", ASKED)
    shutil.copytree(tiny_model_dir, folder / "model")
    (folder / "data").mkdir()
    frame(48).write_parquet(folder / "data" / "train.parquet")
    frame(12, seed=1).write_parquet(folder / "data" / "held_out.parquet")
    (folder / "data" / "summary.json").write_text("{}")
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=main, args=(rank, 2, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def assert_same_training(one: dict[str, Any], other: dict[str, Any], tolerance: float = 1e-5) -> None:
    for mine, theirs in zip(one["history"], other["history"], strict=True):
        assert mine == pytest.approx(theirs, abs=tolerance)
    for before_or_after in (0, 1):
        assert one["held_out"][before_or_after] == pytest.approx(
            other["held_out"][before_or_after], abs=tolerance
        )
    for what in ("weights", "gradients"):
        assert one[what].keys() == other[what].keys()
        for key, value in one[what].items():
            torch.testing.assert_close(value, other[what][key], atol=tolerance, rtol=0, msg=f"{what} {key}")


@pytest.mark.parametrize("name", [name for name in STAGES if "dropout" not in name])
def test_two_processes_train_as_one_does(name: str, two: Results, tmp_path: Path) -> None:
    alone = train_once(name, tmp_path)
    for of_one in two:
        # In 16 bits norms are rounded too where the model is divided.
        assert_same_training(of_one[name], alone, tolerance=5e-3 if "16 bit" in name else 1e-5)
    assert len(alone["gradients"]) == len(alone["weights"])


@pytest.mark.parametrize("name", STAGES)
def test_both_processes_say_the_same(name: str, two: Results) -> None:
    first, second = two
    assert first[name]["history"] == second[name]["history"]
    assert first[name]["held_out"] == second[name]["held_out"]
    assert all(torch.equal(w, second[name]["weights"][key]) for key, w in first[name]["weights"].items())


def test_a_sharded_model_is_wrapped_and_each_process_holds_half(two: Results) -> None:
    whole = sum(weight.numel() for weight in two[0]["full"]["weights"].values())
    for name in ("sharded", "sharded, checkpointed"):
        held = [of_one[name]["held"] for of_one in two]
        assert [of_one[name]["sharded"] for of_one in two] == [True, True]
        assert sum(held) == whole
        assert max(held) < 0.55 * whole
    assert [of_one["full"]["sharded"] for of_one in two] == [False, False]


@pytest.mark.parametrize("name", ["sharded", "sharded, tied"])
def test_a_sharded_model_is_saved_whole(name: str, two: Results) -> None:
    saved, trained = two[0][name]["saved"], two[0][name]["weights"]
    assert two[1][name]["saved"] is None
    assert all(torch.equal(saved[key], weight) for key, weight in trained.items())
    tied = saved["lm_head.weight"] is saved["model.embed_tokens.weight"]
    assert tied or torch.equal(
        saved["lm_head.weight"], trained.get("lm_head.weight", saved["lm_head.weight"])
    )


@pytest.mark.parametrize("name", ["lora", "lora with dropout", "sharded"])
def test_stopped_in_two_processes_and_continued_is_never_stopped(name: str, two: Results) -> None:
    """Only the first was asked to stop; both did in the same update, and went on to the same bits."""
    assert two[0][f"{name}, cut at"] == two[1][f"{name}, cut at"] > 0
    for of_one in two:
        assert of_one[f"{name}, continued"]["history"] == of_one[name]["history"]
        for key, weight in of_one[name]["weights"].items():
            assert torch.equal(of_one[f"{name}, continued"]["weights"][key], weight), key


@pytest.mark.parametrize("name", ["lora", "sharded"])
def test_two_processes_continue_what_one_began_and_one_what_two_began(
    name: str, two: Results, folder: Path, tmp_path: Path
) -> None:
    alone = train_once(name, tmp_path)
    assert_same_training(two[0][f"{name}, continued from one"], alone)
    assert_same_training(train_once(name, folder / f"{name}, cut for one"), alone)


def test_more_processes_draw_different_dropout_but_learn_alike(two: Results, tmp_path: Path) -> None:
    alone = train_once("lora with dropout", tmp_path)["history"]
    together = two[0]["lora with dropout"]["history"]
    assert [row[2:] for row in together] == [row[2:] for row in alone]
    assert together[0][0] != alone[0][0]
    assert together[-1][0] == pytest.approx(alone[-1][0], abs=0.2)


def test_out_of_memory_in_one_process_halves_the_rows_of_both(two: Results, tmp_path: Path) -> None:
    alone = train_once("lora", tmp_path)
    for of_one in two:
        assert_same_training(of_one["lora, without memory"], alone)
        assert of_one["lora, without memory"]["halved"] == [32]


def test_a_stage_of_a_divided_model_leaves_what_a_stage_leaves(
    two: Results, folder: Path, tmp_path: Path
) -> None:
    """The first process writes the whole model, and nobody else anything."""
    assert two
    divided_stage(folder, tmp_path / "out", tmp_path / "work")
    expected, found = tmp_path / "out", folder / "stage0"
    names = {str(file.relative_to(expected)) for file in expected.rglob("*")}
    assert {str(file.relative_to(found)) for file in found.rglob("*")} == {*names, "devices.json"}
    assert not list((folder / "stage1").iterdir())
    weights = load_file(expected / "model" / "model.safetensors")
    divided = load_file(found / "model" / "model.safetensors")
    assert weights.keys() == divided.keys()
    for key, weight in weights.items():
        torch.testing.assert_close(divided[key], weight, atol=1e-5, rtol=0)
    for name in ("config.json", "generation_config.json"):
        assert (found / "model" / name).read_text() == (expected / "model" / name).read_text()


def test_costs_are_those_of_both(two: Results) -> None:
    seconds, peak = two[0]["lora"]["meters"]
    devices = two[0]["lora"]["devices"]
    assert len(devices) == 2
    assert seconds == pytest.approx(sum(of_one for of_one, _ in devices), rel=0.2)
    assert seconds > max(of_one for of_one, _ in devices)
    assert peak == pytest.approx(max(of_one for _, of_one in devices), rel=0.1)


def test_shares_are_even_whole_and_keep_the_order() -> None:
    lengths = [90, 10, 20, 70, 30, 60, 40, 5]
    parts = shares(lengths, 3)
    assert sorted(place for part in parts for place in part) == list(range(8))
    assert all(part == sorted(part) for part in parts)
    loads = [sum(lengths[place] for place in part) for part in parts]
    assert max(loads) - min(loads) <= 10
    assert shares(lengths, 1) == [list(range(8))]
    assert sorted(map(len, shares([7], 2))) == [0, 1]


def test_out_of_memory_alone_goes_on_in_smaller_rows(tmp_path: Path) -> None:
    whole = train_once("lora", tmp_path / "a")
    halved = train_without_memory("lora", tmp_path / "b")
    assert halved["halved"] == [32]
    assert_same_training(halved, whole, tolerance=1e-6)


def test_an_update_done_again_draws_the_same_dropout(tmp_path: Path) -> None:
    """Whether memory runs out at an update's first row or at its third, it begins again as it began."""
    first, third = (train_without_memory("lora with dropout", tmp_path / str(at), at) for at in (1, 3))
    assert first["history"] == third["history"]
    assert all(torch.equal(weight, third["weights"][key]) for key, weight in first["weights"].items())

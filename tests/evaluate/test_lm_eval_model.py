"""Our model and our tasks from lm-eval's own doors: its command line, and `simple_evaluate`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from babeltune.evaluate.tasks import BUILT_IN, FOLDER
from babeltune.study.places import Places

Write = Callable[[str, list[dict[str, Any]]], Places]
OURS = [sys.executable, "-m", "babeltune.evaluate.lm_eval"]
THEIRS = [sys.executable, "-m", "lm_eval"]


@pytest.fixture
def stories(mirror: Write) -> Path:
    """A mirror of six Swahili stories."""
    rows = [
        {
            "story_id": f"s{i}", "input_sentence_1": f"Hadithi {i}.", "input_sentence_2": "Pili.",
            "input_sentence_3": "Tatu.", "input_sentence_4": "Nne.", "sentence_quiz1": f"Mwisho {i * 7}.",
            "sentence_quiz2": "Kando.", "answer_right_ending": 1 + i % 2,
        }
        for i in range(6)
    ]  # fmt: skip
    places = mirror("juletxara/xstory_cloze/sw/eval", rows)
    assert places.data_root is not None
    return places.data_root


def run(
    command: list[str], model: str, model_dir: Path, tasks: str, mirror: Path, out: Path
) -> dict[str, Any]:
    """lm-eval's samples by item, from its command line in a process of its own."""
    done = subprocess.run(
        [
            *command, "--model", model, "--model_args", f"pretrained={model_dir},dtype=float32",
            "--device", "cpu", "--tasks", tasks, "--include_path", str(FOLDER),
            "--metadata", json.dumps({"data_root": str(mirror)}),
            "--output_path", str(out), "--log_samples",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = out.rglob("samples_*.jsonl")
    rows = map(json.loads, samples.read_text().splitlines())
    return {row["doc"]["item"]: row for row in rows}


@pytest.mark.slow
def test_lm_evals_command_line_knows_our_model_and_tasks(tiny_model_dir: Path, stories: Path, tmp_path: Path):
    ours = run(OURS, "babeltune", tiny_model_dir, "babeltune_xstorycloze_sw", stories, tmp_path / "ours")
    theirs = run(OURS, "hf", tiny_model_dir, "babeltune_xstorycloze_sw", stories, tmp_path / "theirs")
    assert set(ours) == set(theirs) == {f"s{i}" for i in range(6)}
    for item, row in ours.items():
        assert row["acc"] == theirs[item]["acc"]
        for (given, _), (wanted, _) in zip(
            row["filtered_resps"], theirs[item]["filtered_resps"], strict=True
        ):
            assert float(given) == pytest.approx(float(wanted), abs=1e-3)


@pytest.mark.slow
def test_a_task_named_by_its_file_brings_our_model_to_the_plain_command(
    tiny_model_dir: Path, stories: Path, tmp_path: Path
):
    task = str(BUILT_IN["xstorycloze"].yaml_file("sw"))
    assert len(run(THEIRS, "babeltune", tiny_model_dir, task, stories, tmp_path)) == 6


def test_arguments_of_hf_mean_the_same(tiny_model_dir: Path):
    from lm_eval.api.instance import Instance
    from lm_eval.models import huggingface

    from babeltune.evaluate import lm_eval_model

    babeltune: Any = lm_eval_model.BabeltuneLM  # as `hf`, decorated in a way that hides its parameters
    arguments: dict[str, Any] = {
        "pretrained": str(tiny_model_dir), "device": "cpu", "dtype": "float32", "max_length": 24,
        "prefix_token_id": 65, "add_bos_token": True, "chat_template_args": {"add_generation_prompt": False},
    }  # fmt: skip
    theirs: Any = huggingface.HFLM
    hf, ours = theirs(**arguments), babeltune(**arguments)
    asked = [Instance("loglikelihood", {}, (context, " yes"), 0) for context in ("", "is it so? " * 5, "no")]
    wanted = [value for value, _ in hf.loglikelihood(asked, disable_tqdm=True)]
    assert [value for value, _ in ours.loglikelihood(asked)] == pytest.approx(wanted, abs=1e-3)
    assert hf.tok_encode("abc") == ours.tok_encode("abc")
    thinking = babeltune(pretrained=str(tiny_model_dir), device="cpu", enable_thinking=False)
    assert thinking._template_kwargs == {"enable_thinking": False}
    with pytest.raises(ValueError, match="takes no softmax_dtype"):
        babeltune(pretrained=str(tiny_model_dir), softmax_dtype="float32")


def test_simple_evaluate_knows_the_model_once_it_is_imported(tiny_model_dir: Path, stories: Path):
    import lm_eval
    from lm_eval.tasks import TaskManager

    import babeltune.evaluate.lm_eval_model  # noqa: F401

    simple_evaluate: Any = lm_eval.simple_evaluate  # its decorator hides its signature
    metadata: Any = {"data_root": str(stories)}
    found = simple_evaluate(
        "babeltune",
        model_args={"pretrained": str(tiny_model_dir), "device": "cpu"},
        tasks=["babeltune_xstorycloze_generate_sw"],
        task_manager=TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=metadata),
        apply_chat_template=True,
        bootstrap_iters=0,
        random_seed=None,
        numpy_random_seed=None,
        torch_random_seed=None,
    )
    (sample, *_) = found["samples"]["babeltune_xstorycloze_generate_sw"]
    prompt = sample["arguments"][0][0]
    assert prompt.startswith("<|im_start|>user\nHadithi 0. Pili. Tatu. Nne.\nA: Mwisho 0.\nB: Kando.\nJibu:")
    assert found["results"]["babeltune_xstorycloze_generate_sw"]["acc,none"] in (0, 1 / 6, 2 / 6, 3 / 6)

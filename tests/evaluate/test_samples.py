"""Item scores read from lm-eval's logs: as ours where both score a task, and errors that say where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.commands.logged import TIME, sample, samples, write_samples

from babeltune.errors import TaskError
from babeltune.evaluate.samples import is_samples_folder, read_samples
from babeltune.evaluate.score import score_task
from babeltune.evaluate.task_names import split_name
from babeltune.evaluate.tasks import FOLDER
from babeltune.study.places import Places


@pytest.mark.parametrize(
    ("name", "task", "language"),
    [
        ("xcopa_sw", "xcopa", "sw"),
        ("belebele_swh_Latn", "belebele", "sw"),
        ("belebele_zho_Hant", "belebele", "zh-Hant"),
        ("lambada_openai_mt_de", "lambada_openai_mt", "de"),
        ("global_mmlu_full_sw_anatomy", "global_mmlu_full_anatomy", "sw"),
        ("hellaswag_zh_TW", "hellaswag", "zh-Hant"),
        ("babeltune_paws-x_de", "paws-x", "de"),
        ("kmmlu_direct_law", "kmmlu", "ko"),
        ("icelandic_winogrande_x", "icelandic_winogrande", "is"),
        ("arc_easy", "arc_easy", "en"),
        ("gsm8k_cot", "gsm8k_cot", "en"),
        ("mmlu_pro", "mmlu_pro", "en"),
        ("bigbench_what_is_the_tao", "bigbench_what_is_the_tao", "en"),
    ],
)
def test_a_name_says_task_and_language(name: str, task: str, language: str) -> None:
    assert split_name(name) == (task, language)


@pytest.fixture(scope="module")
def logged_by_lm_eval(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> tuple[Path, Places]:
    """What lm-eval itself writes about the tiny model on two tasks of ours."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    root = tmp_path_factory.mktemp("logged")
    rows: dict[str, list[dict[str, Any]]] = {
        "cambridgeltl/xcopa/it/validation": [],
        "cambridgeltl/xcopa/it/test": [
            {
                "idx": n,
                "premise": f"La frase numero {n}.",
                "choice1": f"Uno {n}.",
                "choice2": f"Forse due {n}.",
                "question": "cause" if n % 2 else "effect",
                "label": n % 2,
            }
            for n in range(6)
        ],
        "google/xquad/xquad.en/validation": [
            {
                "id": f"q{n}",
                "context": f"The answer is {n}.",
                "question": "What is the answer?",
                "answers": {"text": [str(n)], "answer_start": [14]},
            }
            for n in range(12)
        ],
    }
    for path, lines in rows.items():
        file = root / "hub" / f"{path}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found: Any = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tiny_model_dir), "dtype": "float32", "device": "cpu"},
        tasks=["babeltune_xcopa_it", "babeltune_xquad_en"],
        task_manager=TaskManager(
            include_path=str(FOLDER), include_defaults=False, metadata={"data_root": str(root)}
        ),
        bootstrap_iters=0,
        gen_kwargs={"max_gen_toks": 8},
    )
    tracker = EvaluationTracker(output_path=str(root / "out"))
    tracker.general_config_tracker.model_name_sanitized = "tiny"
    by_task = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=by_task)
    for task, lines in by_task.items():
        tracker.save_results_samples(task_name=task, samples=lines)
    return root / "out", Places(root, root)


@pytest.mark.slow
def test_lm_evals_own_logs_give_our_item_scores(
    logged_by_lm_eval: tuple[Path, Places], tiny_model_dir: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, places = logged_by_lm_eval
    logged = read_samples(folder).items.filter(task="xcopa")
    ours = score_task(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32),
        AutoTokenizer.from_pretrained(tiny_model_dir),
        "xcopa",
        "it",
        num_fewshot=0,
        limit=None,
        apply_chat_template=False,
        template_kwargs={},
        places=places,
    )
    assert ours.height == logged.height == 6
    for column in ("item", "metric", "value", "prompt_digest", "answer", "prompt", "expected"):
        assert logged[column].to_list() == ours[column].to_list(), column


@pytest.mark.slow
def test_generated_answers_keep_our_metric_and_references(logged_by_lm_eval: tuple[Path, Places]) -> None:
    found = read_samples(logged_by_lm_eval[0])
    assert found.metrics["xquad"][0] == "f1"
    answers = found.items.filter(task="xquad", metric="f1")
    assert answers["item"].str.starts_with("q").all()
    assert set(answers["expected"].drop_nulls()) <= {str(n) for n in range(12)}
    assert answers["language"].unique().to_list() == ["en"]


def test_the_latest_of_several_runs_counts(tmp_path: Path) -> None:
    write_samples(tmp_path, {"xcopa_sw": samples("a", [False] * 4)}, time="2026-01-01T00-00-00.000001")
    write_samples(tmp_path, {"xcopa_sw": samples("a", [True] * 4)}, time="2026-01-02T00-00-00")
    assert read_samples(tmp_path).items["value"].to_list() == [1.0] * 4


def test_subjects_of_a_group_are_one_task_with_items_of_their_own(tmp_path: Path) -> None:
    tasks = {f"global_mmlu_sw_{name}": samples(name, [True, False]) for name in ("law", "art")}
    write_samples(tmp_path, tasks, group_subtasks={"global_mmlu_sw": list(tasks)})
    items = read_samples(tmp_path).items
    assert items.select("task", "language").unique().rows() == [("global_mmlu", "sw")]
    assert items["item"].n_unique() == 4


def test_a_task_of_lm_evals_is_not_ours_of_the_same_name(tmp_path: Path) -> None:
    write_samples(tmp_path, {"xnli_sw": samples("a", [True, False])})
    assert set(read_samples(tmp_path).items["task"]) == {"lm_eval/xnli"}


def test_what_was_generated_is_told_from_the_requests(tmp_path: Path) -> None:
    written = [
        {**line, "arguments": {"gen_args_0": {"arg_0": "Say", "arg_1": {"until": ["."]}}}, "resps": [["yes"]]}
        for line in samples("a", [True, False])
    ]
    chosen = samples("b", [True, False])
    some = {"half_sw": [written[0], chosen[1]], "mixed_it": chosen, "mixed_sw": written}
    write_samples(tmp_path, {"own_sw": written, "copa_sw": chosen, **some})
    assert read_samples(tmp_path).written == {"own"}


def test_further_filters_keep_their_name(tmp_path: Path) -> None:
    lines = [*samples("a", [True, True], filter="strict"), *samples("a", [False, False], filter="flexible")]
    items = read_samples(write_samples(tmp_path, {"gsm8k_cot": lines})).items
    assert items.filter(metric="accuracy")["value"].to_list() == [1.0, 1.0]
    assert items.filter(metric="accuracy (flexible)")["value"].to_list() == [0.0, 0.0]


def test_whole_corpus_metrics_are_left_out(tmp_path: Path) -> None:
    lines = [{**line, "metrics": ["acc", "bleu"], "bleu": ["a", "b"]} for line in samples("a", [True, False])]
    assert set(read_samples(write_samples(tmp_path, {"t": lines})).items["metric"]) == {"accuracy"}


def test_long_prompts_lose_their_start(tmp_path: Path) -> None:
    lines = [sample(n, "x" * 5000 + f" question {n}", right=0, chosen=0) for n in range(60)]
    kept = read_samples(write_samples(tmp_path, {"t": lines})).items.filter(pl.col("prompt").is_not_null())
    assert kept.height == 60
    assert kept["prompt"].str.len_chars().max() == 1201
    assert kept["prompt"].str.contains(r"question \d+$").all()
    assert kept["expected"].unique().to_list() == ["choice 0"]


def breaks(tmp_path: Path, change: Callable[[Path], object]) -> TaskError:
    folder = write_samples(tmp_path / "m", {"xcopa_sw": samples("a", [True] * 3)})
    change(folder / "org__model")
    with pytest.raises(TaskError) as raised:
        read_samples(folder)
    return raised.value


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    def cut(inside: Path) -> None:
        file = inside / f"samples_xcopa_sw_{TIME}.jsonl"
        lines = file.read_text().splitlines()
        file.write_text("\n".join([lines[0], lines[1][:50]]))

    error = breaks(tmp_path, cut)
    assert error.where is not None
    assert error.where.endswith(f"samples_xcopa_sw_{TIME}.jsonl:2")
    assert "not JSON" in error.message


def test_a_line_that_is_no_sample_is_named(tmp_path: Path) -> None:
    error = breaks(
        tmp_path, lambda inside: (inside / f"samples_xcopa_sw_{TIME}.jsonl").write_text('{"doc_id": 0}\n')
    )
    assert str(error.where).endswith(":1")


def test_missing_results_are_said(tmp_path: Path) -> None:
    error = breaks(tmp_path, lambda inside: (inside / f"results_{TIME}.json").unlink())
    assert f"results_{TIME}.json is missing" in error.message


def test_two_models_in_one_folder_are_refused(tmp_path: Path) -> None:
    def another(inside: Path) -> None:
        other = inside.parent / "org__other"
        inside.joinpath(f"samples_xcopa_sw_{TIME}.jsonl")
        other.mkdir()
        for file in list(inside.iterdir()):
            (other / file.name.replace("xcopa_sw", "xcopa_it")).write_bytes(file.read_bytes())

    error = breaks(tmp_path, another)
    assert "several models" in error.message
    assert "org__other" in str(error.remedy)


def test_a_folder_without_samples(tmp_path: Path) -> None:
    assert not is_samples_folder(tmp_path)
    with pytest.raises(TaskError, match="no samples_"):
        read_samples(tmp_path)

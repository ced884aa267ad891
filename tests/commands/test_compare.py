"""`babeltune compare`: the real command on folders of samples, studies and runs, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats
from synthetic_study import analysis_of, synthetic_tables

from babeltune.analysis.analyse import analyse
from babeltune.analysis.scores import TaskInfo
from babeltune.analysis.tables import Tables
from babeltune.commands.compare import analysis_of as comparison_of
from babeltune.commands.given import Given, read_given
from babeltune.commands.joined import join
from babeltune.errors import UserError
from babeltune.execute.columns import COST_COLUMNS
from babeltune.report.write import write_report
from babeltune.study.schema import Decide
from tests.commands.logged import samples, write_samples
from tests.commands.small_study import babeltune

RANDOM = np.random.default_rng(5)
A_RIGHT = RANDOM.random(200) < 0.5
B_RIGHT = np.where(RANDOM.random(200) < 0.2, RANDOM.random(200) < 0.8, A_RIGHT)


def folder(root: Path, name: str, right: Any, *, tasks: tuple[str, ...] = ("copa_sw", "copa_it")) -> str:
    return str(write_samples(root / name, {task: samples(task, list(right)) for task in tasks}))


def given(*arguments: str) -> list[Given]:
    def score(model: str, adapter: Path | None) -> Given:
        raise AssertionError(f"{model} {adapter} has scores already")

    return [read_given(argument, score) for argument in arguments]


def refused(*arguments: str, baseline: str | None = None) -> UserError:
    with pytest.raises(UserError) as raised:
        join(given(*arguments), baseline)
    return raised.value


def test_two_folders_end_with_a_table_a_sentence_and_a_page(tmp_path: Path) -> None:
    a, b = folder(tmp_path, "a", A_RIGHT), folder(tmp_path, "b", B_RIGHT)
    done = babeltune("compare", a, b, "--out", tmp_path / "out", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    change = 100 * (B_RIGHT.mean() - A_RIGHT.mean())
    assert f"+{change:.1f}" in done.stdout
    assert "b is better than a" in done.stdout
    assert "not these recipes" in done.stdout
    assert "Swahili" in done.stdout
    assert done.stdout.rstrip().endswith(str(tmp_path / "out" / "report.html"))
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "Comparison of" in page
    assert "copa_sw question" in page  # the examples
    summary = json.loads((tmp_path / "out" / "tables" / "summary.json").read_text("utf-8"))
    assert summary["basis"] == "models"
    assert summary["recommendation"]["certified"] == []


def test_json_alone_is_on_stdout(tmp_path: Path) -> None:
    a, b = folder(tmp_path, "a", A_RIGHT), folder(tmp_path, "b", B_RIGHT)
    done = babeltune("compare", a, b, "--json", "--out", tmp_path / "out", cache=tmp_path)
    assert json.loads(done.stdout)["study"] == "a and b"


def test_one_task_in_one_language_is_the_paired_t_interval(tmp_path: Path) -> None:
    both = given(*(folder(tmp_path, n, r, tasks=("copa_sw",)) for n, r in (("a", A_RIGHT), ("b", B_RIGHT))))
    [change] = [c for c in comparison_of(join(both, None), both, 2.0).changes if c.scope == "overall"]
    paired = stats.ttest_rel(B_RIGHT.astype(float), A_RIGHT.astype(float))
    low, high = paired.confidence_interval(0.95)
    assert change.difference == pytest.approx(100 * (B_RIGHT.mean() - A_RIGHT.mean()))
    assert (change.low, change.high) == (
        pytest.approx(100 * low, abs=0.02),
        pytest.approx(100 * high, abs=0.02),
    )
    assert change.p == pytest.approx(paired.pvalue, rel=1e-6)


def test_parallel_languages_are_one_cluster_per_item(tmp_path: Path) -> None:
    """The same items in two languages, answered alike, say no more than in one."""
    once = given(
        *(folder(tmp_path / "1", n, r, tasks=("copa_sw",)) for n, r in (("a", A_RIGHT), ("b", B_RIGHT)))
    )
    twice = given(*(folder(tmp_path / "2", n, r) for n, r in (("a", A_RIGHT), ("b", B_RIGHT))))
    one, two = (
        next(c for c in comparison_of(join(g, None), g, 2.0).changes if c.scope == "overall")
        for g in (once, twice)
    )
    assert two.standard_error == pytest.approx(one.standard_error)


def test_other_prompts_are_refused_with_the_place(tmp_path: Path) -> None:
    a = folder(tmp_path, "a", A_RIGHT)
    lines = samples("copa_sw", list(B_RIGHT))
    for n in (3, 7):
        lines[n]["arguments"]["gen_args_0"]["arg_0"] = (
            lines[n]["arguments"]["gen_args_0"]["arg_0"] + " Really?"
        )
    b = str(write_samples(tmp_path / "b", {"copa_sw": lines}))
    error = refused(a, b)
    assert "the prompt of 2 items differs between a and b" in error.message
    assert "item i3 of copa in sw" in error.message
    assert "Really?" in error.message
    done = babeltune("compare", a, b, "--out", tmp_path / "out", cache=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert not (tmp_path / "out").exists()


def test_other_choices_after_the_same_prompt_are_refused(tmp_path: Path) -> None:
    lines = samples("copa_sw", list(B_RIGHT))
    lines[0]["arguments"]["gen_args_1"]["arg_1"] = " another"
    b = str(write_samples(tmp_path / "b", {"copa_sw": lines}))
    assert (
        "choices, stop strings or the beginning differ"
        in refused(folder(tmp_path, "a", A_RIGHT, tasks=("copa_sw",)), b).message
    )


def test_nothing_in_common_lists_what_each_has(tmp_path: Path) -> None:
    a = folder(tmp_path, "a", A_RIGHT, tasks=("copa_sw",))
    error = refused(a, folder(tmp_path, "b", B_RIGHT, tasks=("story_it",)))
    assert "a: copa sw (200 items" in error.message
    assert "b: story it (200 items" in error.message


def test_only_common_items_count_and_the_rest_is_told(tmp_path: Path) -> None:
    a = folder(tmp_path, "a", A_RIGHT)
    b = folder(tmp_path, "b", B_RIGHT[:50], tasks=("copa_sw",))
    joined = join(given(a, b), None)
    assert joined.tables.scores.group_by("run").len()["len"].to_list() == [50, 50]
    assert joined.left_out == (
        "only a has copa it: left out",
        "150 items that only a has are left out",
    )


def test_a_metric_without_points_is_left_out_and_named(tmp_path: Path) -> None:
    both = []
    for name in ("a", "b"):
        lines = [{**line, "metrics": ["brier"], "brier": 0.3} for line in samples("cal_sw", [True] * 9)]
        tasks = {"copa_sw": samples("copa_sw", [True] * 9), "cal_sw": lines}
        both.append(str(write_samples(tmp_path / name, tasks)))
    assert join(given(*both), None).left_out == ("cal is left out: brier can't be stated in points",)


def test_percentages_are_not_taken_for_shares(tmp_path: Path) -> None:
    lines = [{**line, "metrics": ["f1"], "f1": 55.0} for line in samples("squad_sw", [True] * 9)]
    both = [str(write_samples(tmp_path / name, {"squad_sw": lines})) for name in ("a", "b")]
    assert "not a share" in refused(*both).message


def test_settings_that_differ_are_listed_as_unfair(tmp_path: Path) -> None:
    tasks = {"copa_sw": samples("copa_sw", list(A_RIGHT))}
    both = given(
        *(
            str(write_samples(tmp_path / name, tasks, config={"model_dtype": f"torch.{name}"}))
            for name in ("float32", "bfloat16")
        )
    )
    uneven = comparison_of(join(both, None), both, 2.0).fairness
    assert [(u.what, dict(u.values)) for u in uneven] == [
        ("precision", {"float32": ("float32",), "bfloat16": ("bfloat16",)})
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study's folder, as far as tables and names of models go."""
    root = tmp_path_factory.mktemp("runs") / "made-up"
    tables = synthetic_tables(seeds=2, items=60)
    write_report(root, analysis_of(tables), tables)
    for run in tables.runs["run"]:
        (root / "models" / run).mkdir(parents=True)
    return root


def test_a_study_brings_its_recipes_with_all_their_seeds(study: Path) -> None:
    both = given(str(study), str(study / "models" / "full" / "SmolLM2-135M-Instruct" / "seed1"))
    found = comparison_of(join(both[:1], None), both[:1], 2.0)
    assert found.basis == "recipes"
    assert [c.label for c in found.candidates if c.untouched] == ["untouched"]
    assert both[1].runs["run"].to_list() == ["full/SmolLM2-135M-Instruct/seed1"]


def test_single_runs_of_a_study_are_models(study: Path) -> None:
    runs = [
        str(study / "models" / recipe / "SmolLM2-135M-Instruct" / "seed0") for recipe in ("lora-r4", "full")
    ]
    both = given(*runs)
    found = comparison_of(join(both, None), both, 2.0)
    assert found.basis == "models"
    assert [(c.label, c.untouched) for c in found.candidates] == [("lora-r4", True), ("full", False)]


def test_the_same_untouched_model_of_two_studies_widens_nothing(study: Path, tmp_path: Path) -> None:
    """It varies with no seed; identical to the baseline, it would otherwise leave no degree of freedom."""
    tables = synthetic_tables(seeds=2, items=60)
    write_report(tmp_path / "other", analysis_of(tables), tables)
    alone, both = given(str(study)), given(str(study), str(tmp_path / "other"))
    one = next(c for c in comparison_of(join(alone, None), alone, 2.0).changes if c.scope == "overall")
    two = next(c for c in comparison_of(join(both, None), both, 2.0).changes if c.scope == "overall")
    assert two.candidate == f"made-up: {one.candidate}"
    assert two.high - two.low < 1.5 * (one.high - one.low)
    same = next(c for c in comparison_of(join(both, None), both, 2.0).changes if "untouched" in c.candidate)
    assert (same.candidate, same.difference) == ("other: untouched", 0.0)


def test_lm_evals_logs_of_our_task_stand_beside_a_study(study: Path, tmp_path: Path) -> None:
    right = [{**line, "doc": {"id": f"xcopa-{n}"}} for n, line in enumerate(samples("x", [True] * 60))]
    logged = str(write_samples(tmp_path / "logged", {"babeltune_xcopa_es": right}))
    both = given(str(study), logged)
    found = comparison_of(join(both, logged), both, 2.0)
    assert [c.label for c in found.candidates if c.untouched] == ["logged"]
    assert {c.label for c in found.candidates} >= {"untouched", "full", "lora-r4"}
    score = found.score("logged", "overall")
    assert score is not None
    assert score.score == 100.0


def test_a_run_is_there_without_its_weights(study: Path) -> None:
    run = "full/SmolLM2-135M-Instruct/seed1"
    (study / "models" / run).rmdir()
    [alone] = given(str(study / "models" / run))
    assert alone.runs["run"].to_list() == [run]
    with pytest.raises(UserError, match=r"(?s)no run 'full/other/seed1'.*one of untouched/SmolLM2"):
        given(str(study / "models" / "full" / "other" / "seed1"))
    (study / "models" / run).mkdir()


def test_a_studys_references_are_not_compared(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "with-reference"
    shutil.copytree(study, copy)
    runs = pl.read_parquet(copy / "tables" / "runs.parquet")
    asked = runs.head(1).with_columns(
        run=pl.lit("reference/big"),
        recipe=pl.lit("reference"),
        model=pl.lit("big"),
        method=pl.lit("reference"),
    )
    pl.concat([runs, asked]).write_parquet(copy / "tables" / "runs.parquet")
    [alone] = given(str(copy))
    assert alone.runs["run"].to_list() == runs["run"].to_list()
    labels = [c.label for c in comparison_of(join([alone], None), [alone], 2.0).candidates]
    assert labels == ["untouched", "lora-r4", "lora-r32", "lora-r32-b4", "full"]


def test_the_classes_of_a_judged_task_are_compared(tmp_path: Path) -> None:
    """Where artifacts are there, their rows stand under the task's name and say the class in a column."""
    root, runs = tmp_path / "judged", ("untouched/m", "lora/m/seed0")
    classes, random = ["math"] * 20 + ["rewrite"] * 20, np.random.default_rng(0)
    columns = {"study": "judged", "model": "m", "seed": 0, "metric": "judge", "language": "sw"}
    frames = []
    for run in runs:
        recipe = run.partition("/")[0]
        items = pl.DataFrame(
            {"item": [f"i{n}" for n in range(40)], "value": random.random(40).round(1), "class": classes}
        ).with_columns(metric=pl.lit("judge"))
        path = root / ".jobs" / "artifacts" / f"judge-{recipe}" / "items.parquet"
        path.parent.mkdir(parents=True)
        items.write_parquet(path)
        named = items.with_columns(pl.lit(value).alias(name) for name, value in columns.items())
        task = pl.lit("q: ") + pl.col("class")
        frames.append(named.with_columns(task=task, run=pl.lit(run), recipe=pl.lit(recipe)).drop("class"))
    states = pl.DataFrame(
        {"study": "judged", "model": "m", "recipe": ["untouched", "lora"], "run": runs, "seed": 0}
    ).with_columns(state=pl.lit("done"), method=pl.col("recipe"))
    tables = Tables(pl.concat(frames), pl.DataFrame(schema=COST_COLUMNS), states)
    infos = [TaskInfo(f"q: {label}", "judge", written=True) for label in ("math", "rewrite")]
    analysis = analyse(tables.scores, tables.costs, tables.runs, infos, Decide(), target=["sw"], guard=[])
    write_report(root, analysis, tables)
    lock = {"runs": {run: {"scores": {"q/sw": f"judge-{run.partition('/')[0]}"}} for run in runs}}
    (root / "study.lock.yaml").write_text(json.dumps(lock))
    [alone] = given(str(root))
    found = comparison_of(join([alone], None), [alone], 2.0)
    assert [task.task for task in found.tasks] == ["q: math", "q: rewrite"]
    [change] = [c for c in found.changes if c.scope == "overall"]
    expected = analysis.change("lora", "overall")
    assert expected is not None
    assert change.difference == pytest.approx(expected.difference)


@pytest.mark.parametrize("text", ["{", "{}"])
def test_damaged_tables_of_a_study_are_named(study: Path, tmp_path: Path, text: str) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(study, copy)
    (copy / "tables" / "summary.json").write_text(text)
    with pytest.raises(UserError, match=r"tables can't be read"):
        given(str(copy))
    (copy / "tables" / "costs.parquet").unlink()
    with pytest.raises(UserError, match=r"costs\.parquet is missing"):
        given(str(copy))


def test_an_adapter_whose_settings_are_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("base")
    with pytest.raises(UserError, match=r"not an adapter's settings"):
        given(str(tmp_path))


def test_the_baseline_is_named_by_argument_or_recipe(study: Path, tmp_path: Path) -> None:
    a, b = folder(tmp_path, "a", A_RIGHT), folder(tmp_path, "b", B_RIGHT)
    both = given(a, b)
    found = comparison_of(join(both, b), both, 2.0)
    assert [c.label for c in found.candidates if c.untouched] == ["b"]
    assert "one of a, b" in str(refused(a, b, baseline="c").remedy)
    assert "several seeds" in refused(str(study), baseline="full").message


def test_two_studies_keep_their_recipes_apart(study: Path, tmp_path: Path) -> None:
    tables = synthetic_tables(seeds=2, items=60)
    other = tmp_path / "other"
    write_report(other, analysis_of(tables), tables)
    both = given(str(study), str(other))
    labels = [c.label for c in comparison_of(join(both, None), both, 2.0).candidates]
    assert "made-up: full" in labels
    assert "other: full" in labels
    assert len(labels) == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a"], "there is one model only"),
        (["a", "a"], "there is one model only"),
        (["a", "b", "b"], "given twice"),
        (["./nowhere", "a"], "no such folder"),
        (["empty", "a"], "nothing here can be compared"),
        (["study.yaml", "a"], "runs/NAME"),
        (["a", "some/model"], "--tasks and --languages"),
    ],
)
def test_mistakes_are_answered_without_a_traceback(tmp_path: Path, arguments: list[str], words: str) -> None:
    folder(tmp_path, "a", A_RIGHT[:4])
    folder(tmp_path, "b", A_RIGHT[:4])
    (tmp_path / "empty").mkdir()
    (tmp_path / "study.yaml").write_text("name: x")
    from babeltune.commands.compare import compare
    from babeltune.commands.scoring import Scoring

    at = [str(tmp_path / a) if (tmp_path / a).exists() else a for a in arguments]
    with pytest.raises(UserError) as raised:
        compare(
            at,
            baseline=None,
            margin=2.0,
            assumed_run_sd=None,
            scoring=Scoring((), ()),
            out=tmp_path / "out",
            as_json=False,
        )
    assert words in str(raised.value)


@pytest.mark.slow
def test_models_without_scores_are_scored_now(tmp_path: Path, tiny_model_dir: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    items = [
        {
            "item": f"i{n}",
            "language": "sw",
            "prompt": f"Swali {n * 37}:",
            "choices": ["ndiyo", "hapana"],
            "answer": n % 2,
        }
        for n in range(12)
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    torch.manual_seed(3)
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir),
        LoraConfig(target_modules=["q_proj"], init_lora_weights=False),
    )
    tuned.peft_config["default"].base_model_name_or_path = str(tiny_model_dir)
    tuned.save_pretrained(str(tmp_path / "adapter"))
    done = babeltune(
        *("compare", tiny_model_dir, tmp_path / "adapter", "--tasks", tmp_path / "own.jsonl"),
        *("--metric", "accuracy", "--languages", "sw", "--dtype", "float32", "--out", tmp_path / "out"),
        cache=tmp_path / "cache",
    )
    assert done.returncode == 0, done.stderr
    scores = pl.read_parquet(tmp_path / "out" / "tables" / "scores.parquet")
    assert scores.group_by("recipe").len().sort("recipe").rows()[0] == ("adapter", 12)
    assert "adapter" in done.stdout


def test_logged_samples_need_no_heavy_library(tmp_path: Path) -> None:
    a, b = folder(tmp_path, "a", A_RIGHT[:20]), folder(tmp_path, "b", B_RIGHT[:20])
    code = (
        "import sys; from babeltune.cli import app; "
        f"app(['compare', {a!r}, {b!r}, '--out', {str(tmp_path / 'out')!r}], standalone_mode=False); "
        "print(sorted({'torch', 'transformers', 'datasets', 'lm_eval', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.search(r"^\[\]$", done.stdout, re.MULTILINE), done.stdout

from __future__ import annotations

import copy
import functools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from babeltune.errors import StudyFileError
from babeltune.study.expand import expand_recipes
from babeltune.study.load import load_study, read_yaml_with_lines

HERE = Path(__file__).parent
STUDIES = HERE.parents[1] / "studies"
BAD = sorted((HERE / "bad").glob("*.yaml"))

STUDY = """\
models: [{path: org/tiny}]
languages: {target: [sw]}
datasets: {own: {path: json, data_files: own.jsonl, language: sw}}
"""


def write(folder: Path, text: str, name: str = "study.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(StudyFileError) as caught:
        load_study(path)
    return caught.value.lines()


def test_the_design_example_loads() -> None:
    study = load_study(HERE / "design.yaml")
    assert [model.short_name for model in study.models] == ["Qwen3-8B", "Mistral-7B-v0.3"]
    assert study.mixtures["text"].max_tokens == 30_000_000
    assert study.recipes["lora"].design == "one_at_a_time"
    assert study.recipes["theirs"].cost == {"gpu_hours": 11}
    assert study.eval.apply_chat_template is True
    variants = [name for name, _, _ in expand_recipes(study)]
    assert len([name for name in variants if name.startswith("lora-")]) == 1 + 2 + 1 + 1


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_study_of_the_repository_loads(path: Path) -> None:
    assert load_study(path).name == path.stem


def test_full_vs_lora_has_the_published_arms() -> None:
    study = load_study(STUDIES / "full-vs-lora.yaml")
    arms = {name: stages for name, _, stages in expand_recipes(study)}
    full, lora = arms["full-zh-2M"][0].settings, arms["lora-zh-4M"][0].settings
    assert (full.dtype, full.num_train_epochs, full.batch_size, full.learning_rate) == (
        "bfloat16",
        3,
        32,
        5e-6,
    )
    assert (full.warmup_ratio, full.warmup_steps, full.max_length) == (0.03, None, 1024)
    assert (lora.dtype, lora.num_train_epochs, lora.batch_size, lora.learning_rate) == (
        "float16",
        4,
        128,
        2e-4,
    )
    assert (lora.warmup_steps, lora.r, lora.bits, lora.max_length) == (100, 8, 16, 1024)
    assert lora.lr_scheduler_type == full.lr_scheduler_type == "cosine"
    first, second = arms["full-then-full-math"]
    assert first.settings.to_json() == full.to_json()  # so that it is trained once
    assert (second.settings.learning_rate, second.settings.num_train_epochs) == (5e-7, 2)
    sizes = [study.mixtures[name].max_examples for name in ("zh-0.6M", "zh-2M", "zh-4M")]
    assert sizes == [600_000, 2_000_000, 4_000_000]


def test_multilingual_peft_has_the_published_languages() -> None:
    study = load_study(STUDIES / "multilingual-peft.yaml")
    published = "ar bg de el en es et fr hi ht id it qu ro ru sw ta te th tr ur vi zh"
    assert " ".join(sorted([*study.languages.target, *study.languages.guard])) == published
    assert len(list(expand_recipes(study))) == 15


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_is_refused_with_these_lines(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    assert problems(Path(path.name)) == path.with_suffix(".txt").read_text("utf-8").splitlines()


def test_there_are_bad_files() -> None:
    assert len(BAD) >= 12


def test_yaml_1_1_does_not_bite(tmp_path: Path) -> None:
    text = read_yaml_with_lines(
        write(tmp_path, "a: [no, on, y, 5e-6, 2e-4, 1_000, 012, 1:30, 2024-01-01, 1.5, true, ~]\nno: 1\n")
    )
    expected = ["no", "on", "y", 5e-6, 2e-4, "1_000", 12, "1:30", "2024-01-01", 1.5, True, None]
    assert text.data == {"a": expected, "no": 1}
    assert text.lines[("a", 3)] == 1
    assert text.lines[("no",)] == 2


def test_norwegian_is_a_language(tmp_path: Path) -> None:
    text = STUDY.replace("[sw]", "[no, de]") + "recipes: {one: {method: lora, learning_rate: 2e-4}}\n"
    study = load_study(write(tmp_path, text))
    assert study.languages.target == ["nb", "de"]
    assert study.recipes["one"].learning_rate == 2e-4


def test_language_codes_are_normalised_everywhere(tmp_path: Path) -> None:
    study = load_study(
        write(
            tmp_path,
            """\
models: [{path: org/tiny}]
languages: {target: [swh_Latn, zho_Hans], guard: [eng]}
datasets: {own: {path: own.jsonl, language: swa}}
mixtures:
  sized: {sizes: {swh: 5k, zh-CN: 100}, languages: [swh, zho_Hans]}
  replayed: {replay: {eng_Latn: 0.1}}
recipes: {one: {method: lora, data: sized}}
""",
        )
    )
    assert (study.languages.target, study.languages.guard) == (["sw", "zh"], ["en"])
    assert study.datasets["own"].language == "sw"
    assert study.mixtures["sized"].sizes == {"sw": 5000, "zh": 100}
    assert study.mixtures["sized"].languages == ["sw", "zh"]
    assert study.mixtures["replayed"].replay == {"en": 0.1}


def test_english_as_a_target_is_no_guard(tmp_path: Path) -> None:
    text = STUDY.replace("[sw]", "[sw, en]") + "recipes: {one: {method: lora}}\n"
    assert load_study(write(tmp_path, text)).languages.guard == []


def test_the_file_names_the_study(tmp_path: Path) -> None:
    path = write(tmp_path, STUDY + "recipes: {one: {method: lora}}\n", name="My study (2).yaml")
    assert load_study(path).name == "My-study-2"


def test_peft_options_stand_beside_r(tmp_path: Path) -> None:
    study = load_study(
        write(
            tmp_path,
            STUDY
            + """\
recipes:
  one:
    method: lora
    use_rslora: true
    init_lora_weights: pissa
    modules_to_save: [lm_head]
    rank_pattern: {q_proj: 4}
    peft: {use_dora: true}
    grid: {bias: [none, all]}
  two: {stages: [{method: lora, use_dora: true}]}
""",
        )
    )
    assert study.recipes["one"].peft == {
        "use_rslora": True,
        "init_lora_weights": "pissa",
        "modules_to_save": ["lm_head"],
        "rank_pattern": {"q_proj": 4},
        "use_dora": True,
    }
    stages = study.recipes["two"].stages
    assert stages is not None
    assert stages[0].peft == {"use_dora": True}
    name, _, (stage,) = next(expand_recipes(study))
    assert (name, stage.settings.peft["bias"]) == ("one-biasnone", "none")


def test_an_adapter_is_not_kept_for_a_stage_that_is_full_by_default(tmp_path: Path) -> None:
    text = STUDY + "defaults: {method: full}\nrecipes: {a: {stages: [{method: lora, then: keep}, {}]}}\n"
    (message, _) = problems(write(tmp_path, text))
    assert message.endswith("recipes.a.stages[0].then: the next stage has `method: full`, no adapter")


def test_anchors_and_merges_work_and_keep_their_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        STUDY
        + """\
recipes:
  one: &one
    method: lora
    r: 8
  two: {<<: *one, r: 16}
  three:
    <<: *one
    bits: 7
""",
    )
    assert problems(path) == [f"{path}:11: recipes.three.bits: expected `4`, `8` or `16`, got 7"]
    path.write_text(path.read_text().replace("bits: 7", "bits: 8"))
    study = load_study(path)
    assert [study.recipes[name].r for name in ("one", "two", "three")] == [8, 16, 8]


def test_nearer_keys_displace_farther_ones(tmp_path: Path) -> None:
    text = STUDY + "defaults: {num_train_epochs: 3, r: 4}\nrecipes: {one: {method: full, max_steps: 9}}\n"
    assert load_study(write(tmp_path, text)).recipes["one"].max_steps == 9


def test_a_cut_file_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    """Whatever the first lines of a real file are, they load or are refused in words."""
    lines = (HERE / "design.yaml").read_text("utf-8").splitlines(keepends=True)
    for count in range(len(lines)):
        with suppress(StudyFileError):
            load_study(write(tmp_path, "".join(lines[:count])))


def test_a_wrong_value_anywhere_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    whole = yaml.safe_load((HERE / "design.yaml").read_text("utf-8"))

    def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        yield place
        children = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, child in children:
            yield from places(child, (*place, key))

    for *outer, last in [place for place in places(whole) if place]:
        for wrong in (None, True, -1, "text", [[]], [{}], {"text": "text"}):
            study = copy.deepcopy(whole)
            section = functools.reduce(lambda inner, key: inner[key], outer, study)
            section[last] = wrong
            with suppress(StudyFileError):
                load_study(write(tmp_path, yaml.safe_dump(study)))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "the file is empty"),
        ("- a\n", ":1: not a study"),
        ("a: *b\n", "undefined alias"),
        ("a: &a [*a]\n", "contains itself"),
        ("? [a]\n: b\n", "a key must be text"),
        ("a: !!python/object:os.system {}\n", "not understood"),
        ("models: 5\nlanguages: []\nrecipes: [a]\ndatasets: x\n", "recipes: expected recipe entries by name"),
        ("recipes: {a: 5, b: [], c: {stages: [5], grid: 5}}\nmixtures: {m: {datasets: 5}}\n", "recipes.a"),
        ("eval: 5\ndefaults: []\nbudget: x\ndecide: ~\nseeds: x\n", "seeds: expected"),
    ],
)
def test_nonsense_is_refused_in_words(tmp_path: Path, text: str, line: str) -> None:
    assert any(line in printed for printed in problems(write(tmp_path, text)))


def test_a_missing_file_is_refused_in_words(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.yaml")[0].endswith("none.yaml: no such file")
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    assert "not UTF-8" in problems(tmp_path / "latin.yaml")[0]
    assert "can't be read" in problems(tmp_path)[0]


def test_loading_imports_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from babeltune.study.load import load_study;"
        f"load_study(Path({str(HERE / 'design.yaml')!r})); print({{'torch', 'peft'}} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

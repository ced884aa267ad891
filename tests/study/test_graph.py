"""Identity is meaning: what reruns, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from babeltune.study.graph import Contents, ModelContent, build_jobs
from babeltune.study.schema import StudyFile


def study(**changes: Any) -> StudyFile:
    base = {
        "models": [{"path": "org/a"}],
        "languages": {"target": ["sw"]},
        "datasets": {"own": {"path": "own.jsonl", "language_column": "lang"}},
        "recipes": {"lora": {"method": "lora", "learning_rate": 1e-4}},
        "eval": {"tasks": ["xnli"]},
        "seeds": 2,
    }
    return StudyFile.model_validate({**base, **changes})


def contents(scored: tuple[str, ...] = ("sw", "en"), **changes: Any) -> Contents:
    base: dict[str, Any] = {
        "models": {"a": ModelContent("w", "t", {"folder": "/here"})},
        "datasets": {"own": "d"},
        "tasks": {("xnli", language): f"xnli-{language}" for language in scored},
    }
    return Contents(**{**base, **changes})


def ids(file: StudyFile, given: Contents) -> set[str]:
    return {job.id for job in build_jobs(file, given).jobs}


def kinds_of_new(before: StudyFile, after: StudyFile, given_after: Contents | None = None) -> list[str]:
    new = ids(after, given_after or contents()) - ids(before, contents())
    return sorted(job.split("-")[0] for job in new)


def test_a_study_is_prepared_once_and_trained_and_scored_per_run():
    kinds = sorted(job.kind for job in build_jobs(study(), contents()).jobs)
    assert kinds == ["prepare"] + ["score"] * 6 + ["train"] * 2


@pytest.mark.parametrize(
    ("form", "tasks"), [(True, ["xnli+chat"]), (False, ["xnli"]), ("both", ["xnli", "xnli+chat"])]
)
def test_the_untouched_model_is_scored_in_the_form_of_the_others(form: bool | str, tasks: list[str]):
    asked = study(eval={"tasks": ["xnli"], "apply_chat_template": form})
    built = build_jobs(asked, contents(tasks={(task, "sw"): task for task in tasks}))
    by_id = built.by_id()
    forms = {
        run.run.name: [(task, by_id[job].meaning["chat"]) for (task, _), job in run.scores.items()]
        for run in built.runs
    }
    assert set(forms) == {"untouched/a", "lora/a/seed0", "lora/a/seed1"}
    assert all(found == [(task, task.endswith("+chat")) for task in tasks] for found in forms.values())


def test_a_seed_adds_only_its_own_training_and_scores():
    assert kinds_of_new(study(), study(seeds=3)) == ["score", "score", "train"]


def test_a_language_adds_only_scores():
    after = study(languages={"target": ["sw", "ha"]})
    assert kinds_of_new(study(), after, contents(("sw", "en", "ha"))) == ["score"] * 3


def test_a_recipe_adds_only_itself():
    recipes = {
        "lora": {"method": "lora", "learning_rate": 1e-4},
        "full": {"method": "full", "learning_rate": 1e-5},
    }
    assert kinds_of_new(study(), study(recipes=recipes)) == ["score"] * 4 + ["train"] * 2


def test_names_paths_and_places_are_no_part_of_identity():
    renamed = study(
        name="other",
        models=[{"path": "/local/copy/a"}],
        datasets={"own": {"path": "json", "data_files": "./own.jsonl", "language_column": "lang"}},
        recipes={"my-lora": {"method": "lora", "learning_rate": 1e-4}},
    )
    elsewhere = contents(
        models={"a": ModelContent("w", "t", {"folder": "/there"})},
        places={"study_dir": "/moved", "data_root": None},
    )
    assert ids(renamed, elsewhere) == ids(study(), contents())


def test_contents_are_part_of_identity():
    assert not ids(study(), contents(datasets={"own": "changed"})) & {
        job.id for job in build_jobs(study(), contents()).jobs if job.kind in ("prepare", "train")
    }
    changed_model = contents(models={"a": ModelContent("other", "t", {})})
    assert kinds_of_new(study(), study(), changed_model) == ["score"] * 6 + ["train"] * 2


def test_what_changes_a_models_answers_is_part_of_its_scores_alone():
    penalised = ModelContent("w", "t", {}, {"repetition_penalty": 1.1})
    assert kinds_of_new(study(), study(), contents(models={"a": penalised})) == ["score"] * 6


def test_lora_options_do_not_change_a_full_parameter_run():
    def full(**lora: Any) -> StudyFile:
        defaults = {"r": 8, "loraplus_lr_ratio": 16.0}
        return study(recipes={"full": {"method": "full", "learning_rate": 1e-5, **lora}}, defaults=defaults)

    assert ids(full(), contents()) == ids(
        study(recipes={"full": {"method": "full", "learning_rate": 1e-5}}), contents()
    )


def test_trackers_are_no_part_of_identity():
    assert ids(study(report_to=["wandb", "tensorboard"]), contents()) == ids(study(), contents())
    jobs = build_jobs(study(name="mine", report_to="wandb"), contents()).jobs
    follow = [job.means for job in jobs if job.kind == "train"]
    assert [means["report_to"] for means in follow] == [["wandb"], ["wandb"]]
    assert [(means["study"], means["run"]) for means in follow] == [
        ("mine", "lora/a/seed0"),
        ("mine", "lora/a/seed1"),
    ]


def test_how_many_devices_is_no_part_of_identity():
    spread = study(recipes={"lora": {"method": "lora", "learning_rate": 1e-4, "devices": 4}})
    assert ids(spread, contents()) == ids(study(), contents())
    jobs = build_jobs(spread, contents()).jobs
    assert {job.means["devices"] for job in jobs if job.kind == "train"} == {4}
    assert all("devices" not in job.means for job in jobs if job.kind not in ("train", "search"))


def test_settings_younger_than_studies_change_identities_only_where_they_are_used():
    lora = {"method": "lora", "learning_rate": 1e-4}
    same = {"optim": "adamw_torch_fused", "torch_compile": False}
    assert ids(study(recipes={"lora": {**lora, **same}}), contents()) == ids(study(), contents())
    for setting in ({"optim": "adamw_8bit"}, {"torch_compile": True}, {"loraplus_lr_ratio": 16.0}):
        changed = study(recipes={"lora": {**lora, **setting}})
        assert kinds_of_new(study(), changed) == ["score"] * 4 + ["train"] * 2
    (job, *_) = [job for job in build_jobs(study(), contents()).jobs if job.kind == "train"]
    assert not {"optim", "torch_compile", "loraplus_lr_ratio"} & job.meaning["settings"].keys()


def test_one_search_serves_all_seeds_of_a_recipe():
    jobs = build_jobs(study(recipes={"lora": {"method": "lora"}}), contents()).jobs
    searches = [job.id for job in jobs if job.kind == "search"]
    assert len(searches) == 1
    assert all(job.needs["learning_rate"] == searches[0] for job in jobs if job.kind == "train")


def test_a_lora_stage_that_is_merged_differs_from_the_same_stage_alone():
    stage = {"method": "lora", "learning_rate": 1e-4}
    staged = study(recipes={"two": {"stages": [stage, stage]}})
    first_of_two = next(job.id for job in build_jobs(staged, contents()).jobs if job.kind == "train")
    assert first_of_two not in ids(study(), contents())


def test_a_list_of_languages_is_another_mixture_than_the_same_languages_found():
    """Beside a dataset in a language of its own, the list leaves that dataset out."""
    found = contents(languages={"own": ["sw"]})
    listed = study(mixtures={"m": {"datasets": ["own"], "languages": ["sw"]}})
    unlisted = study(mixtures={"m": {"datasets": ["own"]}})
    prepared = [
        next(job.id for job in build_jobs(file, found).jobs if job.kind == "prepare")
        for file in (listed, unlisted)
    ]
    assert prepared[0] != prepared[1]


def test_a_seed_before_the_others_does_not_repeat_the_search():
    recipes = {"lora": {"method": "lora"}}
    before, after = study(recipes=recipes, seeds=[1]), study(recipes=recipes, seeds=[0, 1])
    assert kinds_of_new(before, after) == ["score", "score", "train"]


def test_workers_can_read_every_entry_back():
    from babeltune.study.schema import Dataset, Mixture, Task

    mixtures = {"all": {"datasets": ["own"]}, "part": {"subset_of": "all", "max_examples": 5}}
    file = study(mixtures=mixtures, defaults={"data": "part"})
    for job in build_jobs(file, contents()).jobs:
        for mixture in job.means.get("mixtures", {}).values():
            Mixture.model_validate(mixture)
        for dataset in job.means.get("datasets", {}).values():
            Dataset.model_validate(dataset)
        if job.kind == "score":
            Task.model_validate(job.means["task"])


def with_references(**changes: Any) -> StudyFile:
    reference = {"model": "org/large", "base_url": "http://here/v1", **changes}
    return study(eval={"tasks": ["xnli", "xnli/generate"], "references": [reference]})


def test_references_are_asked_what_is_answered_in_writing():
    tasks = {(task, "sw"): f"{task}-sw" for task in ("xnli", "xnli/generate")}
    given = contents(tasks=tasks, answered=frozenset({"xnli/generate"}))
    built = build_jobs(with_references(), given)
    (reference,) = built.references
    assert reference.run.name == "reference/org/large"
    assert list(reference.scores) == [("xnli/generate", "sw")]
    assert [job.kind for job in built.jobs if job.id in reference.scores.values()] == ["ask"]
    assert all(run.run.recipe != "reference" for run in built.runs)

    def asked(file: StudyFile) -> set[str]:
        return {job.id for job in build_jobs(file, given).jobs if job.kind == "ask"}

    moved = with_references(base_url="http://there/v1", concurrency=2, price_per_million_input_tokens=3.0)
    assert asked(moved) == asked(with_references())
    assert asked(with_references(model="org/other")).isdisjoint(asked(with_references()))

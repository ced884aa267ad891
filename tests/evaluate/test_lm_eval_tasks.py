"""lm-eval's own tasks by name. Reading its index of 14,000 names takes seconds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from babeltune.errors import TaskError, Unreachable
from babeltune.evaluate import lm_eval_tasks, task_entries
from babeltune.evaluate.lm_eval_notes import examples_shown
from babeltune.evaluate.score import score_task
from babeltune.study.places import Places
from babeltune.study.schema import Task

pytestmark = pytest.mark.slow
NOWHERE = Places(Path())
Write = Callable[[str, list[dict[str, Any]]], Places]


@pytest.mark.parametrize(
    ("name", "languages"),
    [
        ("lm_eval/xnli", {"ar", "sw", "zh"}),
        ("lm_eval/belebele", {"sw", "zh", "zh-Hant", "hi-Latn"}),
        ("global_mmlu", {"sw", "yo", "zh"}),
        ("afrixnli", {"am", "sw", "yo"}),
        ("mmlu", {"en"}),
        ("hellaswag", {"en"}),
        ("arabicmmlu", {"ar"}),
        ("afrimmlu", {"am", "sw", "yo"}),
        ("afrimgsm", {"am", "sw", "vai"}),
        ("multiblimp", {"ab", "he", "wbp"}),
        ("kbl", {"ko"}),
        ("cabbq", {"ca"}),
        ("blimp_nl", {"nl"}),
        ("xwinograd", {"ja", "zh"}),
    ],
)
def test_languages_are_read_from_the_names_of_subtasks(name: str, languages: set[str]):
    found = task_entries.task_languages(Task(name=name), NOWHERE)
    assert languages <= found
    assert len(found) > 1 or found == languages


def test_swahili_is_one_language_whatever_its_code():
    assert lm_eval_tasks.language_subtasks("belebele", "sw") == ("belebele_swh_Latn",)
    with pytest.raises(TaskError, match="no 'fr'"):
        lm_eval_tasks.language_subtasks("xcopa", "fr")


def test_another_suites_copy_of_a_language_is_not_scored_beside_it():
    assert lm_eval_tasks.language_subtasks("mgsm_direct", "es") == ("mgsm_direct_es",)
    # Where none is named by the language alone, all are its: here subjects.
    assert len(lm_eval_tasks.language_subtasks("arabicmmlu", "ar")) > 30


def test_tasks_in_one_other_language_are_there():
    from babeltune.evaluate.task_names import OTHER_LANGUAGES

    assert set(OTHER_LANGUAGES) <= lm_eval_tasks.names()


def test_a_set_with_several_forms_is_read_in_one_and_in_its_own_language():
    for name, form in (
        ("afrixnli", "afrixnli_native_direct_swa"),
        ("afrimmlu", "afrimmlu_direct_swa_prompt_2"),
        ("afrimgsm", "afrimgsm_swa_prompt_1"),
    ):
        found = lm_eval_tasks.subtasks_by_language(name)
        assert found["sw"] == (form,)
        assert not {"tt", "cot"} & set(found)  # translate-test, not Tatar; chain of thought, not Caquinte
        assert all(len(subtasks) == 1 for subtasks in found.values())
    assert lm_eval_tasks.language_subtasks("mlqa", "de") == ("mlqa_de_de",)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("afrixnli", "accuracy"),
        ("afrimgsm", "exact_match"),
        ("xquad", "exact_match"),
        ("ifeval", "accuracy"),
        ("lingoly_context", "exact_match"),  # a function of the task's own
    ],
)
def test_the_metric_decided_on_is_one_that_single_items_have(name: str, metric: str):
    assert lm_eval_tasks.metric_and_kind(name)[0] == metric


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gsm8k", "answer"),
        ("arc_easy", "choice"),
        ("wikitext", "loss"),
        ("lingoly_context", "answer"),  # its YAML leaves lm-eval's default
        ("truthfulqa", "choice"),  # its first part is answered in writing, the others by choice
        ("scrolls_qasper", "choice"),  # a Python class: what it asks is in its code
    ],
)
def test_a_task_is_answered_in_writing_where_all_of_it_is(name: str, kind: str):
    assert lm_eval_tasks.metric_and_kind(name)[2] == kind


@pytest.mark.parametrize(
    ("own", "asked", "shown"),
    [(None, None, 0), (None, 8, 8), (5, None, 5), (5, 8, 8), (5, 0, 0), (0, None, 0), (0, 8, 0)],
)
def test_examples_are_as_many_as_lm_eval_would_show(own: int | None, asked: int | None, shown: int):
    assert examples_shown(own, asked) == shown


def test_a_task_that_says_how_many_examples_it_shows_says_so():
    assert "none are shown" in (lm_eval_tasks.note("ifeval", 8) or "")
    assert lm_eval_tasks.note("ifeval", None) is None
    assert "shows 5 examples" in (lm_eval_tasks.note("gsm8k", None) or "")


def test_a_task_fixed_at_no_examples_shows_none(mirror: Write):
    """Otherwise they would come from the items scored."""
    rows = [{"question": f"{i}?", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]}} for i in range(3)]
    places = mirror("truthfulqa/truthful_qa/multiple_choice/validation", rows)
    name = "truthfulqa_mc1"
    for asked in (None, 2):
        task = lm_eval_tasks.lm_evals_own(name, num_fewshot=asked, data_root=places.data_root)
        assert task.config.num_fewshot == 0
    digests = {
        task_entries.task_digest(Task(name=name), "en", num_fewshot=k, limit=2, places=places)
        for k in (None, 2)
    }
    assert len(digests) == 1


def test_what_is_wrong_with_a_task_is_said():
    assert "validation" in (lm_eval_tasks.note("xnli", 0) or "")
    assert "English" in (lm_eval_tasks.note("global_mmlu", 0) or "")
    assert lm_eval_tasks.note("mmlu", 5) is None
    assert lm_eval_tasks.note("afrobench_mmlu_tasks", 0) is None
    assert lm_eval_tasks.note("copal_id", 2) == "examples come from the items scored"
    assert lm_eval_tasks.note("copal_id", 0) is None


@pytest.mark.parametrize(
    ("name", "items", "cue"),
    [
        ("xnli_ar", 300, ""),
        ("belebele_deu_Latn", 900, "Answer:"),
        ("mgsm_direct_sw", 250, "Answer:"),
        ("paws_de", 1000, ""),
    ],
)
def test_a_mirror_without_the_splits_for_examples_serves_what_is_scored(
    mirrored: Places, name: str, items: int, cue: str
):
    task = lm_eval_tasks.lm_evals_own(name, num_fewshot=0, data_root=mirrored.data_root)
    documents = list(task.eval_docs)
    assert 0.95 * items < len(documents) <= items
    assert task.fewshot_context(documents[0], 0).endswith(cue)


def test_what_a_mirror_lacks_is_named(mirrored: Places):
    with pytest.raises(Unreachable, match="needs ar/train") as error:
        lm_eval_tasks.lm_evals_own("xnli_ar", num_fewshot=2, data_root=mirrored.data_root)
    assert "num_fewshot: 0" in (error.value.remedy or "")
    with pytest.raises(Unreachable, match="needs ru/test") as error:
        lm_eval_tasks.lm_evals_own("mgsm_direct_ru", num_fewshot=0, data_root=mirrored.data_root)
    assert "sw/test" in (error.value.remedy or "")


def test_a_module_that_is_not_there_is_named(mirrored: Places, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers.data.metrics", None)
    with pytest.raises(TaskError, match="needs a module") as error:
        lm_eval_tasks.lm_evals_own("xquad_zh", num_fewshot=0, data_root=mirrored.data_root)
    assert "network" not in (error.value.remedy or "")


def test_lm_evals_form_can_be_forced_and_reads_the_mirror(
    tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase], mirrored: Places
):
    task = task_entries.resolve_task("lm_eval/xcopa")
    frame = score_task(
        *tiny,
        task,
        "th",
        num_fewshot=2,
        limit=3,
        apply_chat_template=False,
        template_kwargs={},
        places=mirrored,
    )
    assert frame["metric"].to_list() == ["accuracy"] * 3
    assert frame["item"].to_list() == ["0", "1", "2"]
    again = score_task(
        *tiny,
        task,
        "th",
        num_fewshot=2,
        limit=3,
        apply_chat_template=False,
        template_kwargs={},
        places=mirrored,
    )
    assert frame.equals(again)
    digests = [
        task_entries.task_digest(task, "th", num_fewshot=k, limit=3, places=mirrored) for k in (0, 2, 2)
    ]
    assert digests[0] != digests[1] == digests[2]


def test_identity_is_the_same_in_every_process(mirrored: Places):
    content = lm_eval_tasks.content("xcopa", "th", 0, 1, mirrored.data_root)
    assert "doc_to_text" in json.dumps(content)
    assert " at 0x" not in json.dumps(content)  # its prompts are functions, which lie elsewhere each time


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(TaskError, match="unknown task") as error:
        task_entries.resolve_task("xcopaa")
    assert "xcopa" in (error.value.remedy or "")

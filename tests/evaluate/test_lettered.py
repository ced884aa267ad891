"""The generative form of tasks with choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from babeltune.evaluate.lettered import ANSWER, chosen, generative, process_results
from babeltune.evaluate.score import score_task
from babeltune.evaluate.task_entries import task_info
from babeltune.evaluate.tasks import BUILT_IN, built_in_documents
from babeltune.languages import normalise
from babeltune.study.places import Places
from babeltune.study.schema import Task

CHOICES = ["It was fragile.", "It was small."]
DOCUMENT = {"item": "7", "language": "en", "text": "It broke because", "choices": CHOICES, "gold": 1}
Write = Callable[[str, list[dict[str, Any]]], Places]


def test_choices_stand_under_the_prompt():
    document = generative(DOCUMENT)
    assert document["text"] == "It broke because\nA: It was fragile.\nB: It was small.\nAnswer:"
    assert (document["item"], document["references"]) == ("7", ["B"])


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        (" B", "B"), ("b", "B"), ("(B)", "B"), ("B: It was small.", "B"), ("**B**", "B"), ("Ｂ", "B"),
        ("The answer is B.", "B"), ("答案是B。", "B"), ("Б", None), ("В", "B"), ("it was small", "B"),
        ("A, because it broke", "A"), ("A vase is fragile", None), ("It was", None), ("", None), ("D", None),
        ("D'accord", None),
    ],
)  # fmt: skip
def test_a_letter_or_the_words_answer(answer: str, letter: str | None):
    assert chosen(answer, CHOICES, "en") == letter


@pytest.mark.parametrize(
    ("answer", "letter"), [("Yes", "A"), ("Also, he left.", "B"), ("No", "C"), ("Maybe", None), ("C", "C")]
)
def test_the_first_word_is_enough_where_it_is_one_choices_only(answer: str, letter: str | None):
    assert chosen(answer, ["Yes, he left.", "Also, he left.", "No, he left."], "en") == letter


@pytest.mark.parametrize(
    "answer",
    [
        "Có", "Cả hai", "Bên trái", "Début", "Bénin", "Bäcker", "C'est le nord", "C’è", "D'après lui",
        "D'accord", "A été vu", "A causa", "À gauche", "B12", "Čeština",
    ],
)  # fmt: skip
def test_the_start_of_a_word_is_no_letter(answer: str):
    assert chosen(answer, ["un", "deux", "trois", "quatre"], "fr") is None


@pytest.mark.parametrize(
    "answer", ["'B'", "la “B”", "C'est B.", "1. B", "정답은 B입니다", "الجواب B", "คำตอบคือB", "उत्तर B है"]
)
def test_a_letter_counts_beside_any_scripts_words(answer: str):
    assert chosen(answer, ["un", "deux", "trois", "quatre"], "fr") == "B"


def test_only_the_right_one_scores():
    document = generative(DOCUMENT)
    assert process_results(document, ["B"]) == {"acc": 1.0}
    assert process_results(document, ["A"]) == process_results(document, ["?"]) == {"acc": 0.0}


def test_every_task_with_choices_has_the_form_in_all_its_languages():
    with_choices = [task for task in BUILT_IN.values() if task.kind == "choice"]
    assert len(with_choices) == 5
    for task in with_choices:
        assert set(BUILT_IN[f"{task.name}/generate"].gaps) == set(task.gaps)
    assert {normalise(code) for code in ANSWER} == set(ANSWER)
    info = task_info(Task(name="paws_x/generate"), Places.__new__(Places))
    assert (info.task, info.metric, info.kind, info.chance) == ("paws-x/generate", "accuracy", "answer", None)


def test_items_are_those_of_the_other_form(mirrored: Places):
    for name, language in (("xnli", "sw"), ("belebele", "de"), ("paws-x", "zh"), ("xcopa", "th")):
        by_choice = built_in_documents(name, language, mirrored.data_root)
        written = built_in_documents(f"{name}/generate", language, mirrored.data_root)
        for one, other in ((by_choice.scored, written.scored), (by_choice.shots, written.shots)):
            assert [d["item"] for d in one] == [d["item"] for d in other]
            assert ["ABCD"[d["gold"]] for d in one] == [d["references"][0] for d in other]
    by_letter, written = (
        built_in_documents(name, "de", mirrored.data_root).scored[0]
        for name in ("belebele", "belebele/generate")
    )
    assert by_letter["text"] == written["text"]
    assert by_letter["choices"] == list("ABCD")


def test_it_is_scored_like_any_other(tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase], mirrored: Places):
    frame = score_task(
        *tiny,
        "xcopa/generate",
        "sw",
        num_fewshot=2,
        limit=3,
        apply_chat_template=False,
        template_kwargs={},
        places=mirrored,
    )
    assert frame["metric"].to_list() == ["accuracy"] * 3
    assert frame["item"].to_list() == ["0", "1", "2"]
    assert frame["value"].is_in([0.0, 1.0]).all()

"""Faults of multilingual tasks elsewhere, which ours don't have. lm-eval's form is the installed release's.

lighteval's fault (TyDiQA without a language filter) has its test beside the other tests of `test_reading.py`.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval.tasks
import numpy as np
import pytest
from lm_eval.api.metrics import pooled_sample_stderr
from lm_eval.tasks._yaml_loader import load_yaml

from babeltune.analysis.scores import ScoreArrays, TaskScores
from babeltune.analysis.variance import contrasts, estimate
from babeltune.analysis.weights import macro
from babeltune.evaluate import reading
from babeltune.evaluate.answers import answer_tokens, f1
from babeltune.evaluate.lm_eval_notes import scored_split, shown_split
from babeltune.evaluate.numbers import final_number
from babeltune.evaluate.rows import Row, read_split
from babeltune.evaluate.tasks import built_in_documents, mgsm, xcopa, xnli
from babeltune.evaluate.tasks.xcopa import copa
from babeltune.study.places import Places

THEIRS = Path(lm_eval.tasks.__file__).parent
Write = Callable[[str, list[dict[str, Any]]], Places]


def config(path: str, *, functions: bool = False) -> dict[str, Any]:
    """A YAML file of lm-eval's own."""
    return load_yaml(THEIRS / path, resolve_func=functions)


def xcopa_rows(language: str, places: Places, split: str = "test") -> list[Row]:
    return read_split("cambridgeltl/xcopa", language, split, places.data_root)


@pytest.mark.parametrize(("language", "cut"), [("th", 500), ("ta", 499)])
def test_xcopa_keeps_the_premises_last_letter(mirrored: Places, language: str, cut: int):
    rows = xcopa_rows(language, mirrored)
    theirs = config(f"xcopa/default_{language}.yaml", functions=True)["doc_to_text"]
    premises = [row["premise"].strip() for row in rows]
    assert sum(p not in theirs(row) and p[-1] != "." for p, row in zip(premises, rows, strict=True)) == cut
    ours = built_in_documents("xcopa", language, mirrored.data_root).scored
    for premise, document in zip(premises, ours, strict=True):
        assert document["text"].startswith(premise.removesuffix("."))


def test_xcopa_lowers_turkish_letters_to_one_letter(mirrored: Places):
    rows = xcopa_rows("tr", mirrored)
    theirs = config("xcopa/default_tr.yaml", functions=True)["doc_to_choice"]
    ours = built_in_documents("xcopa", "tr", mirrored.data_root).scored
    grown = 0
    for row, document in zip(rows, ours, strict=True):
        for name, own, their in zip(("choice1", "choice2"), document["choices"], theirs(row), strict=True):
            assert len(own) == len(row[name].strip())
            grown += len(their) > len(row[name])
    assert grown > 0


@pytest.mark.parametrize(
    ("language", "wrong"), [("th", 250), ("tr", 51), ("sw", 37), ("it", 4), ("id", 4), ("zh", 0), ("vi", 0)]
)
def test_xcopa_asks_for_causes_where_the_released_rows_say_effect(
    mirrored: Places, language: str, wrong: int
):
    """English, Estonian, Tamil, Vietnamese and Chinese rows agree with each other on every row."""
    rows, english = xcopa_rows(language, mirrored), xcopa_rows("en", mirrored)
    theirs = config(f"xcopa/default_{language}.yaml", functions=True)["doc_to_text"]
    ours = built_in_documents("xcopa", language, mirrored.data_root).scored
    words = xcopa.WORDS[language]
    found = 0
    for row, source, document in zip(rows, english, ours, strict=True):
        right = words.cause if source["question"] == "cause" else words.effect
        assert document["text"].endswith(right)
        if source["question"] != row["question"]:
            found += theirs(row) != theirs(row | {"question": source["question"]})
    assert found == wrong


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_copa_says_is_what_languages_agree_on(mirrored: Places, split: str):
    count = 500 if split == "test" else 100
    said = [(copa.question(split, row), copa.label(split, row)) for row in range(count)]
    for language in ("et", "ta", "vi", "zh"):
        rows = xcopa_rows(language, mirrored, split)
        assert [(row["question"], row["label"]) for row in rows] == said
    english = built_in_documents("xcopa", "en", mirrored.data_root)
    assert Counter(document["gold"] for document in english.scored) == {0: 250, 1: 250}


def test_english_copa_comes_from_super_glue_where_xcopa_has_none(mirror: Write):
    row = {"premise": "P.", "choice1": "A.", "choice2": "B.", "question": "cause", "label": -1, "idx": 2}
    mirror("cambridgeltl/xcopa/et/test", [row])
    mirror("aps/super_glue/copa/validation", [])
    places = mirror("aps/super_glue/copa/test", [row])
    (document,) = built_in_documents("xcopa", "en", places.data_root).scored
    assert (document["text"], document["gold"]) == ("P so", 1)


def test_xnli_says_no_in_arabic_and_scores_the_test_split():
    theirs = config("xnli/xnli_ar.yaml")
    assert "رقم" in theirs["doc_to_choice"]
    assert scored_split(theirs) == "validation"
    assert xnli.WORDS["ar"].no == "لا، "
    ours = load_yaml(Path(xnli.__file__).parent / "babeltune_xnli_ar.yaml", resolve_func=False)
    assert (scored_split(ours), shown_split(ours)) == ("scored", "shots")


# "So" or "therefore" where the form has "Also": it says that the hypothesis follows.
SO = {
    "ar": "لذا", "el": "Έτσι", "es": "Asi que", "hi": "इसलिए", "ru": "Так", "sw": "Hivyo", "th": "ดังนั้น",
    "tr": "Böylece", "ur": "اس لئے", "vi": "Vì vậy", "zh": "所以",
}  # fmt: skip


@pytest.mark.parametrize("language", SO)
def test_xnli_says_also_for_what_does_not_follow(language: str):
    assert SO[language] in config(f"xnli/xnli_{language}.yaml")["doc_to_choice"].replace("\n", " ")
    assert not xnli.WORDS[language].also.startswith(SO[language])


def test_xcopa_says_because_in_haitian_and_quechua():
    row = {"premise": "P.", "question": "cause"}
    for language, theirs in (("ht", "poukisa"), ("qu", "imataq")):  # "why", "what"
        assert config(f"xcopa/default_{language}.yaml", functions=True)["doc_to_text"](row).endswith(theirs)
        assert xcopa.WORDS[language].cause != theirs


def test_xquad_names_the_passage_in_the_language():
    assert config("xquad/xquad_ar.yaml")["doc_to_text"].startswith("سيا:")  # cut off: the word is سياق
    assert config("xquad/xquad_ro.yaml")["doc_to_text"].startswith("Context:")
    assert (reading.WORDS["ar"].passage, reading.WORDS["ro"].passage) == ("النص", "Text")


@pytest.mark.parametrize("language", ["zh", "th"])
def test_xquad_compares_parts_of_unsegmented_answers_and_all_references(mirrored: Places, language: str):
    rows = read_split("google/xquad", f"xquad.{language}", "validation", mirrored.data_root)
    golds = [row["answers"]["text"][0] for row in rows]
    assert sum(len(gold.split()) == 1 for gold in golds) > 0.65 * len(golds)  # English rules: all or nothing
    longer = {gold: tokens for gold in golds if len(tokens := answer_tokens(gold, language)) > 4}
    halves = {gold: " ".join(tokens[: len(tokens) // 2]) for gold, tokens in longer.items()}
    assert all(0 < f1(half, [gold], language) < 1 for gold, half in halves.items())
    assert len(longer) > len(golds) / 5
    assert config(f"xquad/xquad_{language}.yaml")["doc_to_target"] == '{{answers["text"][0]}}'


@pytest.mark.skipif(
    importlib.util.find_spec("transformers.data.metrics") is not None, reason="transformers is older than 5"
)
def test_lm_evals_xquad_cannot_be_loaded_with_transformers_5():
    with pytest.raises(ImportError, match=r"transformers\.data\.metrics"):
        config("xquad/xquad_zh.yaml", functions=True)


def test_belebele_shows_nothing_that_is_scored(mirrored: Places):
    theirs = config("belebele/belebele_swh_Latn.yaml")
    assert scored_split(theirs) == shown_split(theirs) == "test"
    assert theirs["fewshot_config"]["sampler"] == "first_n"
    ours = built_in_documents("belebele", "en", mirrored.data_root)
    scored, shown = ({d["text"].split("\n\n")[0] for d in part} for part in (ours.scored, ours.shots))
    assert not scored & shown


@pytest.mark.parametrize("language", ["bn", "ja", "ru", "sw", "te", "th", "zh"])
def test_mgsm_asks_for_the_answer_in_the_language(language: str):
    assert "\\nAnswer:" in config(f"mgsm/direct/mgsm_direct_{language}.yaml")["doc_to_text"]
    assert not mgsm.WORDS[language].answer.isascii() or mgsm.WORDS[language].answer == "Jibu"


def test_parallel_items_are_not_independent():
    """The same 200 items in five languages, all answered alike, say no more than in one language."""
    random = np.random.default_rng(0)
    one_N = 100.0 * (random.random(200) < 0.6)
    other_N = 100.0 * (random.random(200) < 0.5)
    languages = ("a", "b", "c", "d", "e")
    values_R_L_N = np.stack([np.tile(one_N, (5, 1)), np.tile(other_N, (5, 1))]).astype(np.float64)
    task = TaskScores("task", "accuracy", languages, values_R_L_N)
    arrays = ScoreArrays(("one", "other"), np.array([0, 1]), (), np.array([-1, -1]), (task,))
    five = estimate(arrays, macro(("task", language) for language in languages))
    single = estimate(arrays, macro([("task", "a")]))
    h_1_K = np.array([[1.0, -1.0]])
    assert contrasts(five, h_1_K).se_C[0] == pytest.approx(contrasts(single, h_1_K).se_C[0])
    stderr = one_N.std(ddof=1) / 200**0.5
    assert pooled_sample_stderr([stderr] * 5, [200] * 5) == pytest.approx(stderr / 5**0.5, rel=0.01)


def test_translate_forms_are_english_text_under_an_african_code():
    theirs = config("afrixnli/lai prompt/translate/afrixnli_manual_translate_swa.yaml")
    assert theirs["dataset_path"] == "masakhane/afrixnli-translate-test"
    assert "afrixnli" in theirs["tag"]


def test_afrimgsm_drops_decimal_marks_and_shows_what_it_scores():
    theirs = config("afrimgsm/direct/prompt_1/afrimgsm_swa.yaml")
    assert scored_split(theirs) == shown_split(theirs) == "test"
    assert theirs["metric_list"][0]["ignore_punctuation"] is True
    assert theirs["doc_to_text"].count("Answer:") == 2
    from lm_eval.api.metrics import exact_match_fn

    kwargs: Any = {"ignore_case": True, "ignore_punctuation": True}
    scored: Any = exact_match_fn
    assert scored(predictions=["18.00"], references=["18"], **kwargs)["exact_match"] == 0
    assert scored(predictions=["1.8"], references=["18"], **kwargs)["exact_match"] == 1
    assert final_number("18.00") == 18
    assert final_number("1.8") != 18


def test_afrimmlu_asks_for_a_letter_and_scores_the_answers_texts():
    theirs = config("afrimmlu/direct/prompt_2/afrimmlu_direct_swa.yaml", functions=True)
    row = {"subject": "s", "question": "q?", "choices": "['one', 'two', 'three', 'four']", "answer": "B"}
    assert "option 'A', 'B', 'C', or 'D'" in theirs["doc_to_text"](row)
    assert theirs["doc_to_choice"](row) == ["one", "two", "three", "four"]


def test_global_mmlu_asks_for_the_answer_in_english():
    for language in ("ar", "sw", "zh"):
        theirs = config(f"global_mmlu/default/{language}/_{language}_template_yaml")
        assert theirs["doc_to_text"].endswith("Answer:")
        assert theirs["fewshot_config"]["sampler"] == "default"


def test_paws_x_leaves_rows_without_a_translation_in(mirrored: Places):
    theirs = config("paws-x/paws_zh.yaml")
    assert "process_docs" not in theirs
    german = config("paws-x/paws_de.yaml", functions=True)["process_docs"]
    import datasets

    rows = read_split("google-research-datasets/paws-x", "de", "test", mirrored.data_root)
    kept = german(datasets.Dataset.from_list(rows))["sentence1"]
    assert sum(sentence == "NS" for sentence in kept) > 0
    ours = built_in_documents("paws-x", "de", mirrored.data_root).scored
    assert not any(document["text"].startswith("NS") for document in ours)

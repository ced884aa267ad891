from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from babeltune.evaluate import lm_eval_tasks, score
from babeltune.evaluate.fidelity import language_fidelity
from babeltune.study.places import Places
from babeltune.study.schema import Task

ENGLISH = "The answer to this question is that the river flows into the lake."
SWAHILI = "Jibu la swali hili ni kwamba mto huo unaingia katika ziwa kubwa."


def test_an_answer_in_the_language_asked_for():
    assert language_fidelity(SWAHILI, "sw") == 1.0
    assert language_fidelity(ENGLISH, "sw") == 0.0
    assert language_fidelity(ENGLISH, "en") == 1.0


@pytest.mark.parametrize("answer", ["", "18", "A", "Denver Broncos", "3 × 6 = 18, 18 + 24 = 42, 1 × 42 = 42"])
def test_short_answers_are_left_out(answer: str):
    assert language_fidelity(answer, "en") is None


def test_a_short_chinese_answer_says_enough():
    assert language_fidelity("这条河流最后流入了北方的一个大湖里。", "zh") == 1.0
    assert language_fidelity("这条河流最后流入了北方的一个大湖里。", "zh-Hant") == 1.0
    assert language_fidelity("The river is long", "zh") is None
    assert language_fidelity(ENGLISH, "zh") == 0.0


@pytest.mark.parametrize("language", ["kg", "hi-Latn"])
def test_languages_that_are_not_known_are_left_out(language: str):
    assert language_fidelity(ENGLISH, language) is None


def test_malay_counts_where_indonesian_is_asked_for():
    """No library tells them apart in a sentence."""
    sentence = "Semua manusia dilahirkan bebas dan samarata dari segi kemuliaan dan hak-hak."
    assert language_fidelity(sentence, "id") == language_fidelity(sentence, "ms") == 1.0


@pytest.mark.parametrize("characters", [60, 90])
def test_real_sentences(development_data: Path, characters: int):
    """Of the beginnings of the UDHR's articles hardly any is taken for another language."""
    files = sorted((development_data / "parallel" / "udhr").glob("*.jsonl"))
    assert files
    found = []
    for file in files:
        texts = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]
        values = [language_fidelity(text[:characters], file.stem) for text in texts]
        found += [value for value in values if value is not None]
    assert len(found) > 15 * len(files)
    assert sum(found) >= 0.995 * len(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "right", "expected"),
    [
        (SWAHILI, "Mto huo unaingia katika ziwa kubwa la kaskazini", [1.0] * 3),
        (ENGLISH, "Mto huo unaingia katika ziwa kubwa la kaskazini", [0.0] * 3),
        (ENGLISH, "The river flows into the large lake in the north", []),  # as of a translation
        (SWAHILI, "18", []),
    ],
)
def test_lm_evals_tasks_have_it_where_right_answers_are_in_the_language(
    mirror: Any, answer: str, right: str, expected: list[float]
):
    rows = [
        {"question": "Wapi?", "answer": f"Hatua kwa Hatua {right} {i}.", "answer_number": i} for i in range(3)
    ]
    places = mirror("juletxara/mgsm/sw/test", rows)
    scorer: Any = Answering(answer)
    task = lm_eval_tasks.lm_evals_own("mgsm_native_cot_sw", num_fewshot=0, data_root=places.data_root)
    prepared = score._prepared(scorer, [task], None)
    frame = score._score_lm_eval(scorer, prepared, "sw", is_ours=False)
    assert [row[2] for row in frame if row[1] == "language_fidelity"] == expected


class Answering:
    """A scorer that answers every request alike."""

    bos = None

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def ready(self, kind: Any, requests: list[Any]) -> Any:
        return len(requests)

    def respond(self, kind: Any, readied: Any) -> list[str]:
        return [self.answer] * readied


@pytest.mark.parametrize(("answer", "expected"), [(SWAHILI, [1.0]), (ENGLISH, [0.0]), ("Ndiyo", [])])
def test_free_answers_have_it_as_a_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, expected: list[float]
):
    row = {"item": 1, "language": "sw", "prompt": "Mto unaingia wapi?", "reference": "Katika ziwa."}
    (tmp_path / "own.jsonl").write_text(json.dumps(row))
    monkeypatch.setattr(score, "Scorer", lambda *_, **__: Answering(answer))
    frame = score.score_task(
        cast("Any", torch.nn.Linear(1, 1)),
        cast("Any", None),
        Task(path="own.jsonl", metric="chrf"),
        "sw",
        num_fewshot=0,
        limit=None,
        apply_chat_template=False,
        template_kwargs={},
        places=Places(tmp_path, None),
    )
    assert frame.filter(metric="language_fidelity")["value"].to_list() == expected
    assert frame.filter(metric="chrf").height == 1

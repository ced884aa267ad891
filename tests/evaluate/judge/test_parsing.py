from __future__ import annotations

import pytest

from babeltune.evaluate.judge.parsing import read_verdict

SCORES = {
    '{"reason": "right", "score": 0.8}': 0.8,
    '```json\n{"reason": "it says {x}", "score": "0.7"}\n```': 0.7,
    '{"score": 0.2} or rather {"reason": "b", "score": 0.4}': 0.4,
    '{"result": {"score": 0.5}}': 0.5,
    '{"reason": "cut short", "score": 0.6': 0.6,
    "Score: 0.8 - the main points are there": 0.8,
    "**Score:** 0.85": 0.85,
    "Score: 0.8\n- 2 errors": 0.8,
    "Score: 0.8, because 3/4 of it is right": 0.8,
    "score: 0.8 / 1.0.": 0.8,
    "The score is 0.75.": 0.75,
    "score=.5": 0.5,
    "得分：０．９分": 0.9,
    "评分标准：0到1。评分：0.3": 0.3,
    '"评分"：1.0': 1.0,
    "得分：1分（满分1分）": 1.0,
    "<think>score: 0.1</think>\nscore: 0.9": 0.9,
    "Score: 0.9. Again, the score is 0.9.": 0.9,
    "Score: 1.": 1.0,
    "0.75. It is mostly right, score: 0.75. Good.": 0.75,
    "0.5": 0.5,
    " 1 ": 1.0,
    "0": 0.0,
}
NO_SCORES = [
    "",
    "no idea",
    "{" * 5000,
    "[" * 5000,
    "Score: 8/10",
    "Score: 1/10",
    "Score: 1 out of 10",
    "得分：1分（满分10分）",
    "80%",
    "Score: 80%",
    "Score: -0.5",
    "Score: 1.5",
    "Score: 0,8",
    "Score: 0 to 1",
    "Score: 0-1",
    "评分：0到1之间",
    "评分: 1. 提高销售额 2. 降低成本",
    "评分：\n1. 满意\n2. 不满意",
    "Score: 1) first of all",
    "<think>\nMaybe the score is 1, but let me check",
    '<think>A draft: {"score": 1}. Or',
    "<think>a</think> <think>score: 1",
    "Score: 0.3. The maximum score is 1.",
    '{"score": NaN}',
    '{"score": Infinity}',
    '{"score": true}',
    '{"score": null}',
    '{"score": [0.5]}',
    '{"score": 5}',
    '{"score": -1}',
    '{"reason": "<why>", "score": <number>}',
    '{"reason": "<理由>", "score": <分数>}',
]


@pytest.mark.parametrize(("reply", "score"), SCORES.items())
def test_a_score_is_found(reply: str, score: float):
    verdict = read_verdict(reply)
    assert verdict is not None
    assert verdict.score == score


@pytest.mark.parametrize("reply", NO_SCORES, ids=lambda reply: reply[:30])
def test_what_is_no_certain_score_is_none_and_never_zero(reply: str):
    assert read_verdict(reply) is None


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Maybe the score is 1, but let me", None),
        ('So far {"reason": "right", "score": 0.4} or', 0.4),
        ('{"score": 0.4, "reason": "it says', 0.4),
        ('```json\n{"score": 0.4, "reason": "it', 0.4),
    ],
)
def test_of_a_reply_that_was_cut_off_only_an_object_counts(reply: str, score: float | None):
    verdict = read_verdict(reply, cut_off=True)
    assert (verdict and verdict.score) == score


def test_the_reason_is_kept_in_one_line():
    verdict = read_verdict('{"reason": "two\\nlines", "score": 1}')
    assert verdict is not None
    assert verdict.reason == "two lines"
    verdict = read_verdict("It is right.\nScore: 1")
    assert verdict is not None
    assert verdict.reason == "It is right. Score: 1"

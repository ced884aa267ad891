"""Answers judged over HTTP by a server of the tests' own, with every fault a server can have."""

from __future__ import annotations

import itertools
import json
import re
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.evaluate.judge.server import FAULTS, Stub, serving

from babeltune.errors import Interrupted, JobFailed, Unreachable, UserError
from babeltune.evaluate.documents import Document
from babeltune.evaluate.judge.client import Patience, check_judge
from babeltune.evaluate.judge.scoring import judge_answers, shortfall
from babeltune.evaluate.replies import Replies, spent
from babeltune.study.schema import Judge

HASTY = Patience(tries=4, seconds=1.0)
Documents = dict[str, Document]


def number_in(conversation: str) -> int:
    found = re.search(r"answer (\d+)\.", conversation)
    assert found
    return int(found[1])


def by_number(body: dict[str, Any]) -> str:
    """A hundredth of the answer's number: each item gets another score."""
    conversation = json.dumps(body)
    if "Reply with the word yes" in conversation:
        return "yes"
    return json.dumps({"reason": "as it is", "score": number_in(conversation) / 100})


def judge_of(stub: Stub, **options: Any) -> Judge:
    return Judge(model="judge", base_url=stub.base_url, **options)


def judged(
    answers: pl.DataFrame, documents: Documents, stub: Stub, folder: Path, **options: Any
) -> pl.DataFrame:
    names = ("on_progress", "should_stop", "patience")
    calls: dict[str, Any] = {"patience": HASTY} | {
        name: options.pop(name) for name in names if name in options
    }
    with Replies(folder / "replies", "job") as replies:
        return judge_answers(answers, documents, judge_of(stub, **options), replies, **calls)


def scores(frame: pl.DataFrame) -> dict[str, float | None]:
    return dict(frame.select("item", "value").iter_rows())


def test_every_answer_is_judged_once_and_has_class_and_reason(
    answers: pl.DataFrame, documents: Documents, tmp_path: Path
):
    seen: list[tuple[int, int]] = []
    with serving(by_number) as stub:
        frame = judged(answers, documents, stub, tmp_path, on_progress=lambda *p: seen.append(p))
        assert stub.fates == {"answered": 20}
        again = judged(answers, documents, stub, tmp_path)
        assert stub.fates == {"answered": 20}
    assert scores(frame) == {f"i{k}": k / 100 for k in range(20)}
    assert frame.columns == [*answers.columns, "reason", "passes", "class"]
    assert frame["class"].unique().sort().to_list() == ["extract", "math", "open qa", "rewrite"]
    assert frame["reason"].unique().to_list() == ["as it is"]
    assert again.equals(frame)
    assert seen[-1] == (20, 20)


def test_other_metrics_of_the_answers_stay_as_they_are(
    answers: pl.DataFrame, documents: Documents, tmp_path: Path
):
    other = answers.with_columns(metric=pl.lit("in language"), value=pl.lit(1.0))
    with serving(by_number) as stub:
        frame = judged(pl.concat([other, answers]), documents, stub, tmp_path)
    kept = frame.filter(metric="in language")
    assert kept["value"].to_list() == [1.0] * 20
    assert kept["class"].null_count() == 20


def test_thoughts_that_were_cut_off_are_no_score_and_asked_again(
    answers: pl.DataFrame, documents: Documents, tmp_path: Path
):
    with serving(lambda body: "The score is 1, or is it? Let me", finish_reason="length") as stub:
        frame = judged(answers, documents, stub, tmp_path)
        again = judged(answers, documents, stub, tmp_path)
    assert frame["value"].null_count() == again["value"].null_count() == 20
    assert stub.fates == {"answered": 60}


def test_passes_are_averaged_and_a_pass_without_a_score_is_left_out(
    answers: pl.DataFrame, documents: Documents, tmp_path: Path
):
    count = itertools.count()
    lock = threading.Lock()

    def alternating(body: dict[str, Any]) -> str:
        if number_in(json.dumps(body)) == 0:
            return "no idea" if len(body["messages"]) > 1 or next(count) == 0 else '{"score": 1}'
        with lock:
            return json.dumps({"score": next(count) % 2})

    with serving(alternating) as stub:
        frame = judged(answers, documents, stub, tmp_path, passes=2, concurrency=1, temperature=0.5)
        assert stub.most_at_once == 1
        more = judged(answers, documents, stub, tmp_path, passes=3, concurrency=1, temperature=0.5)
        fates = dict(stub.fates)
    first = frame.row(0, named=True)
    assert first["passes"].count(None) == 1
    assert first["value"] == 1
    assert all(len(passes) == 3 for passes in more["passes"])
    assert more["passes"].list.head(2).equals(frame["passes"])  # only the third pass was asked
    assert fates["answered"] == 20 * 3 + 2


def test_replies_without_a_score_are_asked_again_and_then_missing_never_zero(
    answers: pl.DataFrame, documents: Documents, tmp_path: Path
):
    def reluctant(body: dict[str, Any]) -> str:
        number = number_in(json.dumps(body))
        said = len(body["messages"])
        if number == 3:
            return "I would rather not say."
        if number == 4:
            return ""
        if number == 5 and said == 1:
            return "Score: 7/10"
        return by_number(body)

    with serving(reluctant) as stub:
        frame = judged(answers, documents, stub, tmp_path)
        before = stub.fates["answered"]
        judged(answers, documents, stub, tmp_path)
        assert stub.fates["answered"] == before == 17 + 3 + 3 + 2  # what had no score isn't asked again
    found = scores(frame)
    assert [item for item, value in found.items() if value is None] == ["i3", "i4"]
    assert found["i5"] == 0.05
    assert frame.filter(item="i3")["reason"].item() == "no score in 3 replies"
    assert shortfall(frame) == "2 of 20 answers have no score: no score in 3 replies (2)"
    assert shortfall(frame.filter(pl.col("value").is_not_null())) == ""


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_outlived_and_no_reply_is_paid_for_twice(
    answers: pl.DataFrame, documents: Documents, tmp_path: Path, fault: str
):
    with serving(by_number, faults=[fault, fault], hang_seconds=1.5) as stub:
        frame = judged(answers, documents, stub, tmp_path)
        assert stub.fates["answered"] == 20
        assert stub.repeated() == 0
    assert scores(frame) == {f"i{k}": k / 100 for k in range(20)}


def test_retry_after_is_heeded(answers: pl.DataFrame, documents: Documents, tmp_path: Path):
    with serving(by_number, faults=["429"], retry_after="1.5") as stub:
        judged(answers.head(1), documents, stub, tmp_path)
        assert stub.arrived[1] - stub.arrived[0] >= 1.5


def test_concurrency_is_kept(answers: pl.DataFrame, documents: Documents, tmp_path: Path):
    with serving(by_number) as stub:
        judged(answers, documents, stub, tmp_path, concurrency=3)
        assert 1 <= stub.most_at_once <= 3


def test_one_item_that_the_server_refuses_is_missing_with_its_reason(
    answers: pl.DataFrame, documents: Documents, tmp_path: Path
):
    def refused(conversation: str) -> str | None:
        return "400" if number_in(conversation) == 7 else None

    with serving(by_number, fault_of=refused) as stub:
        frame = judged(answers, documents, stub, tmp_path)
    assert [item for item, value in scores(frame).items() if value is None] == ["i7"]
    assert "status 400" in frame.filter(item="i7")["reason"].item()


def test_more_than_a_few_items_unanswered_are_a_failure_that_the_next_call_mends(
    answers: pl.DataFrame, documents: Documents, tmp_path: Path
):
    def refused(conversation: str) -> str | None:
        return "400" if number_in(conversation) in (7, 8) else None

    with serving(by_number, fault_of=refused) as stub:
        with pytest.raises(JobFailed, match="2 of 20 items"):
            judged(answers, documents, stub, tmp_path)
        stub.fault_of = lambda conversation: None
        frame = judged(answers, documents, stub, tmp_path)
        assert stub.fates["answered"] == 20
        assert stub.repeated() == 0
    assert frame["value"].null_count() == 0


def test_a_server_that_is_gone_stops_the_judging_early(
    answers: pl.DataFrame, documents: Documents, tmp_path: Path
):
    with serving(by_number) as stub:
        stub.fault_of = lambda conversation: "500" if len(stub.asked) >= 6 else None
        with pytest.raises(JobFailed, match="no longer answers"):
            judged(answers, documents, stub, tmp_path, concurrency=2, patience=Patience(tries=2))
        assert stub.fates["answered"] == 6
        assert stub.fates["500"] <= 6 * 2
        stub.fault_of = lambda conversation: None
        frame = judged(answers, documents, stub, tmp_path)
        assert stub.repeated() == 0
    assert frame["value"].null_count() == 0


def test_a_stop_is_heard_while_the_server_hangs_and_what_was_answered_is_kept(
    answers: pl.DataFrame, documents: Documents, tmp_path: Path
):
    with serving(by_number, hang_seconds=2.0) as stub:
        stub.fault_of = lambda conversation: "timeout" if len(stub.asked) >= 5 else None
        with pytest.raises(Interrupted):
            judged(answers, documents, stub, tmp_path, should_stop=lambda: len(stub.asked) >= 5)
        kept = len(stub.asked)
        stub.fault_of = lambda conversation: None
        frame = judged(answers, documents, stub, tmp_path)
        assert stub.repeated() == 0
        assert len(stub.asked) == 20 > kept
    assert frame["value"].null_count() == 0


def test_what_it_costs_counts_every_reply_of_this_judging_once(
    answers: pl.DataFrame, documents: Documents, tmp_path: Path
):
    prices = {"price_per_million_input_tokens": 2.0, "price_per_million_output_tokens": 10.0}
    with serving(by_number) as stub:
        for part in (answers.head(8), answers):  # as if interrupted after eight
            with Replies(tmp_path, "job") as replies:
                judge = judge_of(stub, **prices)
                judge_answers(part, documents, judge, replies, patience=HASTY)
                found = spent(replies, judge)
        with Replies(tmp_path, "another") as replies:
            judge_answers(answers, documents, judge, replies, patience=HASTY)
            assert spent(replies, judge).replies == 0
    assert (found.replies, found.input_tokens, found.output_tokens) == (20, 2000, 200)
    assert found.price == pytest.approx((2000 * 2 + 200 * 10) / 1e6)
    assert spent(Replies(tmp_path, "job"), judge_of(stub)).price is None


def test_the_key_goes_to_the_server_and_nowhere_else(
    answers: pl.DataFrame, documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MY_KEY", "secret-1234")
    with serving(by_number, key="secret-1234") as stub:
        check_judge(judge_of(stub, api_key_env="MY_KEY"), HASTY)
        judged(answers, documents, stub, tmp_path, api_key_env="MY_KEY")
        assert stub.fates["answered"] == 20 + 1
        written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert b"secret" not in written
        stub.key = "another"
        with pytest.raises(UserError, match="refuses the key in MY_KEY") as error:
            check_judge(judge_of(stub, api_key_env="MY_KEY"), HASTY)
        assert "secret" not in str(error.value)
        with pytest.raises(Unreachable, match="NO_KEY is not set"):
            check_judge(judge_of(stub, api_key_env="NO_KEY"), HASTY)
        with pytest.raises(UserError, match="refuses the key"):
            judged(answers, documents, stub, tmp_path / "new", api_key_env="MY_KEY")


def test_what_is_wrong_with_a_judge_is_said_before_anything_is_judged():
    with serving(by_number, model="real") as stub:
        with pytest.raises(UserError, match="no model 'judge'"):
            check_judge(judge_of(stub), HASTY)
        stub.faults = ["400"]
        with pytest.raises(UserError, match="status 400") as error:
            check_judge(judge_of(stub), HASTY)
        assert "it has the models real" in str(error.value)
        stub.faults = ["500"] * 9
        with pytest.raises(Unreachable, match="status 500"):
            check_judge(judge_of(stub), Patience(tries=2, seconds=1.0))
    with pytest.raises(Unreachable, match="does not answer at"):
        check_judge(judge_of(stub), Patience(tries=1, seconds=1.0))


def test_models_that_know_only_the_newer_name_of_the_limit_are_asked_by_it(
    answers: pl.DataFrame, documents: Documents, tmp_path: Path
):
    with serving(by_number, unknown_parameter="max_tokens") as stub:
        frame = judged(answers, documents, stub, tmp_path, concurrency=1)
        assert stub.fates == {"answered": 20, "400": 1}
    assert frame["value"].null_count() == 0

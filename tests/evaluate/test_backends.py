"""Models behind an API, through lm-eval's backend, on a server of the tests' own and on a real one."""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.evaluate.judge.server import Stub, serving

from babeltune.errors import Interrupted, TaskError, Unreachable, UserError
from babeltune.evaluate import backends
from babeltune.evaluate.backends import api_backend, vllm
from babeltune.evaluate.replies import Replies, spent
from babeltune.evaluate.score import score_by
from babeltune.study.places import Places
from babeltune.study.schema import Reference, Task

pytest.importorskip("tenacity", reason="lm-eval's packages for APIs are not installed")


@pytest.fixture(autouse=True)
def without_a_key_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(backends, "TRIES", 3)


@pytest.fixture
def own(tmp_path: Path) -> Places:
    rows = [
        {"item": i, "language": "en", "prompt": f"How much is {i} + {i}?", "reference": str(2 * i)}
        for i in range(12)
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Places(tmp_path, None)


def sums(body: dict[str, Any]) -> str:
    question = body["messages"][-1]["content"]
    return f"{2 * int(question.split()[3])}\nand so on"


def ask(
    stub: Stub,
    places: Places,
    *,
    task: Task | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    **more: Any,
) -> tuple[pl.DataFrame, Any]:
    reference = Reference(
        model="large",
        base_url=stub.base_url,
        price_per_million_input_tokens=1.0,
        price_per_million_output_tokens=10.0,
        **more,
    )
    with Replies(places.study_dir / "replies", "this") as replies:
        try:
            frame = score_by(
                api_backend(reference, replies, on_progress=lambda *_: None, should_stop=should_stop),
                task or Task(path="own.jsonl", metric="exact_match"),
                "en",
                num_fewshot=0,
                limit=None,
                places=places,
            )
        finally:
            cost = spent(replies, reference)
    return frame, cost


@pytest.mark.parametrize("concurrency", [1, 4])
def test_answers_are_asked_for_in_chats_and_cut_at_their_stop(own: Places, concurrency: int):
    with serving(sums) as stub:
        frame, cost = ask(stub, own, concurrency=concurrency)
    assert frame.filter(metric="exact_match")["value"].to_list() == [1.0] * 12
    assert frame["answer"][3] == "6"
    assert json.loads(stub.asked[0])[0]["role"] == "user"
    assert stub.most_at_once <= concurrency
    assert (cost.replies, cost.input_tokens, cost.output_tokens) == (12, 1200, 120)
    assert cost.price == pytest.approx(1200e-6 + 10 * 120e-6)


def test_an_interrupted_task_goes_on_without_asking_twice(own: Places):
    with serving(sums) as stub:
        with pytest.raises(Interrupted):
            ask(stub, own, concurrency=1, should_stop=lambda: len(stub.asked) >= 5)
        asked = len(stub.asked)
        assert 5 <= asked < 12
        frame, cost = ask(stub, own, concurrency=1)
        assert len(stub.asked) == 12
        assert stub.repeated() == 0
    assert frame.height == 12
    assert cost.replies == 12


@pytest.mark.parametrize("fault", ["429", "500", "broken", "drop"])
def test_faults_are_tried_again(own: Places, fault: str):
    with serving(sums, faults=["", fault, "", fault]) as stub:
        frame, _ = ask(stub, own)
    assert frame["value"].to_list() == [1.0] * 12
    assert stub.fates[fault] == 2


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_server_that_asks_to_wait_is_left_alone(own: Places, concurrency: int):
    with serving(sums, faults=["429"], retry_after="3") as stub:
        frame, _ = ask(stub, own, concurrency=concurrency)
    assert frame["value"].to_list() == [1.0] * 12
    # lm-eval itself waits one second.
    again = [moment for moment in stub.arrived[1:] if moment - stub.arrived[0] > 0.9]
    assert again[0] - stub.arrived[0] > 2.9


def test_a_key_comes_from_the_environment(
    own: Places, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("DEBUG")
    with serving(sums, key="secret-7") as stub:
        with pytest.raises(UserError, match="BIG_KEY is not set"):
            ask(stub, own, api_key_env="BIG_KEY")
        monkeypatch.setenv("BIG_KEY", "wrong-1")
        with pytest.raises(UserError, match="refuses the key in BIG_KEY") as refused:
            ask(stub, own, api_key_env="BIG_KEY")
        assert "wrong-1" not in "".join(traceback.format_exception(refused.value, chain=True))
        assert "wrong-1" not in repr(refused.value.__context__)
        gc.collect()  # what was left of the tries is logged now
        monkeypatch.setenv("BIG_KEY", "secret-7")
        assert ask(stub, own, api_key_env="BIG_KEY")[0].height == 12
    kept = "".join(path.read_text() for path in (own.study_dir / "replies").iterdir())
    assert "secret-7" not in kept + caplog.text
    assert "wrong-1" not in kept + caplog.text


def test_what_is_not_there(own: Places):
    with serving(sums, model="other") as stub, pytest.raises(UserError, match="refuses requests"):
        ask(stub, own)
    with pytest.raises(Unreachable, match="does not answer"):
        ask(Stub(sums, base_url="http://127.0.0.1:9/v1"), own)


def test_tasks_that_need_likelihoods_are_refused(own: Places):
    rows = [{"item": 1, "language": "en", "prompt": "2 + 2?", "choices": ["4", "5"], "answer": 0}]
    (own.study_dir / "choices.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (own.study_dir / "text.jsonl").write_text(json.dumps({"item": 1, "language": "en", "text": "abc"}))
    stub = Stub(sums, base_url="http://127.0.0.1:9/v1")
    with pytest.raises(TaskError, match="log-likelihoods"):
        ask(stub, own, task=Task(path="choices.jsonl", metric="accuracy"))
    with pytest.raises(TaskError, match="losses"):
        ask(stub, own, task=Task(path="text.jsonl", metric="bits_per_byte"))


def test_a_choice_task_in_its_generative_form(mirrored: Places):
    with serving(lambda body: "A") as stub:
        reference = Reference(model="large", base_url=stub.base_url)
        with Replies(mirrored.study_dir / "replies", "this") as replies:
            frame = score_by(
                api_backend(reference, replies, on_progress=lambda *_: None),
                "xcopa/generate",
                "it",
                num_fewshot=2,
                limit=6,
                places=mirrored,
            )
    assert frame["value"].mean() not in (0.0, 1.0)
    chat = json.loads(stub.asked[0])
    assert [message["role"] for message in chat] == ["user", "assistant"] * 2 + ["user"]
    assert chat[1]["content"].strip() in "AB"
    prompt = frame["prompt"].drop_nulls()[0]
    assert "JsonChatStr" not in prompt


def test_vllm_that_is_not_installed():
    with pytest.raises(UserError, match="not installed"):
        vllm("some/model", dtype="bfloat16")


@pytest.mark.slow
def test_a_real_server(own: Places, tmp_path: Path, development_data: Path):
    model = development_data.parent / "models" / "minimind2-small"
    if not model.is_dir():
        pytest.skip(f"no model at {model}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "server.log").open("wb")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(model)]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--device", "cpu"], stdout=log, stderr=log, env=environment
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        reference = Reference(model=str(model), base_url=f"http://127.0.0.1:{port}/v1", concurrency=2)
        with Replies(tmp_path / "replies", "this") as replies:
            frame = score_by(
                api_backend(reference, replies, on_progress=lambda *_: None),
                Task(path="own.jsonl", metric="chrf", max_gen_toks=16),
                "en",
                num_fewshot=0,
                limit=4,
                places=own,
            )
            cost = spent(replies, reference)
    finally:
        server.terminate()
        server.wait(30)
    assert frame.filter(metric="chrf").height == 4
    assert all(frame["answer"].to_list())
    assert cost.input_tokens is not None
    assert cost.output_tokens is not None
    assert 0 < cost.output_tokens <= 4 * 16


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        if server.poll() is not None:
            pytest.skip("`transformers serve` does not start here")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail("the server did not get ready")

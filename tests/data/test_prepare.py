from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from babeltune.data.preflight import preflight
from babeltune.data.prepare import Prepared, prepare, read_prepared
from babeltune.study.places import Places
from babeltune.study.schema import Dataset, Mixture


@pytest.fixture
def tokenizer(tiny_model_dir: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def _rows(code: str, count: int) -> list[dict[str, Any]]:
    return [{"instruction": f"{code} swali {i}", "output": f"jibu {i}", "lang": code} for i in range(count)]


def _prepare(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    *,
    max_length: int = 200,
    dataset: dict[str, Any] | None = None,
    **mixture: Any,
) -> Prepared:
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = prepare(
        {"own": Dataset.model_validate({"path": "own.jsonl", "language_column": "lang", **(dataset or {})})},
        {"m": Mixture.model_validate(mixture)},
        "m",
        languages=["sw", "ha"],
        tokenizer=tokenizer,
        template_kwargs={},
        max_length=max_length,
        places=Places(folder),
        out=folder / "out",
    )
    prepared = read_prepared(folder / "out")
    assert prepared.summary == summary
    return prepared


def test_rows_become_tokens_and_a_summary(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    prepared = _prepare(
        tmp_path, tokenizer, [*_rows("sw", 40), *_rows("ha", 20), *_rows("fr", 5)], held_out=0.1
    )
    assert prepared.train.schema == {
        "id": pl.String,
        "language": pl.String,
        "input_ids": pl.List(pl.Int32),
        "trained": pl.List(pl.Boolean),
    }
    assert (prepared.train.height, prepared.held_out.height) == (54, 6)
    counts = prepared.summary["train"]
    assert counts["languages"]["sw"]["examples"] == 36
    assert counts["tokens"] == prepared.train["input_ids"].list.len().sum()
    assert counts["trained_tokens"] == prepared.train["trained"].list.sum().sum()
    assert prepared.summary["recognised"] == [
        "own: instruction rows (columns: instruction, output, lang), 60 examples in ha, sw; "
        "5 rows in other languages left out (fr 5)"
    ]
    sample = prepared.summary["samples"]["ha"]
    assert sample["text"].startswith("<|im_start|>user\nha swali ")
    assert "assistant\n⟦jibu " in sample["text"]
    assert prepared.summary["turn_ends"] == [{"id": 2, "token": "<|im_end|>", "special": True, "count": 54}]
    assert preflight(prepared, tokenizer, ["sw", "ha"]) == []


def test_the_same_input_gives_the_same_files(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _prepare(tmp_path / name, tokenizer, _rows("sw", 40))
        written.append(
            [(tmp_path / name / f"out/{split}.parquet").read_bytes() for split in ("train", "held_out")]
        )
    assert written[0] == written[1]


def test_max_tokens_is_a_prefix(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    whole = _prepare(tmp_path, tokenizer, _rows("sw", 60))
    limited = _prepare(tmp_path, tokenizer, _rows("sw", 60), max_tokens=1000)
    tokens = limited.train["input_ids"].list.len().sum()
    assert 900 < tokens <= 1000
    assert limited.train.equals(whole.train.head(limited.train.height))
    assert limited.held_out.equals(whole.held_out)


def test_raw_text_comes_in_pieces(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [{"text": "maneno " * 30, "lang": "sw"}]
    prepared = _prepare(tmp_path, tokenizer, rows, max_length=64, dataset={"type": "text"}, held_out=0)
    assert prepared.train.height == 4
    assert prepared.summary["train"]["trained_tokens"] == len("maneno " * 30)
    assert prepared.summary["template"] is None


def _messages(prepared: Prepared, tokenizer: PreTrainedTokenizerBase, level: str) -> list[str]:
    return [
        finding.message for finding in preflight(prepared, tokenizer, ["sw", "ha"]) if finding.level == level
    ]


def test_answers_cut_past_one_percent_are_refused_by_language(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    long = {"instruction": "q", "output": "x" * 200, "lang": "ha"}
    rows = [*_rows("sw", 200), *_rows("ha", 98), long, {**long, "instruction": "q" * 300}]
    prepared = _prepare(tmp_path, tokenizer, rows, max_length=100, held_out=0)
    assert _messages(prepared, tokenizer, "refuse") == [
        "max_length 100 cuts more than 1% of the answers: ha 2.00%"
    ]
    [dropped] = _messages(prepared, tokenizer, "warn")[:1]
    assert dropped.startswith("1 examples dropped, the prompt alone is longer than max_length; the first: ")
    assert dropped.endswith("own.jsonl:300")
    prepared = _prepare(tmp_path, tokenizer, [*_rows("ha", 199), long], max_length=100, held_out=0)
    assert _messages(prepared, tokenizer, "refuse") == []
    assert "max_length 100 cuts a few answers: ha 0.50%" in _messages(prepared, tokenizer, "note")


def test_a_set_or_a_row_without_trained_tokens_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    prepared = _prepare(tmp_path, tokenizer, _rows("sw", 30))
    silent = prepared.train.with_columns(trained=pl.col("trained").list.eval(pl.element() & False))
    [message] = _messages(Prepared(silent, prepared.held_out, prepared.summary), tokenizer, "refuse")
    assert message.startswith("28 examples have no trained token")
    tokenizer.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    hidden = _prepare(tmp_path, tokenizer, _rows("sw", 30))
    refusals = _messages(hidden, tokenizer, "refuse")
    assert refusals[0] == "no example is left to train on"
    assert refusals[1].startswith("30 examples have no trained token, the first ")


def test_answers_that_never_end_are_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    [message] = _messages(_prepare(tmp_path, tokenizer, _rows("sw", 30)), tokenizer, "refuse")
    assert "never learn to stop" in message


def test_a_turn_end_unlike_the_tokenizers_is_noted(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    tokenizer.chat_template = str(tokenizer.chat_template).replace("<|im_end|>", "<|endoftext|>")
    prepared = _prepare(tmp_path, tokenizer, [*_rows("sw", 30), *_rows("ha", 30)])
    assert _messages(prepared, tokenizer, "refuse") == []
    [note] = _messages(prepared, tokenizer, "note")
    assert note.startswith("answers end with '<|endoftext|>'")


def test_a_doubled_bos_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    once = "{{ bos_token }}" + str(tokenizer.chat_template)
    tokenizer.chat_template = once
    assert _messages(_prepare(tmp_path, tokenizer, _rows("sw", 30)), tokenizer, "refuse") == []
    tokenizer.chat_template = "{{ bos_token }}" + once
    [message] = _messages(_prepare(tmp_path, tokenizer, _rows("sw", 30)), tokenizer, "refuse")
    assert message.startswith("28 rows begin with two '<|endoftext|>', such as “<|endoftext|><|endoftext|>")


def test_a_language_whose_every_answer_is_empty_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [{**row, "output": answer} for row, answer in zip(_rows("sw", 30), ["", " \n"] * 15, strict=True)]
    prepared = _prepare(tmp_path, tokenizer, [*rows, *_rows("ha", 30)])
    [message] = _messages(prepared, tokenizer, "refuse")
    assert message.startswith("every answer in sw is empty")
    rows[-1] = _rows("sw", 30)[-1]
    assert _messages(_prepare(tmp_path, tokenizer, rows, held_out=0), tokenizer, "refuse") == []


def test_what_is_only_unwise_is_said(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [*_rows("sw", 10), {"instruction": "a", "output": None, "lang": "sw"}]
    prepared = _prepare(tmp_path, tokenizer, rows, held_out=0)
    assert _messages(prepared, tokenizer, "refuse") == []
    assert _messages(prepared, tokenizer, "warn") == [
        "1 examples have an empty answer",
        "nothing is held out, so there is no held-out loss",
    ]
    assert _messages(prepared, tokenizer, "note") == ["nothing to train on in ha"]


def test_real_rows(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, development_data: Path) -> None:
    datasets = {
        "es": Dataset(path="instruct/multialpaca/es.jsonl"),
        "en": Dataset(path="instruct/alpaca/en.jsonl", language="en"),
    }
    mixtures = {"m": Mixture(datasets=["es"], replay={"en": 0.1}, clean=True, max_examples=1000)}
    summary = prepare(
        datasets,
        mixtures,
        "m",
        languages=["es", "en"],
        tokenizer=tokenizer,
        template_kwargs={},
        max_length=8192,
        places=Places(development_data),
        out=tmp_path,
    )
    assert {code: counts["examples"] for code, counts in summary["train"]["languages"].items()} == {
        "en": 100,
        "es": 900,
    }
    assert summary["dropped"]["empty answer"] == 5
    prepared = read_prepared(tmp_path)
    assert [finding for finding in preflight(prepared, tokenizer) if finding.level == "refuse"] == []

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from babeltune.errors import TaskError
from babeltune.evaluate import task_entries
from babeltune.evaluate.documents import Documents
from babeltune.study.places import Places
from babeltune.study.schema import Task

CHOICE = {"item": "1", "language": "swh", "prompt": "2 + 2 =", "choices": ["3", "4"], "answer": 1}


def write(folder: Path, rows: list[dict[str, Any]], name: str = "own.jsonl") -> None:
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def read(folder: Path, metric: Any, language: str = "sw", path: str = "own.jsonl") -> Documents:
    task = task_entries.resolve_task(Task(path=path, metric=metric))
    documents = task_entries.task_documents(task, language, Places(folder))
    assert documents is not None
    return documents


def test_choices_with_an_index_or_a_text_as_answer(tmp_path: Path):
    write(tmp_path, [CHOICE, CHOICE | {"item": 2, "answer": "3"}])
    assert [document["gold"] for document in read(tmp_path, "accuracy").scored] == [1, 0]
    info = task_entries.task_info(Task(path="own.jsonl", metric="accuracy"), Places(tmp_path))
    assert (info.task, info.metric, info.chance, info.kind) == ("own", "accuracy", 0.5, "choice")


def test_a_folder_names_languages_by_its_files(tmp_path: Path):
    for code in ("sw", "zho_Hans"):
        write(tmp_path, [{"id": 1, "text": "abc"}], f"{code}.jsonl")
    task = Task(path=str(tmp_path), metric="bits_per_byte")
    assert task_entries.task_languages(task, Places(Path("/nowhere"))) == {"sw", "zh"}
    (document,) = read(tmp_path, "bits_per_byte", "zh", str(tmp_path)).scored
    assert (document["item"], document["text"], document["references"]) == ("1", "", ["abc"])


@pytest.mark.parametrize(
    ("row", "metric", "message"),
    [
        (CHOICE | {"answer": 2}, "accuracy", "`answer` is 2"),
        (CHOICE | {"answer": True}, "accuracy", "`answer` is True"),
        (CHOICE | {"choices": ["4"]}, "accuracy", "`choices`"),
        (CHOICE | {"prompt": " "}, "accuracy", "no `prompt`"),
        (CHOICE | {"language": "qwertyland"}, "accuracy", "unknown language"),
        ({"language": "sw", "prompt": "a"}, "f1", "no `item`"),
        ({"item": 1, "prompt": "a", "reference": "b"}, "f1", "no `language`"),
        ({"item": 1, "language": "sw", "prompt": "a"}, "chrf", "no `reference`"),
        (
            {"item": 1, "language": "sw", "prompt": "a", "reference": ["b", "c"]},
            "bits_per_byte",
            "several references",
        ),
        (CHOICE | {"item": "0"}, "accuracy", "stands twice"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path: Path, row: dict[str, Any], metric: str, message: str):
    good = {"accuracy": CHOICE | {"item": "0"}}.get(
        metric, {"item": 0, "language": "sw", "prompt": "a", "reference": "b"}
    )
    write(tmp_path, [good, row])
    with pytest.raises(TaskError, match=message) as error:
        read(tmp_path, metric)
    assert error.value.where == f"{tmp_path / 'own.jsonl'}:2"
    assert error.value.remedy


def test_broken_json_missing_files_and_languages(tmp_path: Path):
    (tmp_path / "own.jsonl").write_text('{"item": 1}\n{oops\n')
    with pytest.raises(TaskError, match="not JSON") as error:
        read(tmp_path, "accuracy")
    assert (error.value.where or "").endswith("own.jsonl:1") is False
    with pytest.raises(TaskError, match="no such file"):
        read(tmp_path, "accuracy", path="nowhere.jsonl")
    write(tmp_path, [CHOICE])
    with pytest.raises(TaskError, match="no items in 'en'"):
        read(tmp_path, "accuracy", "en")


def test_what_ends_an_answer_is_part_of_what_is_asked(tmp_path: Path):
    """It is decided by all references, also of items past the limit."""

    def digest(reference: str) -> str:
        rows = [{"item": i, "language": "sw", "prompt": "a", "reference": "b"} for i in range(2)]
        write(tmp_path, [*rows, rows[0] | {"item": 9, "reference": reference}])
        task = Task(path="own.jsonl", metric="f1")
        return task_entries.task_digest(task, "sw", num_fewshot=0, limit=2, places=Places(tmp_path))

    assert digest("one line") == digest("another line") != digest("two\nlines")


def test_files_that_could_carry_code_are_refused(tmp_path: Path):
    (tmp_path / "task.yaml").write_text("doc_to_text: !function evil.run\n")
    with pytest.raises(TaskError, match="run code"):
        read(tmp_path, "accuracy", path="task.yaml")

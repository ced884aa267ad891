"""A user's own task: rows in JSON lines, one file for all languages or a folder of `<language>.jsonl`.

Rows hold `item` (or `id`), `language` (may be left out in a folder), `prompt`, and
- `choices` with `answer` (index or text) for `metric: accuracy`,
- `reference` (a text, or a list of texts all of which count) for `exact_match`, `f1`, `chrf`,
- `reference` for `bits_per_byte`: held-out loss of the reference after the prompt; or `text` alone, without a
  prompt: of the whole text,
- nothing more, or a `class` and a `reference`, for `judge` (`judge/questions.py`); rows without an id are
  called by their line.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from babeltune.errors import TaskError, UserError
from babeltune.evaluate.documents import Document, Documents, answer_document, balanced, choice_document
from babeltune.evaluate.judge.questions import question
from babeltune.evaluate.rows import Row, numbered_rows
from babeltune.languages import is_unsegmented, normalise
from babeltune.study import schema
from babeltune.study.places import Places, resolve_path


def check_path(path: str) -> None:
    """Refuse what could carry code.

    Raises:
        TaskError: a YAML file: `!function` and templates in it would run.
    """
    if Path(path).suffix in (".yaml", ".yml", ".py"):
        raise TaskError(
            "task files in YAML or Python can run code and are not read",
            where=path,
            remedy="give the items as JSON lines (prompt with choices and answer, or with reference)",
        )


def documents(task: schema.Task, language: str, places: Places) -> Documents:
    """The items of one language, as finished documents. There are no examples to show.

    Raises:
        TaskError: a bad row, or no rows in this language.
    """
    found = read(task, places)
    if language not in found:
        raise TaskError(
            f"{task.short_name} has no items in {language!r}",
            where=task.path,
            remedy=f"it has: {', '.join(sorted(found))}; leave the language out, or add rows",
        )
    return Documents(scored=found[language], shots=())


def gap(language: str) -> str:
    """What stands between a prompt and a choice."""
    return "" if is_unsegmented(language) else " "


def answer_end(documents: Documents) -> str:
    """What ends an answer in free text: its line, or, where references have several lines, an empty line."""
    several_lines = any("\n" in text for document in documents.scored for text in document["references"])
    return "\n\n" if several_lines else "\n"


def answer_tokens(task: schema.Task) -> int:
    """The longest answer to own items, in tokens. A judge reads more than a line."""
    return task.max_gen_toks or (512 if task.metric == "judge" else 256)


def metric_and_chance(
    task: schema.Task, places: Places
) -> tuple[str, float | None, Literal["choice", "answer", "loss"]]:
    """Metric, chance level (mean over items, for choices) and kind."""
    if task.metric == "bits_per_byte":
        return task.metric, None, "loss"
    if task.metric != "accuracy":
        assert task.metric is not None
        return task.metric, None, "answer"
    chances = [1 / len(document["choices"]) for rows in read(task, places).values() for document in rows]
    return "accuracy", sum(chances) / len(chances), "choice"


def classes(task: schema.Task, places: Places) -> tuple[str, ...]:
    """The classes of a judged task's questions, sorted; none for other tasks."""
    if task.metric != "judge":
        return ()
    return tuple(sorted({document["class"] for rows in read(task, places).values() for document in rows}))


def read(task: schema.Task, places: Places) -> dict[str, tuple[Document, ...]]:
    """All items by normalised language code, in the order of the file, or class by class in turn for a judge.

    Raises:
        TaskError: the file is missing or empty, or a row is not what the metric needs; names file and line.
    """
    assert task.path is not None
    assert task.metric is not None
    path = resolve_path(task.path, places)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not path.exists():
        raise TaskError(
            "no such file, or a folder without .jsonl files", where=str(path), remedy="check `path`"
        )
    stamps = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return _read(stamps, path.is_dir(), task.metric, task.language)


@lru_cache(maxsize=16)
def _read(
    stamps: tuple[tuple[str, int, int], ...], is_folder: bool, metric: str, language: str | None
) -> dict[str, tuple[Document, ...]]:
    by_language: dict[str, dict[str, Document]] = {}
    for name, _, _ in stamps:
        file = Path(name)
        for number, row in numbered_rows(file):
            where = f"{file}:{number}"
            if metric == "judge" and "item" not in row and "id" not in row:
                row = {**row, "item": number}
            document = _document(row, file.stem if is_folder else language, metric, where)
            items = by_language.setdefault(document["language"], {})
            if document["item"] in items:
                raise TaskError(
                    f"item {document['item']!r} stands twice in {document['language']}",
                    where=where,
                    remedy="give every item of a language an id of its own",
                )
            items[document["item"]] = document
    if not by_language:
        raise TaskError("no items", where=", ".join(name for name, _, _ in stamps), remedy="check `path`")
    if metric == "judge":  # so that a few first items hold every class
        return {code: tuple(balanced(items.values(), _class)) for code, items in by_language.items()}
    return {code: tuple(items.values()) for code, items in by_language.items()}


def _class(document: Document) -> str:
    return document["class"]


def _document(row: Row, language_of_all: str | None, metric: str, where: str) -> Document:
    item = row.get("item", row.get("id"))
    if isinstance(item, bool) or not isinstance(item, str | int):
        raise TaskError(
            "no `item`", where=where, remedy="give each row an id, the same in parallel languages"
        )
    name = row.get("language", language_of_all)
    if not isinstance(name, str):
        raise TaskError("no `language`", where=where, remedy='add it, as in "language": "sw"')
    try:
        language = normalise(name)
    except UserError as error:
        raise TaskError(error.message, where=where, remedy=error.remedy) from None
    if metric == "accuracy":
        return _choice(row, item, language, where)
    if metric == "judge":
        return question(row, item, language, where)
    if metric == "bits_per_byte" and "text" in row and "reference" not in row:
        return answer_document(item, language, "", [_text(row, "text", where)])
    references = _references(row, where)
    if metric == "bits_per_byte" and len(references) > 1:
        raise TaskError("several references, but bits_per_byte needs one", where=where, remedy="keep one")
    return answer_document(item, language, _text(row, "prompt", where), references)


def on_own_line(prompt: str) -> str:
    """The prompt with a line break after it, unless it ends in space: how plain prompts are answered."""
    return prompt if prompt[-1:].isspace() else f"{prompt}\n"


def _choice(row: Row, item: str | int, language: str, where: str) -> Document:
    choices: Any = row.get("choices")
    answer = row.get("answer")
    if not _is_texts(choices) or len(set(choices)) < max(2, len(choices)):
        raise TaskError(
            "`choices` is not a list of two or more different texts", where=where, remedy="mend the row"
        )
    if isinstance(answer, str) and answer in choices:
        answer = choices.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise TaskError(
            f"`answer` is {row.get('answer')!r}, but must be one of the choices or its index",
            where=where,
            remedy=f"write 0 to {len(choices) - 1}, or the right choice's text",
        )
    prompt = _text(row, "prompt", where).rstrip()
    return choice_document(item, language, prompt, [choice.strip() for choice in choices], answer)


def _references(row: Row, where: str) -> Sequence[str]:
    reference = row.get("reference")
    references: Any = [reference] if isinstance(reference, str) else reference
    if not _is_texts(references):
        raise TaskError(
            "no `reference`", where=where, remedy="add the right answer: a text, or a list of texts"
        )
    return references


def _text(row: Row, name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise TaskError(f"no `{name}`", where=where, remedy=f"add `{name}`, a text")
    return value


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v.strip() for v in value)

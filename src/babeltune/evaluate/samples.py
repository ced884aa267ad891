"""Item scores from a folder that `lm_eval --log_samples` wrote: read without a model, and without lm-eval.

Such a folder holds `results_<time>.json` and, for every task, `samples_<task>_<time>.jsonl` with one line an
item and filter: the row, the requests made of it, the model's answers and the metrics.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from babeltune.errors import TaskError
from babeltune.evaluate.items import ITEM_SCHEMA, item_ids, kept_text, prompt_digest
from babeltune.evaluate.task_entries import LM_EVAL_PREFIX, built_in
from babeltune.evaluate.task_names import METRIC_NAMES, OURS_PREFIX, split_name
from babeltune.study import schema

ITEM_COLUMNS: Final = {"task": pl.String, "language": pl.String, **ITEM_SCHEMA}
"""As `score.score_task` gives them, with task and language."""

_TIME = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?"
_SAMPLES = re.compile(rf"samples_(?P<task>.+)_(?P<time>{_TIME})\.jsonl")
_HOW = "run lm_eval with --log_samples --output_path DIR, and give that folder"


@dataclass(frozen=True)
class LoggedScores:
    """One model's item scores. `model`: as lm-eval was told it; `settings`: how it was asked, in words.

    `metrics`: those of each task, ours first where the task is ours, else in lm-eval's order. `written`: the
    tasks of which every request was to generate text.
    """

    model: str
    items: pl.DataFrame
    metrics: Mapping[str, tuple[str, ...]]
    settings: Mapping[str, str]
    written: frozenset[str]


@dataclass(frozen=True)
class _Line:
    """One item under one filter. `asked`: `[[request type, arguments], …]`."""

    doc: dict[str, Any]
    position: int
    filter: str
    asked: list[list[Any]]
    sample: dict[str, Any]


def is_samples_folder(folder: Path) -> bool:
    """Whether lm-eval logged samples somewhere below."""
    return any(_SAMPLES.fullmatch(path.name) for path in folder.rglob("samples_*.jsonl"))


def read_samples(folder: Path) -> LoggedScores:
    """The item scores in `folder`; of a task that was run several times the latest.

    Raises:
        TaskError: there are no samples or results, they are of several models, or a line can't be read (names
            file and line).
    """
    files: dict[str, tuple[str, Path]] = {}
    for path in sorted(folder.rglob("samples_*.jsonl")):
        if found := _SAMPLES.fullmatch(path.name):
            name, time = found["task"], found["time"]
            files[name] = max(files.get(name, ("", path)), (time, path))
    if not files:
        raise TaskError("no samples_<task>_<time>.jsonl here", where=str(folder), remedy=_HOW)
    parents = sorted({path.parent for _, path in files.values()})
    if len(parents) > 1:
        names = ", ".join(str(parent) for parent in parents)
        raise TaskError("samples of several models", where=str(folder), remedy=f"give one of: {names}")
    results = {time: _results(parents[0], time) for time, _ in files.values()}
    newest = results[max(results)]
    top_groups = _top_groups([result.get("group_subtasks") or {} for result in results.values()])
    cells: dict[tuple[str, str], list[str]] = {}
    for name in sorted(files):
        cells.setdefault(_cell(name, top_groups), []).append(name)
    frames: list[pl.DataFrame] = []
    metrics: dict[str, tuple[str, ...]] = {}
    written: set[str] = set()
    other: set[str] = set()
    for (task, language), names in cells.items():
        for name in names:
            lines = list(_lines(files[name][1]))
            prefix = f"{name}/" if len(names) > 1 else ""
            frames.append(_items(lines, task, language, prefix))
            if lines:
                metrics.setdefault(task, _metrics(task, lines[0].sample["metrics"]))
            generates = all(kind == "generate_until" for line in lines for kind, _ in line.asked)
            (written if generates else other).add(task)
    model = str(newest.get("model_name") or folder.name)
    return LoggedScores(model, pl.concat(frames), metrics, _settings(newest), frozenset(written - other))


def _cell(name: str, top_groups: Mapping[str, str]) -> tuple[str, str]:
    """Task and language that a single task of lm-eval counts for, named as a study would name them."""
    task, language = split_name(name)
    if name.startswith(OURS_PREFIX):
        return task, language
    if name in top_groups:  # `mmlu_anatomy` is part of `mmlu`, `global_mmlu_sw_law` of `global_mmlu`
        task = split_name(top_groups[name])[0]
    # lm-eval's own XNLI is another task than ours.
    return (LM_EVAL_PREFIX + task if built_in(schema.Task(name=task)) else task), language


def _metrics(task: str, logged: Sequence[str]) -> tuple[str, ...]:
    names = [METRIC_NAMES.get(name, name) for name in logged]
    ours = built_in(schema.Task(name=task))
    return tuple(sorted(names, key=lambda name: ours is None or name != ours.metric))


def _results(folder: Path, time: str) -> dict[str, Any]:
    """The results of that time: `results_<time>.json`, or `<name>_<time>.json` where lm-eval was told so."""
    path = next(iter(sorted(folder.glob(f"*_{time}.json"))), None)
    if path is None:
        raise TaskError(
            f"results_{time}.json is missing beside its samples",
            where=str(folder),
            remedy="copy it along: lm-eval writes it into the same folder",
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TaskError(f"not JSON: {error}", where=str(path), remedy="copy the file again, whole") from None


def _top_groups(groupings: list[dict[str, list[str]]]) -> dict[str, str]:
    """Task to the outermost group it was run as part of."""
    parent = {
        member: group for grouping in groupings for group, members in grouping.items() for member in members
    }
    found = {}
    for name in parent:
        top = name
        while top in parent and parent[top] != top:
            top = parent[top]
        found[name] = top
    return found


def _lines(path: Path) -> Iterator[_Line]:
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                sample = json.loads(text)
                asked = [_request(list(arguments.values())) for arguments in sample["arguments"].values()]
                doc = sample["doc"] if isinstance(sample["doc"], dict) else {}
                assert asked
                assert sample["metrics"]
                yield _Line(doc, int(sample["doc_id"]), str(sample["filter"]), asked, sample)
            except json.JSONDecodeError as error:
                raise TaskError(
                    f"not JSON: {error.msg} at column {error.colno}",
                    where=f"{path}:{number}",
                    remedy="the file is cut off or damaged: copy it again, or run lm-eval again",
                ) from None
            except (KeyError, AttributeError, TypeError, ValueError, AssertionError) as error:
                raise TaskError(
                    f"not a sample as lm-eval 0.4 logs them: {type(error).__name__} {error}".rstrip(),
                    where=f"{path}:{number}",
                    remedy=_HOW,
                ) from None


def _request(arguments: list[Any]) -> list[Any]:
    """A request with its type, which the log leaves out, as `score.py` writes it."""
    if len(arguments) == 1:
        return ["loglikelihood_rolling", arguments]
    return ["generate_until" if isinstance(arguments[1], dict) else "loglikelihood", arguments]


def _items(lines: list[_Line], task: str, language: str, prefix: str) -> pl.DataFrame:
    first_filter = lines[0].filter if lines else ""
    of_first = [line for line in lines if line.filter == first_filter]
    ids = item_ids([line.doc for line in of_first], [line.position for line in of_first])
    id_at = {line.position: item for line, item in zip(of_first, ids, strict=True)}
    rows = []
    for line in lines:
        item = id_at[line.position]
        # Of every item, unlike `score_task`: to show where prompts of two logs part.
        digest, answer, text = prompt_digest(line.asked), _answer(line), _text(line)
        for name in line.sample["metrics"]:
            value = _value(name, line.sample.get(name))
            if value is not None:
                own = METRIC_NAMES.get(name, name)
                label = own if line.filter == first_filter else f"{own} ({line.filter})"
                rows.append((task, language, prefix + item, label, value, digest, answer, *text))
    return pl.DataFrame(rows, schema=ITEM_COLUMNS, orient="row")


def _value(name: str, value: Any) -> float | None:
    """A metric's value for one item; None for what only a whole corpus has."""
    if isinstance(value, bool | int | float):
        return float(value)
    if name == "bits_per_byte" and isinstance(value, list):
        return -value[0] / value[1] / math.log(2)
    return None


def _answer(line: _Line) -> str | None:
    """The answer chosen (the likeliest continuation) or generated."""
    kind = line.asked[0][0]
    responses = line.sample["resps"]
    if kind == "generate_until":
        return str(responses[0][0])
    if kind != "loglikelihood" or len(line.asked) < 2:
        return None
    likelihoods = [float(response[0][0]) for response in responses]
    best = likelihoods.index(max(likelihoods))
    return str(line.asked[best][1][1]).strip() or str(line.asked[best][1][0])


def _text(line: _Line) -> tuple[str, str]:
    """The prompt and the right answer, for people to read."""
    target = str(line.sample.get("target", ""))
    if target.startswith("["):  # lm-eval logs a list of references as Python writes it
        with suppress(ValueError, SyntaxError):
            target = str(ast.literal_eval(target)[0])
    if line.asked[0][0] == "loglikelihood" and target.isdecimal() and int(target) < len(line.asked):
        target = str(line.asked[int(target)][1][1]).strip()
    return kept_text(str(line.asked[0][1][0])), kept_text(target)


def _settings(results: Mapping[str, Any]) -> dict[str, str]:
    """What of lm-eval's own record says how the model was asked."""
    config = results.get("config") or {}
    found = {
        "model": results.get("model_name"),
        "precision": str(config.get("model_dtype") or "").removeprefix("torch.") or None,
        "examples shown": ", ".join(sorted({str(n) for n in (results.get("n-shot") or {}).values()})),
        "chat template": "applied" if results.get("chat_template") else "not applied",
        "lm-eval": results.get("lm_eval_version"),
        "transformers": results.get("transformers_version"),
    }
    return {name: str(value) for name, value in found.items() if value}

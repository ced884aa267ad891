"""lm-eval's task objects: of our YAML files, of a user's own items, and of lm-eval's own tasks by name."""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar, cast

import datasets
import lm_eval
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import load_yaml

from babeltune.errors import TaskError, Unreachable, UserError
from babeltune.evaluate import answers, lm_eval_notes
from babeltune.evaluate.documents import Document, Documents
from babeltune.evaluate.own_items import answer_end, gap, on_own_line
from babeltune.evaluate.rows import mirror_folder, read_jsonl
from babeltune.evaluate.task_names import METRIC_NAMES, OTHER_LANGUAGES
from babeltune.evaluate.tasks import FOLDER, BuiltIn, as_datasets
from babeltune.evaluate.tasks import Kind as TaskKind
from babeltune.languages import flores, get, normalise

T = TypeVar("T")

# lm-eval's own seed for drawing examples.
FEWSHOT_SEED = 1234

# Where a function happens to lie in memory, in lm-eval's text form of configurations that hold functions.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

# Keys of a YAML file that say where a task belongs, which a task object does not take.
_STRUCTURE = ("tag", "group", "task_list")

# Columns that are text on the hub and may be numbers in a mirror's JSON.
_TEXT_COLUMNS = {"facebook/belebele": ("correct_answer_num",)}

# What lm-eval computes over all items at once: there is no such score of one item.
_CORPUS_METRICS = frozenset({"f1", "mcc", "bleu", "chrf", "ter", "perplexity", "brier_score"})

# What a language's code looks like in lm-eval's names: `sw`, `swa`, `swh_Latn`, `zh-TW`; or its name.
_CODE = re.compile(r"[a-z]{2,3}(?:[-_](?:[A-Z][a-z]{3}|[A-Z]{2}))?|[A-Za-z]{4,}")


def built_in(ours: BuiltIn, language: str, *, num_fewshot: int, data_root: Path | None) -> Task:
    """One of our tasks in one language, from its YAML file: what any lm-eval user gets."""
    config = load_yaml(ours.yaml_file(language))
    config["metadata"] = {**config["metadata"], "data_root": data_root}
    return _configured(config, num_fewshot)


def own_choices(name: str, language: str, documents: Documents) -> Task:
    """A user's items with choices."""
    config = load_yaml(FOLDER / "_choices_yaml")
    config |= {
        "task": name,
        "target_delimiter": gap(language),
        "custom_dataset": _constant(as_datasets(documents)),
    }
    return _configured(config, 0)


def own_answers(
    name: str,
    metric: str,
    documents: Documents,
    *,
    apply_chat_template: bool,
    max_gen_toks: int,
) -> Task:
    """A user's items answered in free text."""
    config = load_yaml(FOLDER / "_answers_yaml")
    config |= {
        "task": name,
        "custom_dataset": _constant(as_datasets(documents)),
        "doc_to_text": _prompt if apply_chat_template else _prompt_line,
        "process_results": partial(_own_results, metric),
        "generation_kwargs": {
            "until": [answer_end(documents)],
            "do_sample": False,
            "max_gen_toks": max_gen_toks,
        },
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
    }
    return _configured(config, 0)


def lm_evals_own(name: str, *, num_fewshot: int | None, data_root: Path | None) -> Task:
    """A task of lm-eval, unchanged but for where its rows come from when a local mirror holds them.

    `num_fewshot`: see `lm_eval_notes.examples_shown`.

    Raises:
        TaskError: it runs code that a model wrote, or its rows can't be read.
    """
    entry = _entry(name)
    assert entry.yaml_path is not None
    yaml_path = entry.yaml_path
    config = _reported(name, lambda: load_yaml(yaml_path))
    if config.get("unsafe_code"):
        raise TaskError(
            f"{name} runs code that the model writes", remedy="leave it out; babeltune doesn't run it"
        )
    if "class" in config:
        task = _reported(name, lambda: cast(Task, _manager().load([name])["tasks"][name]))
        shown = lm_eval_notes.examples_shown(task.get_config("num_fewshot"), num_fewshot)
        task.set_config("num_fewshot", shown)
    else:
        shown = lm_eval_notes.examples_shown(config.get("num_fewshot"), num_fewshot)
        folder = mirror_folder(str(config.get("dataset_path")), data_root)
        if folder is not None:
            config = _mirrored(config, folder, shown)
        task = _reported(name, lambda: _configured(config, shown))
    task.set_fewshot_seed(FEWSHOT_SEED)
    return task


def names() -> frozenset[str]:
    """All tasks, groups and tags of lm-eval. Slow (seconds) on the first call."""
    return frozenset(_manager().task_index)


def exists(name: str) -> bool:
    """Whether lm-eval has a task, group, tag or family (`global_mmlu`, of `global_mmlu_sw`) so named."""
    return name in names() or name in lm_eval_notes.FORMS or bool(_family(name))


def subtasks_by_language(name: str) -> dict[str, tuple[str, ...]]:
    """The single tasks behind a name, by the language in their names; without one they are English.

    Raises:
        TaskError: the name stands for no task.
    """
    if name in lm_eval_notes.FORMS:
        matches = map(lm_eval_notes.FORMS[name].fullmatch, sorted(names()))
        return {normalise(match[1]): (match[0],) for match in matches if match}
    family = _family(name)
    if family:
        return {language: tuple(_leaves(member)) for language, member in family.items()}
    leaves = _leaves(name)
    if not leaves:
        raise TaskError(f"lm-eval's {name} holds no task", remedy="name the tasks themselves")
    if name in OTHER_LANGUAGES:
        return {OTHER_LANGUAGES[name]: tuple(leaves)}
    start = _common_start(leaves) if len(leaves) > 1 else leaves[0].find("_")
    told_apart_by = {leaf: leaf[start:].strip("_") if start > 0 else "" for leaf in leaves}
    languages = {leaf: _language_in(part) for leaf, part in told_apart_by.items()}
    if sum(language is not None for language in languages.values()) * 2 < len(leaves):
        return {"en": tuple(leaves)}
    # A tag can hold another suite's copy of a language beside the task itself: `…_es`, `…_es_spanish_bench`.
    named_by_it = {_language(part) for part in told_apart_by.values()}
    found: dict[str, list[str]] = {}
    for leaf, language in languages.items():
        if language is not None and (language not in named_by_it or _language(told_apart_by[leaf])):
            found.setdefault(language, []).append(leaf)
    return {language: tuple(tasks) for language, tasks in found.items()}


def metric_and_kind(name: str) -> tuple[str, float | None, TaskKind]:
    """First metric of a task's YAML that single items have, chance level (not known) and kind.

    The kind is `answer` only where every task behind the name generates text.
    """
    config = _first_config(name)
    kind = _kind(config)
    if kind == "answer" and any(_kind(other) != kind for other in _configs(name)):
        kind = "choice"
    # Unresolved, a function of the task's own is its file and name; lm-eval calls the metric by the name.
    metrics = [
        str(metric["metric"]).rsplit(".", 1)[-1]
        for metric in config.get("metric_list") or [{"metric": "acc"}]
    ]
    # A task with a `process_results` of its own gives every metric item by item.
    by_item = [m for m in metrics if m not in _CORPUS_METRICS or "process_results" in config] or metrics
    return METRIC_NAMES.get(by_item[0], by_item[0]), None, kind


def note(name: str, num_fewshot: int | None) -> str | None:
    """What to know of a task before believing its scores, or None."""
    return lm_eval_notes.note(name, _first_config(name), num_fewshot)


def content(
    name: str, language: str, num_fewshot: int | None, limit: int | None, data_root: Path | None
) -> Any:
    """What makes up the identity of an lm-eval task: version, configuration, scored and example rows."""
    found: list[Any] = [lm_eval.__version__]
    for subtask in language_subtasks(name, language):
        task = lm_evals_own(subtask, num_fewshot=num_fewshot, data_root=data_root)
        config = {k: v for k, v in task.config.to_dict().items() if k not in ("custom_dataset", "metadata")}
        config = json.loads(_ADDRESS.sub("", json.dumps(config, default=str)))
        scored = [document for _, document in task.doc_iterator(rank=0, limit=limit, world_size=1)]
        shown = list(task.fewshot_docs() or []) if task.config.num_fewshot else []
        found.append([subtask, task.VERSION, config, scored, shown])
    return found


def language_subtasks(name: str, language: str) -> tuple[str, ...]:
    """The single tasks of one language.

    Raises:
        TaskError: there are none; the remedy names the languages there are.
    """
    found = subtasks_by_language(name)
    if language not in found:
        raise TaskError(f"lm-eval's {name} has no {language!r}", remedy=f"it has: {', '.join(sorted(found))}")
    return found[language]


@contextmanager
def quiet() -> Iterator[None]:
    """lm-eval warns at length about what is meant so here."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _configured(config: dict[str, Any], num_fewshot: int) -> ConfigurableTask:
    kept = {key: value for key, value in config.items() if key not in _STRUCTURE}
    with quiet():
        return ConfigurableTask(config={**kept, "num_fewshot": num_fewshot})


def _reported(name: str, build: Callable[[], T]) -> T:
    try:
        return build()
    except UserError:
        raise
    except ImportError as error:
        raise TaskError(
            f"lm-eval's {name} needs a module that is not there: {error.name}",
            remedy="install what holds it, or use a task of ours: the docs list them",
        ) from error
    except Exception as error:  # whatever lm-eval, datasets or the hub raise while reading rows
        first = (str(error).splitlines() or [type(error).__name__])[0]
        # datasets says ConnectionError, an OSError, when the hub can't be reached.
        kind = Unreachable if isinstance(error, OSError) else TaskError
        raise kind(
            f"lm-eval's {name} could not be loaded: {first}",
            remedy="check the network, or fetch its rows beforehand with `babeltune fetch`",
        ) from error


def _constant(dataset: Any) -> Callable[..., Any]:
    return lambda **_: dataset


def _prompt(document: Document) -> str:
    return document["text"]


def _prompt_line(document: Document) -> str:
    return on_own_line(document["text"])


def _own_results(metric: str, document: Document, results: Sequence[str]) -> dict[str, float]:
    answer, references = results[0].strip(), document["references"]
    if metric == "chrf":
        return {metric: answers.chrf(answer, references)}
    compare = answers.f1 if metric == "f1" else answers.exact_match
    return {metric: compare(answer, references, document["language"])}


def _mirrored(config: dict[str, Any], folder: Path, num_fewshot: int) -> dict[str, Any]:
    """The configuration with its rows from a local mirror, without the splits that the mirror leaves out.

    Raises:
        Unreachable: the mirror lacks what is scored, or what examples are shown from.
    """
    name = config.get("dataset_name") or "default"
    there = sorted(path.stem for path in (folder / name).glob("*.jsonl"))
    needed = [lm_eval_notes.scored_split(config), lm_eval_notes.shown_split(config) if num_fewshot else None]
    for split in needed:
        if split is not None and split not in there:
            raise Unreachable(
                f"lm-eval's {config['task']} needs {name}/{split}, which the local mirror lacks",
                where=str(folder),
                remedy=f"there is: {', '.join(_splits(folder)) or 'nothing'}; add {name}/{split}.jsonl"
                + ("" if split == needed[0] else ", or show no examples (`num_fewshot: 0`)"),
            )
    absent = {key for key in config if key.endswith("_split") and config[key] not in there}
    text_columns = _TEXT_COLUMNS.get(str(config.get("dataset_path")), ())
    kept = {key: value for key, value in config.items() if key not in absent}
    return {**kept, "custom_dataset": partial(_read_mirror, folder / name, text_columns)}


def _splits(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.glob("*/*.jsonl"))


def _read_mirror(folder: Path, text_columns: Sequence[str], **_: object) -> datasets.DatasetDict:
    def as_on_the_hub(row: dict[str, Any]) -> dict[str, Any]:
        return row | {column: str(row[column]) for column in text_columns}

    return datasets.DatasetDict(
        {
            file.stem: datasets.Dataset.from_list([as_on_the_hub(row) for row in read_jsonl(file)])
            for file in sorted(folder.glob("*.jsonl"))
        }
    )


@cache
def _manager() -> TaskManager:
    with quiet():
        return TaskManager()


def _entry(name: str) -> Entry:
    return _manager().task_index[name]


def _first_config(name: str) -> dict[str, Any]:
    """The YAML of a name's first single task, functions unresolved."""
    return next(_configs(name))


def _configs(name: str) -> Iterator[dict[str, Any]]:
    """The YAML of each single task of a name, functions unresolved."""
    for subtask in itertools.chain.from_iterable(subtasks_by_language(name).values()):
        entry = _entry(subtask)
        yield load_yaml(entry.yaml_path, resolve_func=False) if entry.yaml_path else {}


def _kind(config: dict[str, Any]) -> TaskKind:
    """What a task asks of a model. What a Python class asks is in its code, so it is not said to write."""
    if "class" in config:
        return "choice"
    output_type = config.get("output_type", "generate_until")  # lm-eval's own default
    kinds: dict[str, TaskKind] = {"generate_until": "answer", "loglikelihood_rolling": "loss"}
    return kinds.get(output_type, "choice")


def _family(name: str) -> dict[str, str]:
    """By language, the members of a family that has no name of its own in lm-eval: NAME_<language>."""
    if name in names():
        return {}
    found: dict[str, str] = {}
    for member in sorted(member for member in names() if member.startswith(f"{name}_")):
        language = _language(member.removeprefix(f"{name}_"))
        if language is not None:
            found.setdefault(language, member)
    return found


def _leaves(name: str) -> list[str]:
    entry = _manager().task_index.get(name)
    if entry is None:
        return []
    if entry.kind in (Kind.TASK, Kind.PY_TASK):
        return [name]
    if entry.kind == Kind.TAG:
        members: Sequence[Any] = sorted(entry.tags)
    else:
        assert entry.yaml_path is not None
        members = load_yaml(entry.yaml_path, resolve_func=False).get("task", [])
    return [leaf for member in _named(members) for leaf in _leaves(member)]


def _named(members: Sequence[Any]) -> list[str]:
    """Names in a group's list, in which a member may be a task or group written out."""
    found: list[str] = []
    for member in members:
        if isinstance(member, str):
            found.append(member)
        elif isinstance(member.get("task"), list):
            found += _named(member["task"])
        else:
            found.append(str(member.get("task") or member.get("group")))
    return found


def _common_start(leaves: Sequence[str]) -> int:
    """Length of what all names start with, up to an underscore."""
    shared = next((i for i, chars in enumerate(zip(*leaves, strict=False)) if len(set(chars)) > 1), None)
    return leaves[0][:shared].rfind("_")


def _language_in(rest: str) -> str | None:
    """The language in what tells a task's name from its siblings': all of it, or the part at either end."""
    whole = _language(rest)
    parts = rest.split("_")
    ends = map(_language, dict.fromkeys(("_".join(parts[:2]), parts[0], parts[-1])))
    # Three letters that are a word here (`age`, `bar`) are often the code of a small language.
    return whole or next((language for language in ends if language and _is_in_flores(language)), None)


def _language(text: str) -> str | None:
    """The language that a part of a name is the code or the English name of."""
    if not _CODE.fullmatch(text):
        return None
    try:
        code = normalise({"jp": "ja"}.get(text, text))
    except UserError:
        return None
    return code if len(text) < 4 or "_" in text or get(code).name.lower() == text.lower() else None


def _is_in_flores(code: str) -> bool:
    try:
        return bool(flores(code))
    except UserError:
        return False

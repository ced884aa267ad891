"""What `babeltune compare` was given: the item scores behind each argument, wherever they come from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from babeltune.analysis.scores import TaskInfo
from babeltune.commands.locked import read_lock
from babeltune.errors import UserError
from babeltune.evaluate.samples import ITEM_COLUMNS, is_samples_folder, read_samples
from babeltune.execute.collect import by_class
from babeltune.execute.columns import COST_COLUMNS
from babeltune.execute.folder import StudyFolder
from babeltune.study.expand import REFERENCE

KINDS = (
    "a folder of lm-eval's --log_samples output, a finished study's folder (runs/NAME), one of its runs "
    "(runs/NAME/models/RUN), a model's folder or hub id, or an adapter's folder"
)


@dataclass(frozen=True)
class Given:
    """What one argument brings.

    `runs`: run, recipe, model, seed, method, and a study's factors; `items`: `run` and the columns of
    `samples.ITEM_COLUMNS` (digest null where it was not kept); `metrics`: those of each task, the one decided
    on first; `settings`: how the models were asked, in words. `is_study`: it brings recipes of its own;
    `primary`: tasks that it decides on; `written`: those whose answers are generated text.
    """

    argument: str
    name: str
    runs: pl.DataFrame
    items: pl.DataFrame
    metrics: Mapping[str, tuple[str, ...]]
    costs: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=COST_COLUMNS))
    settings: Mapping[str, str] = field(default_factory=dict)
    is_study: bool = False
    primary: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()


def read_given(argument: str, score: Callable[[str, Path | None], Given]) -> Given:
    """What `argument` means. `score(model, adapter)` is called for models without scores.

    Raises:
        UserError: it is none of `KINDS`, or can't be read.
    """
    path = Path(argument)
    if path.is_file():
        remedy = "give the folder of its results, runs/NAME" if path.suffix in (".yaml", ".yml") else KINDS
        raise UserError("a file, not a folder", where=argument, remedy=remedy)
    # Its scores are there also where its weights were not kept.
    if (root := _study_around(path)) is not None:
        return from_study(argument, root, str(path.absolute().relative_to(root / "models")))
    if path.is_dir():
        if (path / "tables" / "runs.parquet").is_file():
            return from_study(argument, path, None)
        if is_samples_folder(path):
            return from_samples(argument, path)
        if (path / "adapter_config.json").is_file():
            return score(_base_of(path), path)
        if not (path / "config.json").is_file() and not list(path.glob("*.gguf")):
            raise UserError("nothing here can be compared", where=argument, remedy=f"give {KINDS}")
    elif argument.startswith((".", "/", "~")) or argument.count("/") > 1:
        raise UserError("there is no such folder", where=argument, remedy=f"give {KINDS}")
    return score(argument, None)


def single_model(
    argument: str,
    items: pl.DataFrame,
    metrics: Mapping[str, tuple[str, ...]],
    settings: Mapping[str, str],
    written: frozenset[str],
) -> Given:
    """One model that was trained elsewhere, or not at all: one run of a recipe that nothing is known of."""
    name = Path(argument).name or argument
    runs = pl.DataFrame(
        [{"run": argument, "recipe": name, "model": name, "seed": 0, "method": None, "state": "done"}],
        schema_overrides={"method": pl.String},
    )
    return Given(
        argument,
        name,
        runs,
        items.with_columns(run=pl.lit(argument)),
        metrics,
        settings=dict(settings),
        written=written,
    )


def from_samples(argument: str, folder: Path) -> Given:
    """A model that lm-eval scored."""
    logged = read_samples(folder)
    return single_model(argument, logged.items, logged.metrics, logged.settings, logged.written)


def from_study(argument: str, root: Path, run: str | None) -> Given:
    """All runs of a finished study, or one of them. Its references, which nobody trained, stay out.

    Raises:
        UserError: the folder lacks a table, one can't be read, or the study has no such run.
    """
    for name in ("summary.json", "costs.parquet", "scores.parquet"):
        if not (root / "tables" / name).is_file():
            raise UserError(f"{name} is missing", where=str(root), remedy="babeltune report STUDY.yaml")
    runs = pl.read_parquet(root / "tables" / "runs.parquet").filter(pl.col("method").ne_missing(REFERENCE))
    if run is not None:
        names = runs["run"].to_list()
        runs = runs.filter(pl.col("run") == run)
        if runs.is_empty():
            raise UserError(
                f"the study has no run {run!r}", where=str(root), remedy=f"one of {', '.join(names)}"
            )
    try:
        summary = json.loads((root / "tables" / "summary.json").read_text(encoding="utf-8"))
        tasks = [TaskInfo(**task) for task in summary["tasks"]]
        costs = pl.read_parquet(root / "tables" / "costs.parquet")
        items = _study_items(root, runs["run"].to_list())
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise UserError(
            f"its tables can't be read: {error}", where=str(root), remedy="babeltune report STUDY.yaml"
        ) from None
    return Given(
        argument,
        Path(argument).name or argument,
        runs,
        items,
        {task.task: (task.metric,) for task in tasks},
        costs.filter(pl.col("run").is_in(runs["run"].implode())),
        is_study=run is None,
        primary=frozenset(task.task for task in tasks if task.primary),
        written=frozenset(task.task for task in tasks if task.written),
    )


def _study_items(root: Path, runs: list[str]) -> pl.DataFrame:
    """Item scores of a study's runs: with prompts from its artifacts, without where only tables were kept."""
    (_, lock), folder = read_lock(root), StudyFolder(root)
    frames = []
    if lock and folder.artifacts.is_dir():
        for run in runs:
            for cell, job in lock["runs"].get(run, {}).get("scores", {}).items():
                path = folder.artifact(job) / "items.parquet"
                if path.is_file():
                    task, _, language = cell.rpartition("/")
                    for name, part in by_class(pl.read_parquet(path), task).items():
                        names = {"run": run, "task": name, "language": language}
                        frames.append(part.with_columns(pl.lit(v).alias(k) for k, v in names.items()))
    if not frames:
        frames = [pl.read_parquet(root / "tables" / "scores.parquet").filter(pl.col("run").is_in(runs))]
    columns = {"run": pl.String, **ITEM_COLUMNS}
    return pl.concat([_with_columns(frame, columns) for frame in frames])


def _with_columns(frame: pl.DataFrame, columns: Mapping[str, Any]) -> pl.DataFrame:
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in columns.items()
    )


def _study_around(path: Path) -> Path | None:
    """The study whose `models/` folder `path` lies in."""
    for parent in path.absolute().parents:
        if parent.name == "models" and (parent.parent / "tables" / "runs.parquet").is_file():
            return parent.parent
    return None


def _base_of(adapter: Path) -> str:
    file = adapter / "adapter_config.json"
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise UserError(f"not an adapter's settings: {error}", where=str(file)) from None
    if not base:
        raise UserError(
            "adapter_config.json does not say which model it is for",
            where=str(adapter),
            remedy="write its hub id or folder as base_model_name_or_path",
        )
    return str(base)

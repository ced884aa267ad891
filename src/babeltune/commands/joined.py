"""Joining what `compare` was given on the items that all have, refused where they were asked differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from babeltune.analysis.candidates import GIVEN, UNTOUCHED
from babeltune.analysis.points import POINTS_PER_UNIT, is_decidable
from babeltune.analysis.scores import TaskInfo
from babeltune.analysis.tables import Tables
from babeltune.commands.given import Given
from babeltune.errors import UserError
from babeltune.evaluate.samples import ITEM_COLUMNS
from babeltune.evaluate.task_entries import built_in
from babeltune.execute.columns import SCORE_COLUMNS
from babeltune.study import schema

CELL = ["task", "language"]
ITEM = [*CELL, "item"]


@dataclass(frozen=True)
class Joined:
    """Frames as a study has them, of common items only.

    `items`: with prompts and answers; `left_out`: in sentences.
    """

    tables: Tables
    items: pl.DataFrame
    tasks: tuple[TaskInfo, ...]
    languages: tuple[str, ...]
    left_out: tuple[str, ...]


def join(given: Sequence[Given], baseline: str | None) -> Joined:
    """Everything given, with `baseline` (an argument or a name; default: the first) in the untouched model's
    place.

    Raises:
        UserError: there are no common items, prompts of an item differ, or there is no such baseline.
    """
    given = _with_own_names(given)
    runs = _labelled(given, baseline)
    metrics, unusable = _metrics(given)
    frames = [_decided(one, metrics) for one in given]
    common = _common_items(given, frames)
    check_prompts(given, [frame.join(common, on=ITEM, how="semi") for frame in frames])
    items = pl.concat(frame.join(common, on=ITEM, how="semi") for frame in frames)
    _check_shares(items)
    labels = runs.select("run", "study", "model", "recipe", "seed")
    scores = items.join(labels, on="run", how="inner", maintain_order="left")
    cells = common.select(CELL).unique().sort(CELL)
    tasks = cells["task"].unique().sort().to_list()
    # What the studies given rest on, if all of them do.
    primary = frozenset.intersection(*(one.primary for one in given))
    return Joined(
        Tables(
            scores=scores.select(pl.col(name).cast(kind) for name, kind in SCORE_COLUMNS.items()),
            costs=pl.concat([one.costs for one in given], how="diagonal_relaxed"),
            runs=runs,
        ),
        scores,
        tuple(
            TaskInfo(
                task,
                metrics[task],
                task in primary,
                chance=_chance(task),
                written=all(task in one.written for one in given),
            )
            for task in tasks
        ),
        tuple(cells["language"].unique().sort().to_list()),
        (*unusable, *_only_in_some(given, frames, common)),
    )


def check_prompts(given: Sequence[Given], frames: Sequence[pl.DataFrame]) -> None:
    """Refuse items that were not asked in the same words.

    Raises:
        UserError: shows the first such item and where its prompts part.
    """
    columns = [*ITEM, "prompt_digest"]
    asked = frames[0].filter(pl.col("prompt_digest").is_not_null()).select(columns).unique()
    for one, frame in zip(given[1:], frames[1:], strict=True):
        known = frame.filter(pl.col("prompt_digest").is_not_null()).join(asked, on=ITEM, how="semi")
        other = known.join(asked, on=columns, how="anti").sort(ITEM)
        if other.height:
            n_items = other.select(ITEM).unique().height
            task, language, item = other.row(0, named=True)[ITEM[0]], other["language"][0], other["item"][0]
            raise UserError(
                f"the prompt of {n_items} items differs between {given[0].name} and {one.name}; first: "
                f"item {item} of {task} in {language}{_where_they_part(frames[0], other, item)}",
                remedy="score both with the same task version, examples shown, chat template and lm-eval",
            )


def _where_they_part(frame: pl.DataFrame, other: pl.DataFrame, item: str) -> str:
    here = other.filter(item=item).row(0, named=True)
    same_cell = {key: here[key] for key in ITEM}
    ours, theirs = frame.filter(**same_cell)["prompt"][0], here["prompt"]
    if ours is None or theirs is None:
        return ""
    if ours == theirs:
        return f" (both end in {_excerpt(ours, len(ours))}; choices, stop strings or the beginning differ)"
    at = next(
        (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    return f": {_excerpt(ours, at)} against {_excerpt(theirs, at)}"


def _excerpt(text: str, at: int) -> str:
    start = max(0, at - 20)
    cut = text[start : at + 40]
    return repr(f"{'…' if start else ''}{cut}{'…' if at + 40 < len(text) else ''}")


def _with_own_names(given: Sequence[Given]) -> list[Given]:
    """Where several studies are given, recipes and runs carry their study's name."""
    if sum(one.is_study for one in given) < 2:
        return list(given)

    def own(frame: pl.DataFrame, prefix: str) -> pl.DataFrame:
        names = [name for name in ("run", "recipe") if name in frame.columns]
        return frame.with_columns((pl.lit(prefix) + pl.col(name)).alias(name) for name in names)

    return [
        replace(
            one, **{name: own(getattr(one, name), f"{one.name}: ") for name in ("runs", "items", "costs")}
        )
        if one.is_study
        else one
        for one in given
    ]


def _labelled(given: Sequence[Given], baseline: str | None) -> pl.DataFrame:
    """The runs of all, with names that are theirs alone, and the baseline where untouched models stand."""
    frames = []
    for one in given:
        several = one.runs["model"].n_unique() > 1
        label = pl.concat_str("recipe", pl.lit(" · "), "model") if several else pl.col("recipe")
        frames.append(one.runs.with_columns(recipe=label, argument=pl.lit(one.argument)))
    runs = pl.concat(frames, how="diagonal_relaxed")
    clashes = runs.group_by("recipe").agg(pl.col("argument").n_unique()).filter(pl.col("argument") > 1)
    runs = runs.with_columns(
        recipe=pl.when(pl.col("recipe").is_in(clashes["recipe"].implode())).then("run").otherwise("recipe")
    )
    if runs["recipe"].n_unique() < 2:
        raise UserError("there is one model only", remedy="give two or more to compare")
    base = _baseline(runs, given, baseline)
    is_base = pl.col("recipe") == base
    # What was not trained is compared as it is; beside recipes with several seeds so are single models.
    as_it_is = pl.col("method") == UNTOUCHED
    if runs["recipe"].is_duplicated().any():
        as_it_is |= pl.col("method").is_null()
    method = (
        pl.when(is_base)
        .then(pl.lit(UNTOUCHED))
        .when(as_it_is)
        .then(pl.lit(GIVEN))
        .otherwise(pl.col("method"))
    )
    return runs.with_columns(
        study=pl.lit(" and ".join(one.name for one in given)),
        model=pl.lit("all"),
        method=method,
    ).drop("argument")


def _baseline(runs: pl.DataFrame, given: Sequence[Given], wanted: str | None) -> str:
    labels = runs["recipe"].unique(maintain_order=True).to_list()
    of_argument = runs.filter(argument=wanted or given[0].argument)
    if of_argument["recipe"].n_unique() > 1:  # of a study: the model that its recipes started from
        of_argument = of_argument.filter(pl.col("method") == UNTOUCHED)
    named = runs.filter((pl.col("recipe") == (wanted or "")) | (pl.col("run") == (wanted or "")))
    chosen = (of_argument if of_argument.height else named)["recipe"].unique()
    if len(chosen) != 1:
        raise UserError(
            f"{wanted or given[0].argument} does not name one model to compare with",
            where="--baseline",
            remedy=f"one of {', '.join(labels)}",
        )
    if runs.filter(recipe=chosen[0]).height > 1:
        raise UserError(
            f"{chosen[0]} was trained with several seeds",
            where="--baseline",
            remedy="name a model, not a recipe",
        )
    return chosen[0]


def _metrics(given: Sequence[Given]) -> tuple[dict[str, str], list[str]]:
    """The metric that each task is decided on, the first that all have; sentences on tasks without one."""
    found, unusable = {}, []
    tasks = dict.fromkeys(task for one in given for task in one.metrics)
    for task in tasks:
        shared = [set(one.metrics[task]) for one in given if task in one.metrics]
        first = next(one.metrics[task] for one in given if task in one.metrics)
        usable = [name for name in first if all(name in names for names in shared) and is_decidable(name)]
        if usable:
            found[task] = usable[0]
        else:
            unusable.append(f"{task} is left out: {', '.join(first)} can't be stated in points")
    return found, unusable


def _decided(one: Given, metrics: Mapping[str, str]) -> pl.DataFrame:
    wanted = pl.DataFrame(
        list(metrics.items()), schema={"task": pl.String, "metric": pl.String}, orient="row"
    )
    decided = one.items.join(wanted, on=["task", "metric"], how="semi").filter(pl.col("value").is_not_null())
    return decided.select("run", *ITEM_COLUMNS)


def _common_items(given: Sequence[Given], frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    common = frames[0].select(ITEM).unique()
    for frame in frames[1:]:
        common = common.join(frame.select(ITEM), on=ITEM, how="semi")
    # One item has no variance: such a cell can't be compared.
    common = common.filter(pl.len().over(CELL) > 1)
    if common.is_empty():
        has = "\n".join(f"  {one.name}: {_contents(frame)}" for one, frame in zip(given, frames, strict=True))
        raise UserError(
            f"nothing in common to compare:\n{has}",
            remedy="score them on the same tasks, languages and items",
        )
    return common


def _contents(frame: pl.DataFrame) -> str:
    cells = frame.group_by(CELL).agg(first=pl.col("item").min(), n=pl.col("item").n_unique()).sort(CELL)
    shown = [
        f"{c['task']} {c['language']} ({c['n']} items, {c['first']} …)" for c in cells.head(6).to_dicts()
    ]
    return ", ".join([*shown, *(["…"] if cells.height > 6 else [])]) or "no item scores"


def _only_in_some(given: Sequence[Given], frames: Sequence[pl.DataFrame], common: pl.DataFrame) -> list[str]:
    """Sentences on what is not compared, as not all have it."""
    found = []
    cells = common.select(CELL).unique()
    for one, frame in zip(given, frames, strict=True):
        more = frame.select(ITEM).unique().join(common, on=ITEM, how="anti")
        inside = more.join(cells, on=CELL, how="semi").height
        names = more.join(cells, on=CELL, how="anti").select(CELL).unique().sort(CELL).rows()
        if names:
            listed = ", ".join(f"{task} {language}" for task, language in names[:8])
            found.append(f"only {one.name} has {listed}{' …' if len(names) > 8 else ''}: left out")
        if inside:
            found.append(f"{inside} items that only {one.name} has are left out")
    return found


def _check_shares(items: pl.DataFrame) -> None:
    """Scores that points are made of are shares; some tasks of lm-eval give percentages."""
    shares = [name for name, points in POINTS_PER_UNIT.items() if points > 0]
    wrong = items.filter(pl.col("metric").is_in(shares) & ~pl.col("value").is_between(0, 1))
    if wrong.height:
        row = wrong.row(0, named=True)
        raise UserError(
            f"{row['metric']} of {row['task']} is {row['value']:g} for item {row['item']}, "
            "not a share from 0 to 1",
            where=row["run"],
            remedy="leave that task's samples out of the folder",
        )


def _chance(task: str) -> float | None:
    ours = built_in(schema.Task(name=task))
    return ours.chance if ours else None

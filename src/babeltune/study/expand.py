"""From a study file to its runs: grids multiplied out, defaults filled in, every name decided.

Pure: nothing here looks at a file, a model or the network.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from babeltune.errors import UserError
from babeltune.study.schema import Recipe, Stage, StudyFile, Task, Training
from babeltune.study.settings import StageSettings

UNTOUCHED = "untouched"
REFERENCE = "reference"

# Setting one key of a group at a nearer level (recipe, stage) replaces the whole group of a farther one.
EXCLUSIVE = (
    ("num_train_epochs", "max_steps"),
    ("batch_size", "batch_tokens"),
    ("warmup_ratio", "warmup_steps"),
)
SHORT_KEYS = {
    "data": "",
    "r": "r",
    "bits": "b",
    "learning_rate": "lr",
    "num_train_epochs": "ep",
    "batch_size": "bs",
    "loraplus_lr_ratio": "loraplus",
    "optim": "",
}


@dataclass(frozen=True)
class StageSpec:
    """A training stage: how (`settings`) and on what (`data`, the name of a mixture or dataset)."""

    settings: StageSettings
    data: str


@dataclass(frozen=True)
class RunSpec:
    """One recipe on one model with one seed. `stages` is empty for untouched models and foreign adapters."""

    recipe: str
    model: str
    seed: int
    stages: tuple[StageSpec, ...] = ()
    adapter: str | None = None
    if_unfit: Literal["skip", "fail"] = "skip"
    devices: int = 1
    given_cost: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The readable name: `lora-r64-b4/Qwen3-8B/seed0`, `untouched/Qwen3-8B`."""
        return f"{self.recipe}/{self.model}" + (f"/seed{self.seed}" if self.stages else "")


@dataclass(frozen=True)
class TaskPlan:
    """One task of the study with its options decided, and the languages it is scored in."""

    task: Task
    num_fewshot: int | None
    limit: int | None
    chat: bool
    guard_only: bool

    @property
    def name(self) -> str:
        """The task's name in tables; the chat-template form is marked."""
        return self.task.short_name + ("+chat" if self.chat else "")


def class_name(task: str, label: str) -> str:
    """The name of one class of a judged task, which is a task of its own in tables: `belle: open qa`."""
    bare = task.removesuffix("+chat")
    return f"{bare}: {label}{task.removeprefix(bare)}"


def whole_task(name: str) -> str:
    """The task that a class belongs to, in the same form; any other task is whole itself."""
    bare, mark, label = name.partition(": ")
    return f"{bare}+chat" if mark and label.endswith("+chat") else bare


def expand_runs(study: StudyFile) -> list[RunSpec]:
    """Every run of the study: untouched models first, then seed by seed.

    An early stop then leaves whole seeds of every recipe, not every seed of a few.

    Raises:
        UserError: a recipe names data, models or values that can't be resolved.
    """
    models = [model.short_name for model in study.models]
    seeds = list(range(study.seeds)) if isinstance(study.seeds, int) else study.seeds
    runs = [RunSpec(UNTOUCHED, model, 0) for model in models]
    variants = list(expand_recipes(study))
    for recipe_name, recipe, _ in variants:
        if recipe.adapter:
            assert recipe.model is not None
            runs.append(
                RunSpec(
                    recipe_name,
                    recipe.model,
                    0,
                    adapter=recipe.adapter,
                    given_cost={str(key): value for key, value in recipe.cost.items()},
                )
            )
    for seed, model, (name, recipe, stages) in itertools.product(seeds, models, variants):
        if not recipe.adapter and (recipe.models is None or model in recipe.models):
            runs.append(RunSpec(name, model, seed, stages, if_unfit=recipe.if_unfit, devices=recipe.devices))
    return runs


def expand_recipes(study: StudyFile) -> Iterator[tuple[str, Recipe, tuple[StageSpec, ...]]]:
    """Each recipe of the file with its grid multiplied out: (name, the file's recipe, its stages)."""
    for entry_name, recipe in study.recipes.items():
        if recipe.adapter:
            yield entry_name, recipe, ()
            continue
        for values in grid_points(recipe):
            parts = [
                entry_name,
                *(f"{SHORT_KEYS.get(key, key)}{_compact(value)}" for key, value in values.items()),
            ]
            yield "-".join(parts), recipe, _stages(study, recipe, values, entry_name)


def grid_points(recipe: Recipe) -> list[dict[str, Any]]:
    """The combinations a grid stands for; `one_at_a_time` varies each key around the first values."""
    grid = recipe.grid
    if not grid:
        return [{}]
    if recipe.design == "full":
        return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    centre = {key: values[0] for key, values in grid.items()}
    return [centre] + [{**centre, key: value} for key, values in grid.items() for value in values[1:]]


def expand_tasks(study: StudyFile) -> list[TaskPlan]:
    """The study's tasks, in both chat forms where asked, with few-shot count and limit decided."""
    chat_forms = {True: [True], False: [False], "both": [False, True]}[study.eval.apply_chat_template]
    entries = [(entry, False) for entry in study.eval.tasks] + [
        (entry, True) for entry in study.eval.guard_tasks
    ]
    plans = []
    for entry, guard_only in entries:
        task = Task(name=entry) if isinstance(entry, str) else entry
        shots = study.eval.num_fewshot if task.num_fewshot is None else task.num_fewshot
        plans += [
            TaskPlan(task, shots, task.limit or study.eval.limit, chat, guard_only) for chat in chat_forms
        ]
    return plans


def _stages(study: StudyFile, recipe: Recipe, values: dict[str, Any], name: str) -> tuple[StageSpec, ...]:
    levels: list[Training] = [study.defaults, recipe]
    entries: list[Stage | None] = list(recipe.stages) if recipe.stages else [None]
    stages = []
    for position, stage in enumerate(entries):
        merged = _merge([*levels, *([stage] if stage else [])], values)
        is_last = position == len(entries) - 1
        then = "keep" if is_last else ((stage and stage.then) or "merge")
        settings = resolve_settings(merged, then=then, where=f"recipes.{name}")
        stages.append(StageSpec(settings, _data_name(study, merged.get("data"), name)))
    return tuple(stages)


def _merge(levels: list[Training], values: dict[str, Any]) -> dict[str, Any]:
    """The keys of all levels, nearer ones winning; grid values are nearest."""
    fields = set(Training.model_fields)
    merged: dict[str, Any] = {"peft": {}}
    # Through the schema, so that `30k` and `1` mean in a grid what they mean elsewhere.
    in_schema = Training.model_validate({key: value for key, value in values.items() if key in fields})
    grid_fields = in_schema.model_dump(exclude_unset=True)
    layers = [level.model_dump(include=fields, exclude_unset=True, exclude_none=True) for level in levels]
    for layer in [*layers, grid_fields]:
        for group in EXCLUSIVE:
            if any(key in layer for key in group):
                for key in group:
                    merged.pop(key, None)
        merged["peft"] = {**merged["peft"], **layer.get("peft", {})}
        merged.update({key: value for key, value in layer.items() if key != "peft"})
    merged["peft"].update({key: value for key, value in values.items() if key not in fields})
    return merged


def resolve_settings(merged: dict[str, Any], *, then: Literal["merge", "keep"], where: str) -> StageSettings:
    """`merged` keys with every default filled in.

    Raises:
        UserError: no method.
    """
    if merged.get("method") is None:
        raise UserError("no `method`", where=where, remedy="say `method: lora` or `method: full`")
    settings = {key: value for key, value in merged.items() if key != "data"}
    rate = settings.pop("learning_rate", "search")
    if "max_steps" in settings:
        settings["num_train_epochs"] = None
    if "batch_tokens" in settings:
        settings["batch_size"] = None
    if isinstance(settings.get("target_modules"), list):
        settings["target_modules"] = tuple(settings["target_modules"])
    rank = settings.get("r", StageSettings.r)
    settings["lora_alpha"] = _alpha(settings.get("lora_alpha", "2r"), rank)
    return StageSettings(learning_rate=None if rate == "search" else rate, **settings, then=then)


def _alpha(alpha: float | str, rank: int) -> float:
    """A number, or a multiple of the rank: `2r`, `0.5r`, `r`."""
    return float(alpha) if not isinstance(alpha, str) else float(alpha.removesuffix("r") or 1) * rank


def _data_name(study: StudyFile, data: str | None, recipe: str) -> str:
    if data is not None:
        return data
    names = list(study.mixtures) or (["all"] if len(study.datasets) != 1 else list(study.datasets))
    if len(names) == 1:
        return names[0]
    raise UserError(
        f"the study has several mixtures ({', '.join(names)}) and the recipe does not say which it trains on",
        where=f"recipes.{recipe}",
        remedy="add `data: NAME` to the recipe or to `defaults`",
    )


def _compact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "+".join(map(str, value))
    return str(value)

"""Rules of a study file that reach over several keys: references, combinations, things given twice.

They look at the plain data, so that they are checked even where single values are wrong: a user gets all
problems of a file in one go. What is of the wrong type is passed over here; `translate.py` reports it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import TypeAdapter, ValidationError

from babeltune.study.describe import in_words
from babeltune.study.expand import EXCLUSIVE, REFERENCE, UNTOUCHED
from babeltune.study.peft_options import lora_options
from babeltune.study.schema import Model, Training
from babeltune.study.suggest import nearest, suggest
from babeltune.study.text import Place, StudyText, items, mappings, shown

LORA_KEYS = ("r", "lora_alpha", "lora_dropout", "target_modules", "loraplus_lr_ratio")
# Keys of a recipe that say nothing about training, so that they may stand with `adapter`.
FOREIGN_KEYS = {"adapter", "model", "cost"}


def check_rules(text: StudyText) -> None:
    """Record every rule that the file breaks in `text.problems`."""
    _languages(text)
    _models(text)
    _datasets(text)
    _mixtures(text)
    _recipes(text)
    _evaluation(text)
    _money(text)


def _languages(text: StudyText) -> None:
    spoken = text.data.get("languages")
    target = items(spoken, "target")
    for position, code in enumerate(items(spoken, "guard")):
        if code in target:
            text.wrong(
                ("languages", "guard", position),
                f"`{code}` is a target too",
                "take it out of one of the lists",
            )


def _models(text: StudyText) -> None:
    names = _model_names(text)
    for position, name in enumerate(names):
        if name is not None and name in names[:position]:
            text.wrong(("models", position), f"a second model named `{name}`", "give one of them a `name:`")


def _model_names(text: StudyText) -> list[str | None]:
    """Short names by position; None for an entry that has none."""
    names: list[str | None] = []
    for model in items(text.data, "models"):
        path, name = (model.get("path"), model.get("name")) if isinstance(model, dict) else (None, None)
        known = isinstance(path, str) and (name is None or isinstance(name, str))
        names.append(Model.model_construct(path=path, name=name).short_name if known else None)
    return names


def _datasets(text: StudyText) -> None:
    for name, dataset in mappings(text.data, "datasets"):
        place = ("datasets", name)
        needs_files = dataset.get("path") in ("json", "csv", "parquet", "text")
        if needs_files and not dataset.get("data_files") and not text.is_wrong(place):
            text.wrong((*place, "path"), f"`{dataset['path']}` needs `data_files`", "add `data_files: FILE`")
        _not_both(dataset, "language", "language_column", place, text)


def _mixtures(text: StudyText) -> None:
    mixtures = dict(mappings(text.data, "mixtures"))
    datasets = text.data.get("datasets")
    known = list(datasets) if isinstance(datasets, dict) else []
    for name, mixture in mixtures.items():
        place: Place = ("mixtures", name)
        if name in known and name not in items(mixture, "datasets"):
            text.wrong(place, "a dataset that is not in it has this name too", "rename one of them")
        for position, dataset in enumerate(items(mixture, "datasets")):
            if isinstance(dataset, str) and dataset not in known:
                text.wrong(
                    (*place, "datasets", position),
                    f"no dataset is named `{dataset}`",
                    nearest(dataset, known),
                )
        if isinstance(mixture.get("subset_of"), str):
            _subset(name, mixtures, text)
        for other in ("max_examples", "max_tokens", "balance"):
            _not_both(mixture, "sizes", other, place, text)
        replay = mixture.get("replay")
        if isinstance(replay, dict) and _sum(replay.values()) >= 1:
            text.wrong(
                (*place, "replay"), "the shares leave nothing for other languages", "keep their sum below 1"
            )


def _subset(name: str, mixtures: dict[str, dict[str, Any]], text: StudyText) -> None:
    """A subset names another mixture, does not come back to itself, and is the smaller one."""
    mixture, place = mixtures[name], ("mixtures", name)
    parent = mixture["subset_of"]
    if parent not in mixtures:
        others = [other for other in mixtures if other != name]
        text.wrong((*place, "subset_of"), f"no mixture is named `{parent}`", nearest(parent, others))
        return
    chain = [name]
    while isinstance(parent, str) and parent in mixtures:
        chain.append(parent)
        if parent in chain[:-1]:
            circle = chain[chain.index(parent) :]
            if name == next(known for known in mixtures if known in circle):  # once a circle, at its first
                ring = ", ".join(f"`{known}`" for known in circle)
                text.wrong(
                    (*place, "subset_of"), f"goes in a circle: {ring}", "let one of them name datasets"
                )
            return
        parent = mixtures[parent].get("subset_of")
    for key in sorted(mixture.keys() - {"subset_of", "max_examples", "max_tokens"}):
        text.wrong(
            (*place, key), "does not go with `subset_of`: a subset has it from its parent", "take it out"
        )


def _recipes(text: StudyText) -> None:
    defaults = text.data.get("defaults")
    defaults = defaults if isinstance(defaults, dict) else {}
    _training(defaults, ("defaults",), text)
    for name, recipe in mappings(text.data, "recipes"):
        place: Place = ("recipes", name)
        if name == UNTOUCHED:
            text.wrong(place, f"`{UNTOUCHED}` names the models as they come", "choose another name")
        if name == REFERENCE:
            text.wrong(place, f"`{REFERENCE}` names larger models to compare with", "choose another name")
        if "adapter" in recipe:
            _foreign_adapter(recipe, place, text)
            continue
        for key, needs in (("cost", "adapter"), ("model", "adapter"), ("design", "grid")):
            if key in recipe and needs not in recipe:
                remedy = (
                    "`models:` limits a recipe to some models"
                    if key == "model"
                    else f"add `{needs}:` or take it out"
                )
                text.wrong((*place, key), f"goes only with `{needs}`", remedy)
        _named_models(recipe, place, text)
        _training(recipe, place, text)
        _grid(recipe, place, text)
        if "stages" in recipe:
            _stages(recipe, defaults, place, text)
        else:
            _method(_layers(defaults, recipe), recipe, place, text)
        _data_is_clear(defaults, recipe, place, text)


def _foreign_adapter(recipe: dict[str, Any], place: Place, text: StudyText) -> None:
    if "model" not in recipe:
        names = [name for name in _model_names(text) if name]
        text.wrong(
            (*place, "model"), "missing", f"add the model that it belongs to: {_either('model', names)}"
        )
    elif isinstance(recipe["model"], str):
        _reference(
            recipe["model"], [name for name in _model_names(text) if name], "model", (*place, "model"), text
        )
    for key in recipe:
        if key not in FOREIGN_KEYS:
            text.wrong((*place, key), "does not go with `adapter`, which is not trained here", "take it out")


def _named_models(recipe: dict[str, Any], place: Place, text: StudyText) -> None:
    names = [name for name in _model_names(text) if name]
    for position, name in enumerate(items(recipe, "models")):
        if isinstance(name, str):
            _reference(name, names, "model", (*place, "models", position), text)


def _training(section: dict[str, Any], place: Place, text: StudyText) -> None:
    """What must hold inside one mapping of training keys."""
    for one, other in EXCLUSIVE:
        _not_both(section, one, other, place, text)
    if isinstance(data := section.get("data"), str):
        _reference(data, _data_names(text), "mixture or dataset", (*place, "data"), text)


def _method(layers: dict[str, Any], nearest_layer: dict[str, Any], place: Place, text: StudyText) -> None:
    """The method is given, and the keys that hold for this recipe or stage go with it.

    `layers` are all keys that hold, `nearest_layer` those written at `place` itself. A grid may vary the
    method.
    """
    grid = layers.get("grid")
    grid = grid if isinstance(grid, dict) else {}
    methods = grid.get("method", [layers.get("method")])
    if "method" not in grid and layers.get("method") is None and not text.is_wrong((*place, "method")):
        text.wrong((*place, "method"), "missing", "add `method: lora` or `method: full`")
    if not isinstance(methods, list) or "full" not in methods:
        return
    widths = grid["bits"] if isinstance(grid.get("bits"), list) else [layers.get("bits")]
    for width in widths:
        if width in (4, 8):
            inherited = "bits" not in nearest_layer and "bits" not in grid
            text.wrong(
                (*place, "grid", "bits") if "bits" in grid else (*place, "bits") if not inherited else place,
                f"`method: full` can't train a model of {width} bits"
                + (" (`bits` is set further up)" if inherited else ""),
                "add `bits: 16`" if inherited else "take `bits` out, or write `method: lora`",
            )
    if methods == ["full"]:
        peft = nearest_layer.get("peft")
        written: list[Place] = [(key,) for key in LORA_KEYS if key in nearest_layer]
        written += [("peft", option) for option in (peft if isinstance(peft, dict) else ())]
        written += [("grid", key) for key in grid if key in LORA_KEYS or key not in Training.model_fields]
        for key in written:
            text.wrong((*place, *key), "belongs to `method: lora`", "take it out, or write `method: lora`")


def _grid(recipe: dict[str, Any], place: Place, text: StudyText) -> None:
    grid = recipe.get("grid")
    for key, values in grid.items() if isinstance(grid, dict) else ():
        inside: Place = (*place, "grid", key)
        known = [name for name in Training.model_fields if name != "peft"]
        if key not in known and key not in lora_options():
            text.wrong(inside, "unknown key", suggest(key, known, list(lora_options())))
            continue
        if key in recipe:
            text.wrong((*place, key), "stands in the recipe's grid too", "keep one of them")
        for position, value in enumerate(values if isinstance(values, list) else []):
            _grid_value(key, value, (*inside, position), text)
            if value in values[:position]:
                text.wrong((*inside, position), "is in the list already", "take it out")
    for one, other in EXCLUSIVE:
        if isinstance(grid, dict):
            _not_both(grid, one, other, (*place, "grid"), text)
            for here, there in ((one, other), (other, one)):
                if here in recipe and there in grid:
                    text.wrong((*place, here), f"`{there}` in the grid takes its place", "keep one of them")


def _grid_value(key: str, value: Any, place: Place, text: StudyText) -> None:
    if key not in Training.model_fields:
        return  # PEFT's; PEFT checks it
    kind: Any = Training.model_fields[key].annotation
    try:
        fits = value is not None and TypeAdapter(kind).validate_python(value, strict=True) is not None
    except ValidationError:
        fits = False
    if not fits:
        text.wrong(place, f"`{shown(value)}` is no value of `{key}`", f"values: {in_words(kind)}")
    if key == "data" and isinstance(value, str):
        _reference(value, _data_names(text), "mixture or dataset", place, text)


def _stages(recipe: dict[str, Any], defaults: dict[str, Any], place: Place, text: StudyText) -> None:
    if "method" in recipe:
        text.wrong((*place, "method"), "does not go with `stages`: each stage has its own", "take it out")
    grid = recipe.get("grid") if isinstance(recipe.get("grid"), dict) else {}
    stages = items(recipe, "stages")
    for position, stage in enumerate(stages):
        if not isinstance(stage, dict):
            continue
        inside: Place = (*place, "stages", position)
        _training(stage, inside, text)
        _method(_layers(defaults, recipe, stage), stage, inside, text)
        for key in grid or ():
            if key in stage:
                text.wrong(
                    (*inside, key), "the recipe's grid sets it for every stage", "take it out of one of them"
                )
        following = stages[position + 1] if position + 1 < len(stages) else None
        if isinstance(following, dict):
            following = _layers(defaults, recipe, following)
        if "then" in stage:
            _then(_layers(defaults, recipe, stage), following, inside, text)


def _then(stage: dict[str, Any], following: Any, place: Place, text: StudyText) -> None:
    """`then` refers to the next stage: there must be one, and `keep` needs it to train an adapter.

    That it trains the same one is seen in what the stages resolve to (`load.py`).
    """
    if following is None:
        text.wrong((*place, "then"), "no stage follows", "take it out")
    elif stage.get("method") == "full":
        text.wrong((*place, "then"), "belongs to a `method: lora` stage", "take it out")
    elif stage["then"] == "keep" and isinstance(following, dict) and following.get("method") == "full":
        text.wrong((*place, "then"), "the next stage has `method: full`, no adapter", "write `then: merge`")


def _data_is_clear(defaults: dict[str, Any], recipe: dict[str, Any], place: Place, text: StudyText) -> None:
    """Every recipe, or every stage of it, says what it trains on where there is a choice."""
    grid = recipe.get("grid")
    said = "data" in defaults or "data" in recipe or (isinstance(grid, dict) and "data" in grid)
    stages = [stage for stage in items(recipe, "stages") if isinstance(stage, dict)]
    if said or (stages and all("data" in stage for stage in stages)):
        return
    mixtures = text.data.get("mixtures")
    if not _data_names(text):
        text.wrong(("datasets",), "missing", "name the data to train on")
    elif isinstance(mixtures, dict) and len(mixtures) > 1:
        text.wrong(
            (*place, "data"),
            "missing, and there are several mixtures",
            f"add {_either('data', list(mixtures))}",
        )


def _evaluation(text: StudyText) -> None:
    evaluation = text.data.get("eval")
    seen: set[str] = set()
    for key in ("tasks", "guard_tasks"):
        for position, task in enumerate(items(evaluation, key)):
            place: Place = ("eval", key, position)
            if isinstance(task, str) and task.endswith((".jsonl", ".json", ".jsonl.gz")):
                text.wrong(place, f"`{task}` is a file", f"write `{{path: {task}, metric: …}}`")
            if isinstance(task, dict):
                _own_items(task, place, text)
            name = _task_name(task)
            if name is not None:
                if name in seen:
                    remedy = "rename the file" if isinstance(task, dict) and "path" in task else "take it out"
                    text.wrong(place, f"`{name}` is the name of a task above", remedy)
                seen.add(name)
    seeds = items(text.data, "seeds")
    for position, seed in enumerate(seeds):
        if seed in seeds[:position]:
            text.wrong(("seeds", position), f"the seed {seed} is in the list already", "take it out")


def _own_items(task: dict[str, Any], place: Place, text: StudyText) -> None:
    evaluation = text.data["eval"]
    if task.get("metric") == "judge" and "judge" not in evaluation:
        text.wrong(
            (*place, "metric"), "needs a judge", "add `judge: {model: NAME, base_url: ADDRESS}` to `eval`"
        )
    for key in ("metric", "language", "max_gen_toks"):
        if key in task and "path" not in task:
            text.wrong((*place, key), "belongs to own items, given by `path`", "take it out")


def _task_name(task: Any) -> str | None:
    """The name in tables, which two tasks can't share: as `Task.short_name`, spelt in one way."""
    if isinstance(task, dict):
        path = task.get("path")
        name = (
            task.get("name") if path is None else str(path).rstrip("/").split("/")[-1].removesuffix(".jsonl")
        )
    else:
        name = task
    return name.lower().replace("-", "").replace("_", "") if isinstance(name, str) else None


def _money(text: StudyText) -> None:
    budget, decide = text.data.get("budget"), text.data.get("decide")
    priced = isinstance(budget, dict) and budget.get("price_per_gpu_hour") is not None
    if isinstance(budget, dict) and "price" in budget and not priced:
        text.wrong(("budget", "price"), "needs `price_per_gpu_hour`", "add `price_per_gpu_hour:` to `budget`")
    if isinstance(decide, dict) and decide.get("cheapest") == "price" and not priced:
        text.wrong(("decide", "cheapest"), "`price` needs a price", "add `price_per_gpu_hour:` to `budget`")


def _layers(*layers: dict[str, Any]) -> dict[str, Any]:
    """The keys that hold, nearer layers winning."""
    return {key: value for layer in layers for key, value in layer.items() if value is not None}


def _not_both(section: dict[str, Any], one: str, other: str, place: Place, text: StudyText) -> None:
    if section.get(one) is not None and section.get(other) is not None:
        text.wrong((*place, other), f"does not go with `{one}`", "keep one of them")


def _data_names(text: StudyText) -> list[str]:
    found = [text.data.get("mixtures"), text.data.get("datasets")]
    return [name for section in found if isinstance(section, dict) for name in section]


def _reference(name: str, known: Collection[str], what: str, place: Place, text: StudyText) -> None:
    if name not in known:
        text.wrong(place, f"no {what} is named `{name}`", nearest(name, known))


def _either(key: str, names: Collection[str]) -> str:
    return " or ".join(f"`{key}: {name}`" for name in names)


def _sum(values: Collection[Any]) -> float:
    return sum(value for value in values if isinstance(value, (int, float)))

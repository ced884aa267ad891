"""Reading a study file: every problem in it at once, by file, line and field, with what to write instead."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from babeltune import languages
from babeltune.errors import UserError
from babeltune.study.expand import expand_recipes
from babeltune.study.peers import PEERS
from babeltune.study.peft_options import lora_options
from babeltune.study.rules import check_rules
from babeltune.study.schema import Recipe, Stage, StudyFile, Training
from babeltune.study.settings import why_not_kept
from babeltune.study.suggest import nearest
from babeltune.study.text import Place, StudyText, items, mappings, read_yaml_with_lines
from babeltune.study.translate import translate_broken_rules, translate_wrong_values


def load_study(path: Path) -> StudyFile:
    """The study that `path` describes, with language codes normalised and its name decided.

    Raises:
        StudyFileError: the file can't be used; it holds every problem found, in the order of their lines.
    """
    text = read_yaml_with_lines(path)
    text.data.setdefault("name", _name_from(path))
    _normalise_languages(text)
    _drop_open_keys(text)
    _move_peft_options(text)
    try:
        study = StudyFile.model_validate(text.data)
    except ValidationError as error:
        translate_wrong_values(error, text)
        check_rules(text)
        translate_broken_rules(error, text)
        raise text.error() from None
    check_rules(text)
    if not text.problems:
        _check_run_names(study, text)
        _check_kept_adapters(study, text)
    if text.problems:
        raise text.error()
    return study


def _name_from(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "study"


def _normalise_languages(text: StudyText) -> None:
    """Normalise every language code of the file in place. English as a target is no guard by default."""
    spoken = text.data.get("languages")
    if isinstance(spoken, dict):
        _normalise_items(spoken, ("languages", "target"), text)
        _normalise_items(spoken, ("languages", "guard"), text)
        if "guard" not in spoken and "en" in items(spoken, "target"):
            spoken["guard"] = []
    for name, dataset in mappings(text.data, "datasets"):
        if isinstance(code := dataset.get("language"), str):
            dataset["language"] = _normalised(code, ("datasets", name, "language"), text)
    for key in ("tasks", "guard_tasks"):
        for position, task in enumerate(items(text.data.get("eval"), key)):
            if isinstance(task, dict) and isinstance(code := task.get("language"), str):
                task["language"] = _normalised(code, ("eval", key, position, "language"), text)
    for name, mixture in mappings(text.data, "mixtures"):
        _normalise_items(mixture, ("mixtures", name, "languages"), text)
        _normalise_keys(mixture, ("mixtures", name, "sizes"), text)
        _normalise_keys(mixture, ("mixtures", name, "replay"), text)


def _normalised(code: str, place: Place, text: StudyText) -> str:
    try:
        return languages.normalise(code)
    except UserError as error:
        text.wrong(place, error.message, error.remedy)
        return code


def _normalise_items(section: dict[str, Any], place: Place, text: StudyText) -> None:
    """Normalise the list of codes at `place`, whose last part is its key in `section`."""
    key = str(place[-1])
    known: list[Any] = []
    for position, code in enumerate(items(section, key)):
        normal = _normalised(code, (*place, position), text) if isinstance(code, str) else code
        if normal in known:
            text.wrong((*place, position), f"`{code}` is in the list already", "take it out")
        known.append(normal)
    if known:
        section[key] = known


def _normalise_keys(section: dict[str, Any], place: Place, text: StudyText) -> None:
    """Normalise the codes that are the keys of the mapping at `place`."""
    key = str(place[-1])
    if not isinstance(by_code := section.get(key), dict):
        return
    known: dict[str, Any] = {}
    for code, value in by_code.items():
        normal = _normalised(code, (*place, code), text)
        if normal in known:
            text.wrong((*place, code), f"the language `{normal}` is given twice", "keep one of them")
        text.renamed((*place, code), (*place, normal))
        known[normal] = value
    section[key] = known


def _drop_open_keys(text: StudyText) -> None:
    """Take `r: null` for a key left open."""
    for section, _, schema in _training_sections(text.data):
        for key in [key for key, value in section.items() if value is None and key in schema.model_fields]:
            if schema.model_fields[key].default is None:
                del section[key]


def _move_peft_options(text: StudyText) -> None:
    """Move PEFT's options that stand beside `r` into `peft`, where the schema has them."""
    for section, place, schema in _training_sections(text.data):
        peft = section.get("peft", {})
        if not isinstance(peft, dict):
            continue
        for option in peft:
            if option in Training.model_fields:
                text.wrong(
                    (*place, "peft", option), "not an option of `peft`", f"write `{option}:` beside it"
                )
            elif option not in lora_options():
                text.wrong(
                    (*place, "peft", option), "PEFT has no such option", nearest(option, lora_options())
                )
        beside = [key for key in section if key not in schema.model_fields and key not in PEERS]
        for key in beside:
            if key in lora_options():
                if key in peft:
                    text.wrong((*place, key), "stands under `peft` too", "keep one of them")
                text.renamed((*place, key), (*place, "peft", key))
                peft[key] = section.pop(key)
        if peft:
            section["peft"] = peft


def _training_sections(data: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Place, type[Training]]]:
    """Every mapping of training keys in the file: `defaults`, the recipes, their stages."""
    if isinstance(defaults := data.get("defaults"), dict):
        yield defaults, ("defaults",), Training
    for name, recipe in mappings(data, "recipes"):
        yield recipe, ("recipes", name), Recipe
        for position, stage in enumerate(items(recipe, "stages")):
            if isinstance(stage, dict):
                yield stage, ("recipes", name, "stages", position), Stage


def _check_run_names(study: StudyFile, text: StudyText) -> None:
    """Two recipes, grids multiplied out, must not come to the same name."""
    seen: dict[str, str] = {}
    entry_of = {id(recipe): name for name, recipe in study.recipes.items()}
    for name, recipe, _ in expand_recipes(study):
        entry = entry_of[id(recipe)]
        if name in seen:
            text.wrong(
                ("recipes", entry),
                f"its runs would be named `{name}`, as those of `{seen[name]}`",
                "rename one of the recipes",
            )
        seen[name] = entry


def _check_kept_adapters(study: StudyFile, text: StudyText) -> None:
    """A stage that goes on with an adapter must describe the one that there is."""
    entry_of = {id(recipe): name for name, recipe in study.recipes.items()}
    for _, recipe, stages in expand_recipes(study):
        for position, (stage, following) in enumerate(itertools.pairwise(stages)):
            why = why_not_kept(stage.settings, following.settings)
            if why is not None:
                place: Place = ("recipes", entry_of[id(recipe)], "stages", position, "then")
                text.wrong(place, why, "write `then: merge`")

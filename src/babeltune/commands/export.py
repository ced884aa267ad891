"""`babeltune export`: a trained model as a folder to serve, with a card; `--verify` scores it again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from babeltune.analysis.points import POINTS_PER_UNIT
from babeltune.analysis.result import Analysis
from babeltune.commands.opening import OpenedStudy, cache_dir, command_again, open_study
from babeltune.commands.results import results_of
from babeltune.commands.screen import screen
from babeltune.errors import StudyFailed, UserError
from babeltune.execute.devices import this_machine
from babeltune.report.card import CardFacts, model_card
from babeltune.study import schema
from babeltune.study.expand import expand_tasks
from babeltune.study.graph import RunJobs

# Merging rounds the sum of weights and adapter to 16 bits, which moves single items a little and their mean
# hardly. Weights merged into the wrong base move the mean by many points.
MOST_POINTS_MOVED = 0.5


def export(
    path: Path,
    *,
    run_name: str | None,
    to: Path,
    form: str,
    verify: bool,
    out: Path | None,
    data_root: Path | None,
) -> None:
    """Write the run `run_name` (default: the recommended recipe's first) to the folder `to`.

    Raises:
        UserError: no such run, its weights are not there, or `to` is taken.
        StudyFailed: with `verify`, the exported form scores differently.
    """
    if form not in ("adapter", "merged"):
        raise UserError(f"{form!r} is no form", where="--form", remedy="adapter or merged")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} is not empty", where="--to", remedy="give a new folder; nothing was written")
    console = screen()
    opened = open_study(path, out=out, data_root=data_root, console=console)
    _, analysis = results_of(opened)
    run = _chosen_run(opened, analysis, run_name)
    part = to.with_name(f".{to.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with console.status(f"Exporting {run.run.name} …"):
            _write(opened, analysis, run, form, part, to)
        if verify:  # before it gets its name: what fails is not left behind
            _verify(opened, run, form, part, console)
        if to.exists():
            to.rmdir()
        part.rename(to)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    console.print(f"{run.run.name} exported to {to}", soft_wrap=True)


def _chosen_run(opened: OpenedStudy, analysis: Analysis, run_name: str | None) -> RunJobs:
    runs = {run.run.name: run for run in opened.jobs.runs if run.training}
    if run_name is None:
        best = next((c for c in analysis.candidates if c.label == analysis.recommendation.candidate), None)
        trained = [name for name in (best.runs if best else ()) if name in runs]
        if not trained:
            raise UserError(
                "no recipe is recommended yet", remedy=f"name a run with --run: {', '.join(runs)}"
            )
        run_name = next((name for name in trained if _has_weights(opened, runs[name])), trained[0])
    if run_name not in runs:
        raise UserError(
            f"the study has no run {run_name!r}", where="--run", remedy=f"one of {', '.join(runs)}"
        )
    if not _has_weights(opened, runs[run_name]):
        removed = opened.folder.is_done(runs[run_name].training[-1])
        again = f"`{command_again('run', opened)}`"
        raise UserError(
            f"the weights of {run_name} were removed (`keep: {opened.study.keep}`)"
            if removed
            else f"{run_name} is not trained yet",
            remedy=f"set `keep: all` in the study file: {again} then trains it again" if removed else again,
        )
    return runs[run_name]


def _has_weights(opened: OpenedStudy, run: RunJobs) -> bool:
    return opened.folder.has_weights(run.training[-1])


def _write(
    opened: OpenedStudy, analysis: Analysis, run: RunJobs, form: str, folder: Path, final: Path
) -> None:
    from babeltune.execute.perform import trained_model
    from babeltune.models.export import export_adapter, export_merged
    from babeltune.models.source import LocatedModel

    base = LocatedModel.from_json(opened.resolved.contents.models[run.run.model].located)
    trained = trained_model(base, run.training[-1], opened.folder.artifact)
    folder.mkdir(parents=True)
    if form == "adapter":
        export_adapter(trained, folder)
    else:
        export_merged(trained, folder, dtype=opened.study.eval.dtype)
    facts = _card_facts(opened, analysis, run, form, base.origin, final)
    (folder / "README.md").write_text(model_card(facts, analysis), encoding="utf-8")
    record = {"study": opened.study.name, "run": run.run.name, "job": run.training[-1], "base": base.origin}
    (folder / "babeltune.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


def _card_facts(
    opened: OpenedStudy, analysis: Analysis, run: RunJobs, form: str, base: str, final: Path
) -> CardFacts:
    recipe: dict[str, str] = {}
    for number, stage in enumerate(run.run.stages, 1):
        prefix = f"stage {number}, " if len(run.run.stages) > 1 else ""
        settings = stage.settings.to_json()
        recipe |= {prefix + key: str(value) for key, value in settings.items() if value not in (None, {}, [])}
    recipe["seed"] = str(run.run.seed)
    model = next(model for model in opened.study.models if model.short_name == run.run.model)
    data, licences = [], {f"base model `{base}`": model.license or "as its source states"}
    for job in run.training:
        summary = opened.folder.artifact(job) / "summary.json"
        if summary.is_file():
            data += json.loads(summary.read_text(encoding="utf-8"))["recognised"]
    for name, dataset in opened.study.datasets.items():
        source = dataset.path.split(":")[-1]
        licences[f"data `{name}` ({source})"] = dataset.license or "as its source states"
    candidate = next((c.label for c in analysis.candidates if run.run.name in c.runs), run.run.recipe)
    serve = _serve_command(run, form, base, final, on_hub="@" in base)
    languages = (*opened.study.languages.target, *opened.study.languages.guard)
    return CardFacts(run.run.name, candidate, base, form, recipe, tuple(data), licences, serve, languages)


def _serve_command(run: RunJobs, form: str, base: str, final: Path, *, on_hub: bool) -> str:
    """How to serve what was exported, as the model that was scored."""
    if form == "merged":
        return f"transformers serve {final}"
    settings = run.run.stages[-1].settings
    if settings.bits != 16 or not on_hub:
        # On the 16-bit base such an adapter is another model; other bases have no name that a server knows.
        return f"babeltune export … --run {run.run.name} --form merged    # then serve the merged folder"
    name = run.run.recipe
    return (
        f"vllm serve {base.split('@')[0]} --enable-lora --max-lora-rank {settings.r} "
        f"--lora-modules {name}={final}"
    )


def _verify(opened: OpenedStudy, run: RunJobs, form: str, folder: Path, console: Console) -> None:
    """Score every task in its first language in the exported form; compare item by item.

    Raises:
        StudyFailed: a task's mean moves by more than rounding does.
    """
    import torch

    from babeltune.evaluate.score import score_task
    from babeltune.models.loading import load_tokenizer
    from babeltune.models.session import ModelSession, TrainedModel
    from babeltune.models.source import LocatedModel, locate

    machine = this_machine(1)
    torch.set_num_threads(machine.threads)
    base = LocatedModel.from_json(opened.resolved.contents.models[run.run.model].located)
    if form == "adapter":
        trained = TrainedModel(base, adapter=folder, bits=run.run.stages[-1].settings.bits)
    else:
        merged = locate(schema.Model(path=str(folder.resolve())), opened.places, cache_dir())
        trained = TrainedModel(replace(merged, chat_template_kwargs=base.chat_template_kwargs))
    model: Any = ModelSession(machine.devices[0]).model_for(trained, dtype=opened.study.eval.dtype)
    moved: list[str] = []
    for plan in expand_tasks(opened.study):
        language = next((code for task, code in run.scores if task == plan.name), None)
        if language is None or not opened.folder.is_done(run.scores[plan.name, language]):
            continue
        before = pl.read_parquet(opened.folder.artifact(run.scores[plan.name, language]) / "items.parquet")
        with console.status(f"Scoring {plan.name} {language} in the exported form …"):
            after = score_task(
                model,
                load_tokenizer(trained.base),
                plan.task,
                language,
                num_fewshot=plan.num_fewshot,
                limit=plan.limit,
                apply_chat_template=plan.chat,
                template_kwargs=base.chat_template_kwargs,
                places=opened.places,
            )
        moved += _compare(before, after, f"{plan.name} {language}", console)
    if moved:
        raise StudyFailed(f"what was exported is not the model that was scored: {'; '.join(moved)}")
    console.print("Verified: the exported form reproduces the item scores.")


def _compare(before: pl.DataFrame, after: pl.DataFrame, what: str, console: Console) -> list[str]:
    """Print how far each metric moved; sentences on those that moved by more than rounding does."""
    both = before.join(after, on=["item", "metric"], suffix="_after", how="left")
    moved = []
    for (metric,), rows in both.group_by("metric", maintain_order=True):
        if metric not in POINTS_PER_UNIT:
            continue
        if metric == "judge":
            same = rows.filter(pl.col("answer") == pl.col("answer_after")).height
            console.print(
                f"{what}: {same} of {rows.height} answers are the same to the letter (not judged again)",
                soft_wrap=True,
            )
            continue
        gap = (rows["value_after"] - rows["value"]) * POINTS_PER_UNIT[str(metric)]
        if gap.null_count():
            moved.append(f"{what} {metric}: {gap.null_count()} items are missing")
            continue
        points = gap.to_numpy()
        console.print(
            f"{what}: {metric} of {rows.height} items: mean moved by {points.mean():+.3f} points, "
            f"the farthest item by {abs(points).max():.2f}",
            soft_wrap=True,
        )
        if abs(points.mean()) > MOST_POINTS_MOVED:
            moved.append(f"{what} {metric} by {points.mean():+.2f} points")
    return moved

"""What reproducibility checklists ask for: runs made, search bounds, selection rule, budget."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from babeltune.analysis.result import Analysis
from babeltune.analysis.tables import Tables
from babeltune.report import words
from babeltune.report.answer import COST_NAMES, baseline_name, guard_margin
from babeltune.report.could_show import shown_from

SEARCH_COLUMNS = {
    "recipe": pl.String,
    "model": pl.String,
    "learning_rate": pl.Float64,
    "state": pl.String,
    "held_out_loss": pl.Float64,
    "chosen": pl.Boolean,
}
"""Learning rates tried; `held_out_loss` in nats per trained token, null where a training was given up."""

_KINDS = {
    "train": "training",
    "search": "learning-rate search",
    "score": "scoring",
    "prepare": "preparing data",
}


def checklist(
    analysis: Analysis, tables: Tables, searches: pl.DataFrame, machine: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Question and answer, in the order that checklists ask."""
    states = tables.runs["state"].value_counts().rows() if "state" in tables.runs.columns else []
    trained = [c for c in analysis.candidates if not c.untouched]
    seeds = sorted({c.seeds_planned for c in trained})
    found = [
        ("Runs", f"{tables.runs.height}: " + ", ".join(f"{n} {state}" for state, n in sorted(states))),
        ("Seeds of each recipe", words.listed([str(n) for n in seeds]) if seeds else words.NO_FIGURE),
        ("Items", _items(analysis)),
        ("Selection rule", _selection(analysis)),
        ("Learning rates", _learning_rates(tables, searches)),
        ("Chosen on", "learning rates on held-out training examples, never on evaluation items"),
        ("Uncertainty", _uncertainty(analysis)),
        ("Power", " ".join(shown_from(analysis, thing="recipe", baseline=baseline_name(analysis)))),
        ("Device time", _device_time(tables)),
        ("Energy", _energy(tables)),
        ("References and judge", _asked(tables, analysis)),
        ("Machine", machine.get("devices", "")),
        (
            "Software",
            ", ".join(
                f"{k} {machine[k]}" for k in ("python", "torch", "transformers", "peft") if machine.get(k)
            ),
        ),
    ]
    return [(question, answer) for question, answer in found if answer]


def _items(analysis: Analysis) -> str:
    tasks = [f"{s.label} {s.items}" for s in analysis.scopes if s.kind == "task"]
    return f"distinct items by task: {', '.join(tasks)}" if tasks else ""


def _selection(analysis: Analysis) -> str:
    decide = analysis.decide
    return (
        f"the cheapest by {COST_NAMES[decide['cheapest']]} of the recipes shown to be at most "
        f"{decide['margin']:g} {analysis.unit} worse than the best, with every guard at most "
        f"{guard_margin(analysis)} below the untouched model ({words.percent(decide['confidence'])})"
    )


def _learning_rates(tables: Tables, searches: pl.DataFrame) -> str:
    if searches.is_empty():
        fixed = tables.runs.get_column("learning_rate", default=None)
        rates = [] if fixed is None else fixed.drop_nulls().unique().sort().to_list()
        return f"fixed by the study: {', '.join(f'{rate:g}' for rate in rates)}" if rates else ""
    by_recipe = searches.group_by("recipe", maintain_order=True).agg(
        low=pl.col("learning_rate").min(), high=pl.col("learning_rate").max(), tried=pl.len()
    )
    each = [
        f"{r['recipe']} {r['tried']} from {r['low']:.3g} to {r['high']:.3g}" for r in by_recipe.to_dicts()
    ]
    return f"searched, lowest held-out loss of short trainings wins: {'; '.join(each)}"


def _uncertainty(analysis: Analysis) -> str:
    if analysis.basis == "models":
        return "one seed each: intervals are over items only, about these trained models"
    return "paired by item, clustered over parallel languages, with the variation between seeds counted"


def _device_time(tables: Tables) -> str:
    if tables.costs.is_empty():
        return ""
    by_kind = (
        tables.costs.unique("job").group_by("kind").agg(pl.col("device_seconds").sum()).sort("kind").rows()
    )
    parts = [
        f"{_KINDS.get(kind, kind)} {words.hours(seconds / 3600)}" for kind, seconds in by_kind if seconds
    ]
    total = sum(seconds or 0.0 for _, seconds in by_kind)
    return f"{words.hours(total / 3600)} in all: {', '.join(parts)}" if parts else ""


def _asked(tables: Tables, analysis: Analysis) -> str:
    """Tokens and price of what models behind an API were asked; the price where all of it is known."""
    found = []
    for kind, what in (("ask", "references"), ("judge", "judge")):
        jobs = tables.costs.filter(pl.col("kind") == kind).unique("job")
        if jobs.is_empty() or jobs["api_output_tokens"].null_count():
            continue
        read, written = (float(jobs[f"api_{way}_tokens"].sum()) for way in ("input", "output"))
        price = ""
        if not jobs["api_price"].null_count():
            price = f", {words.money(float(jobs['api_price'].sum()), analysis.currency)}"
        found.append(f"{what} {words.count(read)} tokens read, {words.count(written)} written{price}")
    return "; ".join(found)


def _energy(tables: Tables) -> str:
    jobs = tables.costs.unique("job")["energy_joules"]
    if jobs.is_empty() or jobs.null_count() == len(jobs):
        return "not metered: no meter here"
    metered = len(jobs) - jobs.null_count()
    return f"{(jobs.sum() or 0) / 3600:,.1f} Wh, metered in {metered} of {len(jobs)} jobs"

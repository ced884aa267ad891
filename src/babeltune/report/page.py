"""The report: one HTML file that needs no network and no other file."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from babeltune.analysis.comparison import Comparison
from babeltune.analysis.effects import Effect
from babeltune.analysis.result import Analysis, CandidateInfo, LanguageInfo, ScopeInfo
from babeltune.analysis.scopes import CLASSES
from babeltune.analysis.sensitivity import lacked_power
from babeltune.report import words
from babeltune.report.answer import (
    COST_NAMES,
    answer,
    baseline_name,
    comparison_answer,
    comparison_verdict,
    guard_margin,
)
from babeltune.report.charts import cost_chart, learning_curves, search_chart
from babeltune.report.checklist import SEARCH_COLUMNS
from babeltune.report.could_show import carried_by, power_of, shown_from
from babeltune.report.examples import EXAMPLE_COLUMNS, page_examples
from babeltune.study.findings import Finding

HISTORY_COLUMNS = {
    "run": pl.String,
    "recipe": pl.String,
    "seed": pl.Int64,
    "step": pl.Int64,
    "loss": pl.Float64,
}
FULL_SHADE = 0.62
"""Opacity of the largest change on the map; text stays readable on it."""

FACTOR_NAMES = {"r": "rank", "size": "data size", "mixture": "data"}
UNSURE_SHADE = 0.3
"""Of a change that may be luck, so that the eye finds those that aren't."""


@dataclass(frozen=True)
class Running:
    """Of a study under way: `words` (`12 of 90 jobs done`), the time of day, seconds until a look again."""

    words: str
    written_at: str
    reload_seconds: int = 30


@dataclass(frozen=True)
class Background:
    """What the page shows besides the analysis.

    `history`: columns run, recipe, seed, step, loss (any further ones are ignored). `searches`, `examples`:
    see `checklist.SEARCH_COLUMNS` and `examples.EXAMPLE_COLUMNS`. `findings`: what was warned of before the
    study; `hidden_findings`: how many of them are not told. `export_command`: how to get the recommended
    model. `command`: how to repeat the study. `machine`: name to value, such as processor, threads, library
    versions. `is_comparison`: models are compared with a baseline; nothing is recommended.
    """

    history: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=HISTORY_COLUMNS))
    searches: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SEARCH_COLUMNS))
    examples: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=EXAMPLE_COLUMNS))
    study_text: str = ""
    lock_text: str = ""
    command: str = ""
    export_command: str = ""
    machine: dict[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    hidden_findings: int = 0
    checklist: tuple[tuple[str, str], ...] = ()
    running: Running | None = None
    is_comparison: bool = False
    is_shared: bool = False


@dataclass(frozen=True)
class EffectTable:
    """`rows`: setting, change, and the effect over each of the scopes named in `columns`."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Effect | None, ...]], ...]


@dataclass(frozen=True)
class MapCell:
    """One cell of the map: the text, its sort value, its shade (−1…1, None: nothing to show), and a hint."""

    text: str
    value: float | None
    shade: float | None
    significant: bool
    hint: str


def render_page(analysis: Analysis, background: Background | None = None) -> str:
    """The page as text. All text of data, models and users is escaped."""
    background = background or Background()
    environment = Environment(
        loader=PackageLoader("babeltune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number,
        "at_most": words.at_most,
        "signed": words.signed,
        "count": words.count,
        "size": words.size,
        "duration": words.duration,
        "hours": words.hours,
        "percent": words.percent,
        "level": partial(words.score, by_loss=analysis.by_loss),
        "listed": words.listed,
    }
    charts = {
        "cost": cost_chart(analysis),
        "curves": learning_curves(background.history),
        "search": search_chart(background.searches),
    }
    charts = {name: spec for name, spec in charts.items() if spec is not None}
    examples = page_examples(background.examples, analysis)
    is_comparison = background.is_comparison
    thing = "model" if is_comparison else "recipe"
    return environment.get_template("page.html.j2").render(
        a=analysis,
        answer=comparison_answer(analysis) if is_comparison else answer(analysis),
        background=background,
        is_comparison=is_comparison,
        thing=thing,
        baseline=baseline_name(analysis),
        comparison_verdict=comparison_verdict,
        power=partial(power_of, analysis),
        lacked_power=lacked_power,
        sensitivity=shown_from(analysis, thing=thing, baseline=baseline_name(analysis)),
        carried_by=carried_by(analysis),
        chosen=None if is_comparison else analysis.recommendation.candidate,
        sections=_sections(analysis, background, charts, examples is not None),
        score_unit=words.score_unit(by_loss=analysis.by_loss),
        score_interval=partial(words.score_interval, by_loss=analysis.by_loss),
        charts={name: script_json(spec) for name, spec in charts.items()},
        examples=script_json(examples),
        style=_asset("page.css"),
        script=_asset("page.js"),
        vega=_vega() if charts else Markup(""),
        groups=language_groups(analysis),
        map_rows=map_rows(analysis),
        map_scopes=[f"language:{lang.code}" for _, members in language_groups(analysis) for lang in members],
        parts=_parts(analysis),
        effect_tables=effect_tables(analysis),
        trained=[c for c in analysis.candidates if not c.untouched],
        cost_name=COST_NAMES[analysis.decide["cheapest"]],
        money=partial(words.money, currency=analysis.currency),
        priced=any(cost.price is not None for cost in analysis.costs),
        bound={b.candidate: b for b in analysis.bounds},
        place={p.candidate: p for p in analysis.frontier},
        gap_tasks=list(dict.fromkeys(task for gap in analysis.gaps for task in gap.tasks)),
        guard_margin=guard_margin(analysis),
        guard_keys=[s for s in analysis.scopes if s.kind == "guard"],
        scope_label={s.key: s.label for s in analysis.scopes},
        language_name={language.code: language.name for language in analysis.languages},
    )


def _sections(
    analysis: Analysis, background: Background, charts: Collection[str], has_examples: bool
) -> list[tuple[str, str]]:
    """Id and name of the sections that have something to show, in reading order."""
    shown = [
        ("recipes", "Models" if background.is_comparison else "Recipes", True),
        ("cost-chart", "Score and cost", "cost" in charts),
        ("languages", "Languages", True),
        ("parts", "Tasks", bool(_parts(analysis))),
        ("effects", "What makes the difference", bool(analysis.effects)),
        ("guards", "Guards", bool(analysis.guards)),
        ("gaps", "Larger models", bool(analysis.references)),
        ("curves", "Learning curves", bool({"curves", "search"} & set(charts))),
        ("examples", "Examples", has_examples),
        ("costs", "Costs", any(c.gpu_hours is not None for c in analysis.costs)),
        ("runs", "Runs", not background.is_comparison),
        ("method", "Method", True),
        ("checklist", "Checklist", bool(background.checklist)),
        ("repeat", "Repeat it", True),
    ]
    return [(key, name) for key, name, is_shown in shown if is_shown]


def _parts(analysis: Analysis) -> list[tuple[str, list[ScopeInfo]]]:
    """Kinds of parts besides languages (`task`, `resource class`, `script`) with two or more of each."""
    names = {"task": "task", "class": "resource class", "script": "script"}
    found = [(name, [s for s in analysis.scopes if s.kind == kind]) for kind, name in names.items()]
    return [(name, scopes) for name, scopes in found if len(scopes) > 1]


def effect_tables(analysis: Analysis) -> list[EffectTable]:
    """Main effects by scope, then what they depend on; only tables that have rows."""
    parts = [
        ("Overall and by resource class", [e for e in analysis.effects if e.depends_on is None]),
        (
            "Does it matter more to low-resource than to high-resource languages?",
            [e for e in analysis.effects if e.depends_on == "class"],
        ),
        (
            "Does it depend on another setting?",
            [e for e in analysis.effects if e.depends_on not in (None, "class")],
        ),
    ]
    labels = {s.key: s.label for s in analysis.scopes}
    tables = []
    for heading, effects in parts:
        scopes = list(dict.fromkeys(e.scope for e in effects))
        rows: dict[tuple[str, str], dict[str, Effect]] = {}
        for effect in effects:
            rows.setdefault((effect.factor, effect.change), {})[effect.scope] = effect
        if rows:
            headings = tuple("effect" if len(scopes) == 1 else labels.get(key, key) for key in scopes)
            cells = tuple(
                (FACTOR_NAMES.get(factor, factor), change, tuple(by_scope.get(key) for key in scopes))
                for (factor, change), by_scope in rows.items()
            )
            tables.append(EffectTable(heading, headings, cells))
    return tables


def language_groups(analysis: Analysis) -> list[tuple[str, list[LanguageInfo]]]:
    """The map's columns: guards first, then English, then the others from many resources to few."""
    groups = [("guard", [language for language in analysis.languages if language.guard])]
    targets = [language for language in analysis.languages if not language.guard]
    groups.append(("English", [language for language in targets if language.code == "en"]))
    others = [language for language in targets if language.code != "en"]
    for key, label, _ in reversed(CLASSES):
        groups.append((label, [language for language in others if language.group == key]))
    groups.append(("no class", [language for language in others if language.group is None]))
    return [(label, members) for label, members in groups if members]


def map_rows(analysis: Analysis) -> list[tuple[CandidateInfo, list[MapCell]]]:
    """Change against the untouched model by recipe and language; shades are relative to the largest."""
    codes = [language.code for _, members in language_groups(analysis) for language in members]
    change = {(c.candidate, c.scope): c for c in analysis.changes}
    largest = max(
        (abs(c.difference) for c in analysis.changes if c.scope.startswith("language:")), default=0.0
    )
    return [
        (candidate, [_map_cell(change.get((candidate.label, f"language:{code}")), largest) for code in codes])
        for candidate in analysis.candidates
        if not candidate.untouched
    ]


def script_json(data: Any) -> Markup:
    """JSON that is safe inside a script element: no `<`, no line separators."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _map_cell(change: Comparison | None, largest: float) -> MapCell:
    if change is None:
        return MapCell(words.NO_FIGURE, None, None, False, "no scores")
    hint = (
        f"{words.signed(change.difference)} ({words.signed(change.low)} to {words.signed(change.high)}), "
        f"p {change.p_adjusted:.2g} corrected over the map, {change.verdict}"
    )
    shade = FULL_SHADE * change.difference / largest if largest else 0.0
    if not change.significant:
        shade *= UNSURE_SHADE
    return MapCell(words.signed(change.difference), change.difference, shade, change.significant, hint)


def _asset(name: str) -> Markup:
    return Markup(resources.files("babeltune.report").joinpath("templates", name).read_text("utf-8"))


def _vega() -> Markup:
    import vl_convert

    # An inline script ends at the first `</script`; inside JavaScript `<\/` means the same.
    bundle = vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue] (its stub lacks the default)
    return Markup(re.sub(r"</(?=script)", r"<\\/", bundle, flags=re.IGNORECASE))

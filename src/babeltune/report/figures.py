"""Figures as files for papers: the page's charts, and its map and effects, as SVG, PDF or PNG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import altair as alt

from babeltune.analysis.result import Analysis
from babeltune.errors import UserError
from babeltune.report.charts import cost_chart, finished, inline, learning_curves, search_chart
from babeltune.report.page import Background, language_groups

NAMES: Final = ("cost", "map", "effects", "curves", "search")
FORMATS: Final = ("svg", "pdf", "png")
INK: Final = "#222222"
WIDTH: Final = 480


def figure(name: str, analysis: Analysis, background: Background) -> dict[str, Any]:
    """The Vega-Lite specification of a figure, black on white.

    Raises:
        UserError: there is no such figure, or nothing to draw in it.
    """
    made = {
        "cost": lambda: cost_chart(analysis),
        "map": lambda: map_figure(analysis),
        "effects": lambda: effects_figure(analysis),
        "curves": lambda: learning_curves(background.history),
        "search": lambda: search_chart(background.searches),
    }
    if name not in made:
        raise UserError(f"there is no figure {name!r}", remedy=f"one of {', '.join(NAMES)}")
    spec = made[name]()
    if spec is None:
        raise UserError(
            f"there is nothing to draw for {name!r} in this study", remedy=f"one of {', '.join(NAMES)}"
        )
    spec = json.loads(json.dumps(spec).replace("currentColor", INK))
    spec["background"] = "white"
    if spec.get("width") == "container":
        spec["width"] = WIDTH
    for param in spec.get("params", []):
        param.pop("bind", None)  # a file has no choices
    return spec


def write_figure(spec: dict[str, Any], path: Path) -> None:
    """Writes the figure in the format that the name of `path` ends in.

    Raises:
        UserError: that is none of `FORMATS`.
    """
    import vl_convert

    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise UserError(
            f"{path.name} ends in no format", where="-o", remedy=f"end it in .{', .'.join(FORMATS)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "svg":
        path.write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")
    elif kind == "pdf":
        path.write_bytes(vl_convert.vegalite_to_pdf(spec))
    else:
        path.write_bytes(vl_convert.vegalite_to_png(spec, scale=2))


def map_figure(analysis: Analysis) -> dict[str, Any] | None:
    """Change by recipe and language, in the page's order; a star where it is shown."""
    languages = [language for _, members in language_groups(analysis) for language in members]
    name = {f"language:{language.code}": language.name for language in languages}
    rows = [
        {
            "recipe": c.candidate,
            "language": name[c.scope],
            "change": c.difference,
            "text": f"{c.difference:+.1f}{'*' if c.significant else ''}".replace("-", "−"),
        }
        for c in analysis.changes
        if c.scope in name
    ]
    if not rows:
        return None
    largest = max(abs(row["change"]) for row in rows) or 1.0
    recipes = [c.label for c in analysis.candidates if not c.untouched]
    base = alt.Chart(inline(rows)).encode(
        x=alt.X(
            "language:N",
            sort=list(name.values()),
            axis=alt.Axis(orient="top", labelAngle=-35, domain=False, ticks=False, title=None),
        ),
        y=alt.Y(
            "recipe:N", sort=recipes, axis=alt.Axis(domain=False, ticks=False, title=None, labelLimit=240)
        ),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "change:Q",
            scale=alt.Scale(
                domain=[-largest, 0, largest], range=["#d9773f", "#ffffff", "#4794c4"], interpolate="rgb"
            ),
            legend=alt.Legend(title="change"),
        )
    )
    text = base.mark_text(fontSize=11).encode(text="text:N", color=alt.value(INK))
    chart = alt.layer(cells, text)
    return finished(chart, 24 * len(recipes), width=44 * len(languages))


def effects_figure(analysis: Analysis) -> dict[str, Any] | None:
    """Main effects overall and by class with their intervals; with one seed each, of these trained models."""
    labels = {scope.key: scope.label for scope in analysis.scopes}
    rows = [
        {
            "effect": f"{e.factor}: {e.change}",
            "scope": labels.get(e.scope, e.scope),
            "difference": e.difference,
            "low": e.low,
            "high": e.high,
        }
        for e in analysis.effects
        if e.difference is not None and e.depends_on is None
    ]
    if not rows:
        return None
    # No data of its own: each facet gives its part.
    base = alt.Chart().encode(
        y=alt.Y("scope:N", title=None, sort=None),
        color=alt.Color(
            "scope:N", legend=None, scale=alt.Scale(range=["#0072B2", "#D55E00", "#009E73", "#CC79A7"])
        ),
    )
    about = "effect" if analysis.basis == "recipes" else "difference of these trained models (one seed each)"
    bars = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title=f"{about} in {analysis.unit}"), x2="high:Q"
    )
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(x="difference:Q")
    zero = alt.Chart().mark_rule(strokeDash=[4, 4], color=INK, opacity=0.6).encode(x=alt.datum(0))
    chart = alt.layer(zero, bars, dots, data=inline(rows)).facet(
        row=alt.Row("effect:N", title=None, sort=None, header=alt.Header(labelAngle=0, labelAlign="left"))
    )
    return finished(chart, None, width=None)

"""The page's charts as Vega-Lite, data inlined; text takes the page's own colour, light or dark."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from babeltune.analysis.comparison import Comparison
from babeltune.analysis.result import Analysis
from babeltune.report import words
from babeltune.report.answer import COST_NAMES

POINTS_PER_CURVE = 150
MOST_LABELS = 14
"""With more recipes than this, names are shown on hover only."""

# Distinct from each other and from both backgrounds: Okabe and Ito's, less black and yellow, and some more.
PALETTE = [
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#8C6BB1", "#A6761D", "#7A9A01", "#E7298A", "#8A8A8A", "#17BECF", "#B8B000", "#B15928"),
]
RECIPE_SCALE = alt.Scale(range=PALETTE)
STATUS_COLOURS = ["#1f9068", "#3b7fc4", "#9a8f85"]
STATUS_SHAPES = ["diamond", "circle", "cross"]


def cost_chart(analysis: Analysis) -> dict[str, Any] | None:
    """Score against the cost that decides, one mark a recipe, for a scope that the reader chooses.

    The bars are intervals of the change against the untouched model, whose level is the dashed line: scores
    on the same items rise and fall together, so intervals of two scores say little about their difference.
    """
    measure = analysis.decide["cheapest"]
    status = {place.candidate: place.status for place in analysis.frontier}
    chosen = "recommended" if analysis.recommendation.state == "certified" else "provisional choice"
    if analysis.recommendation.candidate:
        status[analysis.recommendation.candidate] = chosen
    marks = [chosen, "possible", "shown dominated"]
    scopes = {s.key: s.label for s in analysis.scopes if s.kind in ("overall", "language", "class", "task")}
    by_loss = analysis.by_loss

    def shown(points: float) -> float:
        return -points / 100 if by_loss else points

    rows = []
    for score in analysis.scores:
        cost = analysis.cost(score.candidate)
        amount = cost.by(measure) if cost else None
        if score.scope not in scopes or amount is None or amount <= 0:
            continue
        change = analysis.change(score.candidate, score.scope)
        start = score.score - change.difference if change else 0.0
        low, high = (start + change.low, start + change.high) if change else (score.low, score.high)
        rows.append(
            {
                "recipe": score.candidate,
                "scope": scopes[score.scope],
                "score": shown(score.score),
                "low": shown(low),
                "high": shown(high),
                "cost": amount,
                "status": status.get(score.candidate, "possible"),
                "change": _change_words(change) if change else words.NO_FIGURE,
                "interval": words.score_interval(score.low, score.high, by_loss=by_loss),
                "memory": words.size(cost.peak_memory_bytes if cost else None),
                "parameters": words.count(cost.trainable_parameters if cost else None),
            }
        )
    if not rows:
        return None
    untouched = {c.label for c in analysis.candidates if c.untouched}
    levels = [
        {"recipe": s.candidate, "scope": scopes[s.scope], "score": shown(s.score)}
        for s in analysis.scores
        if s.candidate in untouched and s.scope in scopes
    ]
    costs = [row["cost"] for row in rows]
    scale = (
        alt.Scale(type="log", padding=24)
        if max(costs) > 5 * min(costs)
        else alt.Scale(zero=False, padding=24)
    )
    choice = alt.param(
        name="scope",
        value="overall",
        bind=alt.binding_select(options=list(dict.fromkeys(r["scope"] for r in rows)), name="Score of "),
    )
    in_scope = "datum.scope === scope"
    points = (
        alt.Chart(inline(rows))
        .transform_filter(in_scope)
        .encode(
            x=alt.X(
                "cost:Q",
                scale=scale,
                axis=alt.Axis(tickCount=6, format="~s" if max(costs) >= 1000 else "~g"),
                title=f"{COST_NAMES[measure]} to train one model",
            ),
            color=alt.Color(
                "status:N",
                scale=alt.Scale(domain=marks, range=STATUS_COLOURS),
                legend=alt.Legend(title=None, orient="top"),
            ),
        )
    )
    bars = points.mark_rule(strokeWidth=2, opacity=0.55).encode(y="low:Q", y2="high:Q")
    dots = points.mark_point(filled=True, size=110, opacity=1).encode(
        y=alt.Y(
            "score:Q",
            # Better is up, also where lower figures are better.
            scale=alt.Scale(zero=False, padding=16, reverse=by_loss),
            title=words.score_unit(by_loss=by_loss),
        ),
        shape=alt.Shape(
            "status:N",
            scale=alt.Scale(domain=marks, range=STATUS_SHAPES),
            legend=alt.Legend(title=None, orient="top"),
        ),
        tooltip=[
            alt.Tooltip("recipe:N"),
            alt.Tooltip("score:Q", format=".3f" if by_loss else ".1f"),
            alt.Tooltip("interval:N", title="its own interval"),
            alt.Tooltip("change:N", title="against untouched"),
            alt.Tooltip("cost:Q", format=".3~g", title=COST_NAMES[measure]),
            alt.Tooltip("parameters:N", title="trainable"),
            alt.Tooltip("memory:N", title="peak memory"),
            alt.Tooltip("status:N"),
        ],
    )
    layers: list[Any] = [bars, dots]
    if len({row["recipe"] for row in rows}) <= MOST_LABELS:
        layers.append(
            points.mark_text(align="left", dx=9, dy=-9, fontSize=12).encode(
                y="score:Q", text="recipe:N", color=alt.value("currentColor")
            )
        )
    if levels:
        base = alt.Chart(inline(levels)).transform_filter(in_scope).encode(y="score:Q")
        layers.insert(0, base.mark_rule(strokeDash=[5, 4], color="currentColor", opacity=0.6))
        layers.insert(
            1,
            base.mark_text(align="left", baseline="bottom", dx=4, dy=-3, fontSize=12, opacity=0.75).encode(
                x=alt.value(0), text="recipe:N", color=alt.value("currentColor")
            ),
        )
    return finished(alt.layer(*layers).add_params(choice), 360)


def _change_words(change: Comparison) -> str:
    star = "*" if change.significant else ""
    return (
        f"{words.signed(change.difference)}{star} ({words.signed(change.low)} to {words.signed(change.high)})"
    )


def learning_curves(history: pl.DataFrame) -> dict[str, Any] | None:
    """Training loss by update, one line a run.

    `history`: columns run, recipe, seed, step, loss; thinned to 150 averaged points a run.
    """
    if history.is_empty():
        return None
    thinned = (
        history.with_columns(last=pl.col("step").max().over("run"))
        .with_columns(bin=(pl.col("step") * POINTS_PER_CURVE // pl.max_horizontal("last", POINTS_PER_CURVE)))
        .group_by("run", "recipe", "seed", "bin", maintain_order=True)
        .agg(pl.col("step").max(), pl.col("loss").mean().round(4))
    )
    chart = (
        alt.Chart(inline(thinned.drop("bin").to_dicts()))
        .mark_line(strokeWidth=1.6, opacity=0.85)
        .encode(
            x=alt.X("step:Q", title="update"),
            y=alt.Y("loss:Q", scale=alt.Scale(zero=False), title="training loss (nats per trained token)"),
            color=_recipe_colour(history["recipe"].n_unique()),
            detail="run:N",
            tooltip=["run:N", "step:Q", alt.Tooltip("loss:Q", format=".3f")],
        )
    )
    return finished(chart, 280)


def search_chart(searches: pl.DataFrame) -> dict[str, Any] | None:
    """Held-out loss of short trainings by learning rate, one line a recipe; the rate taken is filled.

    `searches`: see `checklist.SEARCH_COLUMNS`; rates given up or diverged have no loss and no mark.
    """
    done = searches.filter(pl.col("held_out_loss").is_not_null())
    if done.is_empty():
        return None
    base = alt.Chart(inline(done.sort("recipe", "learning_rate").to_dicts())).encode(
        x=alt.X(
            "learning_rate:Q",
            scale=alt.Scale(type="log", padding=16),
            axis=alt.Axis(format=".0e"),
            title="learning rate",
        ),
        y=alt.Y(
            "held_out_loss:Q", scale=alt.Scale(zero=False), title="held-out loss (nats per trained token)"
        ),
        color=_recipe_colour(done["recipe"].n_unique()),
    )
    marks = base.mark_point(size=70, strokeWidth=1.8).encode(
        fill=alt.condition(
            "datum.chosen",
            alt.Color("recipe:N", scale=RECIPE_SCALE, legend=None),
            alt.value("transparent"),
        ),
        tooltip=[
            "recipe:N",
            alt.Tooltip("learning_rate:Q", format=".3g"),
            alt.Tooltip("held_out_loss:Q", format=".4f"),
            "chosen:N",
        ],
    )
    return finished(alt.layer(base.mark_line(strokeWidth=1.4, opacity=0.7), marks), 260)


def _recipe_colour(n_recipes: int) -> alt.Color:
    """A colour for each recipe, with a legend while colours can be told apart."""
    legend = alt.Legend(title=None, orient="top", columns=4) if n_recipes <= MOST_LABELS else None
    return alt.Color("recipe:N", scale=RECIPE_SCALE, legend=legend)


def inline(rows: list[dict[str, Any]]) -> alt.Data:
    """Rows as data inside the specification."""
    return alt.Data(values=rows)  # pyright: ignore[reportReturnType]


def finished(chart: Any, height: int | None, width: int | str | None = "container") -> dict[str, Any]:
    """The chart as Vega-Lite in the page's own colour, of that size in pixels (None: as it comes)."""
    axis = {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "domainColor": "currentColor",
        "tickColor": "currentColor",
        "gridColor": "currentColor",
        "gridOpacity": 0.12,
        "domainOpacity": 0.5,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
    }
    size = {name: value for name, value in (("width", width), ("height", height)) if value is not None}
    return (
        chart.properties(**size, background="transparent")
        .configure(font="system-ui, sans-serif")
        .configure_axis(**axis)
        .configure_legend(labelColor="currentColor", labelFontSize=12, symbolStrokeWidth=2)
        .configure_view(stroke=None)
        .to_dict()
    )

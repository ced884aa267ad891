"""The page: complete, self-contained, safe with hostile names, alive in a browser."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from babeltune.analysis.result import Analysis
from babeltune.analysis.tables import Tables
from babeltune.report.charts import MOST_LABELS, PALETTE, cost_chart, search_chart
from babeltune.report.checklist import SEARCH_COLUMNS
from babeltune.report.examples import EXAMPLE_COLUMNS, example_candidates
from babeltune.report.page import Background, Running, language_groups, render_page, script_json
from babeltune.study.findings import Finding

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = (
    '</script><script>document.title="owned"</script> "quoted" \'single\' <img src=x onerror=alert(1)> عربي'
)


def history(run: str, recipe: str) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "run": run,
            "recipe": recipe,
            "seed": 0,
            "step": list(range(1, 400)),
            "loss": [2.0 - i / 400 for i in range(399)],
        }
    )


def searches(recipe: str) -> pl.DataFrame:
    return pl.DataFrame(
        [
            (recipe, "m", 5e-5, "done", 1.9, False),
            (recipe, "m", 2e-4, "done", 1.5, True),
            (recipe, "m", 8e-4, "diverged", None, False),
        ],
        schema=SEARCH_COLUMNS,
        orient="row",
    )


def examples(analysis: Analysis, text: str = "plain") -> pl.DataFrame:
    """Three items in two languages, answered by the first candidates; the second gains one and loses one."""
    values = {0: (0.0, 1.0), 1: (1.0, 0.0), 2: (1.0, 1.0)}
    return pl.DataFrame(
        [
            (
                label,
                "xcopa",
                language,
                f"i{item}",
                f"prompt {item} {text}",
                f"right {text}",
                f"{n} said {text}",
                v[n],
            )
            for n, label in enumerate(example_candidates(analysis)[:2])
            for language in ("es", "sw")
            for item, v in values.items()
        ],
        schema=EXAMPLE_COLUMNS,
        orient="row",
    )


def in_browser(page: Path, tmp_path: Path, *flags: str) -> str:
    """The document as Chromium leaves it after running its scripts."""
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    quiet = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    command = [
        str(CHROMIUM),
        *quiet.split(),
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=5000",
        *flags,
        "--dump-dom",
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def with_script(page: str, script: str) -> str:
    """The page with a script of the test's at its end."""
    before, end, after = page.rpartition("</body>")  # the chart library holds one in a string
    return f"{before}<script>{script}</script>{end}{after}"


def tags(text: str) -> list[tuple[str, dict[str, str | None]]]:
    found: list[tuple[str, dict[str, str | None]]] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, dict(attrs)))

    Parser().feed(text)
    return found


def test_the_answer_comes_first_and_every_section_is_there(analysis: Analysis) -> None:
    background = Background(
        history=history("lora-r4/m/seed0", "lora-r4"),
        searches=searches("lora-r4"),
        examples=examples(analysis),
        study_text="name: x",
        checklist=(("Runs", "13"),),
    )
    text = render_page(analysis, background)
    body = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert f"Take {analysis.recommendation.candidate}" in body[: body.index("<main>")]
    ids = [attributes["id"] or "" for tag, attributes in tags(body) if tag == "section"]
    order = (
        "recipes cost-chart languages parts effects guards curves examples costs runs method checklist repeat"
    )
    assert " ".join(ids) == order
    links = [attributes["href"] for tag, attributes in tags(body) if tag == "a"]
    assert [link for link in links if link] == [f"#{name}" for name in ids]
    for language in ("English", "Spanish", "Italian", "Indonesian", "Swahili"):
        assert language in body
    assert body.index("English") < body.index("Swahili")
    assert len(text) < 3_000_000


def test_nothing_is_loaded_from_elsewhere(analysis: Analysis) -> None:
    for tag, attributes in tags(render_page(analysis)):
        assert tag not in {"link", "img", "iframe", "object"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")


def test_an_empty_study_has_a_page(tables: Tables, analysed: Callable[..., Analysis]) -> None:
    text = render_page(analysed(Tables(tables.scores.clear(), tables.costs.clear(), tables.runs)))
    assert "No answer yet" in text


def test_json_in_a_script_cannot_end_it() -> None:
    text = script_json({"name": "</script><!--\u2028&"})
    assert not set("<>&\u2028") & set(text)


def hostile_page(tables: Tables, analysed: Callable[..., Analysis], folder: Path) -> Path:
    """The page of a study whose recipe, runs, error, task, findings and study file all attack it."""
    rename = pl.col("recipe").replace("lora-r32", HOSTILE).alias("recipe")
    attacked = Tables(
        tables.scores.with_columns(rename, pl.lit("study " + HOSTILE).alias("study")),
        tables.costs,
        tables.runs.with_columns(
            rename, pl.lit(HOSTILE).alias("error"), pl.lit("study " + HOSTILE).alias("study")
        ),
    )
    analysis = analysed(attacked, margin=12.0, guard_margin=15.0)
    background = Background(
        history=history("run " + HOSTILE, HOSTILE),
        searches=searches(HOSTILE),
        examples=examples(analysis, HOSTILE),
        checklist=((HOSTILE, HOSTILE),),
        running=Running(HOSTILE, HOSTILE),
        study_text=HOSTILE,
        lock_text=HOSTILE,
        command=HOSTILE,
        export_command=HOSTILE,
        machine={HOSTILE: HOSTILE},
        findings=(Finding("warn", HOSTILE, where=HOSTILE, remedy=HOSTILE),),
    )
    page = folder / "report.html"
    page.write_text(render_page(analysis, background), encoding="utf-8")
    return page


def test_hostile_names_stay_text(tables: Tables, analysed: Callable[..., Analysis], tmp_path: Path) -> None:
    found = tags(hostile_page(tables, analysed, tmp_path).read_text("utf-8"))
    assert not any(tag == "img" for tag, _ in found)
    # Three charts, the examples, the chart library, ours.
    assert sum(tag == "script" for tag, _ in found) == 6


def test_hostile_names_do_nothing_in_a_browser(
    tables: Tables, analysed: Callable[..., Analysis], tmp_path: Path
) -> None:
    document = in_browser(hostile_page(tables, analysed, tmp_path), tmp_path)
    title = re.search(r"<title>(.*?)</title>", document, re.DOTALL)
    assert title is not None
    assert title[1] != "owned"
    assert "study" in title[1]
    assert document.count("<svg") >= 3
    assert "said &lt;/script&gt;" in document  # an example's answer, put in by the script
    assert "could not be drawn" not in document[: document.index("<footer")]
    assert not any(tag == "img" for tag, _ in tags(document))
    assert "عربي" in document


def test_charts_and_sorting_work_in_a_browser(analysis: Analysis, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    click = 'document.querySelector("#recipes th:nth-child(2) button").click()'
    page.write_text(with_script(render_page(analysis), click), encoding="utf-8")
    document = in_browser(page, tmp_path)
    assert "<svg" in document
    table = document[document.index('id="recipes"') : document.index('id="cost-chart"')]
    assert 'aria-sort="descending"' in table
    values = [float(v) for v in re.findall(r'<th scope="row">.*?<td data-value="([\d.]+)"', table, re.DOTALL)]
    assert len(values) == 5
    assert values == sorted(values, reverse=True)


def test_examples_are_filtered_by_gained_and_lost(analysis: Analysis, tmp_path: Path) -> None:
    choose = """for (const [key, value] of [["Language", "sw"], ["Show", "lost"]]) {
      const labels = [...document.querySelectorAll("#example-choices label")];
      const label = labels.find((one) => one.textContent.startsWith(key));
      const select = label.querySelector("select");
      select.value = value; select.dispatchEvent(new Event("change"));
    }"""
    page = tmp_path / "report.html"
    text = render_page(analysis, Background(examples=examples(analysis, "mtihani")))
    page.write_text(with_script(text, choose), encoding="utf-8")
    document = in_browser(page, tmp_path)
    shown = document[document.index('id="example-list"') : document.index('id="example-data"')]
    assert "1 of the 3 items kept to read" in shown
    assert "prompt 1 mtihani" in shown
    assert "prompt 0" not in shown
    assert shown.count("✓ right") == shown.count("✗ wrong") == 1
    assert 'dir="auto"' in shown


def test_a_page_reloads_itself_only_while_its_study_runs(analysis: Analysis) -> None:
    under_way = render_page(analysis, Background(running=Running("12 of 90 jobs done", "12:03:04")))
    assert '<meta http-equiv="refresh" content="30">' in under_way
    assert "12 of 90 jobs done" in under_way
    assert 'http-equiv="refresh"' not in render_page(analysis)


def test_the_place_is_kept_over_a_reload(analysis: Analysis, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    stored = '<script>sessionStorage.setItem(location.pathname + "#scroll", "700");</script></head>'
    after = "setTimeout(() => (document.body.dataset.at = Math.round(scrollY)), 800)"
    text = render_page(analysis, Background(running=Running("1 of 2", "12:00")))
    page.write_text(with_script(text.replace("</head>", stored, 1), after), encoding="utf-8")
    assert 'data-at="700"' in in_browser(page, tmp_path, "--window-size=900,600")


def test_english_stands_first_on_the_map_and_classes_follow(
    tables: Tables, analysed: Callable[..., Analysis]
) -> None:
    analysis = analysed(tables)
    guarded = [(label, [lang.code for lang in members]) for label, members in language_groups(analysis)]
    assert guarded == [
        ("guard", ["en"]),
        ("high-resource", ["es", "it"]),
        ("middle-resource", ["id"]),
        ("low-resource", ["sw"]),
    ]
    free = replace(analysis, languages=tuple(replace(lang, guard=False) for lang in analysis.languages))
    assert next(label for label, _ in language_groups(free)) == "English"


def test_a_comparison_speaks_of_models_and_recommends_nothing(analysis: Analysis) -> None:
    text = render_page(analysis, Background(is_comparison=True))
    body = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "Every model" in body
    assert "Take " not in body
    assert "loss bound" not in body
    assert "Better than the untouched model: " in body


def test_with_one_seed_effects_are_of_these_models(
    tables: Tables, analysis: Analysis, analysed: Callable[..., Analysis]
) -> None:
    first = Tables(*(t.filter(~pl.col("run").str.contains("seed[12]")) for t in vars(tables).values()))
    for shown, of_models in ((analysed(first), True), (analysis, False)):
        text = render_page(shown)
        section = text[text.index('id="effects"') : text.index('id="guards"')]
        assert ("among these trained models" in section) == of_models
        assert ("Of these trained models, not of recipes" in section) == of_models
        assert ("on average over the recipes" in section) != of_models
        assert ("*" in section) != of_models


def test_stars_on_the_cost_chart_are_those_of_the_tables(analysis: Analysis) -> None:
    chart = cost_chart(analysis)
    assert chart is not None
    [bars] = [layer for layer in chart["layer"] if "y2" in layer["encoding"]]
    keys = {scope.label: scope.key for scope in analysis.scopes if scope.kind != "guard"}
    starred = {(row["recipe"], keys[row["scope"]]): "*" in row["change"] for row in bars["data"]["values"]}
    shown = {(c.candidate, c.scope): c.significant for c in analysis.changes}
    assert starred == {place: shown[place] for place in starred}
    assert set(starred.values()) == {True, False}


def test_the_rate_taken_is_filled_with_its_recipes_own_colour() -> None:
    chart = search_chart(searches("one"))
    assert chart is not None
    lines, marks = chart["layer"]
    assert marks["encoding"]["fill"]["condition"]["scale"] == lines["encoding"]["color"]["scale"]
    assert len(set(PALETTE)) == len(PALETTE) == MOST_LABELS

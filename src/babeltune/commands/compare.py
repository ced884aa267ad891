"""`babeltune compare`: models that babeltune did not train, with the statistics and the page of a study."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from babeltune.commands.given import Given, read_given, single_model
from babeltune.commands.joined import Joined, join
from babeltune.commands.scoring import Scoring, item_scores, task_infos_of
from babeltune.commands.screen import print_json, screen
from babeltune.errors import UserError

if TYPE_CHECKING:
    from babeltune.analysis.fairness import Unevenness
    from babeltune.analysis.result import Analysis
    from babeltune.report.page import Background


def compare(
    arguments: Sequence[str],
    *,
    baseline: str | None,
    margin: float,
    assumed_run_sd: float | None,
    scoring: Scoring,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare everything in `arguments` with the baseline, item by item, and write the page to `out`.

    `scoring`: how models without scores are scored now.

    Raises:
        UserError: an argument can't be compared, or they have no items in common, or other prompts.
    """
    if len(set(arguments)) < 2:
        raise UserError("there is one model only", remedy="give two or more to compare")
    if len(set(arguments)) < len(arguments):
        raise UserError("one of them is given twice", remedy="give each once")
    console = screen(stderr=as_json)

    def score(argument: str, model: str, adapter: Path | None) -> Given:
        if not scoring.tasks or not scoring.languages:
            raise UserError(
                f"{argument} has no scores yet", remedy="say on what to score it: --tasks and --languages"
            )
        items = item_scores(model, adapter=adapter, scoring=scoring, console=console)
        infos = task_infos_of(scoring)
        return single_model(
            argument,
            items,
            {info.task: (info.metric,) for info in infos},
            scoring.in_words(),
            frozenset(info.task for info in infos if info.kind == "answer"),
        )

    given = [
        read_given(argument, lambda model, adapter, argument=argument: score(argument, model, adapter))
        for argument in arguments
    ]
    joined = join(given, baseline)
    analysis = analysis_of(joined, given, margin, assumed_run_sd)
    # The answer first: a page takes a while to draw.
    if as_json:
        print_json(analysis.to_json())
    else:
        from babeltune.report.terminal import print_comparison

        print_comparison(analysis, console)
    from babeltune.report.write import write_report

    folder = out or Path("runs") / _folder_name(given)
    folder.mkdir(parents=True, exist_ok=True)
    page = write_report(folder, analysis, joined.tables, _background(joined, given, analysis))
    console.print(f"Report: {page}", soft_wrap=True)


def analysis_of(
    joined: Joined, given: Sequence[Given], margin: float, assumed_run_sd: float | None = None
) -> Analysis:
    """The analysis of a comparison: no guards, every language counts."""
    from babeltune.analysis.analyse import analyse
    from babeltune.study.schema import Decide

    tables = joined.tables
    found = analyse(
        tables.scores,
        tables.costs,
        tables.runs,
        joined.tasks,
        Decide(margin=margin, assumed_run_sd=assumed_run_sd),
        target=joined.languages,
        guard=[],
    )
    return dataclasses.replace(
        found,
        effects=(),  # of settings among recipes, which models from elsewhere don't have
        missing=(*joined.left_out, *found.missing),
        fairness=(*found.fairness, *_asked_differently(given)),
    )


def _asked_differently(given: Sequence[Given]) -> list[Unevenness]:
    """Settings of scoring that are not the same for all."""
    from babeltune.analysis.fairness import Unevenness

    found = []
    for name in dict.fromkeys(name for one in given for name in one.settings if name != "model"):
        by_value: dict[str, list[str]] = {}
        for one in given:
            if name in one.settings:
                by_value.setdefault(one.settings[name], []).append(one.name)
        if len(by_value) > 1:
            found.append(Unevenness(name, tuple((value, tuple(who)) for value, who in by_value.items())))
    return found


def _background(joined: Joined, given: Sequence[Given], analysis: Analysis) -> Background:
    from babeltune import __version__
    from babeltune.report.examples import example_runs, examples_of
    from babeltune.report.page import Background

    asked = {
        one.name: ", ".join(f"{name} {value}" for name, value in one.settings.items()) or one.argument
        for one in given
    }
    runs = example_runs(analysis, joined.items["run"].unique().to_list())
    return Background(
        is_comparison=True,
        examples=examples_of(joined.items, runs),
        command=shlex.join(["babeltune", "compare", *(one.argument for one in given)]),
        machine={"babeltune": __version__, **asked},
    )


def _folder_name(given: Sequence[Given]) -> str:
    """`base-vs-full`: what was compared, short enough for a file system."""
    name = "-vs-".join(re.sub(r"[^\w.-]+", "-", one.name).strip("-.") or "model" for one in given)
    return name if len(name) <= 100 else f"{name[:90]}-and-others"

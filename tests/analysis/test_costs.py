"""Who pays for what: from the records of finished jobs to what each recipe cost."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from synthetic_study import analysis_of, synthetic_tables

from babeltune.analysis.costs import candidate_costs
from babeltune.analysis.tables import Tables
from babeltune.execute.collect import collect_costs
from babeltune.execute.folder import StudyFolder
from babeltune.report.checklist import SEARCH_COLUMNS, checklist
from babeltune.study.expand import RunSpec, StageSpec
from babeltune.study.graph import RunJobs, StudyJobs
from babeltune.study.jobs import Job
from babeltune.study.settings import StageSettings


@pytest.fixture
def costs(tmp_path: Path) -> pl.DataFrame:
    """Two recipes with two seeds each, whose first stages have the search in common: an hour of it."""
    folder = StudyFolder(tmp_path)
    search = Job("search", {"stage": "the same"})
    trainings = {
        (recipe, seed): Job("train", {"recipe": recipe, "seed": seed})
        for seed in (0, 1)
        for recipe in ("short", "long")
    }
    for job, seconds in ((search, 3600.0), *((job, 900.0) for job in trainings.values())):
        folder.artifact(job.id).mkdir(parents=True)
        record = {"id": job.id, "costs": {"device_seconds": seconds}}
        (folder.artifact(job.id) / "job.json").write_text(json.dumps(record))
    stages = (StageSpec(StageSettings(method="lora", learning_rate=None), "data"),)
    runs = tuple(
        RunJobs(RunSpec(recipe, "m", seed, stages), (search.id, job.id), {})
        for (recipe, seed), job in trainings.items()
    )
    return collect_costs(StudyJobs((search, *trainings.values()), runs), folder)


def test_every_recipe_pays_once_for_a_search_that_it_shares(costs: pl.DataFrame) -> None:
    searches = costs.filter(kind="search")
    assert searches["run"].to_list() == ["short/m/seed0", "long/m/seed0"]
    assert searches["job"].n_unique() == 1
    runs_of = {recipe: [f"{recipe}/m/seed{seed}" for seed in (0, 1)] for recipe in ("short", "long")}
    found = candidate_costs(costs, runs_of, [run for runs in runs_of.values() for run in runs], None)
    assert [(c.candidate, c.search_device_seconds, c.gpu_hours) for c in found] == [
        ("short", 3600.0, 1.25),
        ("long", 3600.0, 1.25),
    ]


def test_the_whole_studys_device_time_counts_it_once(costs: pl.DataFrame) -> None:
    tables = synthetic_tables(seeds=1, items=20)
    analysis = analysis_of(tables)
    answers = dict(
        checklist(
            analysis, Tables(tables.scores, costs, tables.runs), pl.DataFrame(schema=SEARCH_COLUMNS), {}
        )
    )
    assert answers["Device time"] == "2 h in all: learning-rate search 1 h, training 1 h"

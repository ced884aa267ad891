"""A made-up study as frames, for the tests of analysis and report: scores from a latent threshold, seeded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from simulated_studies import latent_scores

from babeltune.analysis.analyse import analyse
from babeltune.analysis.result import Analysis
from babeltune.analysis.scores import TaskInfo
from babeltune.analysis.tables import Tables
from babeltune.analysis.variance import Estimate, SeedVariance
from babeltune.execute.columns import COST_COLUMNS, SCORE_COLUMNS
from babeltune.study.schema import Budget, Decide


@dataclass(frozen=True)
class Recipe:
    """A recipe of the made-up study: its true gain in points by language (`en` is the guard)."""

    name: str
    method: str
    gain: dict[str, float]
    seconds: float
    parameters: int
    memory: float
    settings: dict[str, object] = field(default_factory=dict)


RECIPES = (
    Recipe(
        "lora-r4",
        "lora",
        {"en": -0.3, "es": 4, "it": 5, "id": 6, "sw": 3},
        210,
        1_221_120,
        1.1,
        {"r": 4, "bits": 16, "lora_alpha": 8.0, "learning_rate": 2e-4, "num_train_epochs": 3.0},
    ),
    Recipe(
        "lora-r32",
        "lora",
        {"en": -0.5, "es": 5, "it": 6, "id": 8, "sw": 7},
        232,
        9_768_960,
        1.2,
        {"r": 32, "bits": 16, "lora_alpha": 64.0, "learning_rate": 2e-4, "num_train_epochs": 3.0},
    ),
    Recipe(
        "lora-r32-b4",
        "lora",
        {"en": -1.2, "es": 4, "it": 5, "id": 6, "sw": 4},
        248,
        9_768_960,
        0.9,
        {"r": 32, "bits": 4, "lora_alpha": 64.0, "learning_rate": 2e-4, "num_train_epochs": 3.0},
    ),
    Recipe(
        "full",
        "full",
        {"en": -8.0, "es": 5, "it": 7, "id": 8, "sw": 8},
        610,
        134_515_008,
        3.4,
        {"bits": 16, "learning_rate": 1e-5, "num_train_epochs": 2.0},
    ),
)
TASKS = (
    TaskInfo("xcopa", "accuracy", chance=0.5),
    TaskInfo("xnli", "accuracy", chance=1 / 3),
    TaskInfo("parallel-text", "bits_per_byte"),
)
TARGET, GUARD = ["es", "it", "id", "sw"], ["en"]


def synthetic_tables(
    *,
    recipes: tuple[Recipe, ...] = RECIPES,
    seeds: int = 2,
    items: int = 400,
    seed_sd: float = 0.5,
    model: str = "SmolLM2-135M-Instruct",
) -> Tables:
    """Frames as a study writes them: recipes × seeds, five languages, two tasks and held-out loss."""
    random = np.random.default_rng(7)
    languages = [*GUARD, *TARGET]
    level = {"en": 0.62, "es": 0.55, "it": 0.54, "id": 0.52, "sw": 0.5}
    specs: list[tuple[Recipe | None, int]] = [(None, 0), *((r, s) for s in range(seeds) for r in recipes)]
    recipe_R = np.array([0 if r is None else 1 + recipes.index(r) for r, _ in specs])
    gain_R_L = np.array([[0.0 if r is None else r.gain[lang] for lang in languages] for r, _ in specs])
    shift_R = np.array([0.0 if r is None else random.normal() * seed_sd for r, _ in specs])
    ability_R_L = np.array([level[lang] for lang in languages]) + (gain_R_L + shift_R[:, None]) / 100
    run_rows, cost_rows, score_frames = [], [], []
    for r, (recipe, seed) in enumerate(specs):
        name = recipe.name if recipe else "untouched"
        run = f"{name}/{model}/seed{seed}" if recipe else f"untouched/{model}"
        run_rows.append(
            {
                "study": "synthetic",
                "model": model,
                "recipe": name,
                "run": run,
                "seed": seed,
                "state": "done",
                "error": None,
                "method": recipe.method if recipe else "untouched",
                "data": "clean" if recipe else None,
                "r": None,
                "bits": None,
                "lora_alpha": None,
                "learning_rate": None,
                "num_train_epochs": None,
                **(recipe.settings if recipe else {}),
            }
        )
        if recipe:
            seconds = recipe.seconds * (1 + 0.03 * random.normal())
            cost_rows.append(
                {
                    "run": run,
                    "job": f"train-{r}",
                    "kind": "train",
                    "wall_seconds": seconds,
                    "device_seconds": seconds * 1.9,
                    "peak_memory_bytes": int(recipe.memory * 2**30),
                    "tokens": 181_000,
                    "trained_tokens": 96_000,
                    "trainable_parameters": recipe.parameters,
                    "flops": 6.0 * 134e6 * 181_000,
                    "energy_joules": None,
                }
            )
    for task in TASKS[:2]:
        values = latent_scores(random, ability_R_L, recipe_R, items).astype(float)
        score_frames.append(_frame(task, values, run_rows, languages, items))
    loss = 1.4 - 2 * (ability_R_L - 0.5)[:, :, None] + 0.2 * random.standard_normal((1, 1, 60))
    score_frames.append(
        _frame(TASKS[2], loss + 0.02 * random.standard_normal(loss.shape), run_rows, languages, 60)
    )
    return Tables(
        scores=pl.concat(score_frames).select(pl.col(c).cast(t) for c, t in SCORE_COLUMNS.items()),
        costs=pl.DataFrame(cost_rows, schema=COST_COLUMNS),
        runs=pl.DataFrame(run_rows, infer_schema_length=None),
    )


def analysis_of(
    tables: Tables, budget: Budget | None = None, *, tasks: Sequence[TaskInfo] = TASKS, **decide: Any
) -> Analysis:
    """The analysis of a made-up study; keywords go to `Decide`."""
    return analyse(
        tables.scores,
        tables.costs,
        tables.runs,
        tasks,
        Decide(**decide),
        target=TARGET,
        guard=GUARD,
        budget=budget or Budget(price_per_gpu_hour=2.0, currency="EUR"),
    )


def _frame(
    task: TaskInfo, values_R_L_N: NDArray[np.float64], runs: list[dict], languages: list[str], items: int
) -> pl.DataFrame:
    frames = [
        pl.DataFrame(
            {"item": [f"{task.task}-{i}" for i in range(items)], "value": values_R_L_N[r, n]}
        ).with_columns(
            *(pl.lit(run[key]).alias(key) for key in ("study", "model", "recipe", "run", "seed")),
            pl.lit(task.task).alias("task"),
            pl.lit(language).alias("language"),
            pl.lit(task.metric).alias("metric"),
        )
        for r, run in enumerate(runs)
        for n, language in enumerate(languages)
    ]
    return pl.concat(frames)


def eight_recipes(random: np.random.Generator, truth: float = 0.0) -> Estimate:
    """Eight recipes that are `truth` points better than an untouched model, with normal errors."""
    means = random.normal(size=9) * np.where(np.arange(9) == 0, 0.3, np.sqrt(0.09 + 0.25 / 2))
    means[1:] += truth
    raw = 0.25 * random.chisquare(8) / 8
    return Estimate(
        means,
        np.array([1] + [2] * 8),
        np.eye(9) * 0.09,
        0.0,
        1000,
        np.array([-1] + [0] * 8),
        (SeedVariance("adapter", raw, 0.0, 8, 8),),
    )

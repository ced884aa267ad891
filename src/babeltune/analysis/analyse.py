"""From item scores, costs and runs to everything the report says: one pure function, `analyse`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from babeltune.analysis.candidates import Candidate, candidates_of, untouched_of
from babeltune.analysis.comparison import Comparison, compare, corrected
from babeltune.analysis.costs import candidate_costs
from babeltune.analysis.effects import all_effects
from babeltune.analysis.fairness import unevenness
from babeltune.analysis.frontier import frontier
from babeltune.analysis.inventory import candidate_info, run_infos, scope_info
from babeltune.analysis.losses import mean_losses
from babeltune.analysis.missing import missing_parts
from babeltune.analysis.points import FIDELITY, LOSS_METRICS, unit_in_words
from babeltune.analysis.recommend import (
    Recommendation,
    guard_checks,
    loss_bounds,
    recommend,
)
from babeltune.analysis.references import gaps_closed, references_of
from babeltune.analysis.result import Analysis, LanguageInfo, RunToRun, Score
from babeltune.analysis.scopes import (
    Scope,
    ScopeKind,
    common_cells,
    decision_tasks,
    guard_tasks,
    language_name,
    resource_group,
    scopes_of,
)
from babeltune.analysis.scores import TaskInfo, arrays_of
from babeltune.analysis.sensitivity import sensitivities
from babeltune.analysis.variance import Estimate, contrasts, estimate
from babeltune.study.schema import Budget, Decide


def analyse(
    scores: pl.DataFrame,
    costs: pl.DataFrame,
    runs: pl.DataFrame,
    tasks: Sequence[TaskInfo],
    decide: Decide,
    *,
    target: Sequence[str],
    guard: Sequence[str],
    budget: Budget | None = None,
) -> Analysis:
    """The whole analysis of a study, finished or not.

    Args:
        scores, costs, runs: the frames of `analysis.tables`.
        tasks: every task of the study; those without scores yet are named as missing.
        decide: margins, confidence and the cost that counts.
        target, guard: language codes as in the frames.
        budget: for prices.
    """
    unpriced = decide.cheapest == "price" and (budget is None or budget.price_per_gpu_hour is None)
    if unpriced:
        decide = decide.model_copy(update={"cheapest": "gpu_hours"})
    candidates = candidates_of(runs)
    references = references_of(runs, costs)
    labels = [c.label for c in candidates]
    scored = set(scores["run"].unique().to_list())
    run_candidate = {run: k for k, c in enumerate(candidates) for run in c.runs}
    present = [run for run in run_candidate if run in scored]
    arrays = arrays_of(scores, tasks, present, run_candidate, [c.family for c in candidates])
    cells, left_out = common_cells(arrays)
    scopes = scopes_of(cells, tasks, target, guard)
    estimates = {scope.key: estimate(arrays, scope.weights) for scope in scopes}
    whole = next((scope for scope in scopes if scope.kind == "overall"), None)
    overall = estimates[whole.key] if whole else None
    trained = [k for k, c in enumerate(candidates) if not c.is_untouched]
    base = untouched_of(candidates)

    changes = _changes(scopes, estimates, labels, base, decide)
    pairs = _pairs([whole] if whole else [], estimates, labels, trained, decide)
    cost_rows = candidate_costs(costs, {labels[k]: candidates[k].runs for k in trained}, scored, budget)
    cost_by_label = {c.candidate: c.by(decide.cheapest) for c in cost_rows}
    bounds = (
        loss_bounds(overall, labels, trained, margin=decide.margin, confidence=decide.confidence)
        if overall
        else []
    )
    parts = [scope for scope in scopes if scope.kind in ("language", "task", "class", "script")]
    scoped_pairs = _pairs(parts, estimates, labels, trained, decide)
    guard_scopes = {s.label: estimates[s.key] for s in scopes if s.kind == "guard"}
    guards = guard_checks(
        guard_scopes, labels, trained, base, guard_margin=decide.guard_margin, confidence=decide.confidence
    )
    worse = frozenset(c.candidate for c in changes if c.scope == "overall" and c.high < 0)
    recommendation = (
        recommend(
            overall,
            labels,
            trained,
            bounds,
            guards,
            _guard_names(scopes, tasks, guard),
            cost_by_label,
            worse,
            margin=decide.margin,
            confidence=decide.confidence,
        )
        if overall
        else Recommendation("none", None, None, None, (), ("nothing has been scored yet",), None)
    )
    settings = {k: candidates[k].settings for k in trained}
    known = [k for k in trained if overall is not None and overall.available_K[k]]
    deciding = decision_tasks(tasks)
    return Analysis(
        study=str(runs["study"][0]) if len(runs) else "",
        basis="recipes" if overall is not None and overall.replicated else "models",
        unit=unit_in_words(deciding[0].metric) if deciding else "points",
        decide=decide.model_dump(),
        currency=(budget or Budget()).currency,
        languages=tuple(
            LanguageInfo(code, language_name(code), resource_group(code), code in guard)
            for code in dict.fromkeys([*guard, *target])
        ),
        tasks=tuple(tasks),
        decision_tasks=tuple(task.task for task in deciding),
        scopes=tuple(scope_info(scope, arrays) for scope in scopes),
        candidates=tuple(candidate_info(c, k, overall) for k, c in enumerate(candidates)),
        runs=tuple(run_infos(runs, candidates, references, arrays, whole)),
        scores=tuple(_scores(scopes, estimates, labels, decide.confidence)),
        changes=tuple(changes),
        pairs=tuple(pairs),
        bounds=tuple(bounds),
        guards=tuple(guards),
        losses=tuple(mean_losses(scores, candidates, base, LOSS_METRICS)),
        fidelity=tuple(mean_losses(scores, candidates, base, [FIDELITY])),
        costs=tuple(cost_rows),
        frontier=tuple(
            frontier(overall, labels, known, [cost_by_label[labels[k]] for k in known], decide.confidence)
            if overall is not None and overall.replicated
            else ()
        ),
        effects=tuple(all_effects(scopes, estimates, settings, decide.confidence)),
        run_to_run=tuple(_run_to_run(overall, candidates)),
        fairness=tuple(
            unevenness(
                {labels[k]: candidates[k].settings for k in trained},
                {c.candidate: c.tokens for c in cost_rows},
            )
        ),
        missing=(
            *missing_parts(runs, tasks, arrays, left_out, scopes, target, guard),
            *(
                ["no price per device hour is given: device hours decide what is cheapest"]
                if unpriced
                else []
            ),
        ),
        recommendation=recommendation,
        scoped_pairs=tuple(scoped_pairs),
        scoped_bounds=tuple(
            bound
            for scope in parts
            for bound in loss_bounds(
                estimates[scope.key],
                labels,
                trained,
                margin=decide.margin,
                confidence=decide.confidence,
                scope=scope.key,
            )
        ),
        references=tuple(references),
        gaps=tuple(gaps_closed(scores, references, tasks, candidates, target, guard, decide.confidence)),
        power=tuple(
            sensitivities(
                changes,
                [*pairs, *scoped_pairs],
                guards,
                margin=decide.margin,
                guard_margin=decide.guard_margin,
            )
        ),
    )


def _changes(
    scopes: Sequence[Scope],
    estimates: Mapping[str, Estimate],
    labels: Sequence[str],
    base: Mapping[int, int],
    decide: Decide,
) -> list[Comparison]:
    """Against untouched: overall by simultaneous intervals; each other kind of scope as one map."""
    return _compared(scopes, estimates, labels, list(base.items()), decide, simultaneous=True)


def _pairs(
    scopes: Sequence[Scope],
    estimates: Mapping[str, Estimate],
    labels: Sequence[str],
    trained: Sequence[int],
    decide: Decide,
) -> list[Comparison]:
    """Every two trained candidates: overall under Holm, each other kind of scope as one map."""
    return _compared(scopes, estimates, labels, list(itertools.combinations(trained, 2)), decide)


def _compared(
    scopes: Sequence[Scope],
    estimates: Mapping[str, Estimate],
    labels: Sequence[str],
    couples: Sequence[tuple[int, int]],
    decide: Decide,
    *,
    simultaneous: bool = False,
) -> list[Comparison]:
    of_kind: dict[ScopeKind, list[Comparison]] = {}
    for scope in scopes:
        of_kind.setdefault(scope.kind, []).extend(
            compare(
                estimates[scope.key],
                labels,
                [first for first, _ in couples],
                [second for _, second in couples],
                scope.key,
                margin=decide.margin,
                confidence=decide.confidence,
                simultaneous=simultaneous and scope.kind == "overall",
                assumed_run_sd=decide.assumed_run_sd,
            )
        )
    return [
        comparison
        for kind, found in of_kind.items()
        for comparison in corrected(
            found,
            "holm" if kind == "overall" else "fdr_bh",
            decide.confidence,
            simultaneous=simultaneous and kind == "overall",
        )
    ]


def _scores(
    scopes: Sequence[Scope], estimates: Mapping[str, Estimate], labels: Sequence[str], confidence: float
) -> list[Score]:
    found = []
    for scope in scopes:
        if scope.kind == "gap":
            continue
        single = contrasts(estimates[scope.key], np.eye(len(labels)))
        low_K, high_K = single.interval(confidence)
        found += [
            Score(label, scope.key, float(single.difference_C[k]), float(low_K[k]), float(high_K[k]))
            for k, label in enumerate(labels)
            if np.isfinite(single.difference_C[k])
        ]
    return found


def _run_to_run(overall: Estimate | None, candidates: Sequence[Candidate]) -> list[RunToRun]:
    if overall is None or not overall.replicated:
        return []
    return [
        RunToRun(
            family=found.family,
            sd=math.sqrt(found.variance),
            upper_sd=found.upper_sd,
            df=found.df,
            provisional=found.provisional,
            borrowed=found.df != found.df_used,
            carried_by=tuple(
                c.label
                for k, c in enumerate(candidates)
                if c.family == found.family and overall.seeds_K[k] > 1
            ),
        )
        for found in overall.seed_variances
    ]


def _guard_names(scopes: Sequence[Scope], tasks: Sequence[TaskInfo], guard: Sequence[str]) -> list[str]:
    """Guards to keep: those with scores, and guard languages and guard tasks that have none at all yet."""
    scored = [scope for scope in scopes if scope.kind == "guard"]
    keys = [scope.key.split(":", 2) for scope in scored]
    scored_languages, scored_tasks = {key[1] for key in keys}, {key[2] for key in keys if len(key) > 2}
    return [
        *(scope.label for scope in scored),
        *(language_name(code) for code in guard if code not in scored_languages),
        *(task for task in guard_tasks(tasks) if task not in scored_tasks),
    ]

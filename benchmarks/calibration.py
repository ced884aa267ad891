"""Do the statistics hold what they promise? Simulated studies with known truth, thousands of each kind.

    python benchmarks/calibration.py                      # everything; minutes on one core
    python benchmarks/calibration.py --case guard --repeats 500
    python benchmarks/calibration.py --processes 8

Prints, for every promise, what was expected when the method was chosen, what is accepted and what was seen,
with the tests that peers use (unpaired, or over items only) beside; ends with 1 where a figure is outside.
Repeats are seeded one by one: neither their number nor the processes change what a repeat gives.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special
from simulated_studies import gaussian_estimate, simulated_study

from babeltune.analysis.comparison import Comparison, compare
from babeltune.analysis.critical import largest_of
from babeltune.analysis.effects import factor_effects
from babeltune.analysis.power import Assumptions, TaskSize, chance_to_show, power
from babeltune.analysis.recommend import guard_checks, loss_bounds
from babeltune.analysis.references import fieller
from babeltune.analysis.scores import ScoreArrays
from babeltune.analysis.variance import Contrasts, Estimate, contrasts, estimate, pairs
from babeltune.analysis.weights import difference, macro

RECIPES = 8
UNTOUCHED = RECIPES
PAIRS = [(a, b) for a in range(RECIPES) for b in range(a)]
LABELS = [str(k) for k in range(RECIPES + 1)]
ALPHA = 0.05
Outcomes = dict[str, float]
"""What came of one simulated study: shares (of its intervals that cover, say) and 0 or 1."""


@dataclass(frozen=True)
class Promise:
    """A mean over repeats of one outcome, in per cent, and the range in which it is accepted."""

    outcome: str
    words: str
    expected: str
    low: float = 0.0
    high: float = 100.0


@dataclass(frozen=True)
class Case:
    """One kind of study: how one is simulated and judged, how often, and what is promised."""

    name: str
    words: str
    repeats: int
    one: Callable[[np.random.Generator], Outcomes]
    promises: tuple[Promise, ...]


def covers(found: Contrasts, truth: float | NDArray[np.float64] = 0.0) -> NDArray[np.bool_]:
    low_C, high_C = found.interval(1 - ALPHA)
    return (low_C <= truth) & (truth <= high_C)


def any_claim(p_C: NDArray[np.float64]) -> bool:
    """Whether Holm's method claims anything; its first step is Bonferroni's."""
    return bool(len(p_C) * p_C.min() < ALPHA)


def p_of_z(difference_C: NDArray[np.float64], variance_C: NDArray[np.float64]) -> NDArray[np.float64]:
    return 2 * special.ndtr(-np.abs(difference_C) / np.sqrt(variance_C))


def unpaired_variance(arrays: ScoreArrays, h_C_K: NDArray[np.float64]) -> NDArray[np.float64]:
    """As if every score of every run were of another item: what a table of standard errors suggests."""
    variance_K = np.zeros(arrays.n_candidates)
    for task in arrays.tasks:
        for k in range(arrays.n_candidates):
            values = task.values_R_L_N[arrays.candidate_R == k]
            variance_K[k] += values.var() / values.size / len(arrays.tasks) ** 2
    return h_C_K**2 @ variance_K


def changes_overall(known: Estimate) -> list[Comparison]:
    """Of every recipe against the untouched model, as the report gives them."""
    first, second = list(range(RECIPES)), [UNTOUCHED] * RECIPES
    return compare(
        known, LABELS, first, second, "overall", margin=2.0, confidence=1 - ALPHA, simultaneous=True
    )


def equal(random: np.random.Generator, *, against_untouched: bool = False, **study: float) -> Outcomes:
    """Eight equally good recipes: every difference found is false."""
    arrays = simulated_study(random, **study)  # pyright: ignore[reportArgumentType]
    known = estimate(arrays, macro(arrays.cells))
    h_C_K = pairs(RECIPES + 1, [a for a, _ in PAIRS], [b for _, b in PAIRS])
    found = contrasts(known, h_C_K)
    unpaired_C = unpaired_variance(arrays, h_C_K)
    outcomes: Outcomes = {
        "coverage": float(covers(found).mean()),
        "false claim": any_claim(found.p_C),
        "no seed variance": known.seed_variances[0].variance == 0,
        "item-only": any_claim(p_of_z(found.difference_C, found.item_variance_C)),
        "unpaired": any_claim(p_of_z(found.difference_C, unpaired_C)),
    }
    if against_untouched:
        changes = changes_overall(known)
        outcomes["claim against untouched"] = any_claim(np.array([c.p for c in changes]))
        outcomes["all ends hold"] = all(c.low <= 0 <= c.high for c in changes)
    return outcomes


def families(random: np.random.Generator) -> Outcomes:
    """Two full-parameter recipes whose runs scatter widely, six adapters whose runs don't."""
    family_K = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    arrays = simulated_study(random, seeds=3, seed_sd=np.where(family_K == 0, 1.5, 0.4), family_K=family_K)
    h_C_K = pairs(RECIPES + 1, [a for a, _ in PAIRS], [b for _, b in PAIRS])
    one_pool = ScoreArrays(
        arrays.runs, arrays.candidate_R, ("all",), np.minimum(arrays.family_K, 0), arrays.tasks
    )
    known, known_pooled = (estimate(a, macro(a.cells)) for a in (arrays, one_pool))
    found, pooled = contrasts(known, h_C_K), contrasts(known_pooled, h_C_K)
    changes = changes_overall(known)
    return {
        "all ends hold": all(c.low <= 0 <= c.high for c in changes),
        "coverage": float(covers(found).mean()),
        "false claim": any_claim(found.p_C),
        "one pool": any_claim(pooled.p_C),
    }


def hardest_choice(random: np.random.Generator, *, margin: float = 2.0) -> Outcomes:
    """One recipe is best; seven cheaper ones are exactly the margin worse. Taking any of them is wrong.

    A standard error of a difference is 0.94 points here. How often "not significantly worse" is wrong depends
    on the margin in such errors: a margin of few of them is rarely seen. The other two rules hardly do.
    """
    truth_K = np.array([0.0] + [-margin] * (RECIPES - 1))
    known = gaussian_estimate(random, truth_K, np.ones(RECIPES, dtype=bool))
    bounds = loss_bounds(known, LABELS[:RECIPES], range(RECIPES), margin=margin, confidence=1 - ALPHA)
    best = int(known.means_K.argmax())
    others = [k for k in range(RECIPES) if k != best]
    found = contrasts(known, pairs(RECIPES, [best] * len(others), others))
    holm_C = np.sort(found.p_C) * np.arange(len(others), 0, -1)  # all are shown where all of these are
    at_once_C = largest_of(RECIPES, found.df_C, 1 - ALPHA) * found.se_C
    return {
        "wrong": any(b.bound <= margin for b in bounds[1:]),
        "wrong by not significant": best != 0 or bool((found.p_C >= ALPHA).any()),
        "wrong by not significant, Holm": best != 0 or bool((holm_C >= ALPHA).any()),
        "wrong by not significant at once": best != 0 or bool((found.difference_C < at_once_C).any()),
        "wrong by point estimate": bool((known.means_K[1:] >= known.means_K.max() - margin).any()),
    }


def guard(random: np.random.Generator) -> Outcomes:
    """Eight recipes lose exactly the guard margin; calling any of them kept is wrong."""
    trained_K = np.array([True] * RECIPES + [False])
    known = gaussian_estimate(random, np.where(trained_K, -1.0, 0.0), trained_K)
    base = dict.fromkeys(range(RECIPES), UNTOUCHED)
    checks = guard_checks(
        {"English": known}, LABELS, range(RECIPES), base, guard_margin=1.0, confidence=1 - ALPHA
    )
    return {"wrongly kept": any(check.kept for check in checks)}


EFFECT = 3.0


def effect(random: np.random.Generator) -> Outcomes:
    """One recipe is three points better than another, named beforehand."""
    effect_K_L = np.zeros((RECIPES + 1, 1))
    effect_K_L[0] = EFFECT
    arrays = simulated_study(random, effect_K_L=effect_K_L)
    found = contrasts(estimate(arrays, macro(arrays.cells)), pairs(RECIPES + 1, [0], [1]))
    return {
        "shown": bool(found.p_C[0] < ALPHA and found.difference_C[0] > 0),
        "coverage": float(covers(found, EFFECT).mean()),
    }


def planned_chance() -> float:
    """What `plan` gives an effect of that size before the study, in per cent, from a pilot of such items."""
    languages = tuple(f"l{n}" for n in range(8))
    sizes = [TaskSize(name, 500, languages) for name in ("a", "b")]
    pilot = Assumptions(between_seeds=0.743, between_recipes=0.602, between_languages=0.129)
    overall = power(sizes, recipes=RECIPES, seeds=2, assumptions=dict.fromkeys("ab", pilot))[0]
    return 100 * chance_to_show(EFFECT, overall.standard_error, overall.df, ALPHA)


GRID = [{"method": "lora", "r": r, "bits": bits} for r in (8, 16, 32, 64) for bits in (16, 4)]
BY_CLASS = {"r": 1.0, "bits": -1.5}


def rank_by_class(random: np.random.Generator) -> Outcomes:
    """Rank helps four low-resource languages by a point per doubling, four high-resource ones not at all."""
    low_L = np.arange(8) < 4
    effect_K = [BY_CLASS["r"] * np.log2(row["r"] / 8) + BY_CLASS["bits"] * (row["bits"] == 4) for row in GRID]
    effect_K_L = np.outer([*effect_K, 0.0], low_L)
    arrays = simulated_study(random, effect_K_L=effect_K_L)
    low, high = (
        macro(cell for cell in arrays.cells if bool(low_L[int(cell[1][1:])]) == is_low)
        for is_low in (True, False)
    )
    known = estimate(arrays, difference(low, high))
    effects = factor_effects(known, dict(enumerate(GRID)), "gap:low-high", confidence=1 - ALPHA)
    return {
        f"{e.factor} covered": e.low is not None and e.low <= BY_CLASS[e.factor] <= (e.high or 0.0)
        for e in effects
    }


def gap_closed(random: np.random.Generator) -> Outcomes:
    """A recipe closes half of a gap of eight points to a larger model."""
    effect_K_L = np.array([[4.0]] * RECIPES + [[0.0], [8.0]])
    arrays = simulated_study(random, effect_K_L=effect_K_L, references=1)
    known = estimate(arrays, macro(arrays.cells))
    h_C_K = pairs(RECIPES + 2, [0, RECIPES + 1], [UNTOUCHED, UNTOUCHED])
    found = contrasts(known, h_C_K)
    t = float(np.abs(found.interval(1 - ALPHA)[1][0] - found.difference_C[0]) / found.se_C[0])
    covariance = float(h_C_K[0] @ known.item_covariance_K_K @ h_C_K[1])
    (gained, gap), (gained_variance, gap_variance) = found.difference_C.tolist(), found.variance_C.tolist()
    ends = fieller(gained, gap, gained_variance, gap_variance, covariance, t)
    return {"covered": ends is not None and ends[0] <= 0.5 <= ends[1], "undefined": ends is None}


def _coverage(low: float, high: float, expected: str) -> Promise:
    return Promise("coverage", "28 intervals cover", expected, low, high)


FALSE_CLAIM = Promise("false claim", "any false claim, 28 pairs (Holm)", "4.5", 0, 6.5)
PEERS = (
    Promise("item-only", "any false claim by items only", "47", 30, 100),
    Promise("unpaired", "any false claim unpaired", "45", 30, 100),
)
UNTOUCHED_CLAIMS = (
    Promise("claim against untouched", "any false claim, 8 against the untouched (Holm)", "5.2", 0, 6.5),
    Promise("all ends hold", "8 simultaneous intervals all cover", "95", 93, 98),
)


def cases() -> list[Case]:
    planned = planned_chance()
    found = [
        Case(
            f"equal-{seeds}",
            f"8 equal recipes, {seeds} seeds, SD 0.7",
            2000,
            functools.partial(equal, against_untouched=True, seeds=seeds),
            (_coverage(94, 96, "95.1"), FALSE_CLAIM, *UNTOUCHED_CLAIMS, *(PEERS if seeds == 2 else ())),
        )
        for seeds in (2, 3)
    ]
    found.append(
        Case(
            "no-seed-variance",
            "the same, 2 seeds, SD 0",
            2000,
            functools.partial(equal, seed_sd=0.0),
            (
                _coverage(94, 97.5, "95.8"),
                Promise("no seed variance", "no run-to-run variation found", "55"),
            ),
        )
    )
    for name, words, study in (
        ("floor", "27 % right", {"accuracy": 0.27}),
        ("ceiling", "95 % right", {"accuracy": 0.95}),
        ("few-items", "100 items", {"items": 100}),
    ):
        promises = (_coverage(93, 97, "94.7–95.8"), replace(FALSE_CLAIM, expected="5"))
        found.append(Case(name, f"the same, {words}", 2000, functools.partial(equal, **study), promises))
    return [
        *found,
        Case(
            "families",
            "2 full (SD 1.5) and 6 LoRA recipes (SD 0.4), 3 seeds",
            2000,
            families,
            (
                Promise("false claim", "any false claim, 28 pairs (Holm)", "4", 0, 6.5),
                UNTOUCHED_CLAIMS[1],
                Promise("one pool", "the same with one pool of seeds", "13"),
            ),
        ),
        *(
            Case(
                name,
                f"7 cheaper recipes exactly the margin of {margin:g} worse (Gaussian)",
                20_000,
                functools.partial(hardest_choice, margin=margin),
                (
                    Promise("wrong", "a wrong one certified", "3.6", 0, 5),
                    Promise("wrong by not significant", "taken as “not significantly worse”", "96"),
                    Promise("wrong by not significant, Holm", "the same, p corrected for 7 (Holm)", "–"),
                    Promise("wrong by not significant at once", "the same, by the rule's own quantile", "–"),
                    Promise("wrong by point estimate", "taken by point estimate", "88"),
                ),
            )
            for name, margin in (("choice", 2.0), ("choice-narrow", 1.4))
        ),
        Case(
            "guard",
            "8 recipes exactly the guard margin worse (Gaussian)",
            20_000,
            guard,
            (Promise("wrongly kept", "any guard called kept", "3.4", 0, 5),),
        ),
        Case(
            "effect",
            "3 points between two named recipes, 2 seeds",
            600,
            effect,
            (
                Promise("shown", f"shown (plan: {planned:.0f})", "87", planned - 5, planned + 5),
                Promise("coverage", "the interval covers", "95", 93, 97),
            ),
        ),
        Case(
            "rank-by-class",
            "rank and bits × resource class, 2 seeds",
            1000,
            rank_by_class,
            (
                Promise("r covered", "rank × class covered", "96", 93.5, 97.5),
                Promise("bits covered", "bits × class covered", "96", 93.5, 97.5),
            ),
        ),
        Case(
            "gap",
            "half of an 8-point gap to a larger model closed, 2 seeds",
            1000,
            gap_closed,
            (Promise("covered", "the share's interval covers", "95", 93.5, 97.5),),
        ),
    ]


def simulate(case: Case, repeats: Sequence[int]) -> list[Outcomes]:
    """The outcomes of the repeats with these numbers."""
    key = list(case.name.encode())
    return [case.one(np.random.default_rng([*key, repeat])) for repeat in repeats]


def shares(case: Case, outcomes: Sequence[Outcomes]) -> dict[str, tuple[float, float]]:
    """Mean and its standard error of every promised outcome, in per cent."""
    found = {}
    for promise in case.promises:
        values = 100 * np.array([o[promise.outcome] for o in outcomes], dtype=float)
        found[promise.outcome] = (float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5))
    return found


def _simulate_named(name: str, repeats: Sequence[int]) -> list[Outcomes]:
    return simulate(next(case for case in cases() if case.name == name), repeats)


def _all_repeats(case: Case, repeats: int, processes: int) -> list[Outcomes]:
    numbers = range(repeats)
    if processes == 1:
        return simulate(case, numbers)
    with concurrent.futures.ProcessPoolExecutor(processes) as pool:
        parts = pool.map(
            functools.partial(_simulate_named, case.name), [numbers[n::processes] for n in range(processes)]
        )
        return [outcome for part in parts for outcome in part]


def main() -> int:
    """Runs the cases asked for and prints a Markdown table; returns 1 where a promise is not held."""
    everything = cases()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", action="append", choices=[case.name for case in everything])
    parser.add_argument("--repeats", type=int, help="instead of each case's own")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    broken = 0
    print("| study | repeats | share of studies, % | expected | accepted | seen |\n|---|---|---|---|---|---|")
    for case in everything:
        if options.case and case.name not in options.case:
            continue
        repeats = options.repeats or case.repeats
        start = time.perf_counter()
        seen = shares(case, _all_repeats(case, repeats, options.processes))
        for promise in case.promises:
            mean, error = seen[promise.outcome]
            bounded = promise.low > 0 or promise.high < 100
            held = promise.low <= mean <= promise.high
            broken += bounded and not held
            accepted = f"{promise.low:.3g}–{promise.high:.3g}" if bounded else "beside"
            mark = "" if held else " **outside**"
            print(
                f"| {case.words} | {repeats:,} | {promise.words} | {promise.expected} | {accepted} "
                f"| {mean:.1f} ± {error:.1f}{mark} |"
            )
        print(f"{case.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())

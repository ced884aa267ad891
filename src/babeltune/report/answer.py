"""The answer in sentences: what to take, how sure that is, what it gains, what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from babeltune.analysis.candidates import UNTOUCHED
from babeltune.analysis.comparison import Comparison
from babeltune.analysis.recommend import GuardCheck
from babeltune.analysis.result import Analysis
from babeltune.report import words

COST_NAMES = {
    "gpu_hours": "device hours",
    "price": "price",
    "peak_memory": "peak memory",
    "trainable_parameters": "trainable parameters",
}


Certainty = Literal["certified", "provisional", "these models only", "these recipes", "no answer yet"]


@dataclass(frozen=True)
class Answer:
    """`sentence` says it alone; `headline` and `lead` say the same in two parts; `details` follow."""

    certainty: Certainty
    headline: str
    lead: str
    sentence: str
    details: tuple[str, ...]


def answer(analysis: Analysis) -> Answer:
    """The recommendation of an analysis, in words."""
    found = analysis.recommendation
    if found.candidate is None:
        reasons = words.listed(list(found.reasons))
        if found.state == "keep untouched":
            headline = "Keep the untouched model"
            certainty: Certainty = "certified" if analysis.basis == "recipes" else "these models only"
        else:
            headline, certainty = "No answer yet", "no answer yet"
        return Answer(certainty, headline, f"{_capital(reasons)}.", f"{headline}: {reasons}.", ())

    facts = ", ".join(_facts(analysis, found.candidate))
    only_the_margin = found.obstacle == "margin" and found.open_guards
    aim = "For the margin" if only_the_margin else "To decide"
    needed = f" {aim} it would take {found.needed}." if found.needed else ""
    details = tuple(_details(analysis, found.candidate))
    if found.state == "certified":
        headline = f"Take {found.candidate}"
        return Answer("certified", headline, f"{_capital(facts)}.", f"{headline}: {facts}.", details)
    if found.state == "provisional":
        undecided = _undecided(analysis)
        start = undecided if found.obstacle == "broken guards" else "Not decided"
        headline = f"{start}; {found.candidate} for now"
        sentence = f"{undecided}. Provisional choice {found.candidate}: {facts}.{needed}"
        return Answer(
            "provisional", headline, f"{undecided}; this one is {facts}.{needed}", sentence, details
        )
    headline = f"Of these models, {found.candidate}"
    caveat = "About the recipes nothing is shown, with one seed each." + needed
    return Answer(
        "these models only",
        headline,
        f"{_capital(facts)}. {caveat}",
        f"{headline}: {facts}. {caveat}",
        details,
    )


def _undecided(analysis: Analysis) -> str:
    found = analysis.recommendation
    if found.obstacle == "broken guards":
        broken = list(dict.fromkeys(check.guard for check in analysis.guards if check.broken))
        return f"No recipe keeps {f'the guard {broken[0]}' if len(broken) == 1 else 'every guard'}"
    if found.obstacle == "guards":
        verb = "is" if len(found.open_guards) == 1 else "are"
        return f"Not decided: {words.listed(list(found.open_guards))} {verb} not shown to be kept"
    if found.obstacle == "seeds":
        return "Not decided: not every kind of recipe was trained with a second seed"
    return f"Not decided at a margin of {analysis.decide['margin']:g} {analysis.unit}"


def comparison_answer(analysis: Analysis) -> Answer:
    """What a comparison of models shows against the one they are compared with, in words."""
    base = baseline_name(analysis)
    changes = [c for c in analysis.changes if c.scope == "overall"]
    of_models = analysis.basis == "models"
    certainty: Certainty = "these models only" if of_models else "these recipes"
    if not changes:
        headline, reason = "No answer yet", "nothing that all of them were scored on"
        return Answer("no answer yet", headline, f"{_capital(reason)}.", f"{headline}: {reason}.", ())
    headline = _comparison_headline(changes, base)
    figures = [
        f"{c.candidate} {words.signed(c.difference)} ({words.signed(c.low)} to {words.signed(c.high)})"
        for c in changes[:4]
    ]
    more = f" and {len(changes) - 4} more" if len(changes) > 4 else ""
    overall = next(s for s in analysis.scopes if s.key == "overall")
    over = f"{overall.items} items of {words.listed(list(overall.tasks))}"
    sure = words.percent(analysis.decide["confidence"])
    lead = f"Against {base}, in {analysis.unit}: {', '.join(figures)}{more}; {sure}, over {over}."
    if len(overall.languages) > 1:
        lead = f"{lead[:-1]} in {len(overall.languages)} languages."
    details = [
        "About these trained models, not these recipes: none was trained again with another seed."
        if of_models
        else "About recipes: the variation between their seeds is counted."
    ]
    margin = f"{analysis.decide['margin']:g} {analysis.unit}"
    details.append(f"“No worse” means shown to be at most {margin} worse.")
    return Answer(certainty, headline, lead, f"{headline}. {lead}", tuple(details))


def comparison_verdict(change: Comparison) -> str:
    """`shown better`, or the difference's own verdict."""
    return "shown better" if change.significant and change.low > 0 else change.verdict


def _comparison_headline(changes: Sequence[Comparison], base: str) -> str:
    by_verdict: dict[str, list[str]] = {}
    for change in changes:
        by_verdict.setdefault(comparison_verdict(change), []).append(change.candidate)
    if len(changes) == 1:
        name = changes[0].candidate
        return {
            "shown better": f"{name} is better than {base}",
            "shown worse": f"{name} is worse than {base}",
            "shown no worse": f"{name} is no worse than {base}",
        }.get(next(iter(by_verdict)), f"{name} or {base}: not decidable here")
    for verdict in ("shown better", "shown no worse", "shown worse"):
        if names := by_verdict.get(verdict):
            return f"{_capital(verdict.removeprefix('shown '))} than {base}: {words.listed(names)}"
    return f"None is shown to differ from {base}"


def baseline_name(analysis: Analysis) -> str:
    """What recipes are compared with: `the untouched model`, or the model that `compare` was told."""
    names = [c.recipe for c in analysis.candidates if c.untouched]
    return names[0] if len(names) == 1 and names[0] != UNTOUCHED else "the untouched model"


def cost_phrase(analysis: Analysis, candidate: str) -> str:
    """`0.11 device hours` by the measure the user chose; empty where it was not metered."""
    cost = analysis.cost(candidate)
    if cost is None:
        return ""
    measure = analysis.decide["cheapest"]
    if measure == "price":
        return words.money(cost.price, analysis.currency) if cost.price is not None else ""
    if measure == "peak_memory":
        return f"{words.size(cost.peak_memory_bytes)} of memory" if cost.peak_memory_bytes else ""
    if measure == "trainable_parameters":
        return (
            f"{words.count(cost.trainable_parameters)} trainable parameters"
            if cost.trainable_parameters
            else ""
        )
    return (
        f"{words.hours(cost.gpu_hours).removesuffix(' h')} device hours" if cost.gpu_hours is not None else ""
    )


def bound_phrase(analysis: Analysis, bound: float) -> str:
    """`at most 1.7 points worse than the best, 95 %`."""
    sure = words.percent(analysis.decide["confidence"])
    if sum(not c.untouched and c.seeds_done > 0 for c in analysis.candidates) == 1:
        return "the only recipe scored"
    if bound == 0:
        return f"shown no worse than any other ({sure})"
    return f"at most {words.at_most(bound)} {analysis.unit} worse than the best ({sure})"


def _facts(analysis: Analysis, label: str) -> list[str]:
    score = analysis.score(label, "overall")
    assert analysis.recommendation.bound is not None
    facts = [
        _overall(analysis, score.score) if score else "",
        bound_phrase(analysis, analysis.recommendation.bound),
        cost_phrase(analysis, label),
    ]
    return [fact for fact in facts if fact]


def _overall(analysis: Analysis, points: float) -> str:
    unit = " bits per byte" if analysis.by_loss else ""
    return f"{words.score(points, by_loss=analysis.by_loss)}{unit} overall"


def _details(analysis: Analysis, label: str) -> list[str]:
    found = analysis.recommendation
    details = []
    change = analysis.change(label, "overall")
    if change is not None:
        shown = "shown better than" if change.low > 0 else "not shown to be better than"
        if change.high < 0:
            shown = "shown worse than"
        span = f"{words.signed(change.low)} to {words.signed(change.high)}"
        details.append(
            f"It is {shown} the untouched model: {words.signed(change.difference)} {analysis.unit} ({span}; "
            "these ends hold for all recipes at once, so the luck of being picked is allowed for)."
        )
    details += [_guard_sentence(guard, analysis) for guard in analysis.guards if guard.candidate == label]
    details += [f"{_capital(reason)}." for reason in found.reasons]
    if found.runner_up:
        details.append(_runner_up(analysis, found.runner_up))
    if len(found.certified) > 2:
        measure = COST_NAMES[analysis.decide["cheapest"]]
        details.append(f"Certified as well, at more {measure}: {words.listed(list(found.certified[2:]))}.")
    return details


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _guard_sentence(guard: GuardCheck, analysis: Analysis) -> str:
    margin = f"{analysis.decide['guard_margin']:g} {analysis.guard_units[guard.guard]}"
    figure = f"{words.signed(guard.difference)} ({words.signed(guard.low)} to {words.signed(guard.high)})"
    if guard.kept:
        return f"{guard.guard} is kept: {figure}, no worse than {margin} down."
    if guard.broken:
        return f"{guard.guard} is shown worse by more than {margin}: {figure}."
    return f"{guard.guard} is not shown to be kept: {figure}, which may be more than {margin} down."


def guard_margin(analysis: Analysis) -> str:
    """`1 points`; where guards differ in their unit, `1 (points for English, mmlu; … for English)`."""
    guards_of: dict[str, list[str]] = {}
    for guard, unit in analysis.guard_units.items():
        guards_of.setdefault(unit, []).append(guard)
    margin = f"{analysis.decide['guard_margin']:g}"
    if len(guards_of) < 2:
        return f"{margin} {next(iter(guards_of), analysis.unit)}"
    each = [f"{unit} for {'; '.join(guards)}" for unit, guards in guards_of.items()]
    return f"{margin} ({'; '.join(each)})"


def _runner_up(analysis: Analysis, label: str) -> str:
    bound = next(b for b in analysis.bounds if b.candidate == label)
    cost = cost_phrase(analysis, label)
    phrase = bound_phrase(analysis, bound.bound) + (f", {cost}" if cost else "")
    certified = "also certified, " if label in analysis.recommendation.certified else ""
    return f"Next: {label}, {certified}{phrase}."

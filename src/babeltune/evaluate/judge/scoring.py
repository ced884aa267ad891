"""Answers judged, in one or several passes whose mean is the score. What has no score is missing, never 0."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from babeltune.errors import Interrupted, JobFailed
from babeltune.evaluate.documents import Document
from babeltune.evaluate.judge import rubrics
from babeltune.evaluate.judge.client import JudgeClient, Patience, Unanswered
from babeltune.evaluate.judge.parsing import Verdict, read_verdict
from babeltune.evaluate.replies import Message, Replies, key_of
from babeltune.study.schema import Judge

METRIC = "judge"

# A judge that gave no score is told so, this many times in all, before its pass counts as missing.
ATTEMPTS = 3
# So many requests without an answer, one after another: the server is gone, and asking on would only cost.
MOST_UNANSWERED_IN_A_ROW = 5
# A larger share of items that the server failed on is not a gap but a failure: the judging is to be repeated.
MOST_UNANSWERED = 0.05
SECONDS_BETWEEN_LOOKS = 0.2

COLUMNS = {"reason": pl.String, "passes": pl.List(pl.Float64), "class": pl.String}


@dataclass(frozen=True)
class _Outcome:
    """One pass over one answer: a verdict, or why there is none (`unanswered`: the server's fault)."""

    verdict: Verdict | None
    why: str = ""
    unanswered: bool = False


def judge_answers(
    answers: pl.DataFrame,
    documents: Mapping[str, Document],
    judge: Judge,
    replies: Replies,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
    patience: Patience | None = None,
) -> pl.DataFrame:
    """The frame of `answers` with scores in its rows of metric `judge`, and more columns for those.

    `documents`: the judged question of each item. `replies` is read first and grows: a judging that was
    interrupted asks only for the rest. `on_progress(done, total)` counts passes.

    Returns:
        `value` is the mean over the passes that gave a score, null if none did. `class`: what the item is
        averaged with; `reason`: the judge's, or why there is no score; `passes`: the score of each.

    Raises:
        UserError: the judge refuses the key or doesn't know the model.
        JobFailed: the server stopped answering; what it answered is kept.
        Interrupted: `should_stop()` said so.
    """
    to_judge = answers.filter(pl.col("metric") == METRIC)
    items = [
        (documents[item], answer or "") for item, answer in to_judge.select("item", "answer").iter_rows()
    ]
    judging = _Judging(items, judge, replies, patience or Patience(), on_progress)
    outcomes = asyncio.run(judging.run(should_stop))
    rows = [
        (
            document["item"],
            METRIC,
            *_summary([outcomes[i, k] for k in range(judge.passes)]),
            document["class"],
        )
        for i, (document, _) in enumerate(items)
    ]
    columns = {"item": pl.String, "metric": pl.String, "judged": pl.Float64, **COLUMNS}
    judged = pl.DataFrame(rows, schema=columns, orient="row")
    return (
        answers.join(judged, on=["item", "metric"], how="left", maintain_order="left")
        .with_columns(value=pl.coalesce("judged", "value"))
        .select(*answers.columns, *COLUMNS)
    )


def shortfall(judged: pl.DataFrame) -> str:
    """How many answers have no score and why, in a sentence; empty if all have one."""
    answers = judged.filter(pl.col("metric") == METRIC)
    lacking = answers.filter(pl.col("value").is_null())
    if lacking.is_empty():
        return ""
    reasons = lacking["reason"].value_counts(sort=True).head(3).iter_rows()
    return f"{lacking.height} of {answers.height} answers have no score: " + "; ".join(
        f"{reason} ({count})" for reason, count in reasons
    )


class _Judging:
    """The state of one call: what is left to ask, the outcomes, and how the server has been doing."""

    def __init__(
        self,
        items: Sequence[tuple[Document, str]],
        judge: Judge,
        replies: Replies,
        patience: Patience,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._items, self._judge, self._replies, self._patience = items, judge, replies, patience
        self._on_progress = on_progress
        self._total = len(items) * judge.passes
        self._left: Iterator[tuple[int, int]] = (
            (i, k) for k in range(judge.passes) for i in range(len(items))
        )
        self._unanswered_in_a_row = 0
        self._outcomes: dict[tuple[int, int], _Outcome] = {}

    async def run(self, should_stop: Callable[[], bool]) -> dict[tuple[int, int], _Outcome]:
        """The outcome of every item (by position) and pass."""
        async with JudgeClient(self._judge, self._patience) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    watch = group.create_task(_stop_when(should_stop))
                    askers = [
                        group.create_task(self._ask_on(client))
                        for _ in range(min(self._judge.concurrency, self._total))
                    ]
                    await asyncio.gather(*askers)
                    watch.cancel()
            except ExceptionGroup as raised:
                raise raised.exceptions[0] from None
        unanswered = {i for (i, _), outcome in self._outcomes.items() if outcome.unanswered}
        if len(unanswered) > MOST_UNANSWERED * len(self._items):
            why = next(outcome.why for outcome in self._outcomes.values() if outcome.unanswered)
            raise JobFailed(
                f"the judge did not answer for {len(unanswered)} of {len(self._items)} items ({why}); "
                "the same command asks again for those only"
            )
        return self._outcomes

    async def _ask_on(self, client: JudgeClient) -> None:
        for i, k in self._left:
            self._outcomes[i, k] = await self._one_pass(client, *self._items[i], k)
            self._on_progress(len(self._outcomes), self._total)

    async def _one_pass(self, client: JudgeClient, document: Document, answer: str, k: int) -> _Outcome:
        judge = self._judge
        messages: list[Message] = [{"role": "user", "content": rubrics.request(document, answer)}]
        for _ in range(ATTEMPTS):
            key = key_of(judge.model, judge.temperature, judge.max_tokens, messages, k)
            reply = self._replies.get(key)
            if reply is None:
                try:
                    reply = await client.ask(messages)
                except Unanswered as error:
                    self._unanswered_in_a_row += 1
                    if self._unanswered_in_a_row >= MOST_UNANSWERED_IN_A_ROW:
                        raise JobFailed(
                            f"the judge no longer answers ({error}); {len(self._replies.own)} replies are "
                            "kept, the same command goes on from there"
                        ) from None
                    return _Outcome(None, f"not answered: {error}", unanswered=True)
                self._unanswered_in_a_row = 0
                self._replies.add(key, reply)
            verdict = read_verdict(reply.text, cut_off=reply.cut_off)
            if verdict is not None:
                return _Outcome(verdict)
            # Some servers refuse a turn without text.
            messages += [
                {"role": "assistant", "content": reply.text.strip() or "…"},
                {"role": "user", "content": rubrics.reminder(document)},
            ]
        return _Outcome(None, f"no score in {ATTEMPTS} replies")


async def _stop_when(should_stop: Callable[[], bool]) -> None:
    while not should_stop():
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
    raise Interrupted("stopped while judging")


def _summary(passes: Sequence[_Outcome]) -> tuple[float | None, str, list[float | None]]:
    """Mean score, a reason, and the score of each pass."""
    verdicts = [outcome.verdict for outcome in passes if outcome.verdict is not None]
    mean = sum(verdict.score for verdict in verdicts) / len(verdicts) if verdicts else None
    reason = verdicts[0].reason if verdicts else passes[0].why
    return mean, reason, [outcome.verdict.score if outcome.verdict else None for outcome in passes]

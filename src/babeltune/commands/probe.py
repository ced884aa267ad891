"""A short measurement of this device, for `plan`: seconds per trained token, per scored item and task.

Two updates of a few examples for each distinct way of training, a few items of each task; a small model
takes seconds. What was measured is kept beside the study, so the next `plan` measures only what is new.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from babeltune.commands.opening import OpenedStudy
from babeltune.execute.devices import Machine
from babeltune.models.source import LocatedModel
from babeltune.study.expand import TaskPlan, expand_tasks
from babeltune.study.graph import RunJobs
from babeltune.study.jobs import digest_of
from babeltune.study.settings import StageSettings

if TYPE_CHECKING:
    from babeltune.models.session import ModelSession

PROBED_EXAMPLES = 4
# Two numbers of items tell what a task takes once (the examples in its prompts) from what each item takes.
FEW_ITEMS, MORE_ITEMS = 1, 5


@dataclasses.dataclass(frozen=True)
class Rates:
    """`train`: (model, stage key) to seconds a token. `score`: (model, task) to seconds once and an item."""

    train: dict[tuple[str, str], float]
    score: dict[tuple[str, str], tuple[float, float]]


def stage_key(settings: StageSettings) -> str:
    """What decides how fast a stage trains: not its learning rate, epochs or seed."""
    speed = dataclasses.replace(
        settings, learning_rate=None, num_train_epochs=None, max_steps=None, then="keep"
    )
    return digest_of(speed.to_json())[:12]


def measured_rates(opened: OpenedStudy, machine: Machine, unfit: Collection[str], console: Console) -> Rates:
    """The rates of everything in the study that can be reached and fits, measured here or kept from before.

    `unfit`: names of runs that are left out.
    """
    kept_at = opened.folder.root / ".jobs" / "probe.json"
    kept: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # nothing is kept, or nothing that can be read
        kept = json.loads(kept_at.read_text())
    with opened.folder.exclusive(), console.status("Measuring this device …") as status:
        prober = _Prober(opened, machine, kept, lambda what: status.update(f"Measuring {what} …"))
        try:
            rates = prober.rates(unfit)
        finally:
            prober.discard()
        temporary = kept_at.with_suffix(".part")
        temporary.write_text(json.dumps(prober.kept, indent=1))
        temporary.replace(kept_at)
    return rates


class _Prober:
    """Measures what `kept` does not hold; the model session is made when first needed."""

    def __init__(
        self, opened: OpenedStudy, machine: Machine, kept: dict[str, Any], on_step: Callable[[str], None]
    ) -> None:
        self.opened, self.machine, self.kept, self.on_step = opened, machine, kept, on_step
        self._session: ModelSession | None = None

    def discard(self) -> None:
        """Give the device back to the workers."""
        if self._session is not None:
            self._session.discard()

    def rates(self, unfit: Collection[str]) -> Rates:
        train: dict[tuple[str, str], float] = {}
        score: dict[tuple[str, str], tuple[float, float]] = {}
        for run in self.opened.jobs.runs:
            model = run.run.model
            if not self.opened.resolved.contents.models[model].located or run.run.name in unfit:
                continue
            for position, stage in enumerate(run.run.stages):
                key = (model, stage_key(stage.settings))
                prepared = self._prepared(run, position)
                if key not in train and prepared is not None:
                    train[key] = self._kept(
                        "train",
                        *key,
                        measure=lambda m=model, s=stage.settings, p=prepared: self._train(m, s, p),
                    )
            if not run.run.stages and not run.run.adapter:
                for plan in expand_tasks(self.opened.study):
                    languages = [code for task, code in run.scores if task == plan.name]
                    if languages and self._is_reachable(plan, languages[0]):
                        score[model, plan.name] = self._kept(
                            "score",
                            model,
                            self._asked(plan, languages[0]),
                            measure=lambda m=model, p=plan, code=languages[0]: self._score(m, p, code),
                        )
        return Rates(train, score)

    def _kept(self, *key: str, measure: Callable[[], Any]) -> Any:
        weights = self.opened.resolved.contents.models[key[1]].weights
        name = "/".join([self.machine.description, str(self.machine.threads), weights[:12], *key])
        if name not in self.kept:
            self.on_step(f"{key[0]} on {key[1]}")
            self.kept[name] = measure()
        return self.kept[name]

    def _asked(self, plan: TaskPlan, language: str) -> str:
        """What decides how fast a task is scored, beside model and machine."""
        digest = self.opened.resolved.contents.tasks[plan.name, language][:12]
        return f"{plan.name}/{digest}/{self.opened.study.eval.dtype}"

    def _prepared(self, run: RunJobs, position: int) -> Path | None:
        by_id = self.opened.jobs.by_id()
        job = [job for job in run.training if by_id[job].kind == "train"][position]
        data = by_id[job].needs["data"]
        return self.opened.folder.artifact(data) if self.opened.folder.is_done(data) else None

    def _is_reachable(self, plan: TaskPlan, language: str) -> bool:
        return not self.opened.resolved.contents.tasks[plan.name, language].startswith("unresolved:")

    def _located(self, model: str) -> LocatedModel:
        return LocatedModel.from_json(self.opened.resolved.contents.models[model].located)

    def _model_session(self) -> ModelSession:
        import torch

        from babeltune.models.session import ModelSession

        if self._session is None:
            torch.set_num_threads(self.machine.threads)
            self._session = ModelSession(self.machine.devices[0])
        return self._session

    def _train(self, model: str, settings: StageSettings, prepared_dir: Path) -> float:
        """Seconds per token of the second of two updates; the first also warms up."""
        from babeltune.data.prepare import read_prepared
        from babeltune.models.session import TrainedModel
        from babeltune.train.loop import train
        from babeltune.train.stage import Surroundings, model_to_train

        session = self._model_session()
        short = dataclasses.replace(
            settings,
            learning_rate=1e-6,
            max_steps=2,
            num_train_epochs=None,
            batch_size=PROBED_EXAMPLES,
            batch_tokens=None,
        )
        with tempfile.TemporaryDirectory() as folder:
            around = Surroundings(
                session=session,
                start=TrainedModel(self._located(model)),
                prepared_dir=prepared_dir,
                work_dir=Path(folder) / "work",
                out=Path(folder) / "out",
                on_progress=lambda _: None,
                should_stop=lambda: False,
            )
            with model_to_train(around, short, seed=0) as (network, sharded):
                result = train(
                    network,
                    read_prepared(prepared_dir),
                    short,
                    seed=0,
                    work_dir=around.work_dir,
                    on_progress=around.on_progress,
                    should_stop=around.should_stop,
                    device=session.device,
                    held_out_before={},
                    give_up=lambda history: len(history) == 2,
                    sharded=sharded,
                )
                del network
        last = result.history[-1]
        return last.seconds / last.tokens

    def _score(self, model: str, plan: TaskPlan, language: str) -> tuple[float, float]:
        """Seconds that a task takes once, and for each item."""
        from babeltune.evaluate.score import score_task
        from babeltune.models.loading import load_tokenizer
        from babeltune.models.session import TrainedModel

        located = self._located(model)
        network: Any = self._model_session().model_for(
            TrainedModel(located), dtype=self.opened.study.eval.dtype
        )
        tokenizer = load_tokenizer(located)

        def timed(limit: int) -> tuple[float, int]:
            started = time.perf_counter()
            items = score_task(
                network,
                tokenizer,
                plan.task.model_copy(update={"limit": limit}),
                language,
                num_fewshot=plan.num_fewshot,
                limit=limit,
                apply_chat_template=plan.chat,
                template_kwargs=located.chat_template_kwargs,
                places=self.opened.places,
            )
            return time.perf_counter() - started, items["item"].n_unique()

        timed(FEW_ITEMS)  # the first time rows are read and the device wakes up
        return once_and_per_item(timed(FEW_ITEMS), timed(MORE_ITEMS))


def once_and_per_item(few: tuple[float, int], more: tuple[float, int]) -> tuple[float, float]:
    """Of two measurements (seconds, items): seconds that are always spent, and those for each item."""
    if more[1] <= few[1]:
        return 0.0, more[0] / max(more[1], 1)
    per_item = max(more[0] - few[0], 0.0) / (more[1] - few[1])
    return max(few[0] - few[1] * per_item, 0.0), per_item

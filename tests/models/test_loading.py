"""What a folder is loaded as: float32 where a CPU has no 16-bit products; not at all if quantised already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from babeltune.errors import ModelError
from babeltune.models import loading
from babeltune.models.loading import computed_dtype, load_base, load_config
from babeltune.models.memory import training_memory
from babeltune.models.source import LocatedModel, locate
from babeltune.study.places import Places
from babeltune.study.schema import Bits, Model
from babeltune.study.settings import StageSettings


@pytest.fixture
def located(tiny_model_dir: Path, tmp_path: Path) -> LocatedModel:
    return locate(Model(path=str(tiny_model_dir)), Places(tmp_path), tmp_path / "cache")


def pretend(monkeypatch: pytest.MonkeyPatch, multiplies_bfloat16: bool) -> None:
    monkeypatch.setattr(loading, "_cpu_multiplies_bfloat16", lambda: multiplies_bfloat16)


def test_what_is_computed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, True)
    assert computed_dtype("bfloat16", "cpu") == torch.bfloat16
    # torch multiplies float16 on CPUs one number at a time.
    assert computed_dtype("float16", "cpu") == torch.float32
    pretend(monkeypatch, False)
    assert computed_dtype("bfloat16", "cpu") == torch.float32
    assert computed_dtype("bfloat16", "cuda:1") == torch.bfloat16
    assert computed_dtype("float16", "cuda") == torch.float16


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_the_values_are_the_same_on_every_cpu(
    located: LocatedModel, bits: Bits, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, True)
    narrow = load_base(located, bits=bits).state_dict()
    pretend(monkeypatch, False)
    wide = load_base(located, bits=bits)
    assert {value.dtype for value in narrow.values()} == {torch.bfloat16}
    assert {value.dtype for value in wide.state_dict().values()} == {wide.dtype} == {torch.float32}
    assert all(torch.equal(value, narrow[name].float()) for name, value in wide.state_dict().items())


def test_what_is_held_in_float32_is_counted_so(
    located: LocatedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(located.folder)
    stage = StageSettings(method="lora", learning_rate=1e-4, r=4)
    exact = training_memory(config, StageSettings(method="lora", learning_rate=1e-4, r=4, dtype="float32"))
    on_gpu = training_memory(config, stage)
    pretend(monkeypatch, True)
    assert training_memory(config, stage, on_cpu=True).per_token == on_gpu.per_token
    pretend(monkeypatch, False)
    assert training_memory(config, stage, on_cpu=True).per_token == exact.per_token > on_gpu.per_token
    assert training_memory(config, stage) == on_gpu


@pytest.mark.parametrize(
    "said",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "fp8"},
    ],
    ids=lambda said: said["quant_method"],
)
def test_weights_that_are_quantised_already_are_refused(
    said: dict[str, Any], tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "quantised")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": said}))
    located = locate(Model(path=str(folder)), Places(tmp_path), tmp_path / "cache")
    for load in (lambda: load_config(folder), lambda: load_base(located, bits=16)):
        with pytest.raises(ModelError, match="quantised already") as caught:
            load()
        assert str(folder / "config.json") in str(caught.value)
        assert "`bits: 4`" in str(caught.value)

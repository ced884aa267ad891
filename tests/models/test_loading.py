"""On a CPU without 16-bit products a model has its 16-bit values, held and computed in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from babeltune.models import loading
from babeltune.models.loading import computed_dtype, load_base
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
    config = loading.load_config(located.folder)
    stage = StageSettings(method="lora", learning_rate=1e-4, r=4)
    exact = training_memory(config, StageSettings(method="lora", learning_rate=1e-4, r=4, dtype="float32"))
    on_gpu = training_memory(config, stage)
    pretend(monkeypatch, True)
    assert training_memory(config, stage, on_cpu=True).per_token == on_gpu.per_token
    pretend(monkeypatch, False)
    assert training_memory(config, stage, on_cpu=True).per_token == exact.per_token > on_gpu.per_token
    assert training_memory(config, stage) == on_gpu

"""A compiled model learns as the eager one does, and leaves nothing behind."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import build, prepared, settings, train_on_prepared
from torch import nn
from transformers import PreTrainedModel

from babeltune.errors import UserError
from babeltune.models.adapters import attach_new, detach
from babeltune.study.settings import StageSettings
from babeltune.train.attention import attention_of, packing_for
from babeltune.train.batches import Examples, build_row
from babeltune.train.compiling import check_compiler, compiled_layers
from babeltune.train.loop import TrainResult
from babeltune.train.lora_linear import adapters_in_base_width
from babeltune.train.loss import forward_for, row_nll

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++)")
# More kinds of row than torch compiles variants of one function.
ROWS = [range(start, start + count) for count, start in enumerate(range(0, 33, 3), 1)]


def losses_and_gradients(
    model: nn.Module, base: PreTrainedModel, stage: StageSettings
) -> tuple[list[float], dict[str, torch.Tensor]]:
    packing = packing_for(base, packing=True)
    examples = Examples.from_frame(prepared().train)
    losses = []
    with (
        attention_of(base, packing),
        adapters_in_base_width(model, together=not stage.torch_compile),
        compiled_layers(base, stage),
    ):
        forward = forward_for(model, packing)
        model.train()
        for rows in ROWS:
            nll = row_nll(forward, build_row(examples, list(rows), "cpu")) / 100
            nll.backward()
            losses.append(nll.item())
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return losses, gradients


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_compiled_equals_eager(method: str) -> None:
    stage = settings(method, torch_compile=True)
    base = build("llama", num_hidden_layers=9)  # more layers than torch compiles variants of one function
    model: nn.Module = base
    if method == "lora":
        model = attach_new(base, stage, seed=0, base_name="tiny")
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.02)
    expected = losses_and_gradients(model, base, replace(stage, torch_compile=False))
    torch._dynamo.reset()
    compiled = torch._dynamo.utils.counters["stats"]
    compiled.clear()
    # A layer that torch gives up on would run eagerly, and prove nothing.
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        found = losses_and_gradients(model, base, stage)
    assert compiled["unique_graphs"] > 0
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-5)


def trained_on(base: PreTrainedModel, stage: StageSettings, work: Path) -> TrainResult:
    model = attach_new(base, stage, seed=0, base_name="tiny")
    result = train_on_prepared(model, stage, work)
    assert detach(model) is base
    return result


@needs_compiler
@pytest.mark.slow
def test_a_kept_base_is_as_before_after_a_compiled_training(tmp_path: Path) -> None:
    base, stage = build("llama"), settings(max_steps=3, num_train_epochs=None)
    eager = trained_on(base, stage, tmp_path / "eager")
    compiled = trained_on(base, replace(stage, torch_compile=True), tmp_path / "compiled")
    again = trained_on(base, stage, tmp_path / "again")
    assert [row.loss for row in compiled.history] == pytest.approx(
        [row.loss for row in eager.history], rel=1e-4
    )
    assert [row.loss for row in again.history] == [row.loss for row in eager.history]
    assert all(module._compiled_call_impl is None for module in base.modules())


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    check_compiler(settings(), "cpu")
    with pytest.raises(UserError, match="no-such-compiler"):
        check_compiler(settings(torch_compile=True), "cpu")

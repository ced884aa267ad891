"""A kept base stays what it was, whatever is put on it and taken off."""

from __future__ import annotations

import gc
import hashlib
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from babeltune.errors import ModelError
from babeltune.models.adapters import attach_new, attach_saved, detach, merge, save_adapter
from babeltune.models.loading import load_base
from babeltune.models.session import ModelSession, TrainedModel
from babeltune.models.source import LocatedModel, locate
from babeltune.study.places import Places
from babeltune.study.schema import Bits, Model
from babeltune.study.settings import StageSettings

LORA = StageSettings(method="lora", learning_rate=1e-3, r=4, dtype="float32")


@pytest.fixture
def located(tiny_model_dir: Path, tmp_path: Path) -> LocatedModel:
    return locate(Model(path=str(tiny_model_dir)), Places(tmp_path), tmp_path / "cache")


def digest(model: nn.Module) -> str:
    """SHA-256 over every weight and buffer, by name."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def train_a_little(model: nn.Module, steps: int = 3) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    ids = torch.arange(3, 40)[None]
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize(
    "peft", [{}, {"use_rslora": True}, {"use_dora": True}, {"init_lora_weights": "gaussian"}], ids=str
)
def test_training_an_adapter_leaves_the_base_as_it_was(bits: Bits, peft: dict, located: LocatedModel) -> None:
    session = ModelSession("cpu")
    base = session.base(located, bits=bits, dtype="float32")
    before = digest(base)
    for seed in range(2):
        adapted = session.adapter_to_train(
            TrainedModel(located), replace(LORA, bits=bits, peft=peft), seed=seed
        )
        train_a_little(adapted)
        del adapted
        session.release()
    again = session.base(located, bits=bits, dtype="float32")
    assert again is base
    assert digest(again) == before
    assert not any(p.requires_grad for p in again.parameters())
    assert not any("lora" in name for name, _ in again.named_modules())


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_base_that_its_adapter_changed_is_not_kept(init: str, located: LocatedModel) -> None:
    session = ModelSession("cpu")
    before = digest(session.base(located, dtype="float32"))
    stage = replace(LORA, peft={"init_lora_weights": init})
    adapted = session.adapter_to_train(TrainedModel(located), stage, seed=0)
    assert digest(adapted.get_base_model()) != before
    del adapted
    session.release()
    assert digest(session.base(located, dtype="float32")) == before


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_such_an_adapter_is_saved_as_plain_lora_for_the_untouched_base(
    init: str, located: LocatedModel, tmp_path: Path
) -> None:
    session = ModelSession("cpu")
    stage = replace(LORA, peft={"init_lora_weights": init})
    adapted = session.adapter_to_train(TrainedModel(located), stage, seed=0)
    save_adapter(adapted, tmp_path / "initial")
    train_a_little(adapted)
    ids = torch.arange(3, 40)[None]
    expected = adapted.eval()(input_ids=ids).logits
    save_adapter(adapted, tmp_path / "adapter", initial=tmp_path / "initial")
    del adapted
    session.release()
    with torch.no_grad():
        scored = session.model_for(TrainedModel(located, adapter=tmp_path / "adapter"), dtype="float32")
        torch.testing.assert_close(scored(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_seed_says_how_an_adapter_starts(located: LocatedModel) -> None:
    def start(seed: int) -> torch.Tensor:
        torch.manual_seed(int(torch.randint(1000, ()).item()))
        model = attach_new(load_base(located), LORA, seed=seed, base_name="x")
        return torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


def test_scoring_switches_between_adapters_and_the_bare_base(located: LocatedModel, tmp_path: Path) -> None:
    session = ModelSession("cpu")
    ids = torch.arange(3, 40)[None]
    expected = {}
    for seed in range(2):
        adapted = session.adapter_to_train(TrainedModel(located), LORA, seed=seed)
        train_a_little(adapted, steps=2 + seed)
        expected[seed] = adapted.eval()(input_ids=ids).logits.detach()
        save_adapter(adapted, tmp_path / str(seed))
        session.release()
    with torch.no_grad():
        untouched = session.base(located, dtype="float32")(input_ids=ids).logits
        for seed in (0, 1, 0):
            trained = TrainedModel(located, adapter=tmp_path / str(seed))
            model = session.model_for(trained, dtype="float32")
            assert session.model_for(trained, dtype="float32") is model
            torch.testing.assert_close(model(input_ids=ids).logits, expected[seed])
            bare = session.model_for(TrainedModel(located), dtype="float32")
            assert torch.equal(bare(input_ids=ids).logits, untouched)
    assert (expected[0] - expected[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "options",
    [{"bias": "lora_only"}, {"layer_replication": [[0, 2], [1, 2]]}, {"init_lora_weights": "pissa"}],
    ids=str,
)
def test_an_adapter_from_elsewhere_that_changes_the_base_leaves_nothing_behind(
    options: dict, tmp_path: Path
) -> None:
    """Trained by PEFT alone, with options that babeltune does not train with."""
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        attention_bias=True,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    located = locate(Model(path=str(tmp_path / "base")), Places(tmp_path), tmp_path / "cache")
    adapted = get_peft_model(load_base(located, dtype="float32"), LoraConfig(r=2, **options))  # pyright: ignore
    train_a_little(adapted)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    foreign = TrainedModel(located, adapter=tmp_path / "adapter")
    session = ModelSession("cpu")
    before = digest(session.base(located, dtype="float32"))
    model = session.model_for(foreign, dtype="float32")
    assert session.model_for(foreign, dtype="float32") is model
    del model
    assert digest(session.model_for(TrainedModel(located), dtype="float32")) == before


def test_the_base_is_kept_under_an_adapter_that_comes_off_again(
    located: LocatedModel, tmp_path: Path
) -> None:
    session = ModelSession("cpu")
    base = session.base(located, dtype="float32")
    options = {"modules_to_save": ["norm"], "use_dora": True, "init_lora_weights": "gaussian"}
    save_adapter(
        session.adapter_to_train(TrainedModel(located), replace(LORA, peft=options), seed=0), tmp_path
    )
    session.release()
    before = digest(base)
    session.model_for(TrainedModel(located, adapter=tmp_path), dtype="float32")
    assert session.base(located, dtype="float32") is base
    assert digest(base) == before


def untied(tmp_path: Path) -> LocatedModel:
    """A model whose output layer is a matrix of its own."""
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "untied")
    return locate(Model(path=str(tmp_path / "untied")), Places(tmp_path), tmp_path / "cache")


@pytest.mark.parametrize("modules", [["norm"], ["lm_head", "embed_tokens"]], ids=str)
def test_modules_trained_in_full_beside_an_adapter_do_not_stay_in_the_base(
    modules: list[str], tmp_path: Path
) -> None:
    located = untied(tmp_path)
    stage = replace(LORA, peft={"modules_to_save": modules})
    session = ModelSession("cpu")
    base = session.base(located, dtype="float32")
    before, structure = digest(base), [(name, type(module)) for name, module in base.named_modules()]
    ids = torch.arange(3, 40)[None]

    def train(session: ModelSession) -> torch.Tensor:
        adapted = session.adapter_to_train(TrainedModel(located), stage, seed=0)
        train_a_little(adapted)
        logits = adapted.eval()(input_ids=ids).logits.detach()
        save_adapter(adapted, tmp_path / "adapter")
        session.release()
        return logits

    expected = train(session)
    assert session.base(located, dtype="float32") is base
    assert digest(base) == before
    assert [(name, type(module)) for name, module in base.named_modules()] == structure
    assert not any(p.requires_grad for p in base.parameters())
    # A run after it is what it would be alone, and so is what is scored in between.
    with torch.no_grad():
        scored = session.model_for(TrainedModel(located, adapter=tmp_path / "adapter"), dtype="float32")
        torch.testing.assert_close(scored(input_ids=ids).logits, expected)
    assert digest(session.base(located, dtype="float32")) == before
    assert torch.equal(train(session), expected)
    assert torch.equal(train(ModelSession("cpu")), expected)


def test_garbage_is_looked_for_beside_the_kept_base_and_a_discarded_one_is_freed(
    located: LocatedModel,
) -> None:
    session = ModelSession("cpu")
    try:
        base = session.base(located)
        assert not any(found is base for found in gc.get_objects())
        # Only the garbage collector frees what refers to itself.
        base.__dict__["itself"] = base
        gone = weakref.ref(base)
        del base
    finally:
        session.discard()
    assert gone() is None


def test_an_adapter_that_does_not_fit_leaves_nothing_behind(located: LocatedModel, tmp_path: Path) -> None:
    session = ModelSession("cpu")
    before = digest(session.base(located, dtype="float32"))
    save_adapter(session.adapter_to_train(TrainedModel(located), LORA, seed=0), tmp_path)
    session.release()
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 3'))
    with pytest.raises(ModelError, match="does not fit"):
        session.model_for(TrainedModel(located, adapter=tmp_path), dtype="float32")
    assert digest(session.base(located, dtype="float32")) == before
    config.write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        session.model_for(TrainedModel(located, adapter=tmp_path), dtype="float32")


def test_widths_are_different_bases(located: LocatedModel) -> None:
    session = ModelSession("cpu")
    whole = digest(session.base(located, bits=16, dtype="float32"))
    packed = digest(session.base(located, bits=4, dtype="float32"))
    assert whole != packed
    assert digest(session.base(located, bits=16, dtype="float32")) == whole


def test_a_quantised_base_has_the_gradients_of_its_unpacked_values_also_after_scoring(
    located: LocatedModel, tmp_path: Path
) -> None:
    """The reference: bitsandbytes' packing, unpacked here by hand. A forward in eval mode comes first."""
    import bitsandbytes.functional as bnb

    options = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    packed = AutoModelForCausalLM.from_pretrained(
        located.folder, dtype=torch.float32, quantization_config=options, device_map={"": "cpu"}
    )
    reference = load_base(located, dtype="float32")
    for name, module in reference.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            weight: Any = packed.get_submodule(name).weight
            module.weight.data = bnb.dequantize_4bit(weight.data, weight.quant_state).to(torch.float32)
    session = ModelSession("cpu")
    base = session.base(located, bits=4, dtype="float32")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        base(input_ids=ids)
    stage = replace(LORA, bits=4)
    models = (
        session.adapter_to_train(TrainedModel(located), stage, seed=0),
        attach_new(reference, stage, seed=0, base_name="x"),
    )
    for model in models:
        train_a_little(model, steps=1)
        model.train()
        model(input_ids=ids, labels=ids).loss.backward()
    gradients = [[p.grad for p in model.parameters() if p.grad is not None] for model in models]
    assert len(gradients[0]) == len(gradients[1]) > 0
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-7)


def test_merging_adds_the_adapter_to_the_unpacked_base(located: LocatedModel, tmp_path: Path) -> None:
    stage = replace(LORA, bits=4)
    adapted = attach_new(load_base(located, bits=4, dtype="float32"), stage, seed=0, base_name="x")
    train_a_little(adapted)
    save_adapter(adapted, tmp_path / "adapter")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = adapted.eval()(input_ids=ids).logits
        base = load_base(located, bits=4, dtype="float32", unpacked=True)
        merged = merge(attach_saved(base, tmp_path / "adapter", trainable=False, base_name="x"))
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
        wrong = merge(
            attach_saved(
                load_base(located, dtype="float32"), tmp_path / "adapter", trainable=False, base_name="x"
            )
        )
        assert (wrong(input_ids=ids).logits - expected).abs().max() > 1e-3


def test_an_adapter_names_its_base_by_origin(located: LocatedModel, tmp_path: Path) -> None:
    named = replace(located, origin="org/model@0123abc")
    adapted = ModelSession("cpu").adapter_to_train(TrainedModel(named), LORA, seed=0)
    save_adapter(adapted, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = (tmp_path / "adapter_config.json").read_text()
    assert "org/model@0123abc" in config
    assert str(located.folder) not in config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_modules": ("q_porj",)}, "q_proj"),
        ({"target_modules": ("lm_head",)}, "one matrix"),
        ({"peft": {"modules_to_save": ["embed_tokens"]}}, "one matrix"),
        ({"peft": {"modules_to_save": ["norms"]}}, "norm"),
        ({"peft": {"no_such_option": 1}}, "no_such_option"),
        ({"peft": {"bias": "all"}}, "bias"),
        ({"peft": {"init_lora_weights": "loftq"}}, "loftq"),
        ({"target_modules": "nothing.*here"}, "nothing"),
    ],
)
def test_adapters_that_cannot_be(changes: dict, message: str, located: LocatedModel) -> None:
    session = ModelSession("cpu")
    with pytest.raises(ModelError, match=message):
        session.adapter_to_train(TrainedModel(located), replace(LORA, **changes), seed=0)
    session.base(located)


def test_full_training_of_a_quantised_model_is_refused(located: LocatedModel) -> None:
    with pytest.raises(ModelError, match="in full"):
        load_base(located, bits=4, trainable_full=True)


def test_an_adapter_of_another_model_is_refused(located: LocatedModel, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(located.folder, num_hidden_layers=3)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "larger")
    other = locate(Model(path=str(tmp_path / "larger")), Places(tmp_path), tmp_path / "cache")
    adapted = attach_new(load_base(other, dtype="float32"), replace(LORA, r=2), seed=0, base_name="x")
    save_adapter(adapted, tmp_path / "adapter")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="not a PEFT adapter"):
        attach_saved(load_base(located), tmp_path / "empty", trainable=False, base_name="x")
    with pytest.raises(ModelError, match="does not fit"):
        attach_saved(load_base(located), tmp_path / "adapter", trainable=False, base_name="x")


def test_detaching_gives_the_base_back(located: LocatedModel) -> None:
    base = load_base(located, dtype="float32")
    before = digest(base)
    assert detach(attach_new(base, LORA, seed=0, base_name="x")) is base
    assert digest(base) == before

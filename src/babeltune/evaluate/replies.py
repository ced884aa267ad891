"""Replies of judges, kept on disk by what was asked, so that nothing is asked, or paid for, twice.

A folder of JSON-lines files: each judging writes one of its own and reads all. A line is written whole before
its reply counts; one that a kill cut short is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from babeltune.study.jobs import digest_of
from babeltune.study.schema import BehindApi

Message = dict[str, str]


@dataclass(frozen=True)
class Reply:
    """What a model answered, and the tokens that were counted (None where its server doesn't say).

    `cut_off`: it reached the longest that it may have.
    """

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    cut_off: bool = False


def key_of(
    model: str, temperature: float, max_tokens: int, messages: Sequence[Message], judge_pass: int
) -> str:
    """The identity of one request: all that its reply depends on, and which pass it belongs to.

    Where the server is, and with which key it is asked, is no part of it.
    """
    return digest_of([model, temperature, max_tokens, list(messages), judge_pass])


@dataclass(frozen=True)
class Spent:
    """Replies paid for, and their tokens and price (None where not known)."""

    replies: int
    input_tokens: int | None
    output_tokens: int | None
    price: float | None


class Replies:
    """The replies in `folder`, by key; new ones go to the file `name`, whose replies are in `own`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.jsonl"
        self._file: TextIO | None = None
        self._known: dict[str, Reply] = {}
        self.own: dict[str, Reply] = {}
        for path in sorted(folder.glob("*.jsonl")):
            found = _read(path)
            self._known.update(found)
            if path == self._path:
                self.own.update(found)

    def __enter__(self) -> Replies:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def get(self, key: str) -> Reply | None:
        """The reply to a request that was made before, by this judging or another."""
        return self._known.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply; it is out of this process when this returns."""
        if self._file is None:
            self._file = _opened(self._path)
        self._file.write(json.dumps({"key": key, **asdict(reply)}, ensure_ascii=False) + "\n")
        self._file.flush()
        self._known[key] = self.own[key] = reply


def spent(replies: Replies, by: BehindApi) -> Spent:
    """What the replies in the file of `replies` cost, those from before an interruption included."""
    own = list(replies.own.values())
    read = _sum([reply.input_tokens for reply in own])
    written = _sum([reply.output_tokens for reply in own])
    per_read, per_written = by.price_per_million_input_tokens, by.price_per_million_output_tokens
    if read is None or written is None or per_read is None or per_written is None:
        return Spent(len(own), read, written, None)
    return Spent(len(own), read, written, (read * per_read + written * per_written) / 1e6)


def _sum(counts: Sequence[int | None]) -> int | None:
    """None where a part is not known."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _opened(path: Path) -> TextIO:
    """The file to add lines to, on a new line where its last was cut short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_short = path.exists() and not path.read_bytes().endswith(b"\n")
    file = path.open("a", encoding="utf-8")
    if cut_short:
        file.write("\n")
    return file


def _read(path: Path) -> dict[str, Reply]:
    found: dict[str, Reply] = {}
    # Not splitlines(): a reply may hold U+2028 and its like, which JSON leaves unescaped.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row: Any = json.loads(line)
            key = row.pop("key")
            found[key] = Reply(**row)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # a line that was cut short
    return found

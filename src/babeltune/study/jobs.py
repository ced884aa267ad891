"""A job: a unit of work whose identity is what it means.

`Job.id` hashes only what changes the result: the kind and version of the work, its `meaning`, and
the ids of the jobs it needs. Where things lie on this machine (`means`) and what people call the
job (`label`) are carried along unhashed, so moving a folder or renaming a recipe reruns nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

JobKind = Literal["prepare", "search", "train", "score", "judge", "ask"]

# Kinds that compute on no device: they run beside those that do, and cost no device time.
WITHOUT_DEVICE: frozenset[JobKind] = frozenset({"prepare", "judge", "ask"})

# The version of each kind of work. Raise one when a change to our code changes that work's results.
WORK_VERSION: dict[JobKind, int] = {
    "prepare": 2,
    "search": 4,
    "train": 4,
    "score": 3,
    "judge": 2,
    "ask": 1,
}


def digest_of(meaning: Any) -> str:
    """The SHA-256 of plain data in canonical JSON (sorted keys, no spaces, no NaN), in hex."""
    text = json.dumps(meaning, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Job:
    """One unit of work.

    `meaning`: JSON-ready fields that change the result. `needs`: role to job id (`{"data": …}`).
    `means`: JSON-ready hints on how to do it here (paths, hub ids); never hashed.
    """

    kind: JobKind
    meaning: dict[str, Any]
    needs: dict[str, str] = field(default_factory=dict)
    means: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    @cached_property
    def id(self) -> str:
        """Kind and 20 hex digits of the digest: `train-3f0c…`."""
        identity = {
            "kind": self.kind,
            "version": WORK_VERSION[self.kind],
            "meaning": self.meaning,
            "needs": self.needs,
        }
        return f"{self.kind}-{digest_of(identity)[:20]}"

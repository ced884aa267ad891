"""Forms of one task: the same items asked with a chat template, or answered freely instead of by choice.

A form is a task of its own in every table, named after the task: `xnli+chat`, `belebele/generate`. Its items
are those of the task, so forms are one cluster per item when their scores are averaged.
"""

from __future__ import annotations

from typing import Final

CHAT: Final = "+chat"
GENERATED: Final = "/generate"


def base_task(task: str) -> str:
    """The task that this is a form of; itself if it is none."""
    for suffix in (CHAT, GENERATED, CHAT):
        task = task.removesuffix(suffix)
    return task

"""What `plan` says that work will take."""

from __future__ import annotations

import pytest

from babeltune.commands.estimate import SEARCH_TRAININGS, searched_updates
from babeltune.commands.probe import once_and_per_item


@pytest.mark.parametrize(("updates", "short"), [(5, 5), (22, 8), (500, 40), (10_000, 60)])
def test_a_search_is_long_beside_short_trainings_and_short_beside_long_ones(updates: int, short: int) -> None:
    assert searched_updates(updates) == SEARCH_TRAININGS * short


def test_what_a_task_takes_once_is_not_counted_for_every_item() -> None:
    """Four seconds for the examples in the prompts, half a second an item."""
    assert once_and_per_item((4.5, 1), (6.5, 5)) == pytest.approx((4.0, 0.5))
    assert once_and_per_item((0.6, 1), (0.5, 5)) == (0.6, 0.0)  # the machine was busy
    assert once_and_per_item((3.0, 2), (3.0, 2)) == (0.0, 1.5)  # there are no more items

"""What `plan` says that work will take."""

from __future__ import annotations

import pytest

from babeltune.commands.estimate import SEARCH_TRAININGS, searched_updates


@pytest.mark.parametrize(("updates", "short"), [(5, 5), (22, 8), (500, 40), (10_000, 60)])
def test_a_search_is_long_beside_short_trainings_and_short_beside_long_ones(updates: int, short: int) -> None:
    assert searched_updates(updates) == SEARCH_TRAININGS * short

"""Means of a condition: over seeds, or over pairs where seeds hold out different ones."""

from typing import Any
from unittest.mock import Mock

import pytest

from anchorbench.sweeps.run_folder import Run
from anchorbench.sweeps.summary import Condition, Mean


def condition(*runs: tuple[str, float]) -> Condition:
    """Runs of tasks with these fingerprints, and their shares."""
    members: list[Any] = []
    for fingerprint, share in runs:
        run = Mock(spec=Run, row=lambda share=share: {"inferential": share}, result=Mock(task_fingerprint=fingerprint))
        members.append(run)
    return Condition({"init.gamma": 0.5}, tuple(members))


def test_pairs_are_the_unit_where_seeds_hold_out_different_ones() -> None:
    """Pair a .2, .4 and pair b .8: their means are .3 and .8, and two units with t = 12.7 tell nothing."""
    found = condition(("a", 0.2), ("a", 0.4), ("b", 0.8)).mean("inferential")
    assert found == Mean(pytest.approx(0.55), 0.0, 1.0)  # pyright: ignore[reportArgumentType]


def test_seeds_are_the_unit_of_a_single_pair() -> None:
    assert condition(("a", 0.2), ("a", 0.4), ("a", 0.9)).mean("inferential") == Mean.of([0.2, 0.4, 0.9])

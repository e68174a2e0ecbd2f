"""Tasks drawn from the beacon: what is drawn, that nothing about it can be chosen, and that they are trained as one stack."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorbench.leaderboard.drawn import DRAWN, drawn_tasks
from anchorbench.leaderboard.registration import seeds_of
from anchorbench.leaderboard.statistics import Interval, _difference
from anchorbench.leaderboard.submission import SubmittedRecipe
from anchorbench.sweeps.plan import stacks
from anchorbench.task import load_task

BEACON = "0123456789abcdef" * 4
GOLDEN = {
    "offsets": {16: -4, 10: 5, 3: 3, 6: 8},
    "held_out": [[6, 10], [10, 6]],
    "key_min": 39,
    "key_max": 118,
    "key_first": True,
    "seq_len": 10,
    "vocab_size": 160,
}


def test_the_tasks_of_a_beacon_stay() -> None:
    """Written down once: another draw, and entries are invalid."""
    assert drawn_tasks(BEACON)[0].config == GOLDEN
    assert drawn_tasks(BEACON) == drawn_tasks(BEACON)
    assert drawn_tasks(BEACON[:-1] + "0") != drawn_tasks(BEACON)


@settings(max_examples=25, deadline=None)
@given(st.text("0123456789abcdef", min_size=16, max_size=64))
def test_every_drawn_task_is_a_valid_variant_whose_held_out_answer_is_no_trained_one(beacon: str) -> None:
    tasks = drawn_tasks(beacon)
    loaded = [load_task(task.task, task.variant, **task.config) for task in tasks]
    assert len({task.fingerprint for task in loaded}) == len(tasks) == DRAWN
    for task in tasks:
        offsets, held_out = task.config["offsets"], set(map(tuple, task.config["held_out"]))
        assert len(held_out) == 2
        assert held_out == {pair[::-1] for pair in held_out}
        sums = {pair: offsets[pair[0]] + offsets[pair[1]] for pair in itertools.product(offsets, offsets)}
        assert not {sums[pair] for pair in held_out} & {value for pair, value in sums.items() if pair not in held_out}


def test_drawn_tasks_are_trained_as_one_stack() -> None:
    recipe = SubmittedRecipe.model_validate({"name": "A", "description": "B", "steps": 600})
    tasks = drawn_tasks(BEACON)
    runs = [recipe.recipe(task, seeds_of("0" * 64, BEACON, task)[0]) for task in tasks]
    assert len({run.seed for run in runs}) == DRAWN
    assert [len(stack) for stack in stacks(runs, memory=2**40)] == [DRAWN]


def test_the_gap_worked_by_hand() -> None:
    """0.6 to 1.0 about 0.9, minus 0.4 to 0.9 about 0.5: below, sqrt(0.3^2 + 0.4^2); above, sqrt(0.1^2 + 0.1^2)."""
    found = _difference(Interval(0.9, 0.6, 1.0), Interval(0.5, 0.4, 0.9))
    assert (found.value, found.low, found.high) == pytest.approx((0.4, -0.1, 0.4 + 0.02**0.5))

"""Any value for any field of a task's configuration gives a working task or one sentence, in less than SECONDS."""

import math
import time
from typing import Any

import pytest
from every_task import TASKS, assert_one_sentence, check_reads_back
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anchorbench import load_task
from anchorbench.task import tasks

SECONDS, ROWS = 2.0, 20

NUMBERS = st.one_of(
    st.integers(-3, 130),
    st.sampled_from([1e3, 9.0, -1.0, 2.5, 1e300, -1e25, math.nan, math.inf, -math.inf, 2.0**53]),
    st.sampled_from([2**15 - 1, 2**15, 2**16, 2**31, 2**63 - 1, 2**63, -(2**63), 10**25, -(10**25)]),
    st.integers(0, 15).map(lambda power: 2**power),
)
LEAVES = st.one_of(NUMBERS, st.booleans(), st.none(), st.sampled_from(["", "9", "odd", "near", "majority", "1e3", "\ud800"]))
VALUES = st.one_of(
    LEAVES,
    st.lists(LEAVES, max_size=4),
    st.lists(st.lists(LEAVES, min_size=2, max_size=2), max_size=3),
    st.dictionaries(st.one_of(st.integers(-1, 30), st.text(max_size=2)), LEAVES, max_size=4),
    st.dictionaries(st.integers(0, 63), st.integers(-20, 20), min_size=40, max_size=64),
)


@pytest.mark.parametrize("name", sorted({name for name, _ in TASKS}))
@settings(max_examples=15, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_working_task_or_one_sentence(name: str, data: st.DataObject) -> None:
    variant = data.draw(st.sampled_from([variant for task, variant in TASKS if task == name]), "variant")
    fields = st.sampled_from(sorted(tasks.all[name].Config.model_fields))
    try_config(name, variant, data.draw(st.dictionaries(fields, VALUES, min_size=1, max_size=4), "config"))


LARGE = {"key_min": 100, "key_max": 2000, "seq_len": 1024, "vocab_size": 4096}
WIDE = {"key_min": 100, "key_max": 32_000, "seq_len": 64, "vocab_size": 32_768, "modulus": 16_000}


FIRST = {name: variant for name, variant in reversed(TASKS) if "vocab_size" in tasks.all[name].Config.model_fields}


@pytest.mark.parametrize(("name", "variant"), sorted(FIRST.items()))
def test_the_largest_tables(name: str, variant: str) -> None:
    fields = tasks.all[name].Config.model_fields
    for config in (LARGE, WIDE):
        try_config(name, variant, {field: value for field, value in config.items() if field in fields})


ANCHORS = {anchor: anchor % 7 - 3 for anchor in range(64)}
HALF = [(a, b) for a in range(32) for b in range(64)]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("composite", LARGE | {"seq_len": 9, "offsets": ANCHORS, "held_out": HALF}),
        ("two-anchors", LARGE | {"seq_len": 8, "offsets": ANCHORS, "trained_keys": {a: (100 + a, 140 + a) for a in range(64)}}),
        ("middle-word", {"gaps": list(range(1, 1023, 2)), "seq_len": 1024}),
        ("nearest-value-classification", {"key_min": 100, "key_max": 1099, "vocab_size": 1200}),
        ("random-permutations", {"n_keys": 256, "n_anchors": 64, "n_held_out": 4000}),
        ("random-permutations", {"n_keys": 1024, "n_anchors": 64}),
        ("inverse-matching", {"token_max": 250, "vocab_size": 256, "gap": 1024}),
        ("chain-search", {"edges": 16, "chains": 2, "noise": True, "modulus": 3, "iid_differences": [2], "key_max": 127}),
        ("chain-search", {"edges": 16, "hops": 1, "modulus": 3, "iid_differences": [2], "key_max": 70}),
        ("variable-composition", {"seq_len": 1024, "trained": range(1, 500), "held_out": range(500, 1000), "operations": {1: 0}}),
        ("sparse-boolean", {"bits": 1024, "relevant": 64, "modulus": 63}),
    ],
    ids=map(str, range(11)),
)
def test_large_combinations(name: str, config: dict[str, Any]) -> None:
    try_config(name, next(variant for task, variant in TASKS if task == name), config)


def try_config(name: str, variant: str, config: dict[str, Any]) -> None:
    start = time.process_time()
    try:
        task = load_task(name, variant, **config)
    except ValueError as error:
        assert_one_sentence(error)
    else:
        for split in task.splits:
            check_reads_back(task, task.sample(split, ROWS, 0), split)
    assert time.process_time() - start < SECONDS, config

"""Randomness of every task: it follows from the seed, is fresh in each batch, and what should be uniform is."""

import json
import os

import numpy as np
import pytest
from conftest import ROOT
from every_task import FIELDS, TASKS, digest, every_key_task, every_task, get, large, quick, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import said_by
from scipy.stats import chisquare

from anchorbench import load_task
from anchorbench.task import SPLITS
from anchorbench.tasks.sequence import KeyTask

STRICT = 1e-6
"""Level of each chi-square: of some thousand tests, none should fail by chance."""

NOT_UNIFORM: dict[tuple[str, str], str] = {
    ("distance-weighted", "filler"): "whether another token is the most probable one depends on its value",
    ("near-synonym", "group"): "the paper's shares: see its weights, and their own test",
    ("nearest-value-classification", "cell"): "a value in the middle of the keys is more often the nearest one",
    ("nearest-value-classification", "filler"): "the other values are farther away than the nearest one",
    ("reading-comprehension-lookup", "cell"): "the first fact cannot stand late, nor the last one early",
    ("working-memory-retro-cue", "cell"): "pairs of neighbours fit a little more often at the very ends",
}
"""(task, field) -> why the field is not uniform; fields are cell (key and position together), group and filler."""


def assert_uniform(values: np.ndarray) -> None:
    """Chi-square of the values that occur, if they are few enough for it to say something."""
    counts = np.unique(values, return_counts=True)[1]
    if len(counts) > 1 and counts.mean() >= 2:
        assert chisquare(counts).pvalue > STRICT, f"not uniform: {dict(zip(*np.unique(values, return_counts=True), strict=True))}"


@every_task
@settings(quick, max_examples=2)
@given(seed=st.integers(0, 2**63 - 1))
def test_same_seed_same_bytes(name, variant, seed):
    task, again = get(name, variant), load_task(name, variant)
    for split in task.splits:
        assert digest(task.sample(split, 40, seed)) == digest(again.sample(split, 40, seed))


def test_same_seed_same_bytes_in_another_process():
    here = [digest(get(*task).sample(split, 200, 3)) for task in TASKS for split in get(*task).splits]
    for hash_seed in ("1", "2")[: 1 + (os.environ.get("PYTHONHASHSEED") == "1")]:
        assert json.loads(said_by("task_digests", ROOT / "tests", PYTHONHASHSEED=hash_seed)) == here


@every_task
def test_adjacent_seeds_share_no_more_than_far_ones(name, variant):
    task = get(name, variant)
    for split in task.splits:
        base, near, far = (rows(task.sample(split, 2_000, seed).tokens) for seed in (42, 43, 1042))
        assert_like_chance(np.isin(near, base).sum(), np.isin(far, base).sum())
        assert_like_chance((near == base).sum(), (far == base).sum())


@every_task
def test_batches_are_fresh(name, variant):
    task = get(name, variant)
    for split in task.splits:
        sampled = rows(task.sample(split, 1_000, 42).tokens)
        far = rows(task.sample(split, 1_000, 1042).tokens)
        stream = task.iter_batches(split, 1_000, 42)
        first, second = rows(next(stream).tokens), rows(next(stream).tokens)
        for a, b in ((first, second), (first, sampled), (second, sampled)):
            assert_like_chance(np.isin(a, b).sum(), np.isin(far, sampled).sum())
            assert_like_chance((a == b).sum(), (far == sampled).sum())
    assert digest(next(task.iter_batches("train", 50, 9))) == digest(next(task.iter_batches("train", 50, 9)))


def assert_like_chance(count: int, chance: int) -> None:
    """Two counts of the same rare (or common) event in as many trials differ by less than six standard deviations."""
    assert abs(int(count) - int(chance)) <= 6 * np.sqrt(int(count) + int(chance) + 1), f"{count} shared rows, by chance {chance}"


@every_task
def test_key_and_position_are_uniform(name, variant):
    if (name, "cell") in NOT_UNIFORM:
        pytest.skip(NOT_UNIFORM[name, "cell"])
    for split in get(name, variant).splits:
        examples = get(name, variant).sample(split, 100_000, 7)
        for group in np.unique(examples.group):
            here = examples.group == group
            assert_uniform(examples.key[here] * 10_000 + examples.position[here])


@every_task
def test_groups_are_uniform(name, variant):
    if (name, "group") in NOT_UNIFORM:
        pytest.skip(NOT_UNIFORM[name, "group"])
    for split in get(name, variant).splits:
        assert_uniform(large(name, variant, split).group)


@every_key_task
def test_filler_is_uniform(name, variant):
    """Filler is what can be replaced by any other key without any part of the answer changing."""
    if (name, "filler") in NOT_UNIFORM:
        pytest.skip(NOT_UNIFORM[name, "filler"])
    task = get(name, variant)
    assert isinstance(task, KeyTask)
    keys, rng = task.config.keys, np.random.default_rng(0)
    for split in task.splits:
        tokens = large(name, variant, split).tokens[:4_000]
        before, found = task.answer(tokens), 0
        for column in range(task.seq_len):
            is_filler = np.isin(tokens[:, column], keys)
            for _ in range(2):
                changed = tokens.copy()
                shift = rng.integers(1, len(keys), len(tokens))
                changed[:, column] = keys[(changed[:, column] - keys[0] + shift) % len(keys)]
                after = task.answer(changed)
                is_filler &= after.valid
                for field in (*FIELDS, "split"):
                    is_filler &= getattr(after, field) == getattr(before, field)
            assert_uniform(tokens[is_filler, column])
            found += is_filler.sum()
            if is_filler.sum() > 30 * len(keys):  # a value that is never drawn goes unnoticed by chi-square
                assert len(np.unique(tokens[is_filler, column])) == len(keys)
        assert found or task.seq_len < 5


@every_key_task
def test_every_key_and_position_that_reads_as_a_split_is_drawn(name, variant):
    """Rotated rows that `answer` takes for a split have no key or position that the generator never draws for it."""
    task = get(name, variant)
    for i, split in enumerate(SPLITS):
        if split not in task.splits:
            continue
        examples = large(name, variant, split)
        for shift in range(1, task.seq_len):
            answers = task.answer(np.roll(examples.tokens[:4_000], shift, axis=1))
            here = answers.split == i
            assert set(answers.position[here].tolist()) <= set(examples.position.tolist())
            assert set(answers.key[here].tolist()) <= set(examples.key.tolist())
            assert set(answers.group[here].tolist()) <= set(examples.group.tolist())

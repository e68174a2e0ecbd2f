"""What is particular to the tasks that are random or read their answer from the context; the rest is in test_tasks.py."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from anchorbench import load_task
from anchorbench.task import NO_ANSWER
from anchorbench.tasks.context import place_pairs
from anchorbench.tasks.near_synonym import NearSynonym
from anchorbench.tasks.nearest_value import NearestValue

STRICT = 1e-6


def test_statistical_labels_follow_the_target():
    examples = load_task("statistical", probability=0.3).sample("train", 20_000, 1)
    same = int((examples.label == examples.key).sum())
    assert chisquare([same, 20_000 - same], [6_000, 14_000]).pvalue > STRICT
    assert examples.target is not None
    rows = np.arange(20_000)
    assert (examples.target[rows, examples.key] == 0.3).all()
    assert (examples.target[rows, examples.key + 1] == 0.7).all()


@pytest.mark.parametrize(("probability", "above"), [(0, 1), (1, 0)])
def test_statistical_without_chance(probability, above):
    examples = load_task("statistical", probability=probability).sample("iid", 1_000, 1)
    assert (examples.label == examples.key + above).all()


def test_distance_weighted_by_hand():
    answers = load_task("distance-weighted").answer(np.array([[57, 33, 81, 24, 3, 90, 46, 61, 57]]))
    assert answers.target is not None
    weights = {57: 1 / 2, 33: 1 / 3, 81: 1 / 2, 24: 1, 90: 1, 46: 1 / 2, 61: 1 / 3}  # 57 stands twice, at distance 4
    assert answers.target[0].sum() == pytest.approx(1)
    for token, weight in weights.items():
        assert answers.target[0, token] == pytest.approx(weight / (25 / 6))


def test_distance_weighted_labels_follow_the_target():
    examples = load_task("distance-weighted").sample("train", 20_000, 1)
    anchor_at = (examples.tokens == 3).argmax(1)
    once = (examples.tokens == examples.label[:, None]).sum(1) == 1
    steps = ((examples.tokens == examples.label[:, None]).argmax(1) - anchor_at)[once] % 9
    counts = np.bincount(steps, minlength=9)[1:]
    weights = np.array([1, 1 / 2, 1 / 3, 1 / 4, 1 / 4, 1 / 3, 1 / 2, 1])
    assert chisquare(counts, weights / weights.sum() * once.sum()).pvalue > STRICT


@pytest.mark.parametrize("split", ["train", "iid"])
@pytest.mark.parametrize(("variant", "ratio"), [("add-synonym", 1), ("add-synonym", 19), ("add-doubled", 5), ("add-nothing", 5)])
def test_near_synonym_shares(variant, ratio, split):
    task = load_task("near-synonym", variant, ratio=ratio)
    assert isinstance(task, NearSynonym)
    group = task.sample(split, 40_000, 2).group
    names = [name for name, _ in task.groups]
    of_9 = [i for i, name in enumerate(names) if "9" in name and name not in ("(4,9)", "(9,4)", "(9,9)")]
    others = [names.index(f"({a},{b})") for a, b in itertools.permutations((1, 2, 4), 2)]
    added = [i for i, (_, role) in enumerate(task.groups) if role == "trained" and i not in of_9 + others]
    shares = {"add-nothing": [(of_9, 1), (others, 1)]}.get(variant, [(of_9, 1), (added, ratio), (others, ratio + 1)])
    total = sum(share for _, share in shares)
    expected = np.zeros(len(names))
    for groups, share in shares:
        expected[groups] = share / total / len(groups)
    np.testing.assert_allclose(np.array(task.weights) / sum(task.weights), expected)
    trained = expected > 0
    counts = np.bincount(group, minlength=len(names))
    assert counts[~trained].sum() == 0
    assert chisquare(counts[trained], expected[trained] * len(group)).pvalue > STRICT


@pytest.mark.parametrize(("length", "pairs"), [(8, 3), (18, 2), (6, 3), (5, 1)])
def test_every_placement_is_equally_likely(length, pairs):
    starts = place_pairs(np.random.default_rng(0), 20_000, length, pairs)
    counts = Counter(map(tuple, starts.tolist()))
    ways = [way for way in itertools.combinations(range(length - 1), pairs) if all(b - a > 1 for a, b in itertools.pairwise(way))]
    assert set(counts) == set(ways)
    assert len(ways) == math.comb(length - pairs, pairs)
    assert len(ways) == 1 or chisquare(list(counts.values())).pvalue > STRICT


@pytest.mark.parametrize("split", ["train", "iid", "ood"])
def test_every_nearest_value_sequence_is_equally_likely(split):
    """Against all sequences of a small configuration, counted one by one."""
    task = load_task("nearest-value-classification", seq_len=5, key_max=27, modulus=2, held_out=[("above", 2)])
    keys = range(20, 28)
    every = np.array([[a, c, b, 3 - c, q] for a, b, q in itertools.product(keys, repeat=3) for c in (1, 2)])
    answers = task.answer(every)
    examples = task.sample(split, 60_000, 3)
    counts = Counter(map(tuple, examples.tokens.tolist()))
    in_split = answers.split == ["train", "iid", "ood"].index(split)
    assert set(counts) == set(map(tuple, every[in_split].tolist()))
    for group in np.unique(examples.group):
        rows = every[in_split & (answers.group == group)].tolist()
        assert chisquare([counts[tuple(row)] for row in rows]).pvalue > STRICT


def test_the_nearest_value_shortcut_is_right_on_all_training_data():
    task = load_task("nearest-value-classification")
    assert isinstance(task, NearestValue)
    for split, right in (("train", True), ("iid", True), ("ood", False)):
        examples = task.sample(split, 5_000, 4)
        shortcut = task._shortcut(examples.tokens[:, 0:-1:2], examples.tokens[:, 1::2], examples.tokens[:, -1])
        assert ((shortcut == examples.label) == right).all()
        assert right or (shortcut != NO_ANSWER).mean() > 0.9

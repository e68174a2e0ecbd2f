"""Addition: whole sums by repeated answers, the published hold-out, no cue in the iid split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from anchorbench import load_task
from anchorbench.task import SPLITS

VARIANTS = ("least-first", "most-first")


def first_question(task, a, b):
    words = ["PAD"] * 3 + [*f"{a:03}", "+", *f"{b:03}", "="]
    ids = {token.word: i for i, token in enumerate(task.vocabulary)}
    return np.array([[ids[word] for word in words]])


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=40, derandomize=True, database=None)
@given(a=st.integers(0, 999), b=st.integers(0, 999))
def test_four_answers_are_the_sum(variant, a, b):
    task = load_task("addition", variant)
    tokens, digits = first_question(task, a, b), ""
    middle = 400 <= a <= 600 and 400 <= b <= 600
    for _ in range(4):
        answers = task.answer(tokens).require_valid()
        assert task.groups[answers.group[0]].name.startswith("middle") == middle
        assert SPLITS[answers.split[0]] == ("ood" if middle else "iid" if a % 9 == b % 9 else "train")
        digits += str(answers.label[0])
        tokens = np.concatenate([tokens[:, 1:], answers.label[:, None]], axis=1)
    assert int(digits if variant == "most-first" else digits[::-1]) == a + b


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pair_is_in_one_split_and_the_middle_is_held_out(variant):
    task = load_task("addition", variant)
    a, b = np.divmod(np.arange(10**6), 1000)
    tokens = np.full((10**6, 11), 12)
    for i, power in enumerate((100, 10, 1)):
        tokens[:, 3 + i], tokens[:, 7 + i] = a // power % 10, b // power % 10
    tokens[:, 6], tokens[:, 10] = 10, 11
    chosen = np.r_[np.arange(400_000, 601_000), np.arange(0, 10**6, 17)]  # the middle's rows, and a spread of all
    split = task.answer(tokens[chosen]).require_valid().split
    middle = ((a >= 400) & (a <= 600) & (b >= 400) & (b <= 600))[chosen]
    np.testing.assert_array_equal(split == SPLITS.index("ood"), middle)
    assert middle[:201_000].sum() == 201**2


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("split", ["train", "iid"])
def test_last_digits_say_nothing_about_the_split(variant, split):
    """All hundred pairs of last digits are equally frequent outside the middle, so the residue split is no cue."""
    tokens = load_task("addition", variant, held_out_min=999, held_out_max=999).sample(split, 50_000, 0).tokens
    at = (tokens == 11).argmax(1)
    rows = np.arange(len(tokens))
    counts = np.bincount(10 * tokens[rows, at - 5] + tokens[rows, at - 1], minlength=100)
    assert chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("variant", VARIANTS)
def test_carries_are_frequent_in_every_split(variant):
    task = load_task("addition", variant)
    for split in task.splits:
        examples = task.sample(split, 20_000, 0)
        whole = examples.group % 4 == 3
        assert 0.3 < examples.label[whole].mean() < 0.7  # the thousands are a carry
        assert set(examples.label.tolist()) == set(range(10))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"modulus": 8}, "an odd number"),
        ({"modulus": 15}, "an odd number"),
        ({"held_out_min": 601}, "at least held_out_min"),
        ({"held_out_min": 0, "held_out_max": 999}, "hold out every pair"),
        ({"held_out_max": 1000}, "less than 1000"),
    ],
)
def test_impossible_configurations_are_refused(config, reason):
    with pytest.raises(ValueError, match=reason):
        load_task("addition", **config)


@settings(max_examples=5, derandomize=True, database=None)
@given(low=st.integers(0, 999), width=st.integers(0, 998), modulus=st.sampled_from([3, 7, 11, 13, 99, 997]))
def test_other_ranges_read_back(low, width, modulus):
    task = load_task("addition", held_out_min=low, held_out_max=min(low + width, 999 if low else 998), modulus=modulus)
    for split in task.splits:
        examples = task.sample(split, 300, 1)
        answers = task.answer(examples.tokens).require_valid()
        np.testing.assert_array_equal(answers.split, SPLITS.index(split))
        np.testing.assert_array_equal(answers.label, examples.label)

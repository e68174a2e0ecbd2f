"""Sparse boolean functions: the right bits decide, nothing else tells, the splits are what they claim for few and many bits."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorbench import load_task
from anchorbench.task import SPLITS

FUNCTIONS = ("and", "or", "parity", "majority")
PYTHON = {
    "and": all,
    "or": any,
    "parity": lambda bits: sum(bits) % 2 == 1,
    "majority": lambda bits: sum(bits) > len(bits) / 2,
}


def within(count: float, trials: int, share: float = 0.5) -> bool:
    """Six standard deviations of a binomial count."""
    return abs(count - trials * share) < 6 * np.sqrt(trials * share * (1 - share))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_labels_against_plain_python(function):
    task = load_task("sparse-boolean", function, relevant=5, coordinates_seed=4)
    examples = task.sample("train", 300, 1)
    for row, label in zip(examples.tokens.tolist(), examples.label.tolist(), strict=True):
        assert label == PYTHON[function]([row[at] for at in task.coordinates.tolist()])


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("split", ["train", "iid"])
def test_labels_are_balanced_and_no_frequency_tells_which_bits_matter(function, split):
    task = load_task("sparse-boolean", function)
    n = 40_000
    examples = task.sample(split, n, 3)
    assert within(examples.label.sum(), n)
    ones = examples.tokens[:, :-1].sum(0)
    assert all(within(count, n, task.config.probability_of_one) for count in ones.tolist())


def test_and_is_balanced_by_the_frequency_of_ones():
    assert load_task("sparse-boolean", "and").config.probability_of_one == pytest.approx(0.5 ** (1 / 3))
    assert load_task("sparse-boolean", "or").config.probability_of_one == pytest.approx(1 - 0.5 ** (1 / 3))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_other_bits_do_not_matter(function):
    task = load_task("sparse-boolean", function)
    tokens, rng = task.sample("train", 2_000, 0).tokens, np.random.default_rng(0)
    changed = rng.integers(2, size=tokens.shape)
    kept = [*task.coordinates.tolist(), task.seq_len - 1]
    changed[:, kept] = tokens[:, kept]
    np.testing.assert_array_equal(task.answer(changed).require_valid().label, task.answer(tokens).label)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_relevant_bit_matters(function):
    task = load_task("sparse-boolean", function)
    examples = task.sample("train", 2_000, 0)
    for at in task.coordinates.tolist():
        flipped = examples.tokens.copy()
        flipped[:, at] = 1 - flipped[:, at]
        assert (task.answer(flipped).label != examples.label).mean() > 0.2


@pytest.mark.parametrize(("bits", "function"), [(5, "majority"), (6, "parity"), (14, "and"), (15, "or")])
def test_few_bits_every_string_is_in_one_split_and_all_are_drawn(bits, function):
    task = load_task("sparse-boolean", function, bits=bits, coordinates_seed=2)
    strings = np.array([[*string, 2] for string in itertools.product((0, 1), repeat=bits)])
    answers = task.answer(strings).require_valid()
    one = task.config.probability_of_one
    weight = np.prod(np.where(strings[:, :-1] == 1, one, 1 - one), axis=1)
    np.testing.assert_array_equal(answers.split, np.where(np.arange(2**bits) % 9 == 0, SPLITS.index("iid"), SPLITS.index("train")))
    for residue, value in itertools.product(range(9), (0, 1)):
        here = (np.arange(2**bits) % 9 == residue) & (answers.label == value)
        assert task.config.shares[residue, value] == pytest.approx(weight[here].sum())
    for split in ("train", "iid"):
        drawn = task.sample(split, 5_000, 0).tokens[:, :-1] @ 2 ** np.arange(bits)[::-1]
        wanted = np.flatnonzero(answers.split == SPLITS.index(split))
        assert set(drawn.tolist()) <= set(wanted.tolist())
        likely = wanted[weight[wanted] / weight[wanted].sum() > 0.01]
        assert set(likely.tolist()) <= set(drawn.tolist())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_hundreds_of_bits(function):
    task = load_task("sparse-boolean", function, bits=300)
    for split in task.splits:
        examples = task.sample(split, 1_000, 0)
        number = [int("".join(map(str, row)), 2) for row in examples.tokens[:, :-1].tolist()]
        assert all((value % 9 == 0) == (split == "iid") for value in number)
        assert within(examples.label.sum(), 1_000)


def test_coordinates_are_sorted_distinct_reproducible_and_in_the_fingerprint():
    tasks = [load_task("sparse-boolean", "parity", coordinates_seed=seed) for seed in range(200)]
    assert len({task.fingerprint for task in tasks}) == 200
    for task in tasks:
        assert len(set(task.coordinates.tolist())) == 3
        assert (np.diff(task.coordinates) > 0).all()
        assert 0 <= task.coordinates.min() <= task.coordinates.max() < 32
    assert load_task("sparse-boolean", "parity", coordinates_seed=7).coordinates.tolist() == tasks[7].coordinates.tolist()
    assert set(np.concatenate([task.coordinates for task in tasks]).tolist()) == set(range(32))


@settings(max_examples=30, derandomize=True, database=None)
@given(
    function=st.sampled_from(FUNCTIONS),
    bits=st.integers(0, 80),
    relevant=st.integers(0, 12),
    modulus=st.integers(2, 64),
    seed=st.integers(0, 1_000),
)
def test_other_configurations_read_back_or_are_refused(function, bits, relevant, modulus, seed):
    fields = {"bits": bits, "relevant": relevant, "modulus": modulus, "coordinates_seed": seed}
    try:
        task = load_task("sparse-boolean", function, **fields)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    for split in task.splits:
        examples = task.sample(split, 200, 5)
        answers = task.answer(examples.tokens).require_valid()
        np.testing.assert_array_equal(answers.label, examples.label)
        np.testing.assert_array_equal(answers.split, SPLITS.index(split))


@pytest.mark.parametrize(
    ("variant", "config", "reason"),
    [
        ("and", {"bits": 8}, "unevenly"),
        ("and", {"relevant": 33}, "at most bits"),
        ("parity", {"modulus": 8}, "an odd number"),
        ("majority", {"relevant": 4}, "a tie"),
        ("and", {"bits": 2000}, "less than or equal to 1024"),
        ("and", {"coordinates_seed": -1}, "greater than or equal to 0"),
    ],
)
def test_impossible_sizes_are_refused(variant, config, reason):
    with pytest.raises(ValueError, match=reason):
        load_task("sparse-boolean", variant, **config)

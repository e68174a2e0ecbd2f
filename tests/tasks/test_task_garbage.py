"""Garbage and wrong values: every task marks the one, refuses the other in a sentence, and answers each row alone."""

import jaxtyping
import numpy as np
import pytest
from every_task import FIELDS, assert_one_sentence, every_key_task, every_task, get, large, quick
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorbench import Answers, Task, load_task
from anchorbench.task import NO_ANSWER, SPLITS


def check_answers(task: Task, answers: Answers, n: int) -> None:
    """Invalid rows carry a sentence and no answer; valid ones an answer of the vocabulary."""
    assert answers.valid.shape == (n,)
    assert set(answers.problems) == set(np.flatnonzero(~answers.valid).tolist())
    for problem in answers.problems.values():
        assert problem.strip() and "\n" not in problem
    for values in (*(getattr(answers, field) for field in FIELDS), answers.split, *answers.foils.values()):
        assert values.dtype == np.int64
        assert (values[~answers.valid] == NO_ANSWER).all()
    assert ((answers.label[answers.valid] >= 0) & (answers.label[answers.valid] < task.vocab_size)).all()
    assert ((answers.group[answers.valid] >= 0) & (answers.group[answers.valid] < len(task.groups))).all()
    assert ((answers.split >= NO_ANSWER) & (answers.split < len(SPLITS))).all()


@every_task
@settings(quick, max_examples=2)
@given(seed=st.integers(0, 2**32 - 1))
def test_garbage_is_marked_and_never_raises(name, variant, seed):
    task, rng = get(name, variant), np.random.default_rng(seed)
    limits = np.iinfo(np.int64)
    shape = (100, task.seq_len)
    real = large(name, variant, "train").tokens[:100]
    damaged = np.where(rng.random(shape) < 1 / task.seq_len, rng.integers(-5, task.vocab_size + 5, shape), real)
    extreme = np.where(rng.random(shape) < 1 / task.seq_len, rng.choice([limits.min, limits.max, -1], shape), real)
    for tokens in (
        rng.integers(limits.min, limits.max, shape, endpoint=True),
        rng.integers(-3, task.vocab_size + 3, shape),
        rng.integers(0, min(20, task.vocab_size), shape),
        rng.permuted(real, axis=1),
        np.repeat(rng.integers(0, task.vocab_size, (100, 1)), task.seq_len, axis=1),
        damaged,
        extreme,
        real[:0],
    ):
        tokens.setflags(write=False)
        answers = task.answer(tokens)
        check_answers(task, answers, len(tokens))
        outside = ((tokens < 0) | (tokens >= task.vocab_size)).any(1)
        assert not answers.valid[outside].any(), "a row with an id outside the vocabulary"


@every_task
def test_each_row_is_answered_alone(name, variant):
    task = get(name, variant)
    tokens = np.concatenate([large(name, variant, split).tokens[:50] for split in task.splits])
    tokens = np.concatenate([tokens, np.random.default_rng(0).permuted(tokens, axis=1)])
    together, order = task.answer(tokens), np.random.default_rng(1).permutation(len(tokens))
    apart = task.answer(tokens[order][:60].astype(np.int32))
    for field in ("valid", *FIELDS, "split"):
        np.testing.assert_array_equal(getattr(apart, field), getattr(together, field)[order][:60])


@pytest.fixture
def unchecked():
    """Runs without the type checks of the tests, as users do: what do wrong values say then?"""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@every_task
@pytest.mark.usefixtures("unchecked")
def test_wrong_values_are_one_sentence(name, variant):
    task = get(name, variant)
    for arguments in (
        *(("test", 1, 0), ("", 1, 0), (None, 1, 0)),
        *(("train", -1, 0), ("train", 1.5, 0), ("train", True, 0), ("train", "3", 0), ("train", None, 0)),
        *(("train", 1, -1), ("train", 1, 0.5), ("train", 1, False), ("train", 1, None)),
        *((split, 1, 0) for split in SPLITS if split not in task.splits),
    ):
        for method in (task.sample, lambda *a: next(task.iter_batches(*a))):
            with pytest.raises(ValueError) as caught:
                method(*arguments)
            assert_one_sentence(caught.value)
    for tokens in (
        np.zeros((2, task.seq_len + 1), int),
        np.zeros(task.seq_len, int),
        np.zeros((2, task.seq_len)),
        np.zeros((2, task.seq_len), bool),
        [["a"] * task.seq_len],
    ):
        with pytest.raises(ValueError) as caught:
            task.answer(tokens)
        assert_one_sentence(caught.value)
    with pytest.raises(ValueError, match="no_such_field") as caught:
        load_task(name, variant, no_such_field=1)
    assert_one_sentence(caught.value)


WRONG_CONFIGS = [
    *({"key_min": 99, "key_max": 20}, {"key_min": -1}, {"key_max": 10**6}, {"key_min": "many"}),
    *({"seq_len": 0}, {"seq_len": 1}, {"seq_len": 10**6}, {"seq_len": 9.5}),
    *({"modulus": 0}, {"modulus": -3}, {"modulus": None}),
    *({"vocab_size": 50}, {"vocab_size": 10**9}),
]


@every_key_task
@pytest.mark.parametrize("config", WRONG_CONFIGS, ids=str)
def test_impossible_configurations_are_refused(name, variant, config):
    with pytest.raises(ValueError) as caught:
        load_task(name, variant, **config)
    assert_one_sentence(caught.value)


def test_unknown_names():
    with pytest.raises(ValueError, match="did you mean 'identity'") as caught:
        load_task("identitty")
    assert_one_sentence(caught.value)
    with pytest.raises(ValueError, match="did you mean 'conflict'") as caught:
        load_task("composite", "conflicts")
    assert_one_sentence(caught.value)

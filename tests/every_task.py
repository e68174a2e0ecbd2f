"""All tasks with all their variants, and what the tests of every task share."""

import functools
import hashlib

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from anchorbench import Examples, Task, list_tasks, load_task
from anchorbench.task import SPLITS
from anchorbench.tasks.sequence import KeyConfig

TASKS = list_tasks()
KEY_TASKS = [(name, variant) for name, variant in TASKS if isinstance(load_task(name, variant).config, KeyConfig)]
FIELDS = ("label", "group", "key", "position")

every_task = pytest.mark.parametrize(("name", "variant"), TASKS, ids=[f"{name}-{variant}" for name, variant in TASKS])
every_key_task = pytest.mark.parametrize(("name", "variant"), KEY_TASKS, ids=[f"{name}-{variant}" for name, variant in KEY_TASKS])
quick = settings(max_examples=5, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@functools.cache
def get(name: str, variant: str) -> Task:
    return load_task(name, variant)


@functools.cache
def large(name: str, variant: str, split: str) -> Examples:
    return get(name, variant).sample(split, 20_000, 7)


def rows(tokens: np.ndarray) -> np.ndarray:
    """Each row of `tokens [n, seq_len]` as one comparable item, `[n]`."""
    return np.ascontiguousarray(tokens).view([("", tokens.dtype)] * tokens.shape[1])[:, 0]


def row_bytes(tokens: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in tokens]


def digest(examples: Examples) -> str:
    arrays = [examples.tokens, *(getattr(examples, field) for field in FIELDS), *examples.foils.values()]
    arrays += [] if examples.target is None else [examples.target]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def check_reads_back(task: Task, examples: Examples, split: str) -> None:
    """`examples` are well-formed and `answer` says of them what the generator says."""
    n = len(examples)
    assert examples.tokens.shape == (n, task.seq_len)
    for array in (examples.tokens, *(getattr(examples, field) for field in FIELDS), *examples.foils.values()):
        assert array.dtype == np.int64
        assert len(array) == n
    if n:
        assert 0 <= examples.tokens.min() <= examples.tokens.max() < task.vocab_size
        assert 0 <= examples.label.min() <= examples.label.max() < task.vocab_size
        assert 0 <= examples.group.min() <= examples.group.max() < len(task.groups)
    answers = task.answer(examples.tokens).require_valid()
    assert answers.valid.all()
    fields = FIELDS if examples.target is None else FIELDS[1:]
    for field in fields:
        np.testing.assert_array_equal(getattr(answers, field), getattr(examples, field), err_msg=field)
    np.testing.assert_array_equal(answers.split, SPLITS.index(split), err_msg="split")
    assert answers.foils.keys() == examples.foils.keys()
    for foil, values in examples.foils.items():
        np.testing.assert_array_equal(answers.foils[foil], values, err_msg=foil)
    assert (examples.target is None) == (answers.target is None)
    if examples.target is not None and answers.target is not None:
        assert examples.target.shape == (n, task.vocab_size)
        np.testing.assert_allclose(answers.target, examples.target)
        np.testing.assert_allclose(examples.target.sum(1), 1)
        assert (examples.target[np.arange(n), examples.label] > 0).all()
        assert (np.take_along_axis(answers.target, answers.label[:, None], 1)[:, 0] == answers.target.max(1)).all()


def assert_one_sentence(error: BaseException) -> None:
    message = str(error)
    assert message.strip() and "\n" not in message
    assert len(message) < 1_000

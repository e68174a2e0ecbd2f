"""The generator and the independent answer agree, and both agree with examples worked out by hand."""

import numpy as np

from anchorbench import load_task


def test_examples_read_back() -> None:
    task = load_task("successor")
    for split in task.splits:
        examples = task.sample(split, 1000, seed=0)
        answers = task.answer(examples.tokens)
        assert answers.valid.all()
        assert (answers.label == examples.label).all()


def test_by_hand() -> None:
    tokens = np.array([[50, 3, 77, 51, 52, 53, 54, 55, 56], [50, 51, 52, 53, 54, 55, 56, 57, 3]])
    answers = load_task("successor").answer(tokens)
    assert answers.label[0] == 78
    assert answers.valid.tolist() == [True, False]

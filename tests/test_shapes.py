"""Shapes that annotations promise are checked in these tests: a method and a dataclass that break theirs are refused."""

import numpy as np
import pytest
import torch
from conftest import random_gpt

from anchorbench import Examples, load_task
from anchorbench.train.evaluation import evaluation_steps
from anchorbench.verdict import EvalSet


def test_a_method_checks_its_shapes() -> None:
    model = random_gpt(d_model=8, d_head=8, d_ff=8)
    assert model(torch.zeros(1, 2, 9, dtype=torch.long)).shape == (1, 2, 120)
    with pytest.raises(TypeError, match="tokens"):
        model(torch.zeros(2, 9, dtype=torch.long))
    with pytest.raises(TypeError, match="tokens"):
        model(torch.zeros(1, 2, 9))


def test_one_name_is_one_size() -> None:
    block = random_gpt(d_model=8, d_head=8, d_ff=8).layers[0]
    assert block.feed_forward(torch.zeros(1, 3, 8)).shape == (1, 3, 8)
    with pytest.raises(TypeError, match="rows d"):
        block.feed_forward(torch.zeros(3, 8))


def test_a_dataclass_checks_its_shapes() -> None:
    examples = load_task("identity").sample("train", 4, 0)
    with pytest.raises(TypeError):
        Examples(examples.tokens, examples.label[:3], examples.key, examples.position, examples.group, examples.foils)


def test_what_promises_no_shape_is_left_alone() -> None:
    assert not hasattr(evaluation_steps, "__wrapped__")
    assert hasattr(EvalSet.behaviour, "__wrapped__")
    with pytest.raises(TypeError, match="answers"):
        EvalSet.of(load_task("identity"), 3, 0).behaviour(np.zeros((2, 2), dtype=np.int64))

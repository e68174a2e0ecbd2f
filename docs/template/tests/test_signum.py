"""A step worked out by hand, and a short training."""

from pathlib import Path

import torch
from my_parts.signum import Signum

import anchorbench
from anchorbench.train.seams import Layout


def test_a_step_by_hand() -> None:
    gradient, rate = torch.tensor([[2.0, -3.0, 0.5]]), torch.tensor([[0.1]])
    layout = Layout(("weight",), (torch.Size([3]),), (3,))
    step = torch.zeros_like(gradient)
    Signum([Signum.Config()], layout, gradient).step(step, gradient, torch.zeros_like(gradient), rate, 1)
    torch.testing.assert_close(step, torch.tensor([[-0.1, 0.1, -0.1]]))


def test_it_trains(tmp_path: Path) -> None:
    short = {"optimizer.kind": ["signum"], "data_size": [1000]}
    (run,) = anchorbench.sweep(gamma=[0.5], seeds=1, steps=5, precision="fp32", axes=short, out=tmp_path / "out")
    assert run.recipe.optimizer.kind == "signum"
    assert run.result.diverged_at is None

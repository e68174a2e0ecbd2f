"""What it draws, and a short training."""

from pathlib import Path

import torch
from my_parts.truncated import Truncated

import anchorbench
from anchorbench.model.gpt import GPT, ModelConfig
from anchorbench.model.initialize import initialize


def test_nothing_lies_beyond() -> None:
    model = GPT(ModelConfig(), members=1, vocab_size=50, seq_len=9)
    initialize(model, [Truncated.Config(gamma=0.5, most=1.0)], [0])
    for name, parameter in model.named_parameters():
        role = model.roles()[name]
        if role.what == "matrix":
            largest = parameter.abs().max() * role.fan_in**0.5
            assert 0.99 < largest <= 1.0 + 1e-6
        elif role.part != "norm":
            assert torch.equal(parameter, torch.zeros_like(parameter))


def test_it_trains(tmp_path: Path) -> None:
    short = {"init.kind": ["truncated"], "data_size": [1000]}
    (run,) = anchorbench.sweep(gamma=[0.5], seeds=1, steps=5, precision="fp32", axes=short, out=tmp_path / "out")
    assert run.recipe.init.kind == "truncated"
    assert run.result.diverged_at is None

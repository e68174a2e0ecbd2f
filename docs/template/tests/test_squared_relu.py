"""A short training."""

from pathlib import Path

import anchorbench


def test_it_trains(tmp_path: Path) -> None:
    short = {"model.kind": ["squared-relu"], "data_size": [1000]}
    (run,) = anchorbench.sweep(gamma=[0.5], seeds=1, steps=5, precision="fp32", axes=short, out=tmp_path / "out")
    assert run.recipe.model.kind == "squared-relu"
    assert run.result.diverged_at is None

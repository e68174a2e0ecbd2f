"""A short training."""

from pathlib import Path

import anchorbench


def test_it_trains(tmp_path: Path) -> None:
    short = {"penalties": [[{"kind": "l2", "strength": 0.01}]], "data_size": [1000]}
    (run,) = anchorbench.sweep(gamma=[0.5], seeds=1, steps=5, axes=short, out=tmp_path / "out")
    assert [penalty.kind for penalty in run.recipe.penalties] == ["l2"]
    assert run.result.diverged_at is None

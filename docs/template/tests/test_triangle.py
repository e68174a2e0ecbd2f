"""Values worked out by hand, and a short training."""

from pathlib import Path

import pytest
from my_parts.triangle import Triangle

import anchorbench


def test_by_hand() -> None:
    schedule = Triangle(Triangle.Config())
    factors = [schedule.factor(step, 100, 0.2) for step in (0, 25, 50, 75, 100)]
    assert factors == pytest.approx([0.2, 0.6, 1.0, 0.6, 0.2])


def test_it_trains(tmp_path: Path) -> None:
    short = {"optimizer.schedule": ["triangle"], "data_size": [1000]}
    (run,) = anchorbench.sweep(gamma=[0.5], seeds=1, steps=5, axes=short, out=tmp_path / "out")
    assert run.recipe.optimizer.schedule.kind == "triangle"
    assert run.result.diverged_at is None

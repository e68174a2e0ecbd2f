"""The probe reads a briefly trained model."""

from pathlib import Path

import matplotlib.pyplot as plt

import anchorbench
from anchorbench.probes import run_probe


def test_scores_and_figure(tmp_path: Path) -> None:
    (run,) = anchorbench.sweep(gamma=[0.5], seeds=1, steps=5, axes={"data_size": [1000]}, out=tmp_path / "out")
    result = run_probe("attention_on_key", run, anchorbench.load_task("composite"))
    for score in result.scores().values():
        assert 0 <= score.low <= score.value <= score.high <= 1
        assert 0 <= score.control <= 1
    result.draw(plt.figure(figsize=result.size, layout="constrained"))
    plt.close()

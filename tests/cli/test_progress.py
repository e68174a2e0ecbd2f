"""The lines that tell how far a sweep is where there is no terminal."""

from pathlib import Path

import pytest
from conftest import TINY

from anchorbench.cli import progress
from anchorbench.cli.progress import ProgressLines
from anchorbench.sweeps.runner import Progress


def test_a_line_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stacks of two runs of six steps, a step every 20 seconds: by hand, 0.1 steps/s at first."""
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    said: list[str] = []
    monkeypatch.setattr(ProgressLines, "_loss", lambda lines, run_ids: 0.25)
    lines = ProgressLines(said.append, tmp_path, 24)
    pair = [TINY, TINY.override({"seed": 1})]
    for step in range(7):
        lines.report(Progress(pair, step))
        now += 20
    lines.report(Progress(pair, 6, finished=[]))
    lines.report(Progress([], message="anything"))
    for step in range(1, 3):
        now += 20
        lines.report(Progress(pair, step))
    assert said == [
        "step 3 of 6 of 2 runs, loss 0.25, 0.1 steps/s over all runs, about 3 min 0 s left",
        "step 6 of 6 of 2 runs, loss 0.25, 0.1 steps/s over all runs, about 2 min 0 s left",
        "step 2 of 6 of 2 runs, loss 0.25, 0.0875 steps/s over all runs, about 1 min 31 s left",
    ]


def test_a_folder_without_checkpoints_has_no_loss(tmp_path: Path) -> None:
    assert ProgressLines(print, tmp_path, 1)._loss({"a"}) is None

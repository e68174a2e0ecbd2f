"""What a sweep takes is said before it starts: the time of a few steps, and the disk that its files will take."""

import re
import types
from pathlib import Path

import pytest
from conftest import TINY, Cli

from anchorbench.cli.costs import bytes_on_disk
from anchorbench.sweeps.runner import Sweep, SweepFolder, run_sweep
from anchorbench.train.execution import Execution


def test_a_long_sweep_says_beforehand_what_it_takes(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anchorbench.cli.run.LONG", 4 * TINY.steps)
    looks = iter([0, 50])  # 10 s per step
    monkeypatch.setattr("anchorbench.cli.costs.time", types.SimpleNamespace(perf_counter=lambda: next(looks)))
    shown = cli("run", "--gamma", "0.5,0.7", "--seeds", "2", "--keep-steps", "2,4", "--out", tmp_path / "out")
    assert shown.code == 0
    (said,) = re.findall(r"^about 1 min 0 s on this machine, and (\S+) MB of disk; nothing is downloaded$", shown.out, re.MULTILINE)
    files = [path for path in (tmp_path / "out" / "runs").rglob("*") if path.is_file()]
    assert float(said) == pytest.approx(sum(path.stat().st_size for path in files) / 1e6, abs=0.1)
    again = cli("run", "--gamma", "0.5,0.7", "--seeds", "2", "--keep-steps", "2,4", "--out", tmp_path / "out")
    assert "on this machine" not in again.out


def test_the_disk_that_a_run_takes_is_close_to_what_is_said(tmp_path: Path) -> None:
    """With weights that outweigh all else, and one kept step."""
    wide = TINY.override({"model.d_model": 64, "model.d_head": 64, "model.d_ff": 256})
    (run,) = run_sweep(sweep := Sweep(wide, {"seed": (0,)}), SweepFolder(tmp_path, sweep), how=Execution(keep_steps=[3]))
    written = sum(path.stat().st_size for path in run.path.iterdir())
    assert bytes_on_disk([wide], kept=1) == pytest.approx(written, rel=0.05)

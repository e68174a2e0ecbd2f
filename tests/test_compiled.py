"""The compiled step against the written-out one, and the choice between them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from compiled_job import SMALL

from anchorbench import compiled
from anchorbench.compiled import can_compile, seconds_saved
from anchorbench.sweep import SweepFolder, run_sweep


@pytest.fixture(scope="module")
def compiler() -> None:
    if not can_compile():
        pytest.skip("compiling needs a C++ compiler and Python's headers")


def job(*arguments: str) -> Any:
    script = Path(__file__).parent / "compiled_job.py"
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_losses_and_gradients_are_those_of_the_written_out_step(compiler: None) -> None:
    errors = job("pre, 3 heads of free width")
    assert len(errors) > 20
    assert max(errors.values()) < 1e-5, errors


def test_a_member_ends_with_the_same_bits_in_stacks_of_any_size(compiler: None) -> None:
    found = job("same bits")
    assert "3 runs of one shape: products in fp32, the step compiled" in found["line"]
    assert len(found["equal"]) > 3 * 10
    assert all(found["equal"])


def first_line(folder: Path) -> str | None:
    lines: list[str | None] = []
    run_sweep(SMALL, SweepFolder(folder, SMALL), lambda event: lines.append(event.message))
    return lines[0]


def test_few_members_are_not_compiled_and_the_line_says_why(tmp_path: Path) -> None:
    said = first_line(tmp_path)
    assert said == "3 runs of one shape: products in fp32, the step written out: compiling would take 40 s and save 0 s."


def test_without_a_compiler_the_step_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(compiled, "can_compile", lambda: False)
    assert "needs a C++ compiler" in str(first_line(tmp_path))


def test_the_saving_grows_with_members_steps_and_memory() -> None:
    assert (
        seconds_saved(8, 100, 1e7) == pytest.approx(2 * seconds_saved(4, 100, 1e7)) == pytest.approx(4 * seconds_saved(4, 50, 1e7))
    )
    assert seconds_saved(1000, 1000, 1e9) == 0, "large members gain nothing"

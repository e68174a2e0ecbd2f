"""Ctrl-C at any moment is exit code 130 and one sentence, and costs nothing; odd streams and homes end in no traceback."""

import os
import pkgutil
import pty
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Cli, patch_training
from processes import child, environment

from anchorbench import __main__ as program
from anchorbench.sweeps import lock as lock_module
from anchorbench.sweeps.lock import StackLock
from anchorbench.sweeps.run_folder import read_run

RUN = ("run", "--precision", "fp32", "--gamma", "0.5", "--seeds", "2")
DRAWING = [("anchorbench.show.figures.phase_figure", 1), ("matplotlib.figure.Figure.savefig", 1)]
MOMENTS = [
    ("anchorbench.cli.run.make_sweep", 1),
    ("anchorbench.sweeps.runner.SweepFolder.__init__", 1),
    ("anchorbench.sweeps.runner.SweepFolder.finished", 2),
    ("anchorbench.sweeps.folder.write_atomically", 1),
    ("anchorbench.sweeps.plan.stacks", 1),
    ("anchorbench.sweeps.lock.StackLock.acquire", 1),
    ("anchorbench.sweeps.lock._born", 1),
    ("anchorbench.train.stack.Stack.__init__", 1),
    ("anchorbench.train.stack.Stack.advance", 3),
    ("anchorbench.train.stack.Stack.evaluate", 1),
    ("anchorbench.train.checkpoint.save", 2),
    ("anchorbench.train.stack.Stack.members", 1),
    ("anchorbench.sweeps.runner.write_run", 2),
    ("os.fsync", 2),
    ("os.fsync", 12),
    ("rich.progress.Progress.update", 3),
    ("rich.progress.Progress.stop", 1),
    ("anchorbench.sweeps.lock.StackLock.release", 1),
    ("anchorbench.sweeps.runner.SweepFolder.remove_checkpoints", 1),
    ("anchorbench.sweeps.index.Index._save", 1),
    ("anchorbench.sweeps.folder.write_tables", 1),
    ("anchorbench.cli.run.show", 1),
    *DRAWING,
]
"""The function in which the interruption comes, and at which call of it: planning, training, writing, drawing, live progress."""


def strike(patch: pytest.MonkeyPatch, place: str, number: int) -> list[int]:
    """Ends the `number`-th call of a function in an interruption; gives the calls so far."""
    owner, _, name = place.rpartition(".")
    holder = pkgutil.resolve_name(owner)
    real: Callable[..., Any] = getattr(holder, name)
    calls: list[int] = []

    def struck(*args: Any, **options: Any) -> Any:
        calls.append(len(calls) + 1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return real(*args, **options)

    patch.setattr(holder, name, struck)
    return calls


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_training(monkeypatch, CHECKPOINT_SECONDS=0.0, EVALUATION_SIZE=32, FINAL_SIZE=60)


def weights(out: Path) -> dict[str, bytes]:
    return {run.name: (read_run(run).path / "weights.safetensors").read_bytes() for run in (out / "runs").glob("[!.]*")}


@pytest.fixture(scope="module")
def expected() -> dict[str, bytes]:
    """The weights of the first sweep that comes to its end; all others must be the same."""
    return {}


@pytest.mark.parametrize(("place", "number"), MOMENTS)
def test_an_interruption_at_any_moment_is_one_sentence_and_costs_nothing(
    cli: Cli, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, bytes], place: str, number: int
) -> None:
    if (place, number) not in DRAWING:
        monkeypatch.setattr("anchorbench.cli.run._draw", lambda *args: None)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        calls = strike(patch, place, number)
        stopped = cli(*RUN, "--out", out)
    assert len(calls) >= number
    assert (stopped.code, stopped.err) == (130, program.SENTENCE)
    again = cli(*RUN, "--out", out)
    assert (again.code, again.err) == (0, "")
    found = weights(out)
    assert len(found) == 2
    assert expected.setdefault("all", found) == found
    left = {path.relative_to(out).as_posix() for path in out.rglob(".*")} | {str(p) for p in (out / "checkpoints").iterdir()}
    assert left == {"locks/.guard"}
    for held in list(lock_module._heart._locks):  # as if the process had ended: it was interrupted while it gave this one back
        held.release()
    lock = StackLock.acquire(out / "locks" / "another", sorted(found))
    assert lock is not None
    assert lock.owner.runs == tuple(sorted(found))
    lock.release()


@pytest.mark.parametrize(
    "command", [("tasks",), ("data", "build", "identity"), ("leaderboard", "validate", "x.json"), ("report", "x")]
)
def test_other_commands_are_interrupted_in_the_same_way(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], tmp_path: Path
) -> None:
    """In their first moment of work."""
    monkeypatch.chdir(tmp_path)

    def interrupted(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    works = ("catalogue.listing", "hub.datasets.build", "leaderboard.check.read_entry", "show.report.report")
    for name in works:
        monkeypatch.setattr(f"anchorbench.{name}", interrupted)
    options = ("--out", "out") if command[0] == "data" else ()
    stopped = cli(*command, *options)
    assert (stopped.code, stopped.out, stopped.err) == (130, "", program.SENTENCE)
    assert list(tmp_path.iterdir()) == []


# The program


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    """The program, in the moment in which it begins."""
    process = subprocess.Popen(
        child("program", *arguments), stderr=subprocess.PIPE, start_new_session=True, **{"env": environment(), **options}
    )
    assert process.stderr is not None
    assert process.stderr.read(1) == b"."
    return process


@pytest.mark.parametrize("signals", [1, 3])
def test_the_program_is_interrupted_at_random_moments(tmp_path: Path, signals: int) -> None:
    """From its first imports on, in three processes; with more than one Ctrl-C in a tenth of a second, too."""
    rng = secrets.SystemRandom()
    processes = [start(*RUN, "--steps", "100000", "--out", tmp_path / str(i), stdout=subprocess.DEVNULL) for i in range(3)]
    try:
        for process, delay in zip(processes, (0.05, rng.uniform(0.3, 1), rng.uniform(1, 6)), strict=True):
            for wait in [delay] + [0.03] * (signals - 1):
                select.select([], [], [], wait)
                process.send_signal(signal.SIGINT)
        for process in processes:
            _, err = process.communicate(timeout=60)
            assert process.returncode == 130
            assert set(err.decode().splitlines(keepends=True)) == {program.SENTENCE}
    finally:
        for process in processes:
            process.kill()


def test_an_interruption_that_is_swallowed_ends_the_program_all_the_same() -> None:
    with subprocess.Popen(child("swallow_interruptions"), env=environment(), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.read(1) == b"."
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err.decode()) == (130, program.SENTENCE)


def test_a_progress_bar_gives_the_terminal_back(tmp_path: Path) -> None:
    """Interrupted while the bar is live, the cursor is shown again."""
    terminal, inside = pty.openpty()
    process = start(*RUN, "--steps", "100000", "--out", tmp_path / "out", stdout=inside, env=environment(TERM="xterm"))
    os.close(inside)
    seen = b""
    while b"training" not in seen:
        assert select.select([terminal], [], [], 60)[0]
        seen += os.read(terminal, 4096)
    process.send_signal(signal.SIGINT)
    while select.select([terminal], [], [], 60)[0]:
        try:
            seen += os.read(terminal, 4096)
        except OSError:  # the program has ended
            break
    _, err = process.communicate(timeout=60)
    os.close(terminal)
    assert (process.returncode, err.decode()) == (130, program.SENTENCE)
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")


def test_an_interruption_in_a_destructor_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python itself would print a traceback and go on."""
    left: list[int] = []
    other: list[Any] = []
    monkeypatch.setattr(program, "_leave", lambda: left.append(130))
    monkeypatch.setattr(sys, "__unraisablehook__", other.append)
    for error in (KeyboardInterrupt(), ValueError()):
        problem = SimpleNamespace(exc_value=error)
        program._unraisable(problem)
    assert left == [130]
    assert [type(problem.exc_value) for problem in other] == [KeyboardInterrupt, ValueError]


# Streams and homes


def finished(*arguments: str, **options: Any) -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "anchorbench", *arguments], capture_output=True, timeout=120, check=False, **options
    )
    return done.returncode, done.stdout, done.stderr


def test_whoever_stops_reading_gets_no_traceback(tmp_path: Path) -> None:
    for arguments in (("tasks",), ("tasks", "--markdown"), ("--help",)):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-m", "anchorbench", *arguments], stdout=writer, stderr=subprocess.PIPE, timeout=120, check=False
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("closed", ["1", "2", "0"])
def test_closed_streams(closed: str) -> None:
    line = f"exec {sys.executable} -m anchorbench tasks {closed}>&-"
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (b"composite" in done.stdout) == (closed != "1")


@pytest.mark.parametrize(
    "environ",
    [
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        {"LC_ALL": "xx_XX.nonsense", "PYTHONIOENCODING": "latin-1"},
        {"TERM": "dumb", "COLUMNS": "1", "LINES": "0"},
        {"HOME": "/nonexistent", "TERM": ""},
    ],
)
def test_odd_environments(environ: dict[str, str]) -> None:
    code, out, err = finished(
        "tasks", "--markdown", env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)} | environ
    )
    assert (code, err) == (0, b"")
    assert b"composite" in out

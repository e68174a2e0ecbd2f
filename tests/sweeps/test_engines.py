"""The pages of docs/cluster: every command in them is run, with stand-ins for the schedulers, which kill and preempt workers; and
Ray itself, where it is installed.
"""

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Cli, require_one_sentence
from processes import child, environment

from anchorbench.cli.main import main
from anchorbench.cli.plan import load_sweep
from anchorbench.sweeps.engines import slurm
from anchorbench.sweeps.folder import SweepFolder
from anchorbench.sweeps.run_folder import read_run
from anchorbench.sweeps.runner import run_sweep

STAND_INS = ROOT / "tests" / "stand_ins"
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs" / "cluster").glob("*.md"))}
SWEEP = """
steps: 3000
batch: 16
data_size: 500
model: {n_layer: 1, n_head: 1, d_model: 8, d_head: 8, d_ff: 16}
optimizer: {warmup: 2}
axes: {seed: 4}
"""
"""A second for each of two stacks, so that a worker is killed while it trains."""


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGES[page], re.DOTALL)


def weights_of(out: Path) -> dict[str, bytes]:
    return {path.name: (read_run(path).path / "weights.safetensors").read_bytes() for path in (out / "runs").glob("[!.]*")}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The weights of an undisturbed sweep on one machine."""
    root = tmp_path_factory.mktemp("plain")
    (root / "sweep.yaml").write_text(SWEEP)
    return plain_weights(root)


def plain_weights(place: Path) -> dict[str, bytes]:
    sweep = load_sweep(place / "sweep.yaml", ())
    run_sweep(sweep, SweepFolder(place / "plain", sweep))
    return weights_of(place / "plain")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return tmp_path


Commands = Callable[..., list[str]]


@pytest.fixture
def run_page(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Commands]:
    """Runs all commands of a page and gives what each printed: those of anchorbench in this process, which has imported all, and
    others, with the workers that they start, in processes of their own.
    """
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(place)
    path = os.pathsep.join([str(STAND_INS), os.environ["PATH"]])
    variables = {"PATH": path, "PYTHON": sys.executable, "STAND_IN_NOTES": str(place), "OMP_NUM_THREADS": "1"}
    for name, value in (environment() | variables).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("anchorbench.cli.run._draw", lambda *_: None)  # figures are looked at elsewhere

    def in_process(command: str) -> str:
        monkeypatch.setattr("sys.argv", shlex.split(command))
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        assert (ended.value.code or 0, told.err) == (0, ""), command
        return told.out

    def run(page: str) -> list[str]:
        told: list[str] = []
        for command in "".join(blocks(page, "bash")).splitlines():
            if command.startswith("anchorbench "):
                told.append(in_process(command))
                continue
            done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), (command, done)
            told.append(done.stdout)
        return told

    yield run
    signal.signal(signal.SIGTERM, before)


def test_there_is_a_page_for_each() -> None:
    assert set(PAGES) == {"slurm", "ray", "kubernetes", "parallel"}
    for page in PAGES:
        for command in "".join(blocks(page, "bash")).splitlines():
            assert command.split()[0] in {"anchorbench", "kubectl", "parallel", "pip"}


def test_slurm(run_page: Commands, place: Path, weights: dict[str, bytes]) -> None:
    """A task is killed with its node, requeued, runs out of time, and is requeued again."""
    submitted, progress, shown = run_page("slurm")
    assert "4 of 4 runs in 2 stacks of 2 to 2" in submitted
    assert "job 7: 2 tasks for 2 stacks" in submitted
    assert progress.startswith("4 of 4 planned runs are finished; stacks: 2 finished")
    assert "All 4 runs are finished; nothing is trained." in shown
    assert weights_of(place / "sweep") == weights
    lives = re.findall(r"^(.+): exit (-?\d+)$", (place / "sweep" / "logs" / "7_0.log").read_text(), re.MULTILINE)
    assert lives == [("killed", "-9"), ("out of time", "143"), ("whole", "0")]
    options = (place / "sbatch.options").read_text().splitlines()
    assert options == [
        "array=0-1%8", "requeue", "signal=B:TERM@120", "open-mode=append", "partition=gpu", "gres=gpu:1", "time=4:00:00"
    ]  # fmt: skip


def test_kubernetes(run_page: Commands, place: Path, weights: dict[str, bytes]) -> None:
    """A pod is lost with its node; its successor goes on."""
    [manifest] = blocks("kubernetes", "yaml")
    (place / "job.yaml").write_text(manifest)
    *_, shown = run_page("kubernetes")
    assert "All 4 runs are finished; nothing is trained." in shown
    assert weights_of(place / "sweep") == weights


def test_gnu_parallel(run_page: Commands, place: Path, weights: dict[str, bytes]) -> None:
    *_, shown = run_page("parallel")
    assert "All 4 runs are finished; nothing is trained." in shown
    assert weights_of(place / "sweep") == weights


def test_ray_page(run_page: Commands, place: Path, weights: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("ray", STAND_INS / "ray.py")
    assert spec is not None
    assert spec.loader is not None
    fake = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fake)
    monkeypatch.setitem(sys.modules, "ray", fake)
    [manifest] = blocks("ray", "yaml")
    (place / "rayjob.yaml").write_text(manifest)
    _, trained, again, _, shown, on_kubernetes = run_page("ray")
    assert "stack 0: attempt 0 was lost with its process; it resumes from its last checkpoint" in trained
    assert "finished (2 of 2)" in trained
    assert "all runs are finished; nothing is trained" in again
    assert "all runs are finished; nothing is trained" in on_kubernetes
    assert "All 4 runs are finished; nothing is trained." in shown
    assert weights_of(place / "sweep") == weights


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed; pip install 'anchorbench[ray]'")
@pytest.mark.parametrize("lost", ["process", "node"])
def test_a_process_or_node_of_ray_that_is_lost_changes_nothing(place: Path, weights: dict[str, bytes], lost: str) -> None:
    """A process of a local Ray is killed as soon as it trains; of two nodes, one is, when both do."""
    if lost == "node":  # longer, so that both stacks are in training at once
        (place / "sweep.yaml").write_text(SWEEP.replace("steps: 3000", "steps: 20000"))
        weights = plain_weights(place)
    env = environment(OMP_NUM_THREADS="1", RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    done = subprocess.run(child("killed_ray", place, lost), env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "was lost with its process; it resumes from its last checkpoint" in done.stdout
    assert weights_of(place / "sweep") == weights


# What is refused

BAD = {
    "sge": "--on is 'sge'; allowed: slurm or ray",
    "slurm:array=1": "slurm has the option 'array'; allowed: others, each once",
    "slurm:time=1,time=2": "slurm has the option 'time' twice; allowed: others, each once",
    "slurm:time=1;rm": "slurm has the option 'time=1;rm'; allowed: options of sbatch",
    "slurm:comment=a\nb": "slurm has the option 'comment=a\\nb'",
    "slurm:Time=1": "slurm has the option 'Time=1'",
    "slurm:limit=0": "slurm has limit=0; allowed: a number of tasks that run at once",
    "slurm:": "sbatch is not found here; submit",
    "ray": "ray is not installed; allowed: after pip install 'anchorbench[ray]'",
}


@pytest.mark.parametrize("engine", BAD)
def test_bad_engines_are_one_sentence(cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "ray", None)
    refused = cli("sweep", "run", place / "sweep.yaml", "--out", place / "out", "--on", engine)
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert BAD[engine] in refused.err
    assert (place / "out").exists() == (engine in ("slurm:", "ray"))


def test_sbatch_that_refuses_is_quoted(cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "bin").mkdir()
    (place / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    (place / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place / 'bin'}:{os.environ['PATH']}")
    refused = cli("sweep", "run", place / "sweep.yaml", "--out", place / "out", "--on", "slurm:partition=x")
    require_one_sentence(refused.err)
    assert "slurm.sh: sbatch: error: invalid partition" in refused.err


@pytest.mark.parametrize(("numbers", "words"), [([0], "0"), ([0, 1, 2], "0-2"), ([0, 2, 3, 7], "0,2-3,7")])
def test_ranges(numbers: list[int], words: str) -> None:
    assert slurm._ranges(numbers) == words


def test_more_stacks_than_an_array_holds(tmp_path: Path) -> None:
    """Tasks then train whatever is free."""
    script = slurm._script(tmp_path / "a b", list(range(slurm.MAX_TASKS + 1)), {"limit": "3"})
    assert f"--array=0-{slurm.MAX_TASKS - 1}%3" in script
    assert "--stack" not in script
    assert f"'{tmp_path}/a b'" in script

"""Trackers: what they are told is what the trajectories hold, and training does not depend on them."""

import json
import re
import struct
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SWEEP, TINY, Cli, require_one_sentence
from tensorboardX.proto.event_pb2 import Event, SessionLog

from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.run_folder import read_run
from anchorbench.sweeps.runner import Progress
from anchorbench.sweeps.tracking import MEASURED, TRACKERS, Tracking
from anchorbench.train.evaluation import Point

Told = dict[int, dict[str, float]]
"""Step -> values."""
SEEDS = Sweep(TINY, {"init.gamma": (0.5, 0.7), "seed": (0, 1)})


class Recorder:
    """A tracker that keeps what it is told, and fails at the value number `fails_at`."""

    def __init__(self, fails_at: int = 0) -> None:
        self.told: dict[str, Told] = {}
        self.recipes: dict[str, dict[str, Any]] = {}
        self.ended: list[str] = []
        self.left = fails_at

    def start(self, name: str, recipe: dict[str, Any], out: Path) -> Any:
        self.told[name], self.recipes[name] = {}, recipe

        def log(values: dict[str, float], step: int) -> None:
            self.left -= 1
            if not self.left:
                raise RuntimeError("the server is away")
            self.told[name][step] = values

        return SimpleNamespace(log=log, finish=lambda: self.ended.append(name))

    def use(self, patch: pytest.MonkeyPatch) -> "Recorder":
        patch.setattr("anchorbench.sweeps.trackers.tensorboard.start", self.start)
        return self


def point(step: int, loss: float | None = 0.5) -> Point:
    return Point(step, loss, None, 0.25, 0.125, None, None, {})


def trajectories(out: Path) -> dict[str, Told]:
    """The measured values of every run, from its folder."""
    return {
        folder.name: {
            line["step"]: {name: line[name] for name in MEASURED if line[name] is not None}
            for line in read_run(folder).trajectory()
        }
        for folder in (out / "runs").iterdir()
    }


def weights(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.glob("runs/*/[tw]*")}


def events(folder: Path) -> Iterator[Event]:
    """The records of the event files in a folder: length, checksum, content, checksum."""
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]


def test_tensorboard_is_told_the_trajectories(cli: Cli, tmp_path: Path, finished_sweep: Path) -> None:
    done = cli(*SWEEP, "--out", tmp_path, "--track", "tensorboard")
    assert (done.code, done.err) == (0, "")
    told: dict[str, Told] = {}
    for folder in (tmp_path / "tensorboard").iterdir():
        varied, _, run_id = folder.name.rpartition(",")
        recipe = read_run(tmp_path / "runs" / run_id).recipe
        assert varied == f"norm=pre,gamma={recipe.init.gamma},seed={recipe.seed}"
        [text] = [value for each in events(folder) for value in each.summary.value if value.tag.startswith("recipe")]
        assert f"    optimizer.lr: {recipe.optimizer.lr}\n".encode() in text.tensor.string_val[0]
        told[run_id] = {}
        for each in events(folder):
            for value in each.summary.value:
                if value.tag in MEASURED:
                    told[run_id].setdefault(each.step, {})[value.tag] = value.simple_value
    expected = trajectories(tmp_path)
    assert len(expected) == 4
    assert told == {
        run_id: {step: pytest.approx(values, rel=1e-6) for step, values in line.items()} for run_id, line in expected.items()
    }
    assert weights(tmp_path) == weights(finished_sweep)


def test_a_resumed_run_is_written_whole(tmp_path: Path) -> None:
    """By hand: an interrupted process wrote steps 1 and 2; the next one, which resumes at 1, hides them and writes 1, 2 and 3."""
    recipe = SEEDS.runs()[0]
    for steps in ([1], [1, 2]), ([1, 2], [1, 2, 3]):
        tracking = Tracking("tensorboard", SEEDS, tmp_path, pytest.fail)
        for each in steps:
            tracking.report(Progress([recipe], each[-1], trajectories={recipe.run_id: [point(step) for step in each]}))
        tracking.close()
    [folder] = (tmp_path / "tensorboard").iterdir()
    seen: list[int] = []
    for each in events(folder):
        if each.session_log.status == SessionLog.START:
            seen = [step for step in seen if step < each.step]
        seen += [each.step for value in each.summary.value if value.tag == "loss"]
    assert seen == [1, 2, 3]


def test_runs_start_when_they_are_evaluated_and_end_with_their_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder().use(monkeypatch)
    first, other = SEEDS.runs()[:2]
    name = f"gamma=0.5,seed=0,{first.run_id}"
    tracking = Tracking("tensorboard", SEEDS, tmp_path, pytest.fail)
    tracking.report(Progress([first, other]))
    tracking.report(Progress([first, other], 1))
    assert recorder.told == {}
    lines = {first.run_id: [point(2), point(4, None)]}  # the loss of a diverged run
    tracking.report(Progress([first, other], 4, trajectories=lines))
    tracking.report(Progress([first, other], 5, trajectories=lines))
    rest = {"accuracy_train": 0.25, "accuracy_iid": 0.125}
    assert recorder.told == {name: {2: {"loss": 0.5} | rest, 4: rest}}
    assert (recorder.recipes[name]["init.gamma"], recorder.recipes[name]["seed"]) == (0.5, 0)
    assert recorder.ended == []
    tracking.report(Progress([first, other], 6, [], trajectories=lines))
    tracking.close()
    assert recorder.ended == [name]


def test_a_tracker_that_fails_does_not_stop_training(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_sweep: Path
) -> None:
    recorder = Recorder(fails_at=3).use(monkeypatch)
    done = cli(*SWEEP, "--out", tmp_path, "--track", "tensorboard")
    assert done.code == 0
    assert done.out.count("tensorboard failed, and training goes on without it: the server is away\n") == 1
    assert sum(map(len, recorder.told.values())) == 2
    assert weights(tmp_path) == weights(finished_sweep)


def test_wandb_writes_the_trajectories(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, offline: its file holds the values as texts, each after its name, step by step."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    done = cli(*SWEEP, "--out", tmp_path, "--track", "wandb")
    assert (done.code, done.err) == (0, "")
    assert "failed" not in done.out
    files = [path.read_bytes() for path in tmp_path.glob("wandb/offline-run-*/*.wandb")]
    assert len(files) == 4
    for run_id, line in trajectories(tmp_path).items():
        [content] = [content for content in files if f",{run_id}".encode() in content]
        for name in ("loss", "accuracy_iid"):
            written = re.findall(re.escape(name.encode()) + rb"[^\d-]{1,4}([\d.e-]+)", content)
            assert [float(text) for text in written[: len(line)]] == [values[name] for values in line.values()]


def test_trackio_has_runs_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Against a stand-in that ends the run of its context when another one starts, as trackio does."""
    current: ContextVar[Any] = ContextVar("current", default=None)
    recorder = Recorder()

    def init(project: str, name: str, *, group: str, config: dict[str, Any], **options: Any) -> Any:
        print("* Created new run")
        if current.get() is not None:
            current.get().finish()
        run = recorder.start(name, config, Path(project) / group)
        current.set(run)
        return run

    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=init))
    runs = SEEDS.runs()
    tracking = Tracking("trackio", SEEDS, tmp_path, pytest.fail)
    tracking.report(Progress(runs, 1, trajectories={recipe.run_id: [point(1)] for recipe in runs}))
    assert (len(recorder.told), recorder.ended) == (4, [])
    tracking.close()
    assert sorted(recorder.ended) == sorted(recorder.told)
    assert capsys.readouterr().out == ""


def test_what_cannot_be_used_is_said_before_anything_is_written(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    done = cli(*SWEEP, "--out", out, "--track", "mlflow")
    require_one_sentence(done.err)
    assert "--track is 'mlflow'; allowed: tensorboard, trackio, wandb" in done.err
    for tracker, package in TRACKERS.items():
        monkeypatch.setitem(sys.modules, package, None)
        done = cli(*SWEEP, "--out", out, "--track", tracker)
        require_one_sentence(done.err)
        assert f"pip install 'anchorbench[{tracker}]'" in done.err
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"preset": "laptop"}))
    done = cli("sweep", "run", recipe, "--on", "slurm", "--out", out, "--track", "wandb")
    require_one_sentence(done.err)
    assert not out.exists()

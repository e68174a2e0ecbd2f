"""A machine with several GPUs: one worker process for each. There is none here: counts are made up, and processes stand in."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TINY, Cli, patch_training

from anchorbench.presets import PRESETS
from anchorbench.sweeps.engines import gpus
from anchorbench.sweeps.plan import read_plan

YAML = "precision: fp32\naxes: {init.gamma: [0.5, 0.7], seed: 2}"


class StandIn:
    """A worker in this process, which works, dies or waits as the test says."""

    def __init__(self, gpu: str, act: Callable[[], None]) -> None:
        self.gpu, self._act = gpu, act
        self.calls: list[str] = []

    def wait(self) -> None:
        self.calls.append("wait")
        if self.calls == ["wait"]:
            self._act()

    def terminate(self) -> None:
        self.calls.append("terminate")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_training(monkeypatch, EVALUATION_SIZE=16, FINAL_SIZE=32)
    monkeypatch.setitem(PRESETS, "laptop", TINY)


def start(patch: pytest.MonkeyPatch, act: Callable[[str, list[str]], None]) -> list[StandIn]:
    """Has stand-ins take the place of processes; gives those that are started."""
    started: list[StandIn] = []

    def popen(command: list[str], env: dict[str, str]) -> StandIn:
        gpu = env["CUDA_VISIBLE_DEVICES"]
        assert env.items() >= {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}.items()
        started.append(StandIn(gpu, lambda: act(gpu, command[3:])))
        return started[-1]

    patch.setattr(gpus, "subprocess", SimpleNamespace(Popen=popen))
    return started


@pytest.mark.parametrize(
    ("count", "environment", "names"),
    [(0, None, []), (2, None, ["0", "1"]), (2, "3,GPU-5", ["3", "GPU-5"]), (0, "", []), (1, "2,99", ["2"])],
)
def test_gpus_that_are_visible(monkeypatch: pytest.MonkeyPatch, count: int, environment: str | None, names: list[str]) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if environment is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment)
    assert gpus.visible_gpus() == names


def test_a_sweep_is_trained_by_a_worker_per_gpu(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU 0 trains one stack, the workers on the others die before they have begun: what they leave is trained in the end."""
    recipe, out = tmp_path / "r.yaml", tmp_path / "out"
    recipe.write_text(YAML)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)

    def act(gpu: str, arguments: list[str]) -> None:
        assert arguments == ["sweep", "work", str(out), "--threads", "2", "--track", "tensorboard", "--fail-fast"]
        if gpu == "0":
            plan = read_plan(out)
            assert (plan.cut.workers, [len(stack.runs) for stack in plan.stacks]) == (3, [1, 1, 1, 1])
            assert cli(*arguments[:3], "--stack", "0", *arguments[3:]).code == 0

    started = start(monkeypatch, act)
    done = cli("sweep", "run", recipe, "--out", out, "--threads", "2", "--track", "tensorboard", "--fail-fast")
    assert (done.code, done.err) == (0, "")
    assert [worker.gpu for worker in started] == ["0", "1", "2"]
    assert "4 runs, 1 of them finished" in done.out
    assert len(list(out.glob("runs/*/result.json"))) == len(list((out / "tensorboard").iterdir())) == 4
    again = cli("sweep", "run", recipe, "--out", out)
    assert "All 4 runs are finished; nothing is trained." in again.out
    assert len(started) == 3


@pytest.mark.parametrize(("device", "there"), [("cpu", 2), (None, 1)])
def test_one_device_needs_no_worker(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str | None, there: int
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(YAML)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # --device cpu takes them away
    monkeypatch.setattr("torch.cuda.device_count", lambda: there if os.environ["CUDA_VISIBLE_DEVICES"] else 0)
    started = start(monkeypatch, lambda gpu, arguments: pytest.fail(gpu))
    assert cli("sweep", "run", recipe, "--out", tmp_path / "out", *(["--device", device] if device else [])).code == 0
    assert started == []


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_workers_are_told_to_stop(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: int, code: int) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(YAML)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    before = signal.getsignal(signal.SIGTERM)
    started = start(monkeypatch, lambda gpu, arguments: signal.raise_signal(sent))
    assert cli("sweep", "run", recipe, "--out", tmp_path / "out").code == code
    assert [worker.calls for worker in started] == [["wait", "terminate", "wait"], ["terminate", "wait"]]
    assert signal.getsignal(signal.SIGTERM) is before
    assert not list((tmp_path / "out").glob("runs/*"))

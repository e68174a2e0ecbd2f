"""Workers and sweeps on one folder at once, killed at random moments, or stopped and overtaken: the weights are the same."""

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import TINY
from processes import child, environment
from safetensors.torch import save

from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.run_folder import read_run

SWEEP = Sweep(TINY.override({"variant": "heldout-both", "steps": 12}), {"model.norm": ("pre", "post"), "seed": (0, 1, 2, 3)})
QUICK = {"CHECKPOINT_SECONDS": 0.0, "FIRST_EVALUATION": 2, "EVALUATION_SIZE": 32, "FINAL_SIZE": 60}


class Told(NamedTuple):
    root: Path
    told: dict[str, Any]


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Told:
    root = tmp_path_factory.mktemp("workers")
    arguments = json.dumps([SWEEP.base.model_dump(mode="json"), SWEEP.axes, QUICK])
    command = child("killed_workers", root, arguments)
    done = subprocess.run(command, capture_output=True, text=True, env=environment(OMP_NUM_THREADS="1"), timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return Told(root, json.loads(done.stdout))


def contents(out: Path) -> dict[str, tuple[bytes, str]]:
    """The weights and trajectories of all runs, which are whole."""
    runs = [read_run(out / "runs" / recipe.run_id) for recipe in SWEEP.runs()]
    return {run.result.run_id: (save(run.weights()), json.dumps(run.trajectory())) for run in runs}


def require_the_same(lives: Told, name: str) -> None:
    found = contents(lives.root / name)
    assert found == contents(lives.root / "plain")
    assert len({weights for weights, _ in found.values()}) == len(SWEEP.runs())
    by_stack = list((lives.root / name / "stacks").glob("[!.]?/*"))
    assert bool(by_stack) == (name in ("comes back, by stack", "killed 2"))
    assert len(list((lives.root / name / "runs").iterdir())) == (0 if by_stack else len(found))
    assert list((lives.root / name / "checkpoints").iterdir()) == []
    assert [path.name for path in (lives.root / name / "locks").iterdir()] == [".guard"]


def test_a_sweep_and_workers_share_a_folder_and_train_each_run_once(lives: Told) -> None:
    assert lives.told["together"] == [0, 0, 0]
    written = [line.split() for line in (lives.root / "log").read_text().splitlines()]
    assert Counter(run_id for _, run_id in written) == Counter(recipe.run_id for recipe in SWEEP.runs())
    require_the_same(lives, "together")


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_change_nothing(lives: Told, seed: int) -> None:
    assert lives.told[f"killed {seed}"] >= 4
    require_the_same(lives, f"killed {seed}")


@pytest.mark.parametrize("name", ["comes back", "comes back, by stack"])
def test_a_worker_that_comes_back_writes_nothing(lives: Told, name: str) -> None:
    """Refused while the first is stopped (75), taken over by the next attempt (0), and the first is fenced (75)."""
    assert lives.told[name] == [75, 0, 75]
    require_the_same(lives, name)

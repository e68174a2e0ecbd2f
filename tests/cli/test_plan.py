"""Sweeps from YAML: fields go where they belong, and bad files are refused in one sentence, before anything is written."""

from pathlib import Path

import pytest
from conftest import TINY, Cli, require_one_sentence

from anchorbench.cli.plan import load_sweep
from anchorbench.presets import PRESETS
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.plan import stacks
from anchorbench.sweeps.run_folder import read_run
from anchorbench.sweeps.summary import conditions

BAD = {
    "unknown preset": ("preset: huge", "unknown preset 'huge'"),
    "a preset that is a list": ("preset: [laptop]", "unknown preset ['laptop']"),
    "unknown field": ("stepz: 4", "stepz"),
    "a number as a field": ("1: 3", "unknown field '1'"),
    "a section that is a word": ("optimizer: fast", "unknown optimizer 'fast'"),
    "labels outside the vocabulary": ("task_config: {offsets: {1: 500, 2: 1}, held_out: [[1, 2]]}", "leave the vocabulary"),
    "a sequence too short": ("task_config: {seq_len: 2}", "need at least 3"),
    "a held-out pair that is trained": ("variant: conflict\ntask_config: {held_out: [[3, 4]]}", "held out but also trained"),
    "a bad value on an axis": ("axes: {task_config.seq_len: [9, 2]}", "need at least 3"),
    "an unknown variant on an axis": ("axes: {variant: [conflict, conflicted]}", "no variant 'conflicted'"),
    "no seeds": ("axes: {seed: 0}", "axis seed is 0"),
    "an axis without values": ("axes: {init.gamma: []}", "axis init.gamma is []"),
    "axes that are a list": ("axes: [init.gamma]", "axes is ['init.gamma']"),
    "a list": ("[1, 2]", "holds no recipe"),
    "not YAML": ("a: [", "is not YAML"),
}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "laptop", TINY)


def sweep_of(tmp_path: Path, text: str) -> Sweep:
    (tmp_path / "sweep.yaml").write_text(text)
    return load_sweep(tmp_path / "sweep.yaml", ())


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_file_is_refused_before_anything_is_written(cli: Cli, tmp_path: Path, name: str) -> None:
    text, said = BAD[name]
    (tmp_path / "sweep.yaml").write_text(text + "\n")
    outcome = cli("sweep", "run", tmp_path / "sweep.yaml", "--out", tmp_path / "out")
    assert outcome.code == 2
    require_one_sentence(outcome.err)
    assert said in outcome.err
    assert not (tmp_path / "out").exists()


def test_fields_of_the_task_stay_whole(tmp_path: Path) -> None:
    """Anchors are numbers, which are keys of a mapping: they are not paths."""
    sweep = sweep_of(
        tmp_path, "optimizer: {lr: 0.01}\ntask_config: {offsets: {1: 3, 2: -3}, held_out: [[1, 2]]}\naxes: {seed: 2}\n"
    )
    assert sweep.base.optimizer == TINY.optimizer.model_copy(update={"lr": 0.01})
    assert sweep.base.task_config == {"offsets": {"1": 3, "2": -3}, "held_out": [[1, 2]]}
    assert [recipe.seed for recipe in sweep.runs()] == [0, 1]


def test_an_axis_of_lists_and_of_mappings(cli: Cli, tmp_path: Path) -> None:
    axes = "{task_config.held_out: [[[3, 4], [4, 3]], [[1, 2], [2, 1]]], seed: 2}"
    (tmp_path / "sweep.yaml").write_text(f"axes: {axes}\n")
    assert cli("sweep", "run", tmp_path / "sweep.yaml", "--out", tmp_path / "out").code == 0
    found = conditions(read_run(folder) for folder in (tmp_path / "out" / "runs").iterdir())
    assert [len(condition.runs) for condition in found] == [2, 2]
    assert {condition.others for condition in found} == {"held out [[3, 4], [4, 3]]", "held out [[1, 2], [2, 1]]"}


def test_equal_values_are_one_run() -> None:
    assert len(Sweep(TINY, {"init.gamma": (1, 1.0, 0.5), "seed": (0,)}).runs()) == 2


def test_memory_without_a_bound() -> None:
    runs = Sweep(TINY, {"seed": tuple(range(3))}).runs()
    assert [len(stack) for stack in stacks(runs, memory=float("inf"))] == [3]

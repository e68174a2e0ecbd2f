"""A member of a stack ends with the bits that it would have alone: at every width, and wherever its stack is resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY

from anchorbench.machine import Machine, this_machine
from anchorbench.model.gpt import ModelConfig
from anchorbench.recipe import Recipe
from anchorbench.sweeps.run_folder import read_run
from anchorbench.sweeps.runner import Progress, Sweep, SweepFolder, run_sweep
from anchorbench.train.checkpoint import resume, save
from anchorbench.train.gradients.backprop import aligned
from anchorbench.train.stack import Stack


def trained(recipes: list[Recipe]) -> list[dict[str, torch.Tensor]]:
    stack = Stack(recipes)
    while stack.step < recipes[0].steps:
        stack.advance()
    return [stack.named(member) for member in range(len(recipes))]


@pytest.mark.parametrize("width", range(1, 41))
def test_a_member_ends_as_it_would_alone_at_every_width(width: int) -> None:
    """Matmul libraries choose kernels by the alignment of addresses, which at odd widths differs from member to member."""
    norm, heads = [("pre", 1), ("post", 3), ("pre", 2), ("post", 1)][width % 4]
    shape = ModelConfig(
        n_layer=2,
        n_head=heads,
        d_model=width,
        d_head=max(1, width // heads),
        d_ff=width + 4,
        norm=norm,
        activation="gelu" if norm == "pre" else "relu",
    )
    base = TINY.override({"model": shape.model_dump(), "steps": 3, "data_size": 100, "batch": 16 - width % 3})
    recipes = [base.override({"seed": seed, "init.gamma": gamma}) for seed, gamma in ((0, 0.3), (1, 0.5), (2, 0.7))]
    together = trained(recipes)
    for member in (1, 2):
        [alone] = trained([recipes[member]])
        assert {name for name in alone if not torch.equal(alone[name], together[member][name])} == set()


def test_usual_shapes_are_trained_in_one_batched_matmul() -> None:
    for recipe in (TINY, Recipe()):
        assert aligned(recipe.model, recipe.batch, 120, 9)
    assert not aligned(ModelConfig(d_model=7), 16, 120, 9)
    assert not aligned(ModelConfig(d_model=64), 3, 121, 9)


STACK = Sweep(TINY.override({"variant": "heldout-both", "data_size": 200}), {"seed": (0, 1)})


class StopError(Exception):
    pass


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep's folder with a checkpoint of step 4 of 6; from now on the processor is another one."""
    monkeypatch.setattr("anchorbench.train.loop.CHECKPOINT_SECONDS", 0.0)

    def strike(event: Progress) -> None:
        if event.step == 5:
            raise StopError

    with pytest.raises(StopError):
        run_sweep(STACK, SweepFolder(tmp_path / "out", STACK), strike)

    def elsewhere(precision: str, **options: Any) -> Machine:
        return this_machine(precision, **options).model_copy(update={"cpu": "Another", "threads": 64})

    monkeypatch.setattr("anchorbench.train.stack.this_machine", elsewhere)
    return tmp_path / "out"


def test_resuming_elsewhere_is_said_and_recorded(begun: Path) -> None:
    said: list[str] = []
    runs = run_sweep(STACK, SweepFolder(begun, STACK), lambda event: said.append(event.message or ""))
    [sentence] = [line for line in said if line]
    assert sentence.startswith("resuming at step 4 where results may differ in the last bits (cpu ")
    assert "threads 1 there and 64 here" in sentence
    for run in runs:
        assert [(step, machine.cpu == "Another") for step, machine in run.result.machines] == [(0, False), (4, True)]
        assert read_run(run.path).row()["machines"] == 2


def test_strict_bits_restart_elsewhere(begun: Path) -> None:
    said: list[str] = []
    steps: list[int] = []

    def listen(event: Progress) -> None:
        said.append(event.message or "")
        steps.append(event.step)

    runs = run_sweep(STACK, SweepFolder(begun, STACK), listen, strict_bits=True)
    [sentence] = [line for line in said if line]
    assert sentence.startswith("restarting: the first 4 steps were trained where results may differ in the last bits (cpu ")
    assert steps.count(1) == 1
    assert [[(step, machine.cpu) for step, machine in run.result.machines] for run in runs] == [[(0, "Another")]] * 2


def test_resuming_on_the_same_machine_records_nothing_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = STACK.runs()
    stack = Stack(recipes)
    stack.advance()
    save(stack, tmp_path / "checkpoint")
    resumed = resume(recipes, tmp_path / "checkpoint")
    assert resumed.machines == stack.machines
    assert [machine.gradient for _, machine in resumed.machines] == ["backprop"]

"""A member of a stack ends with the bits that it would have alone: at every width, and wherever its stack is resumed."""

from pathlib import Path as Place
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
from anchorbench.train.execution import Execution
from anchorbench.train.gradients.backprop import aligned, by_pair
from anchorbench.train.gradients.choice import Path, gradient_path
from anchorbench.train.gradients.native import available
from anchorbench.train.stack import Stack


def trained(recipes: list[Recipe], path: Path | None = None) -> list[dict[str, torch.Tensor]]:
    stack = Stack(recipes, path=path)
    while stack.step < recipes[0].steps:
        stack.advance()
    return [stack.named(member) for member in range(len(recipes))]


COMPILED = pytest.mark.skipif(not available(), reason="there is no compiled step on this machine")


@pytest.mark.parametrize("path", [pytest.param("native", marks=COMPILED), "backprop"])
@pytest.mark.parametrize("width", range(1, 41))
def test_a_member_ends_as_it_would_alone_at_every_width(width: int, path: Path) -> None:
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
    together = trained(recipes, path)
    for member in (1, 2):
        [alone] = trained([recipes[member]], path)
        assert {name for name in alone if not torch.equal(alone[name], together[member][name])} == set()


@pytest.mark.parametrize(
    "fields", [{}, {"d_model": 9}, {"norm": "post", "n_head": 2, "d_head": 5}, {"d_model": 16, "d_head": 12}], ids=str
)
def test_a_member_ends_as_it_would_alone_in_large_batches(fields: dict[str, Any]) -> None:
    """There the first layer of the torch path reads a table of (position, token) pairs."""
    base = TINY.override({"model": {**TINY.model.model_dump(), **fields}, "steps": 3, "data_size": 600, "batch": 288})
    assert by_pair(base.model, base.batch, base.load_task().vocab_size)
    recipes = [base.override({"seed": seed, "init.gamma": gamma}) for seed, gamma in ((0, 0.3), (1, 0.5), (2, 0.7))]
    together, [alone] = trained(recipes, "backprop"), trained(recipes[1:2], "backprop")
    assert {name for name in alone if not torch.equal(alone[name], together[1][name])} == set()


def test_usual_shapes_are_trained_in_one_batched_matmul() -> None:
    for recipe in (TINY, Recipe()):
        assert aligned(recipe.model, recipe.batch, 120, 9)
    assert not aligned(ModelConfig(d_model=7), 16, 120, 9)
    assert not aligned(ModelConfig(d_model=64), 3, 121, 9)


STACK = Sweep(TINY.override({"variant": "heldout-both", "data_size": 200}), {"seed": (0, 1)})


class StopError(Exception):
    pass


@pytest.fixture
def begun(tmp_path: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A sweep's folder with a checkpoint of step 4 of 6; from now on the processor is another one."""
    monkeypatch.setattr("anchorbench.train.execution.CHECKPOINT_SECONDS", 0.0)

    def strike(event: Progress) -> None:
        if event.step == 5:
            raise StopError

    with pytest.raises(StopError):
        run_sweep(STACK, SweepFolder(tmp_path / "out", STACK), strike)

    def elsewhere(precision: str, **options: Any) -> Machine:
        return this_machine(precision, **options).model_copy(update={"cpu": "Another", "threads": 64})

    monkeypatch.setattr("anchorbench.train.stack.this_machine", elsewhere)
    return tmp_path / "out"


def test_resuming_elsewhere_is_said_and_recorded(begun: Place) -> None:
    said: list[str] = []
    runs = run_sweep(STACK, SweepFolder(begun, STACK), lambda event: said.append(event.message or ""))
    [sentence] = [line for line in said if line]
    assert sentence.startswith("resuming at step 4 where results may differ in the last bits (cpu ")
    for run in runs:
        assert [(step, machine.cpu == "Another") for step, machine in run.result.machines] == [(0, False), (4, True)]
        assert read_run(run.path).row()["machines"] == 2


def test_strict_bits_restart_elsewhere(begun: Place) -> None:
    said: list[str] = []
    steps: list[int] = []

    def listen(event: Progress) -> None:
        said.append(event.message or "")
        steps.append(event.step)

    runs = run_sweep(STACK, SweepFolder(begun, STACK), listen, Execution(strict_bits=True))
    [sentence] = [line for line in said if line]
    assert sentence.startswith("restarting: the first 4 steps were trained where results may differ in the last bits (cpu ")
    assert steps.count(1) == 1
    assert [[(step, machine.cpu) for step, machine in run.result.machines] for run in runs] == [[(0, "Another")]] * 2


def test_resuming_on_the_same_machine_records_nothing_new(tmp_path: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = STACK.runs()
    stack = Stack(recipes)
    stack.advance()
    save(stack, tmp_path / "checkpoint")
    resumed = resume(recipes, tmp_path / "checkpoint")
    assert resumed.machines == stack.machines
    assert [machine.gradient.partition(" ")[0] for _, machine in resumed.machines] == [gradient_path(recipes[0])]


@COMPILED
def test_the_compiled_step_goes_on_with_other_threads_as_if_nothing_were(tmp_path: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = STACK.runs()
    stack = Stack(recipes, path="native")
    stack.advance()
    save(stack, tmp_path / "checkpoint")
    threads = torch.get_num_threads() + 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert resume(recipes, tmp_path / "checkpoint").machines == stack.machines


def test_threads_make_a_difference_in_torch_alone() -> None:
    here = this_machine("fp32", gpu=False, gradient="backprop")
    threads = here.model_copy(update={"threads": 64})
    assert here.differences(threads) == f"threads {here.threads} there and 64 here"
    one, other = (machine.model_copy(update={"gradient": "native (g++ 12 AVX2)"}) for machine in (here, threads))
    assert one.differences(other) == ""
    assert one.differences(here) == "gradient native (g++ 12 AVX2) there and backprop here"


@COMPILED
def test_a_stack_goes_on_where_it_began(tmp_path: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """In torch what began in torch; what began on the compiled step is begun anew where there is none."""
    recipes = STACK.runs()
    for path in ("backprop", "native"):
        stack = Stack(recipes, path=path)
        stack.advance()
        save(stack, tmp_path / path)
    assert resume(recipes, tmp_path / "backprop").path == "backprop"
    assert resume(recipes, tmp_path / "native").path == "native"
    monkeypatch.setattr("anchorbench.train.gradients.native.available", lambda: False)
    assert resume(recipes, tmp_path / "backprop").path == "backprop"
    with pytest.raises(ValueError, match="its gradient path is native, and backprop here"):
        resume(recipes, tmp_path / "native")

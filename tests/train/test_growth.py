"""Models that grow while they train: the function stays as it is, and the bits hold on all paths, wherever training is resumed."""

import math
from collections.abc import Iterator
from pathlib import Path as Place
from typing import Any

import pytest
import torch
from conftest import TINY, patch_training

from anchorbench.hub.models import load_member
from anchorbench.recipe import Recipe
from anchorbench.sweeps.check import check
from anchorbench.sweeps.run_folder import read_run, write_run
from anchorbench.sweeps.runner import Sweep, SweepFolder, run_sweep
from anchorbench.train.checkpoint import resume, save
from anchorbench.train.execution import Execution
from anchorbench.train.gradients.choice import Path
from anchorbench.train.loop import train
from anchorbench.train.memory import memory_of_member
from anchorbench.train.stack import Stack, structure

AT, ALPHA = 3, 0.3
SHAPE = {"model.d_model": 32, "model.n_head": 1, "model.d_head": 32, "model.d_ff": 32, "batch": 32, "optimizer.lr": 0.01}
WAYS: dict[str, tuple[Path, dict[str, Any]]] = {
    "native": ("native", {}),
    "backprop": ("backprop", {}),
    "odd widths": ("backprop", {"model.d_model": 7, "model.d_ff": 5, "batch": 6}),
    "odd, then aligned": ("backprop", {"model.d_ff": 16, "batch": 32}),
    "autograd": ("autograd", {"noise": "dropout", "optimizer.kind": "sgd"}),
    "a window": ("native", {"optimizer.kind": "adashift", "optimizer.window": 2}),
}


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch_training(patch, EVALUATION_SIZE=16, FINAL_SIZE=32)
        yield


def recipes(fields: dict[str, Any], state: str = "copied", at: tuple[int, ...] = (AT,), count: int = 3) -> list[Recipe]:
    events = [{"kind": "split", "at": step, "alpha": ALPHA, "state": state} for step in at]
    base = TINY.override(SHAPE | fields | {"growth": events})
    return [base.override({"seed": seed, "init.gamma": 0.4 + seed / 10}) for seed in range(count)]


def advanced(stack: Stack, until: int) -> Stack:
    while stack.step < until:
        stack.advance()
    return stack


def assert_same(found: Stack, expected: Stack, member: int, other: int) -> None:
    ours, theirs = ({**stack.named(of), **stack.state_of(of)} for stack, of in ((found, member), (expected, other)))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


@pytest.mark.parametrize("state", ["copied", "reset"])
@pytest.mark.parametrize("way", WAYS)
def test_bits_hold_across_an_event(way: str, state: str, tmp_path: Place) -> None:
    """A member ends as it would alone, and a run that is resumed before, at or after the event as one that is not."""
    path, fields = WAYS[way]
    members = recipes(fields, state)
    straight = advanced(Stack(members, path=path), TINY.steps)
    assert straight.model.shape.d_ff == 2 * members[0].model.d_ff
    for member in (0, 2):
        assert_same(advanced(Stack([members[member]], path=path), TINY.steps), straight, 0, member)
    for step in (AT - 1, AT, AT + 1):
        begun = Stack(members, path=path)
        for kept in range(1, step + 1):
            advanced(begun, kept).keep()
        save(begun, tmp_path / "checkpoint")
        resumed = resume(members, tmp_path / "checkpoint")
        assert resumed.kept.keys() == begun.kept.keys()
        assert_same(advanced(resumed, TINY.steps), straight, 1, 1)
        kept = resumed.members()[1].kept
        assert [kept[step]["blocks.0.ff_in.bias"].shape[0] // members[0].model.d_ff for step in kept] == [1, 1, 2, 2][:step]
        assert_same(advanced(begun.subset([2]), TINY.steps), straight, 0, 2)


@pytest.mark.parametrize("state", ["copied", "reset"])
def test_the_compiled_step_ends_a_call_at_the_event(state: str) -> None:
    members = recipes({}, state)
    single = advanced(Stack(members, path="native"), TINY.steps)
    stack = Stack(members, path="native", call_seconds=10.0)
    stack._step_seconds = 1e-9
    calls: list[int] = []
    while stack.step < TINY.steps:
        stack.advance(TINY.steps)
        calls.append(stack.step)
    assert calls == [AT, TINY.steps]
    assert_same(stack, single, 1, 1)


def test_the_function_stays_and_gradients_are_shared_out() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        [recipe] = recipes({}, count=1)
        before, after = Stack([recipe]), Stack([recipe])
        advanced(before, AT - 1)
        advanced(after, AT - 1)
        before.advance()
        small = before.recipes[0].model.d_ff
        stale = Stack([recipe.override({"growth": []})])
        advanced(stale, AT)
    finally:
        torch.set_default_dtype(torch.float32)
    tokens, _ = before._batches.batch(1)
    torch.testing.assert_close(before.model(tokens), stale.model(tokens), rtol=1e-12, atol=1e-13)
    wide, narrow = (stack.named(0, stack.oracle(AT + 1)[1]) for stack in (before, stale))
    for layer in ("blocks.0.", "blocks.1."):
        for name in ("ff_in.weight", "ff_in.bias"):
            kept, copy = wide[layer + name].split(small, -1)
            torch.testing.assert_close(kept, (1 - ALPHA) * narrow[layer + name])
            torch.testing.assert_close(copy, ALPHA * narrow[layer + name])
        for part in wide[layer + "ff_out.weight"].split(small, 0):
            torch.testing.assert_close(part, narrow[layer + "ff_out.weight"])
    others = [name for name in wide if ".ff_in" not in name and "ff_out.weight" not in name]
    for name in others:
        torch.testing.assert_close(wide[name], narrow[name])


def test_state_is_copied_or_reset() -> None:
    [copied], [reset] = recipes({}, "copied", count=1), recipes({}, "reset", count=1)
    assert copied.run_id != reset.run_id
    before = advanced(Stack([copied.override({"growth": []})]), AT)
    grown, anew = (advanced(Stack([recipe]), AT) for recipe in (copied, reset))
    for part, rows in before.state().items():
        smaller, larger = (stack.named(0, of) for stack, of in ((before, rows), (grown, grown.state()[part])))
        weight = larger["blocks.0.ff_in.weight"]
        assert torch.equal(weight, torch.cat([smaller["blocks.0.ff_in.weight"]] * 2, 1))
        assert torch.equal(larger["blocks.0.query.weight"], smaller["blocks.0.query.weight"])
    assert grown.state()["optimizer.exp_avg"].abs().sum() > 0
    assert anew.state()["optimizer.exp_avg"].abs().sum() == 0
    weights = anew.weights.clone()
    anew.advance()
    first = (anew.weights - weights).abs().max() / anew.recipes[0].optimizer.lr
    assert 0.5 < first < 1.1, "Adam's first step is about its rate: its corrections begin anew"


def test_a_run_is_written_read_and_checked(tmp_path: Place) -> None:
    [recipe] = recipes({}, "reset", at=(2, 4), count=1)
    [member] = train([recipe], how=Execution(keep_steps=(1, 2, 5)))
    write_run(tmp_path / "run", member)
    run = read_run(tmp_path / "run")
    assert {step: load_member(run, step).shape.d_ff // 32 for step in (1, 2, 5, None)} == {1: 1, 2: 2, 5: 4, None: 4}
    found = {finding.what: finding for finding in check(tmp_path / "run", 100)}
    assert all(finding.holds for finding in found.values()), found


def test_a_sweep_holds_runs_that_grow(tmp_path: Place) -> None:
    sweep = Sweep(recipes({}, count=1)[0], {"growth": ([], [{"at": 2}], [{"at": 2, "alpha": 1.5}]), "seed": (0, 1)})
    assert len({structure(recipe) for recipe in sweep.runs()}) == 2, "shares may differ within a stack"
    runs = run_sweep(sweep, SweepFolder(tmp_path / "out", sweep))
    assert sorted(load_member(run).shape.d_ff for run in runs) == [32, 32, 64, 64, 64, 64]


def test_costs_are_those_of_the_larger_model() -> None:
    [recipe] = recipes({}, at=(2,), count=1)
    small, large = recipe.override({"growth": []}), recipe.override({"growth": [], "model.d_ff": 64})
    assert recipe.macs_per_step() == round((2 * small.macs_per_step() + 4 * large.macs_per_step()) / 6)
    assert memory_of_member(recipe) == memory_of_member(large)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"growth": [{"of": "d_model", "at": 2}]}, "growth.0.of is 'd_model'; input should be 'd_ff'"),
        ({"growth": [{"at": 6}]}, "growth is at [6]; allowed: steps that increase, all below steps, 6"),
        ({"growth": [{"at": 3}, {"at": 3}]}, "growth is at [3, 3]; allowed: steps that increase, all below steps, 6"),
        ({"growth": [{"at": 3, "width": 1}]}, "growth.0.width is 1; input should be greater than or equal to 2"),
        ({"growth": [{"at": 3, "alpha": math.nan}]}, "growth.0.alpha is nan; input should be a finite number"),
        ({"growth": [{"at": 3}], "model.d_ff": 600_000}, "growth makes d_ff 1200000; allowed: at most 1048576"),
        ({"growth": [{"at": 3}], "estimator": "svrg"}, "estimator is 'svrg', which may keep smaller weights; allowed with growth:"),
        (
            {"growth": [{"at": 3}], "optimizer.kind": "muon"},
            "growth copies the optimizer's state; allowed with 'muon', whose state differs by parameter: reset",
        ),
        ({"growth": [{"kind": "splt"}]}, "growth.0: unknown growth 'splt'; did you mean 'split'?"),
    ],
)
def test_growth_that_makes_no_sense_is_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as refusal:
        TINY.override(fields)
    assert str(refusal.value).startswith(sentence)
    assert "\n" not in str(refusal.value)

"""One contract for every part: members never mix, a resumed run is a straight one, and the numbers are those of a reference."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import references
import torch
from conftest import TINY, patch_training
from torch import Tensor

from anchorbench.parts import REGISTRIES, clips, decays, estimators, models, optimizers, penalties, schedules
from anchorbench.recipe import Recipe
from anchorbench.train.checkpoint import resume, save
from anchorbench.train.memory import memory_of_member
from anchorbench.train.seams import Layout
from anchorbench.train.stack import Stack

WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "model": {"gpt": {}, "rms-norm": {"model.kind": "rms-norm"}},
    "initializer": {"rate": {"init.gamma": 0.6}},
    "optimizer": {
        "adamw": {"optimizer.beta1": 0.8},
        "amsgrad": {"optimizer.kind": "amsgrad", "optimizer.beta2": 0.9},
        "sgd": {"optimizer.kind": "sgd", "optimizer.nesterov": True},
        "adashift": {"optimizer.kind": "adashift", "optimizer.window": 2, "optimizer.beta2": 0.9},
        "adashift mean": {"optimizer.kind": "adashift", "optimizer.window": 1, "optimizer.phi": "mean"},
        "adashift identity": {"optimizer.kind": "adashift", "optimizer.window": 3, "optimizer.phi": "identity"},
        "grafting": {"optimizer.kind": "grafting", "optimizer.magnitude": {"beta1": 0.8}, "optimizer.measure": 4},
        "grafting global": {
            "optimizer.kind": "grafting",
            "optimizer.magnitude": {"kind": "sgd", "nesterov": True},
            "optimizer.direction": "adamw",
            "optimizer.by": "global",
        },
        "grafted-sgd": {
            "optimizer.kind": "grafted-sgd",
            "optimizer.nesterov": True,
            "optimizer.rates": [["blocks.0.query.weight", 3.0], ["blocks.0.query.bias", 0.5]],
        },
        "lion": {"optimizer.kind": "lion", "optimizer.beta1": 0.8, "optimizer.beta2": 0.95},
        "muon": {"optimizer.kind": "muon", "optimizer.momentum": 0.8, "optimizer.beta1": 0.8},
        "muon spectral": {
            "optimizer.kind": "muon",
            "optimizer.scale": "spectral",
            "optimizer.nesterov": False,
            "optimizer.iterations": 3,
        },
        "normalized-sgd": {"optimizer.kind": "normalized-sgd", "optimizer.momentum": 0.8},
        "normalized-sgd max": {"optimizer.kind": "normalized-sgd", "optimizer.by": "max"},
        "normalized-sgd norm": {"optimizer.kind": "normalized-sgd", "optimizer.by": "norm", "optimizer.momentum": 0.0},
    },
    "schedule": {
        "cosine": {"optimizer.schedule": "cosine"},
        "linear": {"optimizer.schedule": "linear"},
        "constant": {"optimizer.schedule": "constant"},
        "piecewise": {"optimizer.schedule": {"kind": "piecewise", "factors": [[2, 0.5], [4, 0.1]]}},
        "restarts": {"optimizer.schedule": {"kind": "restarts", "period": 3, "growth": 2.0}},
        "stable": {"optimizer.schedule": {"kind": "stable", "decay": 0.5}},
        "k-decay": {"optimizer.schedule": {"kind": "k-decay", "k": 3.0, "power": 2.0}},
        "k-decay cosine": {"optimizer.schedule": {"kind": "k-decay", "base": "cosine"}},
        "k-decay exponential": {"optimizer.schedule": {"kind": "k-decay", "base": "exponential", "speed": 2.0}},
        "chebyshev": {"optimizer.schedule": {"kind": "chebyshev", "cycle": 4, "kappa": 20.0}},
        "chebyshev falling": {"optimizer.schedule": {"kind": "chebyshev", "order": "falling"}},
        "chebyshev rising": {"optimizer.schedule": {"kind": "chebyshev", "order": "rising"}},
        "matched": {"optimizer.schedule": {"kind": "matched", "of": {"k": 3.0, "kind": "k-decay"}}},
        "matched linear": {"optimizer.schedule": {"kind": "matched", "shape": "linear", "of": {"kind": "stable", "decay": 0.4}}},
    },
    "decay": {kind: {"optimizer.decay": kind, "optimizer.weight_decay": 0.02} for kind in ("scaled", "unscaled", "coupled")},
    "clip": {"norm": {"optimizer.clip": 0.1}, "none": {"optimizer.clip": "none"}},
    "estimator": {"plain": {}, "svrg": {"estimator": {"kind": "svrg", "every": 2, "batches": 2, "alpha": 0.7}}},
    "penalty": {"l1": {"penalties": [{"kind": "l1", "strength": 0.01}]}},
}
"""Registry -> kind, and a word for a further row -> what a recipe says to have it, with other numbers than the defaults."""
SHAPE = {"model.d_model": 32, "model.n_head": 1, "model.d_head": 32, "model.d_ff": 32, "batch": 32, "optimizer.lr": 0.01}
FIELDS = {f"{word}: {kind}": fields for word, kinds in WAYS.items() for kind, fields in kinds.items()}
STEPS = TINY.steps


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch_training(patch, EVALUATION_SIZE=16, FINAL_SIZE=32)
        yield


def members(fields: dict[str, Any], count: int = 3) -> list[Recipe]:
    """Members that differ in seeds, initialization and learning rate."""
    base = TINY.override(SHAPE | fields)
    return [
        base.override({"seed": seed, "init.gamma": 0.4 + seed / 10, "optimizer.lr": 0.01 / (seed + 1)}) for seed in range(count)
    ]


def trained(stack: Stack, steps: int = STEPS) -> Stack:
    while stack.step < steps:
        stack.advance()
    return stack


def numbers(stack: Stack, member: int) -> dict[str, Tensor]:
    """The member's weights and its part of all state."""
    return {**stack.named(member), **stack.state_of(member)}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_every_registered_kind_is_in_the_table() -> None:
    named = {word: {row.partition(" ")[0] for row in rows} for word, rows in WAYS.items()}
    assert {word: set(registry.all) for word, registry in REGISTRIES.items()} == named


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_a_member_ends_as_it_would_alone(fields: dict[str, Any]) -> None:
    recipes = members(fields)
    together = trained(Stack(recipes))
    for member in (0, 2):
        assert_same(numbers(together, member), numbers(trained(Stack([recipes[member]])), 0))


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_a_member_that_is_not_finite_leaves_the_others_alone(fields: dict[str, Any]) -> None:
    stack, other = Stack(members(fields)), Stack(members(fields))
    stack.weights[1] = math.nan
    trained(stack), trained(other)
    for member in (0, 2):
        assert_same(numbers(stack, member), numbers(other, member))
    assert not stack.weights[1].isfinite().any()


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_a_resumed_run_ends_with_the_same_bits(fields: dict[str, Any], tmp_path: Path) -> None:
    recipes = members(fields)
    begun = trained(Stack(recipes), 3)
    save(begun, tmp_path / "checkpoint")
    resumed, straight = trained(resume(recipes, tmp_path / "checkpoint")), trained(begun)
    for member in range(len(recipes)):
        assert_same(numbers(resumed, member), numbers(straight, member))


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_it_trains(fields: dict[str, Any]) -> None:
    recipe = members(fields, 1)[0]
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert (again, again.run_id) == (recipe, recipe.run_id)
    stack = Stack([recipe])
    before = stack.weights.clone()
    assert trained(stack).weights.isfinite().all()
    assert not torch.equal(stack.weights, before)


# --- Each kind against its reference, in float64

NAMES = ("blocks.0.query.weight", "blocks.0.query.bias")
LAYOUT = Layout(NAMES, (torch.Size((2, 3)), torch.Size((4,))), references.SPLIT, frozenset(NAMES[:1]))


def test_the_layout_by_hand() -> None:
    layout = Layout(("a", "b"), (torch.Size((2,)), torch.Size((1,))), (3, 2))  # each place is one larger than its parameter
    row = torch.tensor([[3.0, 4.0, 0.0, 5.0, 0.0]])
    assert [view.tolist() for view in layout.views(row)] == [[[3, 4]], [[5]]]
    assert layout.norms(row).tolist() == [[5, 5]]
    assert layout.scale(row, torch.tensor([[2.0, 10.0]])).tolist() == [[6, 8, 0, 50, 0]]


def rows(seed: int, members: int = 2) -> Tensor:
    return torch.randn(members, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def configured(registry: Any, word: str, row: str, path: str) -> Any:
    """The part's configuration in the table."""
    config: Any = members(WAYS[word][row], 1)[0]
    for name in path.split("."):
        config = config[0] if name == "0" else getattr(config, name)
    assert config.kind == row.partition(" ")[0]
    assert isinstance(config, registry[config.kind].Config)
    return config


@pytest.mark.parametrize("row", WAYS["optimizer"])
def test_optimizers(row: str) -> None:
    config = configured(optimizers, "optimizer", row, "optimizer")
    configs = [config, config.model_copy(update={"beta1": 0.5, "momentum": 0.3})]
    gradients, rates = [rows(seed) for seed in range(5)], [[0.1 / t, 0.2] for t in range(1, 6)]
    weights = rows(9)
    whole, steps = (optimizers[config.kind](configs, LAYOUT, torch.zeros_like(weights)) for _ in range(2))
    moved, total = weights.clone(), torch.zeros_like(weights)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        column, kept = torch.tensor(rate, dtype=torch.float64)[:, None], gradient.clone()
        whole.step(moved, gradient, moved, column, t)
        alone = torch.zeros_like(weights)
        steps.step(alone, gradient, weights, column, t)
        total += alone
        assert torch.equal(gradient, kept), "the gradient is left as it is"
    for member, own in enumerate(configs):
        expected = references.of(config.kind)(own, [g[member] for g in gradients], [rate[member] for rate in rates])
        torch.testing.assert_close(moved[member], weights[member] + expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(total[member], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("row", WAYS["schedule"])
def test_schedules(row: str) -> None:
    config = configured(schedules, "schedule", row, "optimizer.schedule")
    schedule = schedules[config.kind](config)
    for steps, end in ((12, 0.05), (40, 0.0), (1, 0.5)):
        for step in range(1, steps + 1):
            expected = references.of(config.kind)(config, step, steps, end)
            assert schedule.factor(step, steps, end) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", WAYS["decay"])
def test_decays(kind: str) -> None:
    decay = decays[kind](configured(decays, "decay", kind, "optimizer.decay"))
    assert decay.amounts(0.3, 0.01) == getattr(references, kind)(0.3, 0.01)


@pytest.mark.parametrize("kind", WAYS["clip"])
def test_clips(kind: str) -> None:
    config = configured(clips, "clip", kind, "optimizer.clip")
    configs = [config, config.model_copy(update={"most": 1000.0})]
    gradient, weights = rows(0), rows(1)
    clipped = gradient.clone()
    clips[kind](configs, LAYOUT, gradient)(clipped, weights)
    for member, own in enumerate(configs):
        torch.testing.assert_close(clipped[member], getattr(references, kind)(own, gradient[member], weights[member]))


@pytest.mark.parametrize("kind", WAYS["estimator"])
def test_estimators(kind: str) -> None:
    config = configured(estimators, "estimator", kind, "estimator")
    targets = {step: rows(step + 50) for step in range(-20, 20)}
    weights = [rows(step) for step in range(7)]
    calls: list[int] = []
    buffer = rows(0)

    def oracle(step: int, at: Tensor | None = None) -> tuple[Tensor, Tensor]:
        calls.append(step)
        point = weights[now] if at is None else at
        buffer.copy_((point - targets[step]) * point.abs())  # the next call overwrites it
        return point.new_full((2,), float(step)), buffer

    estimator = estimators[kind]([config, config.model_copy(update={"alpha": 0.2})], LAYOUT, weights[0])
    found: list[Tensor] = []
    for now in range(len(weights)):
        losses, gradient = estimator(oracle, weights[now], now + 1)
        assert losses.tolist() == [now + 1] * 2, "of the step's own batch"
        found.append(gradient.clone())
    for member, own in enumerate(estimator.configs):
        expected = getattr(references, kind)(
            own,
            lambda step, at, member=member: (at - targets[step][member]) * at.abs(),
            [w[member] for w in weights],
        )
        torch.testing.assert_close(torch.stack([g[member] for g in found]), torch.stack(expected), rtol=1e-12, atol=1e-12)
    renewals = math.ceil(len(weights) / getattr(config, "every", 1))
    most = estimators[kind].passes_of(config) * getattr(config, "every", 1) * renewals
    assert len(calls) <= most
    assert len(calls) > most - 2 * getattr(config, "every", 1), "passes are what is counted"


@pytest.mark.parametrize("kind", WAYS["penalty"])
def test_penalties(kind: str) -> None:
    config = configured(penalties, "penalty", kind, "penalties.0")
    gradient, weights = rows(0), rows(1)
    changed = gradient.clone()
    penalties[kind]([config, config], LAYOUT, gradient).add(changed, weights)
    for member in range(2):
        at = weights[member].clone().requires_grad_()
        (expected,) = torch.autograd.grad(getattr(references, kind)(config, at), at)
        torch.testing.assert_close(changed[member], gradient[member] + expected)


def test_a_model_variant_is_another_model() -> None:
    """RMSNorm by PyTorch's own, in a GPT that is otherwise the same."""
    recipe = members(WAYS["model"]["rms-norm"], 1)[0]
    stack = Stack([recipe])
    block = stack.model.layers[0]
    x = torch.randn(len(stack.recipes), 5, 32)
    expected = torch.nn.functional.rms_norm(x, (32,), eps=1e-5)
    torch.testing.assert_close(block.norm_1(x), expected)
    assert {name for name, role in stack.model.roles().items() if role.part == "norm"} == {
        name for name, _ in stack.model.named_parameters() if "norm" in name
    }
    assert stack.machines[0][1].gradient == "autograd"
    assert isinstance(stack.model, models["rms-norm"])


def test_memory_counts_the_state_of_the_parts() -> None:
    """Per weight: AdamW keeps two numbers, AMSGrad three, SGD one, SVRG two more."""
    weights = sum(Layout.of(Stack(members({}, 1)).model).sizes)
    usual = memory_of_member(members({}, 1)[0])
    for fields, more in (
        ({"optimizer.kind": "amsgrad"}, 1),
        ({"optimizer.kind": "sgd"}, -1),
        ({"optimizer.kind": "grafting"}, 1),
        ({"optimizer.kind": "adashift", "optimizer.window": 20, "optimizer.phi": "identity"}, 20),
        ({"estimator": "svrg"}, 2),
        ({"penalties": ["l1"]}, 0),
    ):
        assert memory_of_member(members(fields, 1)[0]) - usual == pytest.approx(1.25 * 4 * more * weights)


def test_a_combination_that_no_path_trains_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^precision is bf16; allowed for models of kind 'rms-norm': fp32$"):
        members({"model.kind": "rms-norm", "precision": "bf16"})


REFUSED = {
    "an unknown kind": ({"optimizer.kind": "adam"}, "optimizer: unknown optimizer 'adam'; did you mean 'adamw'? allowed: adamw, "),
    "an unknown brief kind": (
        {"optimizer.schedule": "cosin"},
        "optimizer.schedule: unknown schedule 'cosin'; did you mean 'cosine'?",
    ),
    "a field of another kind": ({"optimizer.momentum": 0.9}, "unknown field 'optimizer.momentum'"),
    "a field of no kind": ({"estimator": {"kind": "svrg", "steps": 3}}, "unknown field 'estimator.steps'"),
    "a number for a kind": ({"optimizer.schedule": 3}, "optimizer.schedule: is '3'; allowed: a kind of schedule, or a mapping"),
    "a bool for a number": ({"optimizer.clip": True}, "optimizer.clip: is 'True'; allowed: a kind of clip, or a mapping"),
    "a bound": ({"optimizer.clip": -1}, "optimizer.clip.most is -1; input should be greater than 0"),
    "a list for a kind": ({"optimizer.kind": ["sgd"]}, "optimizer: unknown optimizer"),
    "steps that shrink": (
        {"optimizer.schedule": {"kind": "piecewise", "factors": [[5, 1.0], [2, 0.5]]}},
        "optimizer.schedule.factors: has the steps [5, 2]; allowed: steps that grow",
    ),
    "a cycle that has no half": (
        {"optimizer.schedule": {"kind": "chebyshev", "cycle": 12}},
        "optimizer.schedule.cycle: is 12; allowed: a power of 2",
    ),
    "a rate within grafting": (
        {"optimizer.kind": "grafting", "optimizer.direction": {"kind": "sgd", "lr": 0.1}},
        "optimizer.direction: sets lr; allowed: fields of sgd alone",
    ),
    "a tensor twice": (
        {"optimizer.kind": "grafted-sgd", "optimizer.rates": [["a", 1], ["a", 2]]},
        "optimizer.rates: names 'a' twice",
    ),
    "rates of no file": (
        {"optimizer.kind": "grafted-sgd", "optimizer.rates": "nowhere.json"},
        "optimizer.rates: nowhere.json is missing",
    ),
    "too many": ({"penalties": ["l1"] * 11}, "penalties is"),
}


@pytest.mark.parametrize(("fields", "sentence"), REFUSED.values(), ids=REFUSED)
def test_bad_parts_are_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as refusal:
        TINY.override(copy.deepcopy(fields))
    assert str(refusal.value).startswith(sentence)
    assert "\n" not in str(refusal.value)

"""One contract for every part: members never mix, a resumed run is a straight one, and what makes no sense is refused."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from every_part import FIELDS, WAYS, assert_same, members, numbers, trained

from anchorbench.parts import REGISTRIES
from anchorbench.recipe import Recipe
from anchorbench.train.checkpoint import resume, save
from anchorbench.train.gradients.choice import gradient_path
from anchorbench.train.memory import memory_of_member
from anchorbench.train.seams import Layout
from anchorbench.train.stack import Stack

pytestmark = pytest.mark.usefixtures("small_evaluations")


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


def test_noise_follows_from_its_seed_and_the_step() -> None:
    fields = WAYS["noise"]["dropout"]
    stack = Stack([recipe.override({"seed": 0, "init.gamma": 0.4, "noise_seed": n}) for n, recipe in enumerate(members(fields))])
    (first, gradient), tokens = stack.oracle(1), stack._batches.batch(1)[0]
    kept = gradient.clone()
    assert len(set(first.tolist())) == 3, "members differ in nothing else"
    again, gradient = stack.oracle(1)
    assert torch.equal(again, first)
    assert torch.equal(gradient, kept)
    stack._batches.batch = lambda step: (tokens, torch.zeros_like(tokens[..., 0]))
    assert stack.oracle(1)[0].tolist() != stack.oracle(2)[0].tolist(), "one batch, other noise"


@pytest.mark.parametrize("fields", [WAYS["noise"]["dropout"], WAYS["model"]["border-tokens"]], ids=["noise", "border"])
def test_a_member_ends_as_it_would_alone_at_odd_widths(fields: dict[str, Any]) -> None:
    """There members are trained one after the other, see `backprop.aligned`."""
    recipes = [recipe.override({"model.d_model": 7, "batch": 5}) for recipe in members(fields)]
    together = trained(Stack(recipes))
    for member in (0, 2):
        assert_same(numbers(together, member), numbers(trained(Stack([recipes[member]])), 0))


def test_evaluation_has_no_noise() -> None:
    fields = WAYS["noise"]["dropout"]
    noisy, plain = Stack(members(fields)), Stack(members({}))
    tokens = noisy._batches.batch(1)[0]
    for _ in range(2):
        assert torch.equal(noisy.model(tokens), plain.model(tokens))
        noisy.oracle(1)


def test_passes_are_counted() -> None:
    """Forward and backward pass of the loss, and what penalties of activations add."""
    r1, r2 = ({"penalties": [{"kind": f"dropout-{name}"}]} for name in ("r1", "r2"))
    noisy = {"noise": "dropout"}
    base = members({}, 1)[0].macs_per_step()
    for fields, passes in ((noisy, 1), (r1, 1), (r1 | noisy, 2), (r2, 4), (r2 | noisy, 3), ({"penalties": ["l1"]}, 1)):
        assert members(fields, 1)[0].macs_per_step() == passes * base


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


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"model.kind": "rms-norm"}, "models of kind 'rms-norm'"),
        ({"noise": "dropout"}, "noise of kind 'dropout'"),
        ({"penalties": ["l1", "dropout-r1"]}, "penalties of kind 'dropout-r1'"),
    ],
)
def test_what_only_autograd_trains(fields: dict[str, Any], what: str) -> None:
    assert gradient_path(members(fields, 1)[0]) == "autograd"
    with pytest.raises(ValueError, match=f"^precision is bf16; allowed for {what}: fp32$"):
        members(fields | {"precision": "bf16"})


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
    "relative to a decay of nothing": (
        {"optimizer.clip": "relative", "optimizer.weight_decay": 0.0},
        "weight_decay is 0; allowed with a clip of kind 'relative', which is proportional to it: more than 0",
    ),
    "no border": (
        {"model.kind": "border-tokens", "model.before": 0},
        "model: before and after are 0; allowed: at least one border",
    ),
    "an activation without a degree": (
        {"model.kind": "scale-invariant", "model.activation": "gelu"},
        "model.activation is 'gelu'; input should be 'relu'",
    ),
    "a norm after the sum": (
        {"model.kind": "scale-invariant", "model.norm": "post"},
        "model.norm is 'post'; input should be 'pre'",
    ),
    "a rate of one": ({"noise": {"kind": "dropout", "final": 1}}, "noise.final is 1; input should be less than 1"),
    "a list for a kind": ({"optimizer.kind": ["sgd"]}, "optimizer: unknown optimizer"),
    "steps that shrink": (
        {"optimizer.schedule": {"kind": "piecewise", "factors": [[5, 1.0], [2, 0.5]]}},
        "optimizer.schedule.factors: has the steps [5, 2]; allowed: increasing steps",
    ),
    "a cycle that has no half": (
        {"optimizer.schedule": {"kind": "chebyshev", "cycle": 12}},
        "optimizer.schedule.cycle: is 12; allowed: a power of 2",
    ),
    "a rate within grafting": (
        {"optimizer.kind": "grafting", "optimizer.direction": {"kind": "sgd", "lr": 0.1}},
        "optimizer.direction: sets lr; allowed: own fields of sgd; set the others on the grafted optimizer",
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

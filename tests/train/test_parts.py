"""One contract for every part: members never mix, a resumed run is a straight one, and the numbers are those of a reference."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import references
import torch
from conftest import TINY, patch_training, patterns_of
from torch import Tensor

from anchorbench.inspect.open_model import StackModel
from anchorbench.model.gpt import GPT, ModelConfig, Site
from anchorbench.parts import REGISTRIES, clips, decays, estimators, growths, models, noises, optimizers, penalties, schedules
from anchorbench.recipe import Recipe
from anchorbench.train.checkpoint import resume, save
from anchorbench.train.gradients.choice import gradient_path
from anchorbench.train.memory import memory_of_member
from anchorbench.train.penalties.dropout_r1 import r1
from anchorbench.train.seams import Layout
from anchorbench.train.stack import Stack

WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "model": {
        "gpt": {},
        "rms-norm": {"model.kind": "rms-norm"},
        "layer-sharing": {"model.kind": "layer-sharing", "model.n_layer": 3, "model.share": "pairs"},
        "border-tokens": {"model.kind": "border-tokens", "model.before": 2, "model.after": 1},
        "scale-invariant": {"model.kind": "scale-invariant"},
    },
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
    "clip": {
        "norm": {"optimizer.clip": 0.1},
        "none": {"optimizer.clip": "none"},
        "relative": {"optimizer.clip": {"kind": "relative", "factor": 0.1}},
    },
    "estimator": {"plain": {}, "svrg": {"estimator": {"kind": "svrg", "every": 2, "batches": 2, "alpha": 0.7}}},
    "penalty": {
        "l1": {"penalties": [{"kind": "l1", "strength": 0.01}]},
        "dropout-r1": {"penalties": [{"kind": "dropout-r1", "rate": 0.3, "strength": 0.5}]},
        "dropout-r2": {"penalties": [{"kind": "dropout-r2", "strength": 0.5, "noise": {"kind": "dropout", "final": 0.3}}]},
    },
    "noise": {
        "none": {},
        "dropout": {
            "noise": {"kind": "dropout", "embedding": 0.1, "attention": 0.2, "residual": 0.3, "mlp": 0.4, "final": 0.5},
        },
    },
    "growth": {"split": {"growth": [{"kind": "split", "at": 2, "width": 3, "alpha": 0.4}]}},
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
    configs = [config, config.model_copy(update={"most": 1000.0, "factor": 1000.0})]
    gradient, weights, decay = rows(0), rows(1), 0.02
    for rates in ([0.3, 0.1], [0.001, 0.0]):
        clipped = gradient.clone()
        rate = torch.tensor(rates, dtype=torch.float64)[:, None]
        clips[kind](configs, LAYOUT, gradient)(clipped, weights, rate, decay * rate)
        for member, own in enumerate(configs):
            expected = getattr(references, kind)(own, gradient[member], weights[member], rates[member], decay)
            torch.testing.assert_close(clipped[member], expected, rtol=1e-12, atol=1e-14)


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


@pytest.mark.parametrize("kind", [kind for kind in WAYS["penalty"] if not penalties[kind].of_activations])
def test_penalties(kind: str) -> None:
    config = configured(penalties, "penalty", kind, "penalties.0")
    gradient, weights = rows(0), rows(1)
    changed = gradient.clone()
    penalties[kind]([config, config], LAYOUT, gradient).add(changed, weights)
    for member in range(2):
        at = weights[member].clone().requires_grad_()
        (expected,) = torch.autograd.grad(getattr(references, kind)(config, at), at)
        torch.testing.assert_close(changed[member], gradient[member] + expected)


@pytest.mark.parametrize("kind", WAYS["growth"])
def test_growths(kind: str) -> None:
    config = configured(growths, "growth", kind, "growth.0")
    configs = [config, config.model_copy(update={"alpha": -2.0})]
    shapes = {"ff_in.weight": (4, 5), "ff_in.bias": (5,), "ff_out.weight": (5, 4), "query.weight": (4, 3)}
    named = {
        f"blocks.0.{name}": torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(name)))
        for name, shape in shapes.items()
    }
    event = growths[kind](configs)
    for larger, copied in ((event.weights(named), False), (event.state(named), True)):
        for member, own in enumerate(configs):
            for name, value in larger.items():
                smaller = {short: named[f"blocks.0.{short}"][member] for short in shapes}
                expected = getattr(references, kind)(own, smaller, copied=copied)[name.removeprefix("blocks.0.")]
                torch.testing.assert_close(value[member], expected, rtol=1e-12, atol=1e-14)


@pytest.fixture
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("noise", [{}, WAYS["noise"]["dropout"]], ids=["plain", "noisy"])
@pytest.mark.parametrize("kind", [kind for kind in WAYS["penalty"] if penalties[kind].of_activations])
@pytest.mark.usefixtures("in_float64")
def test_penalties_of_activations(kind: str, noise: dict[str, Any]) -> None:
    """In the training of a stack: what a penalty adds to the gradient is the gradient of its reference."""
    config = configured(penalties, "penalty", kind, "penalties.0")
    stack, without = (Stack(members(noise | fields)) for fields in (WAYS["penalty"][kind], {}))
    (losses, gradient), (expected, plain) = stack.oracle(1), without.oracle(1)
    torch.testing.assert_close(losses, expected)
    member = 1
    added = getattr(references, kind.replace("-", "_"))(config, without.recipes[member], without._batches.batch(1), member)
    at = without.weights[member].clone()
    for number in (3, 500, 2000, -5):  # along the random directions that these seeds give
        way = torch.randn(at.shape, generator=torch.Generator().manual_seed(number + 10))
        with torch.no_grad():
            values = [added(without.named(0, (at + sign * 1e-5 * way)[None])) for sign in (1, -1)]
        slope = float(values[0] - values[1]) / 2e-5
        assert float((gradient - plain)[member] @ way) == pytest.approx(slope, rel=1e-5, abs=1e-9)


class TestR1:
    """2207.05952: the mean over the masks of dropout before a linear output."""

    HIDDEN, WEIGHT = rows(1, 3)[:, :5], rows(2, 5)[:, :4]  # 3 examples of 5 units, 4 outputs
    RATE = torch.tensor(0.3, dtype=torch.float64)

    def mean_over_masks(self, loss: Callable[[Tensor], Tensor], rate: float) -> float:
        """What all masks of one example add to the loss on average, weighted by their probabilities; summed over examples."""
        total = 0.0
        for h in self.HIDDEN:
            for mask in itertools.product((0, 1), repeat=5):
                kept = torch.tensor(mask, dtype=torch.float64)
                probability = math.prod(1 - rate if keep else rate for keep in mask)
                total += probability * float(loss(h * kept / (1 - rate) @ self.WEIGHT) - loss(h @ self.WEIGHT))
        return total

    def test_it_is_exact_for_squared_error(self) -> None:
        added = self.mean_over_masks(lambda f: (f - 0.7).square().sum() / 2, 0.3)
        assert float(r1(self.HIDDEN, self.WEIGHT, self.RATE)) == pytest.approx(added / 3, rel=1e-12)

    @pytest.mark.parametrize("scale", [0.1, 0.01, 0.001])
    def test_it_is_of_second_order_for_cross_entropy(self, scale: float) -> None:
        """Its relative error falls with what a unit adds to a logit."""
        added = self.mean_over_masks(lambda f: -(scale * f).log_softmax(-1)[2], 0.3)
        found = r1(self.HIDDEN, scale * self.WEIGHT, self.RATE, (self.HIDDEN @ self.WEIGHT * scale).softmax(-1))
        assert float(found) == pytest.approx(added / 3, rel=scale)


@pytest.mark.parametrize("kind", WAYS["noise"])
def test_noises(kind: str) -> None:
    """All sites of a small model twice, drawn from the members' generators in this order."""
    config = configured(noises, "noise", kind, "noise")
    configs = [config, config.model_copy(update={"attention": 0.0, "final": 0.7})]
    drawn, again = ([torch.Generator().manual_seed(seed) for seed in (3, 4)] for _ in range(2))
    noise = noises[kind](configs, drawn)
    for site in 2 * get_args(Site):
        x = torch.randn(2, 7, 5, dtype=torch.float64)
        found = noise(site, x)
        for member, own in enumerate(configs):
            torch.testing.assert_close(found[member], getattr(references, kind + "_noise")(own, site, x[member], again[member]))


def test_dropout_is_unbiased() -> None:
    noise = noises["dropout"]([noises["dropout"].Config(final=0.3)], [torch.Generator().manual_seed(0)])
    seen = noise("final", torch.ones(1, 100_000))
    assert float((seen == 0).double().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(seen.mean()) == pytest.approx(1, abs=0.01)


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


def test_layers_that_share_are_one_block() -> None:
    """It is a GPT whose layers have equal weights; its gradient is the sum over the layers."""
    fields = WAYS["model"]["layer-sharing"]
    stack, plain = Stack(members(fields, 2)), Stack(members({"model.n_layer": 3}, 2))
    assert [layer is stack.model.layers[0] for layer in stack.model.layers] == [True, True, False]
    for layer, block in enumerate(stack.model.layers):
        plain.model.layers[layer].load_state_dict(block.state_dict())
    for name in ("token_embedding", "position_embedding", "unembedding.weight"):
        plain.model.get_parameter(name).data.copy_(stack.model.get_parameter(name))
    tokens = stack._batches.batch(1)[0]
    assert torch.equal(stack.model(tokens), plain.model(tokens))
    (_, gradient), (_, separate) = stack.oracle(1), plain.oracle(1)
    ours, theirs = stack.named(1, gradient), plain.named(1, separate)
    shared = theirs["blocks.0.ff_in.weight"] + theirs["blocks.1.ff_in.weight"]
    torch.testing.assert_close(ours["blocks.0.ff_in.weight"], shared, rtol=1e-4, atol=1e-6)
    assert sum("ff_in.weight" in name for name in ours) == 2
    every = members(fields | {"model.share": "all"}, 1)[0]
    alike = members({"model.n_layer": 1}, 1)[0]
    assert Layout.of(Stack([every]).model).sizes == Layout.of(Stack([alike]).model).sizes, "the control of equal parameters"
    assert every.macs_per_step() == members({"model.n_layer": 3}, 1)[0].macs_per_step()


def test_border_tokens_stand_around_the_tokens() -> None:
    """It is a GPT of a longer sequence and a larger vocabulary, whose additional words are the border."""
    stack = Stack(members(WAYS["model"]["border-tokens"], 2))
    model, tokens = stack.model, stack._batches.batch(1)[0]
    vocab, seq = model.vocab_size, model.seq_len
    shape = ModelConfig.model_validate(members({}, 1)[0].model)
    longer = GPT(shape, members=2, vocab_size=vocab + 3, seq_len=seq + 3)
    longer.blocks.load_state_dict(model.blocks.state_dict())
    longer.token_embedding.data = torch.cat([model.token_embedding, model.border], 1)
    zeros = torch.zeros_like(model.border)
    longer.position_embedding.data = torch.cat([zeros[:, :2], model.position_embedding, zeros[:, :1]], 1)
    longer.unembedding.weight.data = torch.nn.functional.pad(model.unembedding.weight, (0, 3))
    words = torch.nn.functional.pad(tokens, (2, 1))
    words[..., :2], words[..., -1] = torch.tensor([vocab, vocab + 1]), vocab + 2
    torch.testing.assert_close(model(tokens), longer(words)[..., :vocab])
    for pattern, larger in zip(patterns_of(model, tokens), patterns_of(longer, words), strict=True):
        torch.testing.assert_close(pattern, larger[..., 2:-1, 2:-1])
    opened = StackModel(model).run(tokens)
    torch.testing.assert_close(opened.logits, model(tokens))
    assert {x.shape[2] for x in (*opened.resid_mid, *opened.resid_post)} == {seq}
    edited = StackModel(model).run(tokens, {0: lambda x: x + 1})
    assert edited.resid_post[0].shape == opened.resid_post[0].shape
    assert not torch.equal(edited.logits, opened.logits)
    assert model.forward_macs(model.shape, vocab, seq) == GPT.forward_macs(shape, vocab, seq + 3)
    assert model.border[0].std() > 0, "drawn as an embedding is"


class TestScaleInvariant:
    """2202.00980: logits do not see the encoder's scale, and the gradient is orthogonal to it."""

    @staticmethod
    def model() -> tuple[GPT, torch.Tensor]:
        stack = Stack(members(WAYS["model"]["scale-invariant"], 2))
        model = copy.deepcopy(stack.model).double()
        with torch.no_grad():
            for parameter in model.parameters():  # biases of degree 1 as well
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).double() * 0.05)
        return model, stack._batches.batch(1)[0]

    @staticmethod
    def encoder(model: GPT) -> list[Tensor]:
        return [parameter for name, parameter in model.named_parameters() if not name.startswith("unembedding")]

    def test_logits_do_not_see_the_scale(self) -> None:
        model, tokens = self.model()
        before = model(tokens)
        for factor in (7.3, 1e-6):
            for parameter in self.encoder(model):
                parameter.data *= factor
            torch.testing.assert_close(model(tokens), before, rtol=1e-9, atol=1e-9)

    def test_the_gradient_is_orthogonal_to_the_weights(self) -> None:
        model, tokens = self.model()
        weights = self.encoder(model)
        loss = model(tokens).log_softmax(-1)[..., 5].sum()
        gradients = torch.autograd.grad(loss, weights)
        product = sum(float((w.detach() * g).sum()) for w, g in zip(weights, gradients, strict=True))
        norms = [math.sqrt(sum(float(x.detach().square().sum()) for x in of)) for of in (weights, gradients)]
        assert abs(product) < 1e-12 * norms[0] * norms[1]

    def test_degrees_of_homogeneity(self) -> None:
        model, tokens = self.model()
        seen: list[list[Tensor]] = []
        for factor in (1.0, 3.0):
            for parameter in self.encoder(model):
                parameter.data *= factor
            block, x = model.layers[0], model.embed(tokens)
            normal = block.norm_1(x)
            mixed, pattern = block._attention(normal, normal, 9)
            seen.append([x, normal, block.query(normal), pattern, block.output(mixed), block.mlp(normal)])
        for degree, before, after in zip((2, 0, 1, 0, 2, 2), *seen, strict=True):
            torch.testing.assert_close(after, before * 3**degree)

    def test_a_row_without_a_positive_score_attends_to_nothing(self) -> None:
        block = self.model()[0].layers[0]
        scores = torch.tensor([[[-1.0, -math.inf], [0.0, -2.0]], [[2.0, -math.inf], [1.0, 3.0]]], requires_grad=True)
        pattern = block.pattern(scores)
        assert pattern.tolist() == [[[0, 0], [0, 0]], [[1, 0], [0.25, 0.75]]]
        (gradient,) = torch.autograd.grad(pattern[..., 1].sum(), scores)
        assert gradient.isfinite().all()
        assert gradient[0].abs().sum() == 0


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
        "weight_decay is 0; allowed with a clip of kind 'relative', which is in proportion to it: more than 0",
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

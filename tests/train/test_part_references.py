"""Every kind of every part against its reference, in float64."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
import references
import torch
from every_part import WAYS, members
from torch import Tensor

from anchorbench.model.gpt import Site
from anchorbench.parts import clips, decays, estimators, growths, noises, optimizers, penalties, schedules
from anchorbench.train.penalties.dropout_r1 import r1
from anchorbench.train.seams import Layout
from anchorbench.train.stack import Stack

pytestmark = pytest.mark.usefixtures("small_evaluations")
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

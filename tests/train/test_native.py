"""The compiled step against the hand-written backward pass, autograd in float64, and the trainer's own parts."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import SEQ_LEN, SHAPES, VOCAB_SIZE, random_tokens, small_stack
from torch import Tensor
from torch.nn import functional as F

from anchorbench.model.gpt import GPT, ModelConfig
from anchorbench.recipe import Recipe
from anchorbench.train.gradients.backprop import Backprop
from anchorbench.train.gradients.native import Native, available
from anchorbench.train.optimizers.amsgrad import AMSGrad
from anchorbench.train.optimizers.sgd import SGD
from anchorbench.train.seams import Layout
from anchorbench.train.stack import Stack

pytestmark = pytest.mark.skipif(not available(), reason="there is no compiled step on this machine")

MEMBERS, BATCH = 3, 6
TOKENS = random_tokens(MEMBERS, BATCH, SEQ_LEN)
LABELS = random_tokens(MEMBERS, BATCH, seed=1)


def rows_of(model: GPT) -> tuple[Layout, Tensor]:
    """The model's weights as rows."""
    layout = Layout.of(model)
    rows = torch.zeros(model.members, sum(layout.sizes))
    for parameter, view in zip(model.parameters(), layout.views(rows), strict=True):
        view.copy_(parameter.data)
    return layout, rows


def native_step(model: GPT, tokens: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    layout, rows = rows_of(model)
    gradients = torch.full_like(rows, math.nan)
    losses = Native(model, layout, tokens.shape[1]).gradient(rows, gradients, tokens, labels)
    assert gradients.isfinite().all() or not rows.isfinite().all()  # the padding of a row too
    return losses, dict(zip(layout.names, layout.views(gradients), strict=True))


def exact(model: GPT, tokens: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses and gradients by autograd in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        copy = model.like(members=model.members)
        copy.load_state_dict(model.state_dict())
        losses = F.cross_entropy(copy(tokens).flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)
        losses.sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    return losses.detach(), {name: parameter.grad for name, parameter in copy.named_parameters() if parameter.grad is not None}


def error_of(gradients: dict[str, Tensor], expected: dict[str, Tensor], member: int) -> float:
    """The largest error of any gradient, relative to the member's largest."""
    assert gradients.keys() == expected.keys()
    size = max(gradient[member].abs().max().item() for gradient in expected.values())
    return max(
        (gradient[member].double() - expected[name][member]).abs().max().item() / size for name, gradient in gradients.items()
    )


def require_close(model: GPT, tokens: Tensor, labels: Tensor) -> None:
    """Losses and gradients are the exact ones to 1e-5, or to what torch loses in float32, much for a norm over few numbers."""
    losses, gradients = native_step(model, tokens, labels)
    exact_losses, expected = exact(model, tokens, labels)
    torch.testing.assert_close(losses.double(), exact_losses, rtol=1e-5, atol=1e-6)
    backprop = Backprop(model, tokens.shape[1])
    backprop(tokens, labels)
    torchs = {name: backprop.gradients[parameter] for name, parameter in model.named_parameters()}
    for member in range(model.members):
        assert error_of(gradients, expected, member) < max(1e-5, 3 * error_of(torchs, expected, member))


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_autograds(shape: str) -> None:
    require_close(small_stack(shape, MEMBERS), TOKENS, LABELS)


@settings(max_examples=60, derandomize=True)
@given(
    shape=st.builds(
        dict,
        n_layer=st.integers(1, 4),
        n_head=st.integers(1, 3),
        d_model=st.integers(2, 40),
        d_head=st.integers(1, 24),
        d_ff=st.integers(1, 70),
        norm=st.sampled_from(["pre", "post"]),
        activation=st.sampled_from(["gelu", "relu"]),
        bias=st.booleans(),
        unembed_bias=st.booleans(),
    ),
    quirk=st.booleans(),
    vocab_size=st.integers(2, 50),
    seq_len=st.integers(1, 20),
    batch=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_gradients_of_any_shape(shape: dict[str, Any], quirk: bool, vocab_size: int, seq_len: int, batch: int, seed: int) -> None:
    config = ModelConfig(**shape, query_norm_only=quirk and shape["norm"] == "pre")
    model = GPT(config, members=2, vocab_size=vocab_size, seq_len=seq_len)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 3
    tokens = torch.randint(vocab_size, (2, batch, seq_len), generator=generator)
    require_close(model, tokens, torch.randint(vocab_size, (2, batch), generator=generator))


@pytest.mark.parametrize("fields", [{"d_model": 300, "d_head": 280, "d_ff": 530}, {"n_head": 2, "d_model": 144, "d_head": 64}])
def test_gradients_of_wide_models(fields: dict[str, int]) -> None:
    """Inner products longer than a block, and the larger chunks of wide models."""
    config = ModelConfig(n_layer=3, **fields)
    model = GPT(config, members=1, vocab_size=120, seq_len=9)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) / 20
    tokens = torch.randint(120, (1, 70, 9), generator=torch.Generator().manual_seed(1))
    require_close(model, tokens, tokens[:, :, 0])


@pytest.mark.parametrize("shape", SHAPES)
def test_answers_are_the_models(shape: str) -> None:
    model = small_stack(shape, MEMBERS)
    layout, rows = rows_of(model)
    tokens = random_tokens(MEMBERS, 50, SEQ_LEN, seed=2)
    answers = Native(model, layout, 16).answers(rows, tokens.numpy())
    np.testing.assert_array_equal(answers, model(tokens).argmax(-1).numpy())


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e30])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_broken_member_leaves_nothing_behind(shape: str, value: float) -> None:
    """The same arrays are used for the next member, on one thread."""
    model = small_stack(shape, MEMBERS)
    layout, rows = rows_of(model)
    native, whole, broken = Native(model, layout, BATCH), torch.zeros_like(rows), torch.zeros_like(rows)
    losses = native.gradient(rows, whole, TOKENS, LABELS)
    rows[1] = value
    broken_losses = native.gradient(rows, broken, TOKENS, LABELS)
    assert not broken_losses[1].isfinite() or broken_losses[1] != losses[1]
    assert torch.equal(losses[[0, 2]], broken_losses[[0, 2]])
    assert torch.equal(whole[[0, 2]], broken[[0, 2]])
    if math.isnan(value):
        assert broken_losses[1].isnan()


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


SOME = TINY.override({"steps": 40, "optimizer.warmup": 5, "optimizer.eps": 1e-4})
"""Adam divides by the root of tiny gradients, which makes much of their rounding; this keeps it small."""


def trained(recipes: list[Recipe], calls: list[int], call_seconds: float = 0.0) -> Stack:
    """A stack trained up to each of these steps in one call."""
    stack = Stack(recipes, call_seconds=call_seconds)
    for until in calls:
        while stack.step < until:
            stack.advance(until)
    return stack


def test_members_are_the_same_on_any_number_of_threads_in_any_order(two_threads: None) -> None:
    """Also by one step a call or by many, and resumed on another number of threads."""
    recipes = [SOME.override({"seed": seed, "optimizer.lr": 1e-3 * (1 + seed)}) for seed in range(5)]
    together = trained(recipes, [40])
    many = trained(recipes, [13, 40], call_seconds=10.0)
    shuffled = trained([recipes[member] for member in (3, 0, 4, 1, 2)], [40])
    torch.set_num_threads(1)
    alone = trained([recipes[3]], [40])
    half = trained(recipes, [20])
    torch.set_num_threads(2)
    rest = Stack(recipes)
    rest.restore({name: rows.clone() for name, rows in half.saved().items()}, half.seen(), half.step)
    while rest.step < 40:
        rest.advance(40)
    assert together.path == "native"
    assert together.weights.isfinite().all()
    assert torch.equal(together.weights, many.weights)
    assert torch.equal(together.weights, rest.weights)
    assert torch.equal(together.weights[3], alone.weights[0])
    assert torch.equal(together.weights[[3, 0, 4, 1, 2]], shuffled.weights)


WAYS = {
    "adamw": {"optimizer.weight_decay": 0.1},
    "unscaled, spared": {"optimizer.decay": "unscaled", "optimizer.weight_decay": 1e-3, "optimizer.decay_embeddings": False},
    "coupled in a window": {"optimizer.decay": "coupled", "optimizer.weight_decay": 0.1, "optimizer.decay_from": 5},
    "clipped": {"optimizer.clip": 0.05, "optimizer.beta1": 0.8, "optimizer.beta2": 0.99},
    "unclipped, linear": {"optimizer.clip": "none", "optimizer.schedule": "linear", "optimizer.end": 0.1},
    "amsgrad": {"optimizer": AMSGrad.Config(lr=3e-3, warmup=5, eps=1e-4)},
    "momentum": {"optimizer": SGD.Config(lr=0.3, warmup=5)},
    "nesterov": {"optimizer": SGD.Config(lr=0.3, warmup=5, nesterov=True)},
}


@pytest.mark.parametrize("way", WAYS)
def test_whole_steps_are_those_of_the_parts(way: str) -> None:
    """Clipping, decay and optimizer in the library against the parts in torch, on the same gradients, for 12 steps."""
    recipes = [SOME.override({"seed": seed, "init.gamma": gamma} | WAYS[way]) for seed, gamma in ((0, 0.4), (1, 0.7))]
    whole, parts = Stack(recipes), Stack(recipes)
    assert whole._whole_steps
    parts._whole_steps = False
    for _ in range(12):
        losses, expected = whole.advance(), parts.advance()
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    assert (whole.weights - parts.weights).norm() < 1e-3 * (parts.weights - Stack(recipes).weights).norm()
    for name, rows in parts.state().items():
        assert (whole.state()[name] - rows).norm() < 1e-2 * rows.norm(), name


def test_300_steps_lose_as_in_torch() -> None:
    recipes = [TINY.override({"steps": 300, "seed": seed, "optimizer.lr": 3e-3}) for seed in range(2)]
    native, backprop = Stack(recipes), Stack(recipes, path="backprop")
    for _ in range(300):
        losses, expected = native.advance(), backprop.advance()
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    assert (losses < 4.3).all()  # from 4.8


def test_what_the_library_does_not_know_stays_in_torch() -> None:
    assert Stack([TINY]).path == "native"
    for fields in ({"precision": "bf16"}, {"model": {"kind": "rms-norm"}}):
        recipe = TINY.override(fields) if "precision" in fields else Recipe.model_validate(TINY.model_dump() | fields)
        assert Stack([recipe]).path != "native"
    torch.set_default_dtype(torch.float64)
    try:
        assert Stack([TINY]).path == "backprop"
    finally:
        torch.set_default_dtype(torch.float32)


def test_vocabulary_of_the_oracle_is_not_a_whole_tile() -> None:
    """Else no test above would see what padding does."""
    assert VOCAB_SIZE % 8
    assert SEQ_LEN % 4

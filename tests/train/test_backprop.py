"""The written-out backward pass against autograd: of the plain model, member by member, and of the stacked one."""

import math
from collections.abc import Iterator

import pytest
import torch
from oracle import SEQ_LEN, SHAPES, VOCAB_SIZE, plain_member, random_tokens, small_stack
from torch import Tensor
from torch.nn import functional as F

from anchorbench.model.gpt import GPT, ModelConfig
from anchorbench.model.initialize import initialize
from anchorbench.model.initializers.rate import Rate
from anchorbench.train.gradients.backprop import Backprop
from anchorbench.train.memory import step_elements

MEMBERS, BATCH = 3, 6
LARGE = 64
"""So many sequences that the first layer's queries, keys and values are read from a table of all (position, token) pairs."""
BATCHES = pytest.mark.parametrize("batch", [BATCH, LARGE])


@pytest.fixture
def double() -> Iterator[None]:
    """Everything in float64, so that two orders of summation agree to many digits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def examples(batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return random_tokens(MEMBERS, batch, SEQ_LEN, seed=seed), random_tokens(MEMBERS, batch, seed=seed + 1)


def step(model: GPT, tokens: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    backprop = Backprop(model, tokens.shape[1])
    losses = backprop(tokens, labels)
    return losses, {name: backprop.gradients[parameter] for name, parameter in model.named_parameters()}


def worst_error(gradients: dict[str, Tensor], model: GPT, tokens: Tensor, labels: Tensor, dtype: torch.dtype) -> float:
    """The largest error of any gradient, relative to the member's largest: some gradients are zero but for rounding."""
    worst = 0.0
    for member in range(MEMBERS):
        plain = plain_member(model, member).to(dtype)
        plain.loss(tokens[member], labels[member]).backward()
        expected = {name: plain.stack_layout(name, gradient=True) for name in gradients}
        size = max(gradient.abs().max().item() for gradient in expected.values())
        error = max((gradient[member] - expected[name]).abs().max().item() for name, gradient in gradients.items())
        worst = max(worst, error / size)
    return worst


@BATCHES
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_are_the_plain_models(shape: str, batch: int, double: None) -> None:
    model, (tokens, labels) = small_stack(shape, MEMBERS), examples(batch)
    losses, gradients = step(model, tokens, labels)
    for member in range(MEMBERS):
        plain_loss = plain_member(model, member).loss(tokens[member], labels[member])
        assert losses[member].item() == pytest.approx(plain_loss.item(), rel=1e-12)
    assert worst_error(gradients, model, tokens, labels, torch.float64) < 1e-12


@BATCHES
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_autograds_of_the_stack(shape: str, batch: int, double: None) -> None:
    model, (tokens, labels) = small_stack(shape, MEMBERS), examples(batch)
    _, gradients = step(model, tokens, labels)
    F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten(), reduction="sum").div(batch).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-13)


@BATCHES
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_loses_only_rounding(shape: str, batch: int) -> None:
    model, (tokens, labels) = small_stack(shape, MEMBERS, seed=1), examples(batch, seed=1)
    _, gradients = step(model, tokens, labels)
    # float32 rounds by 6e-8, some hundred times on the way there and back; where a LayerNorm divides by little, it loses more
    assert worst_error(gradients, model, tokens, labels, torch.float64) < 1e-5


@BATCHES
@pytest.mark.parametrize("shape", SHAPES)
def test_a_second_step_remembers_nothing_of_the_first(shape: str, batch: int) -> None:
    model, (tokens, labels) = small_stack(shape, MEMBERS), examples(batch)
    weights = [parameter.clone() for parameter in model.parameters()]
    backprop = Backprop(model, batch)
    backprop(random_tokens(MEMBERS, batch, SEQ_LEN, seed=2), random_tokens(MEMBERS, batch, seed=3))
    losses = backprop(tokens, labels)
    fresh_losses, fresh = step(model, tokens, labels)
    assert torch.equal(losses, fresh_losses)
    for name, parameter in model.named_parameters():
        assert torch.equal(backprop.gradients[parameter], fresh[name])
    assert all(torch.equal(old, new) for old, new in zip(weights, model.parameters(), strict=True))


@BATCHES
@pytest.mark.parametrize("value", [math.nan, math.inf, -1e30])
@pytest.mark.parametrize("shape", SHAPES)
def test_members_never_mix(shape: str, value: float, batch: int) -> None:
    model, (tokens, labels) = small_stack(shape, MEMBERS), examples(batch)
    losses, gradients = step(model, tokens, labels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[1] = value
    broken_losses, broken = step(model, tokens, labels)
    assert not torch.equal(losses[1], broken_losses[1])
    assert torch.equal(losses[[0, 2]], broken_losses[[0, 2]])
    for name, gradient in gradients.items():
        assert torch.equal(gradient[[0, 2]], broken[name][[0, 2]])


@BATCHES
def test_a_member_alone_has_the_same_gradients(batch: int, double: None) -> None:
    model, (tokens, labels) = small_stack("pre gelu", MEMBERS), examples(batch)
    losses, gradients = step(model, tokens, labels)
    alone = GPT(model.shape, members=1, vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN)
    alone.load_state_dict({name: weight[1:2] for name, weight in model.state_dict().items()})
    alone_losses, alone_gradients = step(alone, tokens[1:2], labels[1:2])
    torch.testing.assert_close(alone_losses, losses[1:2], rtol=1e-13, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(alone_gradients[name], gradient[1:2], rtol=1e-12, atol=1e-15)


@BATCHES
def test_one_token_everywhere_sums_its_gradient(batch: int, double: None) -> None:
    """All rows of the embedding but one are untouched; that one takes the sum over all positions and sequences."""
    model, (tokens, labels) = small_stack("post gelu", MEMBERS), examples(batch)
    _, gradients = step(model, torch.full_like(tokens, 3), labels)
    rows = gradients["token_embedding"]
    assert rows[:, torch.arange(VOCAB_SIZE) != 3].eq(0).all()
    torch.testing.assert_close(rows[:, 3], gradients["position_embedding"].sum(1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", ["pre gelu", "post gelu"])
def test_a_bias_on_the_keys_of_the_last_layer_has_no_gradient(shape: str) -> None:
    """It adds the same to all scores of a position."""
    model, (tokens, labels) = small_stack(shape, MEMBERS), examples(BATCH)
    losses, gradients = step(model, tokens, labels)
    assert gradients["blocks.1.key.bias"].eq(0).all()
    with torch.no_grad():
        model.get_parameter("blocks.1.key.bias").normal_()
    assert torch.equal(step(model, tokens, labels)[0], losses)


# bf16


def exact_gradients(model: GPT, tokens: Tensor, labels: Tensor, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Autograd's, everything computed in `dtype`."""
    torch.set_default_dtype(dtype)
    try:
        copy = GPT(model.shape, members=MEMBERS, vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN)
        copy.load_state_dict(model.state_dict())
        logits = copy(tokens).flatten(0, 1).to(torch.promote_types(dtype, torch.float32))
        F.cross_entropy(logits, labels.flatten(), reduction="sum").div(tokens.shape[1]).backward()
    finally:
        torch.set_default_dtype(torch.float32)
    return {name: parameter.grad.double() for name, parameter in copy.named_parameters() if parameter.grad is not None}


def rounded_gradients(model: GPT, tokens: Tensor, labels: Tensor) -> dict[str, Tensor]:
    backprop = Backprop(model, tokens.shape[1], torch.bfloat16)
    backprop(tokens, labels)
    return {name: backprop.gradients[parameter].double() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_loses_only_rounding(shape: str) -> None:
    """From ordinary initial weights. bf16 rounds by 2^-9 = .002, some ten times on the way there and back, in directions that do
    not add up: 1% of error perpendicular to a gradient is a cosine of .99995, 4% one of .999. With ReLU, rounding turns a few
    hidden units on or off: one of 9 x 64 x 32 is nothing, but near the output, where one position is left, each of 64 x 32 is seen.
    """
    bound = 0.95 if "relu" in shape else 0.999
    fields = {"n_layer": 2, "n_head": 1, "d_model": 16, "d_head": 16, "d_ff": 32} | SHAPES[shape]
    model = GPT(ModelConfig(**fields), members=MEMBERS, vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN)
    initialize(model, [Rate.Config(gamma=0.5)] * MEMBERS, list(range(MEMBERS)))
    tokens, labels = random_tokens(MEMBERS, 64, SEQ_LEN), random_tokens(MEMBERS, 64, seed=1)
    exact, rounded = exact_gradients(model, tokens, labels), rounded_gradients(model, tokens, labels)
    compared = 0
    for member in range(MEMBERS):
        largest = max(gradient[member].norm() for gradient in exact.values())
        for name, gradient in exact.items():
            if gradient[member].norm() > largest / 20:  # the bias on keys has none but for rounding
                cosine = F.cosine_similarity(gradient[member].flatten(), rounded[name][member].flatten(), dim=0)
                assert cosine > bound, name
                assert rounded[name][member].norm().item() == pytest.approx(gradient[member].norm().item(), rel=0.05)
                compared += 1
    assert compared > 5 * MEMBERS
    assert any(not torch.equal(gradient, exact[name]) for name, gradient in rounded.items())


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_loses_no_more_than_autograd_does(shape: str) -> None:
    """With weights so large that rounding grows: in the mean, at most twice the error of autograd on a model in bf16."""
    ratios: list[float] = []
    for seed in range(3):
        model = small_stack(shape, MEMBERS, seed)
        tokens, labels = random_tokens(MEMBERS, 32, SEQ_LEN, seed=seed), random_tokens(MEMBERS, 32, seed=10 + seed)
        exact = exact_gradients(model, tokens, labels)

        def errors(gradients: dict[str, Tensor], exact: dict[str, Tensor] = exact) -> Tensor:
            return sum((gradients[name] - exact[name]).flatten(1).square().sum(1) for name in exact).sqrt()

        ours = errors(rounded_gradients(model, tokens, labels))
        autograds = errors(exact_gradients(model, tokens, labels, torch.bfloat16))
        ratios += (ours / autograds).tolist()
    assert math.exp(sum(map(math.log, ratios)) / len(ratios)) < 2


@BATCHES
@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_leaves_weights_alone_and_members_apart(shape: str, batch: int) -> None:
    model, (tokens, labels) = small_stack(shape, MEMBERS), examples(batch)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    gradients = rounded_gradients(model, tokens, labels)
    for name, weight in model.named_parameters():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, before[name])
        assert gradients[name].isfinite().all()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[1] = math.nan
    broken = rounded_gradients(model, tokens, labels)
    for name, gradient in gradients.items():
        assert torch.equal(gradient[[0, 2]], broken[name][[0, 2]])


def test_bf16_sums_many_rows_without_saturating() -> None:
    """A bf16 sum that is 256 times its next term no longer grows. One token stands at all 5 x 512 places: its gradient is the
    sum over all of them, which is also that of the positions.
    """
    model = small_stack("post gelu", MEMBERS)
    gradients = rounded_gradients(model, torch.full((MEMBERS, 512, SEQ_LEN), 3), torch.full((MEMBERS, 512), 4))
    token, positions = gradients["token_embedding"][:, 3], gradients["position_embedding"].sum(1)
    assert (token - positions).norm() < 0.01 * positions.norm()  # both are rounded to bf16, by .002
    assert positions.norm() > 0.1


@BATCHES
@pytest.mark.parametrize("shape", SHAPES)
def test_memory_is_counted_as_it_is_taken(shape: str, batch: int) -> None:
    model = small_stack(shape, MEMBERS)
    backprop = Backprop(model, batch)
    backprop(*examples(batch))
    taken = sum(array.numel() for array in backprop.buffers)
    assert taken == MEMBERS * step_elements(model.shape, batch, VOCAB_SIZE, SEQ_LEN)

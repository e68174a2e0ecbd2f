"""The stacked model against the plain one, member by member, and the promise that members never mix."""

import math
from collections.abc import Iterator

import pytest
import torch
from conftest import patterns_of
from oracle import SEQ_LEN, SHAPES, VOCAB_SIZE, plain_member, random_tokens, small_stack
from pydantic import ValidationError
from torch import Tensor

from anchorbench.model.gpt import GPT, ModelConfig

MEMBERS, BATCH = 3, 4
TOKENS = random_tokens(MEMBERS, BATCH, SEQ_LEN)


@pytest.fixture
def double() -> Iterator[None]:
    """Everything in float64, so that two orders of summation agree to many digits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_the_plain_model_at_the_last_position(shape: str, double: None) -> None:
    model = small_stack(shape, MEMBERS)
    logits = model(TOKENS)
    assert logits.shape == (MEMBERS, BATCH, VOCAB_SIZE)
    for member in range(MEMBERS):
        expected, _ = plain_member(model, member)(TOKENS[member])
        torch.testing.assert_close(logits[member], expected[:, -1], rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_is_that_of_the_plain_model(shape: str, double: None) -> None:
    model = small_stack(shape, MEMBERS)
    patterns = patterns_of(model, TOKENS)
    assert len(patterns) == model.shape.n_layer
    for member in range(MEMBERS):
        _, expected = plain_member(model, member)(TOKENS[member])
        for pattern, plain in zip(patterns, expected, strict=True):
            torch.testing.assert_close(pattern[member], plain, rtol=1e-10, atol=1e-12)
    for pattern in patterns:
        torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:-1]), rtol=1e-12, atol=0)
        assert pattern.triu(1).eq(0).all()
        assert pattern.tril().add(torch.ones(SEQ_LEN, SEQ_LEN).triu(1)).gt(0).all()


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_loses_only_rounding(shape: str) -> None:
    model = small_stack(shape, MEMBERS)
    logits = model(TOKENS)
    for member in range(MEMBERS):
        expected = plain_member(model, member).double()(TOKENS[member])[0][:, -1]
        # float32 rounds by 6e-8; some hundred roundings of values up to the logits' size
        assert (logits[member] - expected).abs().max() < 1e-5 * expected.abs().max()


def test_worked_by_hand() -> None:
    """Attention sees nothing but averages; the residual stream (3, 1) becomes (1, -1) in the last LayerNorm."""
    model = GPT(ModelConfig(n_layer=2, d_model=2, d_head=3, d_ff=4, unembed_bias=True), members=1, vocab_size=3, seq_len=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        assert model.final_norm is not None
        model.final_norm.weight.fill_(2)
        model.token_embedding[0, 1] = torch.tensor([1.0, 1.0])
        model.position_embedding[0, 3] = torch.tensor([2.0, 0.0])
        model.unembedding.weight.copy_(torch.tensor([[[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]]]))
        model.unembedding.bias.copy_(torch.tensor([[0.0, 0.5, 0.0]]))
        tokens = torch.tensor([[[0, 2, 0, 1]]])
        logits, patterns = model(tokens), patterns_of(model, tokens)
    torch.testing.assert_close(logits, torch.tensor([[[2.0, 2.5, -6.0]]]), rtol=1e-4, atol=1e-4)  # LayerNorm's epsilon
    uniform = torch.tensor([[1, 0, 0, 0], [1 / 2, 1 / 2, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0], [1 / 4, 1 / 4, 1 / 4, 1 / 4]])
    for pattern in patterns:
        torch.testing.assert_close(pattern[0, 0, 0], uniform)


def outputs(model: GPT, tokens: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [model(tokens), *patterns_of(model, tokens)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e30])
@pytest.mark.parametrize("shape", SHAPES)
def test_members_never_mix(shape: str, value: float) -> None:
    model = small_stack(shape, MEMBERS)
    before = outputs(model, TOKENS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[1] = value
    after = outputs(model, TOKENS)
    assert not torch.equal(before[0][1], after[0][1])
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[[0, 2]], new[[0, 2]])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_member_reads_only_its_own_tokens(shape: str) -> None:
    model = small_stack(shape, MEMBERS)
    other = TOKENS.clone()
    other[1] = random_tokens(BATCH, SEQ_LEN, seed=1)
    before, after = outputs(model, TOKENS), outputs(model, other)
    assert not torch.equal(before[0][1], after[0][1])
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[[0, 2]], new[[0, 2]])


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"norm": "post", "query_norm_only": True}, "no LayerNorm before attention"),
        ({"n_head": 0}, "greater than or equal to 1"),
        ({"norm": "middle"}, "'pre' or 'post'"),
        ({"heads": 2}, "Extra inputs"),
    ],
)
def test_impossible_shapes_are_refused(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        ModelConfig.model_validate(fields)

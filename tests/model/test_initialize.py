"""The law of every initial weight: its size worked out by hand, its distribution, and what members share."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from torch import Tensor

from anchorbench.model.gpt import GPT, ModelConfig
from anchorbench.model.initialize import initialize
from anchorbench.model.initializers.rate import Rate
from anchorbench.seeds import stream_seed

STRICT = 1e-6
"""Level of each test of a distribution."""

# Powers of two, so that every size below is exact: 16^-.5 = 1/4, attention's own output fan-in 4 * 16 = 64, sqrt(2L) = 2.
SHAPE = ModelConfig(n_layer=2, n_head=4, d_model=16, d_head=16, d_ff=256, unembed_bias=True)
HALF = {"token": 1 / 4, "position": 1 / 4, "query": 1 / 4, "key": 1 / 4, "value": 1 / 4, "ff_in": 1 / 4, "unembedding": 1 / 4}
SIZES: list[tuple[dict[str, object], dict[str, float]]] = [
    ({"gamma": 0.5}, HALF | {"output": 1 / 16, "ff_out": 1 / 32}),
    ({"gamma": 0.5, "depth_scale": False}, HALF | {"output": 1 / 8, "ff_out": 1 / 16}),
    ({"gamma": 0.5, "fan": "d_model"}, HALF | {"output": 1 / 8, "ff_out": 1 / 8}),
    ({"gamma": 0.5, "fan": "d_model", "depth_scale": False}, HALF | {"output": 1 / 4, "ff_out": 1 / 4}),
    ({"gamma": 0.0}, dict.fromkeys(HALF, 1.0) | {"output": 1 / 2, "ff_out": 1 / 2}),
    (
        {"gamma": 9.0, "embedding": 0.25, "qk": 1.0, "vo": 0.5, "mlp": -0.5},
        {"token": 1 / 2, "position": 1 / 2, "unembedding": 1 / 2, "query": 1 / 16, "key": 1 / 16}
        | {"value": 1 / 4, "output": 1 / 16, "ff_in": 4.0, "ff_out": 8.0},
    ),
    ({"gamma": 0.5, "mlp": 0.0}, HALF | {"output": 1 / 16, "ff_in": 1.0, "ff_out": 1 / 2}),
]


def draw(inits: list[Rate.Config], seeds: list[int], shape: ModelConfig = SHAPE) -> list[dict[str, Tensor]]:
    """The initial weights of a stack's members. What `initialize` does not touch stays NaN, but for the norms."""
    model = GPT(shape, members=len(inits), vocab_size=120, seq_len=9)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.data.fill_(math.nan)
    initialize(model, inits, seeds)
    return [{name: weight[k].detach().clone() for name, weight in model.named_parameters()} for k in range(len(inits))]


def matrices(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.flatten() for name, weight in weights.items() if weight.ndim == 2}


@pytest.mark.parametrize(("fields", "sizes"), SIZES)
def test_every_matrix_is_normal_with_the_size_worked_by_hand(fields: dict[str, object], sizes: dict[str, float]) -> None:
    drawn = matrices(draw([Rate.Config.model_validate(fields)], [5])[0])
    assert len(drawn) == 3 + 6 * SHAPE.n_layer
    parts = set()
    for name, values in drawn.items():
        part = next(part for part in sizes if part in name.removeprefix("blocks.").split("_")[0] or f".{part}." in name)
        parts.add(part)
        standard = (values / sizes[part]).double().numpy()
        # the sum of n squares of standard normals is chi-square with n degrees of freedom
        squares = stats.chi2(len(standard)).cdf((standard**2).sum())
        assert STRICT < squares < 1 - STRICT, name
        assert stats.kstest(standard, "norm").pvalue > STRICT, name
    assert parts == set(sizes)


def test_biases_start_at_zero_and_norms_at_one() -> None:
    [weights] = draw([Rate.Config()], [0])
    vectors = {name: weight for name, weight in weights.items() if weight.ndim == 1}
    assert len(vectors) == 10 * SHAPE.n_layer + 2 + 1
    for name, vector in vectors.items():
        assert vector.eq(1.0 if "norm" in name and name.endswith("weight") else 0.0).all(), name


def test_uniform_unembedding_bias() -> None:
    bias = torch.cat([draw([Rate.Config(unembed_bias="uniform")], [seed])[0]["unembedding.bias"] for seed in range(20)])
    assert stats.kstest(bias.numpy(), stats.uniform(-1 / 4, 1 / 2).cdf).pvalue > STRICT
    assert bias.abs().max() <= 1 / 4
    [without] = draw([Rate.Config(unembed_bias="uniform")], [0], SHAPE.model_copy(update={"unembed_bias": False}))
    assert "unembedding.bias" not in without


def test_equal_seeds_share_draws_scaled_by_their_rates() -> None:
    """With powers of two as sizes, scaling is exact."""
    half, one = (matrices(weights) for weights in draw([Rate.Config(gamma=0.5), Rate.Config(gamma=1.0)], [3, 3]))
    for name, values in half.items():
        fan_in = 256 if "ff_out" in name else 64 if ".output." in name else 16
        assert torch.equal(values, one[name] * fan_in**0.5), name


def test_a_rate_of_one_part_changes_that_part_only() -> None:
    parts = {"embedding": ("embedding", "unembedding"), "qk": ("query", "key"), "vo": ("value", "output"), "mlp": ("ff_",)}
    inits = [Rate.Config(), *(Rate.Config.model_validate({part: 0.9}) for part in parts)]
    base, *changed = (matrices(weights) for weights in draw(inits, [1] * 5))
    for names, weights in zip(parts.values(), changed, strict=True):
        for name, values in weights.items():
            assert torch.equal(values, base[name]) == (not any(part in name for part in names)), name


@pytest.mark.parametrize("seed", [0, 4])
def test_a_member_does_not_depend_on_its_stack(seed: int) -> None:
    init = Rate.Config(gamma=0.6, unembed_bias="uniform")
    [alone] = draw([init], [seed])
    stacked = draw([Rate.Config(), init, Rate.Config(gamma=0.9)], [seed, seed, seed + 1])[1]
    assert alone.keys() == stacked.keys()
    assert all(torch.equal(alone[name], stacked[name]) for name in alone)


def test_the_norms_place_does_not_change_the_draws() -> None:
    [pre] = draw([Rate.Config()], [2])
    [post] = draw([Rate.Config()], [2], SHAPE.model_copy(update={"norm": "post"}))
    shared = matrices(post)
    assert shared.keys() == matrices(pre).keys()
    assert all(torch.equal(matrices(pre)[name], values) for name, values in shared.items())


def test_no_two_matrices_of_adjacent_seeds_are_correlated() -> None:
    """Matrices of one size, of two members with adjacent seeds: every pair of them."""
    same_size = [
        values
        for weights in draw([Rate.Config(), Rate.Config()], [7, 8])
        for values in matrices(weights).values()
        if len(values) == 16 * 64
    ]
    assert len(same_size) == 16
    for i, first in enumerate(same_size):
        for second in same_size[:i]:
            assert stats.pearsonr(first.numpy(), second.numpy()).pvalue > STRICT


@given(st.integers(0, 2**31 - 2), st.sampled_from(["weights", "order", "evaluation"]))
def test_stream_seeds_are_63_bits_and_differ(seed: int, stream: str) -> None:
    value = stream_seed(seed, stream)
    assert 0 <= value < 2**63
    assert value == stream_seed(seed, stream)
    assert len({value, stream_seed(seed + 1, stream), stream_seed(seed, stream + "s")}) == 3


@pytest.mark.parametrize(
    "fields",
    [{"gamma": math.nan}, {"gamma": math.inf}, {"gamma": -11.0}, {"qk": math.nan}, {"mlp": -math.inf}, {"fan": "output"}],
)
def test_impossible_rates_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"finite number|greater than or equal to -10|'own' or 'd_model'"):
        Rate.Config.model_validate(fields)

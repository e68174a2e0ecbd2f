"""Initialization by rate: every weight matrix is drawn from N(0, d_in^(-2 gamma)); larger gamma means smaller weights.

gamma is the initialization RATE of 2405.05409 (section 4): about 0.5 is the common default. In 2605.04396 gamma is a multiplier
instead (N(0, gamma^2/d_in)); convert with gamma_rate = 0.5 - ln(gamma_multiplier) / ln(d_in).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from anchorbench.files import Plain
from anchorbench.model.gpt import GPT, Linear


class Init(Plain):
    """How weights are drawn: a rate, for all parts or by part, and the two conventions in which the papers differ."""

    gamma: float = Field(default=0.5, ge=-10, le=100)
    embedding: float | None = Field(default=None, ge=-10, le=100)
    """Rate of token, position and output embeddings; gamma if not given, as for the other parts."""
    qk: float | None = Field(default=None, ge=-10, le=100)
    vo: float | None = Field(default=None, ge=-10, le=100)
    mlp: float | None = Field(default=None, ge=-10, le=100)
    fan: Literal["own", "d_model"] = "own"
    """Base of the power: each matrix's own input width (2405.05409), or d_model for all (2501.08537)."""
    depth_scale: bool = True
    """Whether attention output and second feed-forward matrix are divided by sqrt(2 n_layer) (2501.08537)."""
    unembed_bias: Literal["zero", "uniform"] = "zero"
    """`uniform`: within 1/sqrt(d_model) of zero, PyTorch's default, which 2405.05409 leaves in place."""


def initialize(model: GPT, inits: list[Init], seeds: list[int]) -> None:
    """Draws the weights of every member in place. Members with equal seeds get the same draws, scaled by their own rates."""
    with torch.no_grad():
        for member, (init, seed) in enumerate(zip(inits, seeds, strict=True)):
            _Draw(model, member, init, torch.Generator().manual_seed(stream_seed(seed, "weights"))).all()


@dataclass(frozen=True)
class _Draw:
    """The draws of one member, in a fixed order."""

    model: GPT
    member: int
    init: Init
    generator: torch.Generator

    def all(self) -> None:
        init, shape = self.init, self.model.shape
        self.matrix(self.model.token_embedding, shape.d_model, init.embedding)
        self.matrix(self.model.position_embedding, shape.d_model, init.embedding)
        for block in self.model.layers:
            self.linear(block.query, init.qk)
            self.linear(block.key, init.qk)
            self.linear(block.value, init.vo)
            self.linear(block.output, init.vo, residual=True)
            self.linear(block.ff_in, init.mlp)
            self.linear(block.ff_out, init.mlp, residual=True)
        self.linear(self.model.unembedding, init.embedding)
        if init.unembed_bias == "uniform" and self.model.unembedding.bias is not None:
            row = self.model.unembedding.bias[self.member]
            row.copy_((torch.rand(row.shape, generator=self.generator) * 2 - 1) / math.sqrt(shape.d_model))

    def linear(self, linear: Linear, rate: float | None, *, residual: bool = False) -> None:
        self.matrix(linear.weight, linear.weight.shape[1], rate, residual=residual)
        if linear.bias is not None:
            linear.bias[self.member].zero_()

    def matrix(self, weight: torch.Tensor, d_in: int, rate: float | None, *, residual: bool = False) -> None:
        """Fills the member's row of `weight [members, ...]`; `residual`: it writes into the residual stream."""
        base = d_in if self.init.fan == "own" else self.model.shape.d_model
        std = base ** -(self.init.gamma if rate is None else rate)
        if residual and self.init.depth_scale:
            std /= math.sqrt(2 * self.model.shape.n_layer)
        row = weight[self.member]
        row.copy_(torch.randn(row.shape, generator=self.generator) * std)


def stream_seed(seed: int, stream: str) -> int:
    """A 63-bit seed for one use of a run's seed: streams and adjacent seeds are independent."""
    entropy = np.random.SeedSequence([seed, int.from_bytes(stream.encode(), "big")])
    return int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))

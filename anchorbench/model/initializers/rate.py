"""Initialization by rate: every weight matrix is drawn from N(0, d_in^(-2 gamma)); larger gamma means smaller weights.

gamma is the initialization RATE of 2405.05409 (section 4): common defaults correspond to about 0.5. In 2605.04396 gamma is a
multiplier instead (N(0, gamma^2/d_in)); convert with gamma_rate = 0.5 - ln(gamma_multiplier) / ln(d_in).
"""

import math
from typing import Literal

import torch
from pydantic import Field

from anchorbench.model.gpt import GPT
from anchorbench.parts import InitConfig, initializers


@initializers.register
class Rate:
    """Weights with standard deviation d_in^-gamma; biases are zero."""

    class Config(InitConfig):
        kind: Literal["rate"] = "rate"
        embedding: float | None = Field(default=None, ge=-10, le=100)
        """Rate of token, position and output embeddings; gamma if not given, as for the other parts."""
        qk: float | None = Field(default=None, ge=-10, le=100)
        """Rate of the query and key matrices; gamma if not given."""
        vo: float | None = Field(default=None, ge=-10, le=100)
        """Rate of the value and output matrices; gamma if not given."""
        mlp: float | None = Field(default=None, ge=-10, le=100)
        """Rate of the feed-forward matrices; gamma if not given."""
        fan: Literal["own", "d_model"] = "own"
        """Base of the power: each matrix's own input width (2405.05409), or d_model for all (2501.08537)."""
        depth_scale: bool = True
        """Whether attention output and second feed-forward matrix are divided by sqrt(2 n_layer) (2501.08537)."""
        unembed_bias: Literal["zero", "uniform"] = "zero"
        """`uniform`: within 1/sqrt(d_model) of zero, PyTorch's default, which 2405.05409 keeps."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def draw(self, model: GPT, member: int, generator: torch.Generator) -> None:
        """Fills the member's row of every parameter, in the order of the model's parameters."""
        config, shape = self.config, model.shape
        rates = {"embedding": config.embedding, "qk": config.qk, "vo": config.vo, "mlp": config.mlp}
        for (name, parameter), role in zip(model.named_parameters(), model.roles().values(), strict=True):
            row = parameter[member]
            if role.what == "matrix":
                rate = rates[role.part]
                base = role.fan_in if config.fan == "own" else shape.d_model
                std = base ** -(config.gamma if rate is None else rate)
                if role.residual and config.depth_scale:
                    std /= math.sqrt(2 * shape.n_layer)
                row.copy_(torch.randn(row.shape, generator=generator) * std)
            elif name == "unembedding.bias" and config.unembed_bias == "uniform":
                row.copy_((torch.rand(row.shape, generator=generator) * 2 - 1) / math.sqrt(shape.d_model))
            elif role.what == "bias" and role.part != "norm":
                row.zero_()

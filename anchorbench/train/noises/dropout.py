"""Dropout (Srivastava et al., JMLR 2014), inverted: kept activations are scaled up, so evaluation needs no change.

A rate is the share that is dropped: q = 1 - p, where p is the keep probability of 2207.05952. By default it acts where that paper's
transformer has it (appendix A, rate 0.1): on the embedded tokens and on the output of every sublayer. The paper's theory is about
one dropout layer before a linear output, which is `final`.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from anchorbench.model.gpt import Site
from anchorbench.parts import Config, noises
from anchorbench.train.seams import Noise


@noises.register
class Dropout(Noise):
    """Sets activations to zero at random, at the rate of their site, and divides the others by 1 - rate."""

    class Config(Config):
        kind: Literal["dropout"] = "dropout"
        embedding: float = Field(default=0.1, ge=0, lt=1)
        """Rate on the sum of token and position embeddings."""
        attention: float = Field(default=0.0, ge=0, lt=1)
        """Rate on the attention pattern, after the softmax."""
        residual: float = Field(default=0.1, ge=0, lt=1)
        """Rate on the outputs of attention and feed-forward layer, before they are added to the residual stream."""
        mlp: float = Field(default=0.0, ge=0, lt=1)
        """Rate on the hidden units of the feed-forward layer, after the activation."""
        final: float = Field(default=0.0, ge=0, lt=1)
        """Rate on the input of the unembedding."""

    def __call__(self, site: Site, x: Tensor) -> Tensor:
        """See `Noise`."""
        rates = [float(getattr(config, site)) for config in self.configs]
        if not any(rates):
            return x
        size = x.shape[1:]
        kept = [  # a member without dropout here draws nothing, just as when trained alone
            torch.rand(size, generator=generator, device=x.device) >= rate if rate else x.new_ones(size, dtype=torch.bool)
            for rate, generator in zip(rates, self.generators, strict=True)
        ]
        factors = torch.tensor([1 / (1 - rate) for rate in rates], dtype=x.dtype, device=x.device)
        return x * torch.stack(kept) * factors.view(-1, *[1] * len(size))

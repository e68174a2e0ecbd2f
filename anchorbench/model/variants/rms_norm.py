"""RMSNorm (1910.07467) in place of LayerNorm."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anchorbench.model.gpt import EPSILON, GPT, Block, ModelConfig
from anchorbench.parts import models


class RMSNorm(nn.Module):
    """Rows divided by their root mean square, with a gain per member `[members, d]` and no bias."""

    def __init__(self, members: int, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, d))

    def forward(self, x: Float[Tensor, "members rows d"]) -> Float[Tensor, "members rows d"]:
        """The normalized rows."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * self.weight[:, None]


class RMSBlock(Block):
    """A block whose norms are RMSNorm."""

    make_norm = RMSNorm


@models.register
class RMSGPT(GPT):
    """The GPT with RMSNorm."""

    class Config(ModelConfig):
        kind: Literal["rms-norm"] = "rms-norm"  # pyright: ignore[reportIncompatibleVariableOverride]

    block = RMSBlock

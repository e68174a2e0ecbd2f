"""Squared ReLU (2109.08668)."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from anchorbench.model.gpt import GPT, Block, ModelConfig
from anchorbench.parts import models


class SquaredReLUBlock(Block):
    """A block whose activation is the square of ReLU, regardless of `activation`."""

    def activation(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


@models.register
class SquaredReLUGPT(GPT):
    """The GPT with squared ReLU."""

    class Config(ModelConfig):
        kind: Literal["squared-relu"] = "squared-relu"  # pyright: ignore[reportIncompatibleVariableOverride]

    block = SquaredReLUBlock

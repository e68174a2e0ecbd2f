"""Lion (2302.06675), algorithm 2.

Its authors recommend a rate 3 to 10 times lower than AdamW's, and a weight decay higher by the same factor (section 5).
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from anchorbench.parts import OptimizerConfig, optimizers
from anchorbench.train.seams import Layout, Optimizer


@optimizers.register
class Lion(Optimizer):
    """The sign of a mix of the gradient and its moving average, so every weight moves by the learning rate (2302.06675)."""

    class Config(OptimizerConfig):
        kind: Literal["lion"] = "lion"
        beta1: float = Field(default=0.9, ge=0, lt=1)
        """Share of the moving average in that mix; the rest is the gradient."""
        beta2: float = Field(default=0.99, ge=0, lt=1)
        """Decay rate of the moving average."""

    def __init__(self, configs: Sequence[Any], layout: Layout, like: Tensor) -> None:
        super().__init__(configs, layout, like)
        self.state = {"mean": like.new_zeros(like.shape)}

    def step(self, into: Tensor, gradient: Tensor, weights: Tensor, rate: Tensor, t: int) -> None:
        """See `Optimizer`."""
        beta1, beta2, mean = self.column("beta1"), self.column("beta2"), self.state["mean"]
        into.addcmul_((beta1 * mean + (1 - beta1) * gradient).sign_(), -rate.to(into))
        mean.mul_(beta2).addcmul_(gradient, 1 - beta2)

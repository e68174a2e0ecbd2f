"""Stochastic gradient descent with momentum: Polyak's, or Nesterov's as in Sutskever et al. (ICML 2013)."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from anchorbench.parts import OptimizerConfig, optimizers
from anchorbench.train.seams import Layout, Optimizer


@optimizers.register
class SGD(Optimizer):
    """Each step is the sum of past gradients, weighted by powers of `momentum`; 0 gives plain gradient descent."""

    class Config(OptimizerConfig):
        kind: Literal["sgd"] = "sgd"
        structural: ClassVar[tuple[str, ...]] = ("nesterov",)
        momentum: float = Field(default=0.9, ge=0, lt=1)
        """Decay rate of the sum."""
        nesterov: bool = False
        """Nesterov momentum: the step is the gradient plus `momentum` times the new sum."""

    def __init__(self, configs: Sequence[Any], layout: Layout, like: Tensor) -> None:
        super().__init__(configs, layout, like)
        self.state = {"velocity": like.new_zeros(like.shape)}

    def step(self, into: Tensor, gradient: Tensor, weights: Tensor, rate: Tensor, t: int) -> None:
        momentum = self.column("momentum")
        velocity = self.state["velocity"].mul_(momentum).add_(gradient)
        into.addcmul_(gradient + momentum * velocity if self.configs[0].nesterov else velocity, -rate.to(into))

"""Sign descent with momentum: Signum (1802.04434)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from anchorbench.parts import OptimizerConfig, optimizers
from anchorbench.train.seams import Layout, Optimizer


@optimizers.register
class Signum(Optimizer):
    """Each step is the sign of the momentum: every weight moves by the learning rate."""

    class Config(OptimizerConfig):
        kind: Literal["signum"] = "signum"
        momentum: float = Field(default=0.9, ge=0, lt=1)
        """Decay rate of the momentum; 0 gives plain sign descent."""

    def __init__(self, configs: Sequence[Any], layout: Layout, like: Tensor) -> None:
        super().__init__(configs, layout, like)
        self.state = {"mean": torch.zeros_like(like)}

    def step(self, into: Tensor, gradient: Tensor, weights: Tensor, rate: Tensor, t: int) -> None:
        momentum = self.column("momentum")
        mean = self.state["mean"].mul_(momentum).addcmul_(gradient, 1 - momentum)
        into.addcmul_(mean.sign(), -rate.to(into.dtype))

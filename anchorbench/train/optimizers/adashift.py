"""AdaShift (1810.00143): the second moment excludes the gradients that the step itself averages.

A step is the mean of the last n gradients divided by the root of the mean squared gradient before them, so that the two are
independent. As in the authors' code, gradients are squared first and then reduced over a tensor, a weight does not move while its
second moment is zero (including the first n steps), and the bias correction counts from the first nonzero one.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from anchorbench.parts import OptimizerConfig, optimizers
from anchorbench.train.seams import Layout, Optimizer


@optimizers.register
class AdaShift(Optimizer):
    """Adam with a second moment that excludes the latest gradients and is one number per tensor (1810.00143)."""

    class Config(OptimizerConfig):
        kind: Literal["adashift"] = "adashift"
        structural: ClassVar[tuple[str, ...]] = ("window", "phi")
        window: int = Field(default=10, ge=1, le=1000)
        """Number of gradients that the mean is over, and that the second moment lags behind (n in the paper); all are stored."""
        phi: Literal["max", "mean", "identity"] = "max"
        """How a tensor's squared gradients are reduced to its second moment; `identity` gives each weight its own, as in Adam."""
        beta1: float = Field(default=0.9, ge=0, le=1)
        """Weight of a gradient in the mean, relative to the next one; 1 gives the plain mean."""
        beta2: float = Field(default=0.999, ge=0, lt=1)
        """Decay rate of the second moment."""
        eps: float = Field(default=1e-10, gt=0, le=1)
        """Added to the denominator."""

    def __init__(self, configs: Sequence[Any], layout: Layout, like: Tensor) -> None:
        super().__init__(configs, layout, like)
        window = like.new_zeros(len(like), configs[0].window, like.shape[1])
        second = self._reduced(like.new_zeros(like.shape))
        self.state = {"window": window, "second": second, "counted": torch.zeros_like(second)}

    def _reduced(self, gradient: Tensor) -> Tensor:
        """The squared gradient reduced by phi, `[members, size]` or `[members, parameters]`."""
        if self.configs[0].phi == "identity":
            return gradient.square()
        return (self.layout.largest if self.configs[0].phi == "max" else self.layout.rms)(gradient).square()

    def step(self, into: Tensor, gradient: Tensor, weights: Tensor, rate: Tensor, t: int) -> None:
        """See `Optimizer`."""
        beta1, beta2 = self.column("beta1"), self.column("beta2")
        window, second, counted = self.state["window"], self.state["second"], self.state["counted"]
        n = window.shape[1]
        now = (t - 1) % n  # holds the gradient of n steps ago, to be overwritten
        second.mul_(beta2).addcmul_(self._reduced(window[:, now]), 1 - beta2)
        counted.mul_(beta2).addcmul_((second > 0).to(second), 1 - beta2)  # 1 - beta2^k after k gradients
        window[:, now] = gradient
        mean, total = torch.zeros_like(into), torch.zeros_like(beta1)
        for age in range(n):
            mean.addcmul_(window[:, (now - age) % n], beta1**age)
            total += beta1**age
        factors = torch.where(second == 0, 0.0, 1 / ((second / counted).sqrt() + self.column("eps"))) / total
        mean = mean.mul_(factors) if self.configs[0].phi == "identity" else self.layout.scale(mean, factors)
        into.addcmul_(mean, -rate.to(into))

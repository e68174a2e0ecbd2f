"""SGD normalized per tensor: normalized SGD with momentum (2002.03305, algorithm 1), applied to each parameter separately.

The control for AdaShift with `max` or `mean`, which is SGD with one adaptive rate per tensor: here that rate depends only on the
current step, and nothing else adapts. A tensor whose gradient is rounding noise, such as a key bias, which softmax ignores, moves
as far as the others unless `eps` is above the noise.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from anchorbench.parts import OptimizerConfig, optimizers
from anchorbench.train.seams import Layout, Optimizer


@optimizers.register
class NormalizedSGD(Optimizer):
    """Each tensor's step is its momentum divided by the size of that momentum (2002.03305, algorithm 1)."""

    class Config(OptimizerConfig):
        kind: Literal["normalized-sgd"] = "normalized-sgd"
        structural: ClassVar[tuple[str, ...]] = ("by",)
        momentum: float = Field(default=0.9, ge=0, lt=1)
        """Decay rate of the momentum; 0 uses the gradient itself."""
        by: Literal["rms", "max", "norm"] = "rms"
        """The size that is normalized to 1: a tensor's root mean square, its largest entry, or its norm, as in the paper."""
        eps: float = Field(default=1e-8, gt=0, le=1)
        """Added to the size in the denominator."""

    def __init__(self, configs: Sequence[Any], layout: Layout, like: Tensor) -> None:
        super().__init__(configs, layout, like)
        self.state = {"mean": like.new_zeros(like.shape)}

    def step(self, into: Tensor, gradient: Tensor, weights: Tensor, rate: Tensor, t: int) -> None:
        """See `Optimizer`."""
        momentum = self.column("momentum")
        mean = self.state["mean"].mul_(momentum).addcmul_(gradient, 1 - momentum)
        sizes = {"rms": self.layout.rms, "max": self.layout.largest, "norm": self.layout.norms}[self.configs[0].by](mean)
        into.addcmul_(self.layout.scale(mean.clone(), 1 / (sizes + self.column("eps"))), -rate.to(into))

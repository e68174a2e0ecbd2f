"""SVRG: stochastic variance-reduced gradients (Johnson and Zhang, NeurIPS 2013), and alpha-SVRG (2311.05589)."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from anchorbench.parts import Config, estimators
from anchorbench.train.seams import Estimator, Layout, Oracle


@estimators.register
class SVRG(Estimator):
    """g(w) - alpha * (g(old) - mean gradient at old), where g is the gradient on the step's batch and old a snapshot of w."""

    class Config(Config):
        kind: Literal["svrg"] = "svrg"
        structural: ClassVar[tuple[str, ...]] = ("every", "batches")
        every: int = Field(default=100, ge=1, le=1_000_000)
        """Steps between snapshots."""
        batches: int = Field(default=16, ge=1, le=1_000_000)
        """Batches that the mean gradient is over; they are drawn anew each time, separately from the training batches."""
        alpha: float = Field(default=1.0, ge=0, le=1)
        """Coefficient of the correction: 1 gives SVRG, 0 the plain gradient."""

    def __init__(self, configs: Sequence[Any], layout: Layout, like: Tensor) -> None:
        super().__init__(configs, layout, like)
        self.state = {"old": like.new_zeros(like.shape), "mean": like.new_zeros(like.shape)}

    @classmethod
    def passes_of(cls, config: Any) -> float:
        """Two per step, plus those for the mean gradient."""
        return 2 + config.batches / config.every

    def __call__(self, oracle: Oracle, weights: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """See `Estimator`."""
        old, mean = self.state["old"], self.state["mean"]
        every, batches = self.configs[0].every, self.configs[0].batches
        if (t - 1) % every == 0:
            old.copy_(weights)
            mean.zero_()
            for number in range(batches):
                _, gradient = oracle(-1 - (t - 1) // every * batches - number, at=old)
                mean.add_(gradient, alpha=1 / batches)
        _, before = oracle(t, at=old)
        correction = (mean - before).mul_(self.column("alpha"))
        losses, gradient = oracle(t)
        return losses, gradient.add_(correction)

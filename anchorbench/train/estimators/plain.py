"""The gradient of one batch."""

from typing import Literal

from torch import Tensor

from anchorbench.parts import Config, estimators
from anchorbench.train.seams import Estimator, Oracle


@estimators.register
class Plain(Estimator):
    """The gradient of the step's batch."""

    class Config(Config):
        kind: Literal["plain"] = "plain"

    def __call__(self, oracle: Oracle, weights: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """See `Estimator`."""
        return oracle(t)

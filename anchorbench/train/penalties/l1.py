"""The sum of absolute weights (the lasso; Tibshirani 1996)."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from anchorbench.parts import Config, penalties
from anchorbench.train.seams import Penalty


@penalties.register
class L1(Penalty):
    """`strength` times the sum of absolute weights, which drives many weights to zero."""

    class Config(Config):
        kind: Literal["l1"] = "l1"
        strength: float = Field(default=1e-4, ge=0, le=1000)
        """Factor of the sum."""

    def add(self, gradient: Tensor, weights: Tensor) -> None:
        """See `Penalty`."""
        gradient.addcmul_(weights.sign(), self.column("strength"))

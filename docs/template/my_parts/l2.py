"""The sum of squared weights (ridge regression; Hoerl and Kennard 1970)."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from anchorbench.parts import Config, penalties
from anchorbench.train.seams import Penalty


@penalties.register
class L2(Penalty):
    """`strength` times the sum of squared weights. Unlike coupled decay, it is clipped with the gradient."""

    class Config(Config):
        kind: Literal["l2"] = "l2"
        strength: float = Field(default=1e-4, ge=0, le=1000)
        """Factor of the sum."""

    def add(self, gradient: Tensor, weights: Tensor) -> None:
        """See `Penalty`."""
        gradient.addcmul_(weights, 2 * self.column("strength"))

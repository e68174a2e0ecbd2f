"""No clipping."""

from typing import Literal

from torch import Tensor

from anchorbench.parts import Config, clips
from anchorbench.train.seams import Clip


@clips.register
class Unclipped(Clip):
    """Leaves gradients unchanged."""

    class Config(Config):
        kind: Literal["none"] = "none"

    def __call__(self, gradient: Tensor, weights: Tensor, rate: Tensor, shrinkage: Tensor) -> None:
        """See `Clip`."""

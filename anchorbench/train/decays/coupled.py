"""L2 regularization."""

from typing import Literal

from anchorbench.parts import Config, decays
from anchorbench.train.seams import Decay


@decays.register
class Coupled(Decay):
    """gradient += weight_decay * w after clipping, as in Adam with L2 regularization."""

    class Config(Config):
        kind: Literal["coupled"] = "coupled"

    def amounts(self, strength: float, rate: float) -> tuple[float, float]:
        """See `Decay`."""
        return strength, 0.0

"""Decay independent of the learning rate: one reading of 2605.04396."""

from typing import Literal

from anchorbench.parts import Config, decays
from anchorbench.train.seams import Decay


@decays.register
class Unscaled(Decay):
    """w -= weight_decay * w."""

    class Config(Config):
        kind: Literal["unscaled"] = "unscaled"

    def amounts(self, strength: float, rate: float) -> tuple[float, float]:
        """See `Decay`."""
        return 0.0, strength

"""The decay of AdamW (1711.05101)."""

from typing import Literal

from anchorbench.parts import Config, decays
from anchorbench.train.seams import Decay


@decays.register
class Scaled(Decay):
    """w -= lr * weight_decay * w."""

    class Config(Config):
        kind: Literal["scaled"] = "scaled"

    def amounts(self, strength: float, rate: float) -> tuple[float, float]:
        """See `Decay`."""
        return 0.0, strength * rate

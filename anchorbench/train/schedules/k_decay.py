"""k-decay (2004.05909): the time in a schedule, t/T, is raised to the power k.

For k above 1 the rate stays high for longer and falls faster at the end, so the mean rate grows with k: `matched` is the control.
Our exponential is shifted and scaled to reach `end`, as the others do.
"""

import math
from typing import Literal

from pydantic import Field

from anchorbench.parts import Config, schedules
from anchorbench.train.seams import Schedule


@schedules.register
class KDecay(Schedule):
    """Falls to `end` along a polynomial, half a cosine wave or an exponential, slowly at first for k above 1 (2004.05909)."""

    class Config(Config):
        kind: Literal["k-decay"] = "k-decay"
        base: Literal["polynomial", "cosine", "exponential"] = "polynomial"
        """The schedule for k = 1."""
        k: float = Field(default=1.5, gt=0, le=100)
        """Power of the time; 1 gives the base schedule."""
        power: float = Field(default=1.0, gt=0, le=100)
        """Degree of the polynomial (N in the paper); 1 is linear."""
        speed: float = Field(default=5.0, gt=0, le=100)
        """Speed of the exponential: without the shift, it would fall to exp(-speed)."""

    def factor(self, step: int, steps: int, end: float) -> float:
        """See `Schedule`."""
        time, speed = (step / max(1, steps)) ** self.config.k, self.config.speed
        left = {
            "polynomial": (1 - time) ** self.config.power,
            "cosine": (1 + math.cos(math.pi * time)) / 2,
            "exponential": (math.exp(-speed * time) - math.exp(-speed)) / (1 - math.exp(-speed)),
        }[self.config.base]
        return end + (1 - end) * left

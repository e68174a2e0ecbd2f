"""Warm restarts: SGDR (1608.03983), section 3."""

import math
from typing import Literal

from pydantic import Field

from anchorbench.parts import MAX_STEPS, Config, schedules
from anchorbench.train.seams import Schedule


@schedules.register
class Restarts(Schedule):
    """Falls along half a cosine wave to `end` in each period, then restarts at the peak."""

    class Config(Config):
        kind: Literal["restarts"] = "restarts"
        period: int = Field(default=500, ge=1, le=MAX_STEPS)
        """Steps of the first period (T_0 in the paper)."""
        growth: float = Field(default=1.0, ge=1, le=100)
        """Each period is this many times as long as the one before (T_mult)."""

    def factor(self, step: int, steps: int, end: float) -> float:
        """See `Schedule`."""
        within, period = float(step), float(self.config.period)
        while within > period:
            within -= period
            period *= self.config.growth
        return end + (1 - end) * ((1 + math.cos(math.pi * within / period)) / 2)

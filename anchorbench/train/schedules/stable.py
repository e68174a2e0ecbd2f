"""Warm-up, stable, decay: the WSD schedule of MiniCPM (2404.06395), section 4."""

from typing import Literal

from pydantic import Field

from anchorbench.parts import Config, schedules
from anchorbench.train.seams import Schedule


@schedules.register
class Stable(Schedule):
    """Stays at the peak, then falls linearly to `end` in the last part of training."""

    class Config(Config):
        kind: Literal["stable"] = "stable"
        decay: float = Field(default=0.1, gt=0, le=1)
        """Share of the steps during which the rate falls."""

    def factor(self, step: int, steps: int, end: float) -> float:
        """See `Schedule`."""
        left = (steps - step) / max(1.0, self.config.decay * steps)
        return end + (1 - end) * min(1.0, left)

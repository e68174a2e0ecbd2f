"""A single triangle (1506.01186)."""

from typing import Literal

from pydantic import Field

from anchorbench.parts import Config, schedules
from anchorbench.train.seams import Schedule


@schedules.register
class Triangle(Schedule):
    """Rises linearly from `end` to the peak, then falls linearly to `end`."""

    class Config(Config):
        kind: Literal["triangle"] = "triangle"
        top: float = Field(default=0.5, gt=0, lt=1)
        """Share of the steps before the peak."""

    def factor(self, step: int, steps: int, end: float) -> float:
        """See `Schedule`."""
        done = step / max(1, steps)
        return end + (1 - end) * min(done / self.config.top, (1 - done) / (1 - self.config.top))

"""Linear decay."""

from typing import Literal

from anchorbench.parts import Config, schedules
from anchorbench.train.seams import Schedule


@schedules.register
class Linear(Schedule):
    """Falls linearly to `end`."""

    class Config(Config):
        kind: Literal["linear"] = "linear"

    def factor(self, step: int, steps: int, end: float) -> float:
        """See `Schedule`."""
        return end + (1 - end) * (1 - step / max(1, steps))

"""A constant learning rate."""

from typing import Literal

from anchorbench.parts import Config, schedules
from anchorbench.train.seams import Schedule


@schedules.register
class Constant(Schedule):
    """Stays at the peak; ignores `end`."""

    class Config(Config):
        kind: Literal["constant"] = "constant"

    def factor(self, step: int, steps: int, end: float) -> float:
        """See `Schedule`."""
        return end + (1 - end) * 1.0

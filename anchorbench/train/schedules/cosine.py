"""Half a cosine wave: the decay of SGDR (1608.03983) without restarts."""

import math
from typing import Literal

from anchorbench.parts import Config, schedules
from anchorbench.train.seams import Schedule


@schedules.register
class Cosine(Schedule):
    """Falls along half a cosine wave to `end`."""

    class Config(Config):
        kind: Literal["cosine"] = "cosine"

    def factor(self, step: int, steps: int, end: float) -> float:
        """See `Schedule`."""
        return end + (1 - end) * ((1 + math.cos(math.pi * (step / max(1, steps)))) / 2)

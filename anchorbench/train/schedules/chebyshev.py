"""Chebyshev steps in fractal order (2103.01338, section 3; their code is in appendix A).

On a quadratic with curvatures between m and M, T steps of plain gradient descent converge fastest if their rates are the inverse
nodes of a Chebyshev polynomial: most exceed 2/M, where single steps diverge, but in fractal order the whole cycle is stable. Here
`lr` stands for 1/M, and rates reach nearly kappa = M/m times it. Made for `sgd` without momentum; clipping undoes the long steps.
Controls: other orders of the same rates, and `matched` for a constant rate with the same mean.
"""

import math
from functools import cache
from typing import Literal

from pydantic import Field, field_validator

from anchorbench.parts import Config, schedules
from anchorbench.train.seams import Schedule


@cache
def fractal_order(count: int) -> tuple[int, ...]:
    """The permutation of 1..`count`, a power of 2: that of half as many numbers, each followed by its mirror image."""
    return (1,) if count == 1 else tuple(n for half in fractal_order(count // 2) for n in (half, count + 1 - half))


@schedules.register
class Chebyshev(Schedule):
    """Cycles of Chebyshev steps in fractal order, from `lr` up to kappa times `lr` (2103.01338); ignores `end`."""

    class Config(Config):
        kind: Literal["chebyshev"] = "chebyshev"
        cycle: int = Field(default=8, ge=1, le=4096)
        """Steps per cycle (T in the paper), a power of 2."""
        kappa: float = Field(default=10.0, ge=1, le=1e6)
        """Ratio of largest to smallest curvature (M/m); 1 gives a constant rate."""
        order: Literal["fractal", "falling", "rising"] = "fractal"
        """Order of the rates in a cycle; the sorted orders are controls."""

        @field_validator("cycle")
        @classmethod
        def _halves(cls, cycle: int) -> int:
            if cycle & (cycle - 1):
                raise ValueError(f"is {cycle}; allowed: a power of 2")
            return cycle

    def factor(self, step: int, steps: int, end: float) -> float:
        """See `Schedule`."""
        c = self.config
        place = (step - 1) % c.cycle
        node = {"fractal": fractal_order(c.cycle)[place], "falling": place + 1, "rising": c.cycle - place}[c.order]
        curvature = (1 + 1 / c.kappa) / 2 - (1 - 1 / c.kappa) / 2 * math.cos((node - 0.5) * math.pi / c.cycle)
        return 1 / curvature

"""Controls of equal area: does a schedule help by its shape, or by its mean rate?

The sum of rates is roughly how far training goes. Any claim about a schedule should hold against a constant and a linear one with
the same sum of rates after warm-up.
"""

from functools import cached_property, lru_cache
from typing import Annotated, Literal

from pydantic import Field

from anchorbench.parts import Config, Part, schedules
from anchorbench.train.seams import Schedule

_SHAPE, _OF = Part(schedules, "constant"), Part(schedules, "k-decay")


@schedules.register
class Matched(Schedule):
    """One schedule, scaled to the area of another, so its peak is no longer `lr`."""

    class Config(Config):
        kind: Literal["matched"] = "matched"
        shape: Annotated[Config, _SHAPE] = Field(default_factory=_SHAPE.default)
        """The schedule to scale, such as `constant` or `linear`."""
        of: Annotated[Config, _OF] = Field(default_factory=_OF.default)
        """The schedule whose area it is scaled to."""

        @cached_property
        def _hash(self) -> int:
            return hash(self.model_dump_json())

        def __hash__(self) -> int:
            """Hash of its text, as parts may hold lists, which have no hash."""
            return self._hash

    def factor(self, step: int, steps: int, end: float) -> float:
        """See `Schedule`."""
        return _scale(self.config, steps, end) * _factor(self.config.shape, step, steps, end)


def _factor(config: Config, step: int, steps: int, end: float) -> float:
    return schedules[config.kind](config).factor(step, steps, end)


@lru_cache(maxsize=1024)
def _scale(config: Matched.Config, steps: int, end: float) -> float:
    """The factor by which the shape is scaled."""
    area, given = (sum(_factor(part, step, steps, end) for step in range(1, steps + 1)) for part in (config.of, config.shape))
    return area / given if given else 0.0

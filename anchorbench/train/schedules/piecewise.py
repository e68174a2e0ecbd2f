"""Step changes of the learning rate at given times."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from anchorbench.parts import MAX_STEPS, Config, schedules
from anchorbench.train.seams import Schedule

Change = tuple[Annotated[int, Field(ge=0, le=MAX_STEPS)], Annotated[float, Field(ge=0, le=1000)]]


@schedules.register
class Piecewise(Schedule):
    """Constant between given steps; ignores `end`."""

    class Config(Config):
        kind: Literal["piecewise"] = "piecewise"
        factors: Annotated[list[Change], Field(max_length=1000)] = []
        """Pairs [step, factor], steps counted after warm-up: after that step, the rate is lr times the factor."""

        @field_validator("factors")
        @classmethod
        def _in_order(cls, factors: list[tuple[int, float]]) -> list[tuple[int, float]]:
            steps = [step for step, _ in factors]
            if steps != sorted(set(steps)):
                raise ValueError(f"has the steps {steps}; allowed: increasing steps")
            return factors

    def factor(self, step: int, steps: int, end: float) -> float:
        """See `Schedule`."""
        return next((factor for start, factor in reversed(self.config.factors) if step > start), 1.0)

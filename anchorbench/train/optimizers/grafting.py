"""Learning-rate grafting: AdaGraft (2002.11803, algorithm 2), also "Learning Rate Grafting" (OpenReview FpKgG31Z_i9).

Both optimizers see the same gradients at the same weights, and each keeps its own state. Rate, decay and clipping belong to the
grafted optimizer, so neither length includes decay.

With `measure`, the ratios of lengths are recorded for the first steps; `anchorbench rates` writes their medians to a file, from
which `grafted-sgd` takes one rate per tensor.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from anchorbench.parts import OptimizerConfig, Part, changes, optimizers
from anchorbench.train.seams import Layout, Optimizer

RATIO = "ratio."
"""Prefix of the state entries with each tensor's ratios."""
_MAGNITUDE, _DIRECTION = Part(optimizers, "adamw"), Part(optimizers, "sgd")


@optimizers.register
class Grafting(Optimizer):
    """Each step has the length of one optimizer's step and the direction of another's (2002.11803, algorithm 2)."""

    class Config(OptimizerConfig):
        kind: Literal["grafting"] = "grafting"
        structural: ClassVar[tuple[str, ...]] = ("by", "measure")
        magnitude: Annotated[OptimizerConfig, _MAGNITUDE] = Field(default_factory=_MAGNITUDE.default)
        """The optimizer that gives the length: its kind and own fields; rate, decay and clipping belong to the grafted one."""
        direction: Annotated[OptimizerConfig, _DIRECTION] = Field(default_factory=_DIRECTION.default)
        """The optimizer that gives the direction."""
        by: Literal["tensor", "global"] = "tensor"
        """Whether lengths are per tensor, or over all weights together."""
        eps: float = Field(default=1e-16, gt=0, le=1)
        """Added to the length in the denominator."""
        measure: int = Field(default=0, ge=0, le=100_000)
        """Number of first steps for which each tensor's ratio of lengths is recorded."""

        @field_validator("magnitude", "direction")
        @classmethod
        def _rule_alone(cls, config: OptimizerConfig) -> OptimizerConfig:
            if common := changes(config).keys() & OptimizerConfig.model_fields.keys() - {"kind"}:
                raise ValueError(
                    f"sets {min(common)}; allowed: own fields of {config.kind}; set the others on the grafted optimizer"
                )
            return config

        @property
        def structure(self) -> tuple[Any, ...]:
            """See `Config`; includes that of both optimizers."""
            return (*super().structure, self.magnitude.structure, self.direction.structure)

    def __init__(self, configs: Sequence[Any], layout: Layout, like: Tensor) -> None:
        super().__init__(configs, layout, like)
        first = configs[0]
        self.magnitude = optimizers[first.magnitude.kind]([config.magnitude for config in configs], layout, like)
        self.direction = optimizers[first.direction.kind]([config.direction for config in configs], layout, like)
        self.state = {f"magnitude.{name}": rows for name, rows in self.magnitude.state.items()}
        self.state |= {f"direction.{name}": rows for name, rows in self.direction.state.items()}
        if first.measure:
            self.state |= {RATIO + name: like.new_zeros(len(like), first.measure) for name in layout.names}

    def step(self, into: Tensor, gradient: Tensor, weights: Tensor, rate: Tensor, t: int) -> None:
        """See `Optimizer`."""
        length, step = torch.zeros_like(into), torch.zeros_like(into)
        self.magnitude.step(length, gradient, weights, rate, t)
        self.direction.step(step, gradient, weights, rate, t)
        if self.configs[0].by == "tensor":
            ratios = self.layout.norms(length) / (self.layout.norms(step) + self.column("eps"))
        else:
            whole = torch.linalg.vector_norm(length, dim=1) / (torch.linalg.vector_norm(step, dim=1) + self.column("eps")[:, 0])
            ratios = whole[:, None].expand(-1, len(self.layout.names))
        if t <= self.configs[0].measure:
            for name, column in zip(self.layout.names, ratios.unbind(1), strict=True):
                self.state[RATIO + name][:, t - 1] = column
        into.add_(self.layout.scale(step, ratios))

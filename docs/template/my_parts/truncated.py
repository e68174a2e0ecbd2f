"""The rate's normal distribution without its tails."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch.nn.init import trunc_normal_

from anchorbench.parts import InitConfig, initializers


@initializers.register
class Truncated:
    """Weights with standard deviation d_in^-gamma before values beyond `most` of it are drawn again; biases are zero."""

    class Config(InitConfig):
        kind: Literal["truncated"] = "truncated"
        most: float = Field(default=2.0, gt=0, le=100)
        """Largest distance from zero, in standard deviations."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def draw(self, model: Any, member: int, generator: torch.Generator) -> None:
        """Fills the member's row of every parameter; norms stay as they are."""
        for parameter, role in zip(model.parameters(), model.roles().values(), strict=True):
            row = parameter[member]
            if role.what == "matrix":
                std = role.fan_in**-self.config.gamma
                trunc_normal_(row, std=std, a=-self.config.most * std, b=self.config.most * std, generator=generator)
            elif role.what == "bias" and role.part != "norm":
                row.zero_()

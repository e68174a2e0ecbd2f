"""Clipping by norm (1211.5063)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from anchorbench.parts import Config, clips
from anchorbench.train.seams import Clip


@clips.register
class Norm(Clip):
    """Scales gradients with a larger norm down to `most`."""

    class Config(Config):
        kind: Literal["norm"] = "norm"
        short: ClassVar[str | None] = "most"
        most: float = Field(default=1.0, gt=0, le=1e9)
        """Maximum norm of a member's whole gradient."""

    def __call__(self, gradient: Tensor, weights: Tensor, rate: Tensor, shrinkage: Tensor) -> None:
        """See `Clip`."""
        norms = torch.linalg.vector_norm(gradient, dim=1)
        gradient.mul_((self.column("most")[:, 0] / (norms + 1e-6)).clamp(max=1.0)[:, None])

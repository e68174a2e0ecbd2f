"""Relative global clipping (2202.00980, section 3): the bound on a gradient is proportional to the norm of the weights.

In the equilibrium of weight decay, where each step of gradient descent adds to the squared norm of the weights what decay removes,
a gradient orthogonal to the weights has norm sqrt(2 lambda / eta) |w| (learning rate eta, decay lambda). The bound is a multiple of
that, with sqrt(C) = `factor`: sqrt(2 C lambda / eta) |w|. It follows the schedule of eta.

The paper clips only its scale-invariant encoder and trains the head with another optimizer; here both norms are over all weights.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from anchorbench.parts import Config, clips
from anchorbench.train.seams import Clip


@clips.register
class Relative(Clip):
    """Scales down gradients much larger than in the equilibrium of weight decay."""

    class Config(Config):
        kind: Literal["relative"] = "relative"
        factor: float = Field(default=2.0, gt=0, le=1e9)
        """Bound, in units of the gradient's norm in equilibrium."""

        def require(self, recipe: Any) -> None:
            """See `Config`."""
            if recipe.optimizer.weight_decay == 0:
                raise ValueError(
                    "weight_decay is 0; allowed with a clip of kind 'relative', which is proportional to it: more than 0"
                )

    def __call__(self, gradient: Tensor, weights: Tensor, rate: Tensor, shrinkage: Tensor) -> None:
        """See `Clip`."""
        equilibrium = ((2 * shrinkage).sqrt() / rate).to(gradient)  # norm of the gradient over norm of the weights
        most = self.column("factor") * equilibrium * torch.linalg.vector_norm(weights, dim=1, keepdim=True)
        norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        gradient.mul_(torch.where(norms > most, most / norms, 1.0))

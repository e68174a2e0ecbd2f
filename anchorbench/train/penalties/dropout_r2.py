"""R2, the implicit regularizer of finite steps with dropout (2207.05952, section 4): eps / 4 times |gradient of the noisy loss|^2.

Gradient descent with rate eps on the loss with dropout follows, on average, the gradient flow of loss + R1 + R2 up to O(eps^2). As
in the paper's experiments, the expectation over noise is replaced by one sample, that of the step itself. Without noise, this is
the implicit regularizer of gradient descent (2009.11162).

The paper's losses: L2 is this term without noise in the recipe; L3 has strength -eps, and the recipe's noise also as `noise` here.
In expectation the term is eps / 4 times the sum of the squared mean gradient and the trace of the gradient's covariance; the
stochastic modified equation of 2305.15850 has only the former in its drift.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from anchorbench.parts import Config, Part, noises, penalties
from anchorbench.train.seams import ActivationPenalty, Forward

_NOISE = Part(noises, "dropout")


@penalties.register
class DropoutR2(ActivationPenalty):
    """A quarter of `strength` times the squared norm of the gradient of the loss with noise."""

    class Config(Config):
        kind: Literal["dropout-r2"] = "dropout-r2"
        strength: float = Field(default=0.005, ge=-1000, le=1000)
        """The learning rate eps in the term; it may be negative."""
        noise: Annotated[Config, _NOISE] = Field(default_factory=_NOISE.default)
        """The noise in that loss; none gives the term of plain gradient descent."""

        @property
        def structure(self) -> tuple[Any, ...]:
            """See `Config`."""
            return (self.kind, self.noise.structure)

    @classmethod
    def passes_of(cls, config: Any, noise: Any) -> float:
        """Differentiating forward and backward pass takes two passes; one more if the step's own noise differs."""
        return 2.0 + (config.noise != noise)

    def term(self, forward: Forward, members: slice) -> Tensor:
        """See `ActivationPenalty`."""
        done = forward([config.noise for config in self.configs[members]])
        gradients = torch.autograd.grad(done.losses.sum(), list(done.parameters), create_graph=True, materialize_grads=True)
        squared = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
        return self.column("strength")[members, 0] / 4 * squared

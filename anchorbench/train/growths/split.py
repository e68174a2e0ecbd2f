"""Neuron splitting, the one-step embedding of the embedding principle (2105.14573, definition 2): a wider network that computes the
same function.

A neuron of a feed-forward layer is copied with its input weights and bias; the copy takes the share alpha of the output weights,
and the neuron keeps 1 - alpha. A width of k takes k - 1 such steps, each of which splits the first neuron again. For any real alpha
the function is unchanged, up to rounding. All copies' output weights have the neuron's gradient, and their input weights have their
share of it: so a critical point stays critical, as long as there is no weight decay.

Copies with equal shares have equal gradients and stay equal forever, unless noise separates them: alpha 0.5 with a width of 2 adds
parameters but no degrees of freedom. With alpha 0, a copy's input weights have no gradient until its output weights have grown. The
paper's null embedding, which adds neurons with no weights but a bias, is a different operation.

Optimizer state is copied without being split. Adam's step does not depend on the scale of its gradients, so copies continue as the
neuron would have; the momentum of SGD is too large at the input weights for a while. After a reset, the optimizer counts its steps
from the event, as its bias corrections require; the learning rate continues.

Only neurons can be split: a wider residual stream would change the function, as LayerNorm takes mean and variance over it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from anchorbench.model.gpt import MAX_D_FF, ModelConfig
from anchorbench.parts import GrowthConfig, growths
from anchorbench.train.seams import Growth

AXES = {"ff_in.weight": 2, "ff_in.bias": 1, "ff_out.weight": 1}
"""Parameter of a layer -> its axis that counts neurons, in `[members, ...]`."""


@growths.register
class Split(Growth):
    """Splits every neuron into several, which share its output weights."""

    class Config(GrowthConfig):
        kind: Literal["split"] = "split"
        structural: ClassVar[tuple[str, ...]] = (*GrowthConfig.structural, "of", "width")
        of: Literal["d_ff"] = "d_ff"
        """What grows: the width of the feed-forward layers."""
        width: int = Field(default=2, ge=2, le=16)
        """Number of neurons that each one becomes."""
        alpha: float = Field(default=0.3, ge=-10, le=10)
        """The share of the output weights that goes to the copy."""

        @property
        def shares(self) -> list[float]:
            """Final share of the output weights for each of the neurons."""
            kept = 1 - self.alpha
            return [kept ** (self.width - 1), *(self.alpha * kept ** (self.width - copy) for copy in range(2, self.width + 1))]

    @classmethod
    def grown(cls, config: Any, shape: ModelConfig) -> ModelConfig:
        """See `Growth`."""
        if shape.d_ff * config.width > MAX_D_FF:
            raise ValueError(f"growth makes d_ff {shape.d_ff * config.width}; allowed: at most {MAX_D_FF}")
        return shape.model_copy(update={"d_ff": shape.d_ff * config.width})

    def weights(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Growth`."""
        larger = self.state(named)
        for name, weights in larger.items():
            if name.endswith("ff_out.weight"):  # [members, copies of all neurons, d]
                shares = weights.new_tensor([config.shares for config in self.configs])
                larger[name] = weights * shares.repeat_interleave(named[name].shape[1], 1)[..., None]
        return larger

    def state(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Growth`."""
        width, larger = self.configs[0].width, dict(named)
        for name, value in named.items():
            axis = AXES.get(".".join(name.split(".")[-2:]))
            if axis is not None:
                larger[name] = torch.cat([value] * width, axis)
        return larger

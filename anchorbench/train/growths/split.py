"""Neuron splitting, the one-step embedding of the embedding principle (2105.14573, definition 2): a wider network, one function.

A neuron of a feed-forward layer is copied with its input weights and bias; of its output weights, the copy takes the share alpha
and the neuron keeps 1 - alpha. A width of k is k - 1 such steps, each of which splits the first neuron again. With any real alpha
the function stays as it is, up to rounding. The gradient of the output weights of all copies is the neuron's, that of the input
weights their share of it: so a critical point stays critical, as long as there is no weight decay.

Copies of equal shares have equal gradients and stay equal for ever, unless noise tells them apart: alpha 0.5 with a width of 2 adds
parameters and no freedom. With alpha 0, no gradient moves a copy's input weights until its output weights have grown. The paper's
null embedding, by neurons without any weights but a bias, is another.

Numbers that an optimizer keeps of a weight are copied without being shared out. Adam's step does not depend on the scale of its
gradients, so copies go on as the neuron would have; the momentum of SGD is for a while too large at the input weights. After a
reset, the optimizer counts its steps from the event on, as its corrections of bias must; the learning rate goes on.

Only neurons can be split: a wider residual stream would not keep the function, as LayerNorm takes mean and variance over it.
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
    """Every neuron becomes several, which share its output."""

    class Config(GrowthConfig):
        kind: Literal["split"] = "split"
        structural: ClassVar[tuple[str, ...]] = (*GrowthConfig.structural, "of", "width")
        of: Literal["d_ff"] = "d_ff"
        """What grows: the width of the feed-forward layers."""
        width: int = Field(default=2, ge=2, le=16)
        """Neurons that each one becomes."""
        alpha: float = Field(default=0.3, ge=-10, le=10)
        """The share of the output weights that goes to the copy."""

        @property
        def shares(self) -> list[float]:
            """Of the output weights, what each of the neurons has in the end."""
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

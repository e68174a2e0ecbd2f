"""No noise."""

from typing import Literal

from torch import Tensor

from anchorbench.model.gpt import Site
from anchorbench.parts import Config, noises
from anchorbench.train.seams import Noise


@noises.register
class NoNoise(Noise):
    """Leaves activations unchanged."""

    class Config(Config):
        kind: Literal["none"] = "none"

    def __call__(self, site: Site, x: Tensor) -> Tensor:
        """See `Noise`."""
        return x

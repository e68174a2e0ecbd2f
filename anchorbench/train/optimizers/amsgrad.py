"""AMSGrad (Reddi, Kale and Kumar, ICLR 2018): Adam with the largest mean squared gradient so far."""

from typing import Literal

from anchorbench.parts import optimizers
from anchorbench.train.optimizers.adamw import AdamW


@optimizers.register
class AMSGrad(AdamW):
    """Adam whose rates never rise again: the mean squared gradient is replaced by its largest value so far."""

    class Config(AdamW.Config):
        kind: Literal["amsgrad"] = "amsgrad"  # pyright: ignore[reportIncompatibleVariableOverride]

    amsgrad = True

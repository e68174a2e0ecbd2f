"""AMSGrad (Reddi, Kale and Kumar, ICLR 2018): Adam with the running maximum of the second moment."""

from typing import Literal

from anchorbench.parts import optimizers
from anchorbench.train.optimizers.adamw import AdamW


@optimizers.register
class AMSGrad(AdamW):
    """Adam whose per-weight rates never increase: the second moment is replaced by its running maximum."""

    class Config(AdamW.Config):
        kind: Literal["amsgrad"] = "amsgrad"  # pyright: ignore[reportIncompatibleVariableOverride]

    amsgrad = True

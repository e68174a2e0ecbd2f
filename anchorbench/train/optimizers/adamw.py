"""Adam (1412.6980) with PyTorch's fused kernel, one row per member; with the default decay it is AdamW (1711.05101)."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from anchorbench.parts import OptimizerConfig, optimizers
from anchorbench.train.seams import Layout, Optimizer


@optimizers.register
class AdamW(Optimizer):
    """Adam: each step is the first moment divided by the root of the second moment."""

    class Config(OptimizerConfig):
        kind: Literal["adamw"] = "adamw"
        beta1: float = Field(default=0.9, ge=0, lt=1)
        """Decay rate of the first moment."""
        beta2: float = Field(default=0.999, ge=0, lt=1)
        """Decay rate of the second moment."""
        eps: float = Field(default=1e-8, gt=0, le=1)
        """Added to the denominator."""

    amsgrad = False

    def __init__(self, configs: Sequence[Any], layout: Layout, like: Tensor) -> None:
        super().__init__(configs, layout, like)
        names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if self.amsgrad else [])]
        self.state = {name: like.new_zeros(like.shape) for name in names}

    def step(self, into: Tensor, gradient: Tensor, weights: Tensor, rate: Tensor, t: int) -> None:
        alike: dict[tuple[float, float, float, float], list[int]] = {}
        for member, (config, lr) in enumerate(zip(self.configs, rate[:, 0].tolist(), strict=True)):
            alike.setdefault((config.beta1, config.beta2, config.eps, lr), []).append(member)
        rows = [into, gradient, self.state["exp_avg"], self.state["exp_avg_sq"]]
        step = torch.full((), float(t), device=into.device)
        largest = self.state.get("max_exp_avg_sq")
        for (beta1, beta2, eps, lr), members in alike.items():
            cast(Any, torch)._fused_adamw_(
                *([row[member] for member in members] for row in rows),
                [] if largest is None else [largest[member] for member in members],
                [step] * len(members),
                lr=lr,
                beta1=beta1,
                beta2=beta2,
                weight_decay=0.0,
                eps=eps,
                amsgrad=self.amsgrad,
                maximize=False,
            )

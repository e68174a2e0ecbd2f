"""Muon (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the scale of 2502.16982, section 2.2).

The step of a hidden matrix is its momentum with all singular values brought near 1 by a few Newton-Schulz iterations. Query, key
and value are separate matrices here. Embeddings, unembedding, biases and gains are trained by Adam at the same learning rate.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from anchorbench.parts import optimizers
from anchorbench.train.optimizers.adamw import AdamW
from anchorbench.train.seams import Layout, Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration: they bring singular values to about 0.5 to 1.5 quickly, rather than exactly to 1."""


def orthogonalized(matrix: Tensor, iterations: int) -> Tensor:
    """Approximates UV' for the matrix USV' by the quintic Newton-Schulz iteration on the shorter side."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (torch.linalg.matrix_norm(x) + 1e-7)
    for _ in range(iterations):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


@optimizers.register
class Muon(Optimizer):
    """Each hidden matrix's step is its orthogonalized momentum; everything else is trained by Adam."""

    class Config(AdamW.Config):
        kind: Literal["muon"] = "muon"  # pyright: ignore[reportIncompatibleVariableOverride]
        momentum: float = Field(default=0.95, ge=0, lt=1)
        """Decay rate of a matrix's momentum."""
        nesterov: bool = True
        """Nesterov momentum: mixes the gradient with the new momentum once more."""
        iterations: int = Field(default=5, ge=1, le=100)
        """Number of Newton-Schulz iterations."""
        scale: Literal["adamw", "spectral"] = "adamw"
        """`adamw` scales steps to the root mean square of AdamW's, 0.2, so that its rates can be used (2502.16982); `spectral` is
        the original's sqrt(max(1, outputs / inputs)), for rates around 0.02."""

        def require(self, recipe: Any) -> None:
            """See `Config`."""
            if any(event.state == "copied" for event in recipe.growth):
                raise ValueError(
                    "growth copies the optimizer's state; allowed with 'muon', whose state differs by parameter: reset"
                )

    def __init__(self, configs: Sequence[Any], layout: Layout, like: Tensor) -> None:
        super().__init__(configs, layout, like)
        hidden = torch.cat(
            [torch.full((size,), name in layout.hidden) for name, size in zip(layout.names, layout.sizes, strict=True)]
        )
        self._rest = (~hidden).nonzero()[:, 0].to(like.device)
        self._adam = AdamW(configs, layout, like[:, self._rest])
        mean = {f"mean.{name}": view for name, view in zip(layout.names, layout.views(like), strict=True) if name in layout.hidden}
        self.state = {**self._adam.state, **{name: view.new_zeros(view.shape) for name, view in mean.items()}}

    def step(self, into: Tensor, gradient: Tensor, weights: Tensor, rate: Tensor, t: int) -> None:
        """See `Optimizer`. Members' matrices are multiplied one by one, as a batched matmul may round differently."""
        rest = torch.zeros_like(self._adam.like)
        self._adam.step(rest, gradient[:, self._rest], weights, rate, t)
        into.index_add_(1, self._rest, rest)
        rates = rate[:, 0].tolist()
        for name, target, new in zip(self.layout.names, self.layout.views(into), self.layout.views(gradient), strict=True):
            if name not in self.layout.hidden:
                continue
            for member, config in enumerate(self.configs):
                mean = self.state[f"mean.{name}"][member].mul_(config.momentum).add_(new[member], alpha=1 - config.momentum)
                step = config.momentum * mean + (1 - config.momentum) * new[member] if config.nesterov else mean
                inputs, outputs = step.shape
                scale = max(1, outputs / inputs) ** 0.5 if config.scale == "spectral" else 0.2 * max(inputs, outputs) ** 0.5
                target[member].sub_(orthogonalized(step, config.iterations), alpha=rates[member] * scale)

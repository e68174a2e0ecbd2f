"""Whole training steps on a GPU: recorded once as a CUDA graph, then replayed.

Nothing in a step waits for the CPU: examples, the order of a block of steps, and tables of rates and decay are on the device, where
a counter selects the next row. On other devices the same steps run operation by operation, so that tests need no GPU.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anchorbench.train.batches import ORDER_BLOCK
from anchorbench.train.gradients.backprop import Backprop
from anchorbench.train.optimizers.adamw import AdamW
from anchorbench.train.optimizers.amsgrad import AMSGrad
from anchorbench.train.optimizers.sgd import SGD
from anchorbench.train.seams import Layout, Optimizer

WARM_UP = 3
"""Warm-up steps before recording, in which libraries choose kernels and allocate."""
RATE, INTO_GRADIENT, FROM_WEIGHTS, FIRST, SECOND = range(5)
"""Columns of the table: learning rate, the two effects of decay, and Adam's bias corrections of both moments."""


def known(optimizer: Optimizer) -> bool:
    """Whether the graph supports the optimizer."""
    return type(optimizer) in (AdamW, AMSGrad, SGD)


class Graph:
    """The steps of one stack, at most ORDER_BLOCK at a time."""

    def __init__(
        self,
        backprop: Backprop,
        layout: Layout,
        weights: Float[Tensor, "members size"],
        gradients: Float[Tensor, "members size"],
        optimizer: Optimizer,
        clips: Sequence[float],
        mask: Float[Tensor, "members size"] | None,
        examples: Sequence[tuple[Int[Tensor, "_ seq"], Int[Tensor, " _"]]],
    ) -> None:
        """Updates `weights` and the optimizer's state in place; `clips`, `mask` and `examples` are as in `Native.train`."""
        self._backprop, self._optimizer, self._mask = backprop, optimizer, mask
        self._weights, self._gradients = weights, gradients
        parameters = backprop.model.parameters()
        self._into = [
            (view, backprop.gradients[parameter]) for view, parameter in zip(layout.views(gradients), parameters, strict=True)
        ]
        device, members = weights.device, len(weights)
        self._clips = torch.tensor(clips, dtype=weights.dtype, device=device)[:, None]
        distinct = {id(tokens): (tokens, labels) for tokens, labels in examples}
        self._rows = torch.cat([torch.cat([tokens, labels[:, None]], 1) for tokens, labels in distinct.values()])
        """All training examples: tokens followed by the label, `[examples, seq + 1]`."""
        starts = dict(zip(distinct, np.cumsum([0, *(len(labels) for _, labels in distinct.values())]).tolist(), strict=False))
        self._starts = torch.tensor([starts[id(tokens)] for tokens, _ in examples], device=device)[:, None]
        self._orders = torch.zeros(ORDER_BLOCK, members, backprop.batch, dtype=torch.int64, device=device)
        self._table = torch.zeros(ORDER_BLOCK, 5, members, 1, dtype=weights.dtype, device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._losses = torch.zeros(members, dtype=weights.dtype, device=device)
        self._recorded: Any = None

    def train(
        self, orders: Sequence[Int[Tensor, "steps batch"]], table: Float[np.ndarray, "steps 3 members"], first: int
    ) -> Float[Tensor, " members"]:
        """Trains for one step per row of the table, the first being the optimizer's step `first`, counted from 1.

        `table` holds rates and the two effects of decay. Returns the losses of the last step.
        """
        steps = len(table)
        self._orders[:steps] = torch.stack(list(orders), 1)
        numbers = np.arange(first, first + steps)[:, None]
        betas = np.array([[getattr(config, name, 0.0) for config in self._optimizer.configs] for name in ("beta1", "beta2")])
        corrections = 1 - betas[None] ** numbers[..., None]
        content = np.concatenate([table, corrections], 1)[..., None]
        self._table[:steps] = torch.from_numpy(content).to(self._table)
        self._at.zero_()
        if self._weights.is_cuda and self._recorded is None:
            self._record()
        for _ in range(steps):
            if self._recorded is None:
                self._step()
            else:
                self._recorded.replay()
        return self._losses.clone()

    def _record(self) -> None:
        """Records a step; the warm-up steps leave no trace."""
        state = [self._weights, self._at, *self._optimizer.state.values()]
        before = [tensor.clone() for tensor in state]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._at.zero_()
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        for tensor, kept in zip(state, before, strict=True):
            tensor.copy_(kept)
        self._recorded = graph

    @torch.no_grad()
    def _step(self) -> None:
        numbers = self._table.index_select(0, self._at)[0]
        rows = self._orders.index_select(0, self._at)[0] + self._starts
        batch = self._rows.index_select(0, rows.flatten()).view(*rows.shape, -1).long()
        self._losses.copy_(self._backprop(batch[..., :-1].contiguous(), batch[..., -1].contiguous()))
        for view, gradient in self._into:
            view.copy_(gradient)
        gradient, weights = self._gradients, self._weights
        norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        gradient.mul_((self._clips / (norms + 1e-6)).clamp(max=1.0))
        into, away = numbers[INTO_GRADIENT], numbers[FROM_WEIGHTS]
        if self._mask is not None:
            into, away = into * self._mask, away * self._mask
        gradient.addcmul_(weights, into)
        weights.addcmul_(weights, away, value=-1)
        self._descend(numbers)
        self._at.add_(1)

    def _descend(self, numbers: Tensor) -> None:
        optimizer, gradient, weights = self._optimizer, self._gradients, self._weights
        if isinstance(optimizer, SGD):
            optimizer.step(weights, gradient, weights, numbers[RATE], 0)
            return
        first, second = optimizer.state["exp_avg"], optimizer.state["exp_avg_sq"]
        first.lerp_(gradient, 1 - optimizer.column("beta1"))
        second.lerp_(gradient.square(), 1 - optimizer.column("beta2"))
        if (largest := optimizer.state.get("max_exp_avg_sq")) is not None:
            torch.maximum(largest, second, out=largest)
            second = largest
        root = (second.sqrt() / numbers[SECOND].sqrt()).add_(optimizer.column("eps"))
        weights.addcdiv_(first * (numbers[RATE] / numbers[FIRST]), root, value=-1)

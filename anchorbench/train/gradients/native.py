"""The compiled training step of a stack (step.cpp): gradients, whole training steps, and answers, one member per thread.

It supports the same models as `Backprop`, in fp32 on the CPU. A member's bits depend neither on the other members nor on the number
of threads.
"""

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anchorbench.model.gpt import GPT
from anchorbench.train.gradients.compiled import find_library
from anchorbench.train.optimizers.adamw import AdamW
from anchorbench.train.optimizers.amsgrad import AMSGrad
from anchorbench.train.optimizers.sgd import SGD
from anchorbench.train.seams import Layout, Optimizer

NONE, ADAMW, AMSGRAD, SGD_POLYAK, SGD_NESTEROV = range(5)
"""Optimizers that the library supports; with NONE it computes only gradients."""
LAYER = [
    f"{owner}.{leaf}"
    for owner in ("norm_1", "query", "key", "value", "output", "norm_2", "ff_in", "ff_out")
    for leaf in ("weight", "bias")
]
"""Parameters of a layer, in the library's order."""


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in ["width", "heads", "head_width", "hidden", "vocab", "seq", "layers", "post", "relu", "query_norm_only", "batch"]
    ]


class _Job(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weights", "gradients", "state0", "state1", "state2", "mask")),
        *((name, ctypes.c_void_p) for name in ("tokens", "labels", "orders", "rates", "into_gradient", "from_weights")),
        *((name, ctypes.c_void_p) for name in ("beta1", "beta2", "eps", "clip", "losses")),
        ("first", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("members", "steps", "threads", "kind")),
    ]


class Steps(NamedTuple):
    """Consecutive training steps of a stack."""

    first: int
    """Number of the first step, counted from 1."""
    examples: list[tuple[Int[Tensor, "size seq"], Int[Tensor, " size"]]]
    """Each member's tokens and labels, in int16."""
    orders: list[Int[Tensor, "steps batch"]]
    """Indices of the examples in each member's batches, in int64."""
    rates: Float[np.ndarray, "steps members"]
    into_gradient: Float[np.ndarray, "steps members"]
    """What decay adds to the gradient per unit of weight."""
    from_weights: Float[np.ndarray, "steps members"]
    """The share of the weights that decay removes."""


def available() -> bool:
    """Whether the library is available here."""
    return find_library().library is not None


def kind_of(optimizer: Optimizer) -> int | None:
    """The library's number for the optimizer; None if it is not supported."""
    if type(optimizer) is SGD:
        return SGD_NESTEROV if optimizer.configs[0].nesterov else SGD_POLYAK
    known: dict[type[Optimizer], int] = {AdamW: ADAMW, AMSGrad: AMSGRAD}
    return known.get(type(optimizer))


class Native:
    """The library at work on stacks of one model and batch size."""

    def __init__(self, model: GPT, layout: Layout, batch: int) -> None:
        """Raises MemoryError if its arrays cannot be allocated."""
        library = find_library().library
        if library is None:
            raise RuntimeError(f"the compiled step is not available: {find_library().about}")
        self._library, self.batch, self.seq = library, batch, model.seq_len
        shape = model.shape
        self._shape = _Shape(
            width=shape.d_model,
            heads=shape.n_head,
            head_width=shape.d_head,
            hidden=shape.d_ff,
            vocab=model.vocab_size,
            seq=model.seq_len,
            layers=shape.n_layer,
            post=shape.norm == "post",
            relu=shape.activation == "relu",
            query_norm_only=shape.query_norm_only,
            batch=batch,
        )
        starts = dict(zip(layout.names, np.cumsum([0, *layout.sizes[:-1]]).tolist(), strict=True))
        names = ["token_embedding", "position_embedding"]
        names += [f"blocks.{layer}.{name}" for layer in range(shape.n_layer) for name in LAYER]
        names += ["final_norm.weight", "final_norm.bias", "unembedding.weight", "unembedding.bias"]
        self._offsets = np.array([*(starts.get(name, -1) for name in names), sum(layout.sizes)], dtype=np.int64)
        self._works: list[int] = []
        self._free = weakref.finalize(self, _free, library, self._works)

    def gradient(
        self,
        weights: Float[Tensor, "members size"],
        into: Float[Tensor, "members size"],
        tokens: Int[Tensor, "members batch seq"],
        labels: Int[Tensor, "members batch"],
    ) -> Float[Tensor, " members"]:
        """Mean cross-entropy of each member at the last position; its gradient replaces `into`."""
        tokens, labels = tokens.to(torch.int16).contiguous(), labels.to(torch.int16).contiguous()
        empty = np.zeros((1, len(weights)))
        steps = Steps(1, list(zip(tokens, labels, strict=True)), [], empty, empty, empty)
        return self._run(weights, into, steps, 1, NONE, {}, None, np.zeros((4, len(weights))))

    def train(
        self,
        weights: Float[Tensor, "members size"],
        gradients: Float[Tensor, "members size"],
        optimizer: Optimizer,
        clips: Sequence[float],
        mask: Float[Tensor, "members size"] | None,
        steps: Steps,
    ) -> Float[Tensor, " members"]:
        """Trains all members for `steps`, updating `weights` and the state of `optimizer`; returns the losses of the last step.

        `clips` are the maximum norms of the members' gradients, infinite without clipping; `mask` is 1 where decay acts.
        """
        kind = kind_of(optimizer)
        if kind is None:
            raise TypeError(f"the compiled step does not support {type(optimizer).__name__}")
        adam = kind in (ADAMW, AMSGRAD)
        numbers = [
            (config.beta1, config.beta2, config.eps) if adam else (config.momentum, 0.0, 1.0) for config in optimizer.configs
        ]
        rule = np.array([*zip(*numbers, strict=True), clips], dtype=np.float64)
        return self._run(weights, gradients, steps, len(steps.rates), kind, optimizer.state, mask, rule)

    def answers(
        self, weights: Float[Tensor, "members size"], tokens: Int[np.ndarray, "members n seq"]
    ) -> Int[np.ndarray, "members n"]:
        """Each member's most probable token at the last position."""
        tokens = np.ascontiguousarray(tokens, dtype=np.int16)
        found = np.empty(tokens.shape[:2], dtype=np.int16)
        threads = self._threads()
        works = (ctypes.c_void_p * threads)(*self._works[:threads])
        self._library.answer_all(works, weights.data_ptr(), tokens.ctypes.data, *found.shape, threads, found.ctypes.data)
        return found.astype(np.int64)

    def _run(
        self,
        weights: Tensor,
        gradients: Tensor,
        steps: Steps,
        count: int,
        kind: int,
        state: dict[str, Tensor],
        mask: Tensor | None,
        rule: np.ndarray,
    ) -> Tensor:
        members, threads = len(weights), self._threads()
        losses = torch.empty(members)
        pointers = ctypes.c_void_p * members
        tokens, labels = (pointers(*(part[which].data_ptr() for part in steps.examples)) for which in (0, 1))
        orders = pointers(*(order.data_ptr() for order in steps.orders))
        tables = [
            np.ascontiguousarray(table, np.float64) for table in (steps.rates, steps.into_gradient, steps.from_weights, *rule)
        ]
        rows: list[Any] = [part.data_ptr() for part in state.values()]
        job = _Job(
            *(weights.data_ptr(), gradients.data_ptr(), *rows, *([None] * (3 - len(rows)))),
            None if mask is None else mask.data_ptr(),
            *(ctypes.addressof(array) for array in (tokens, labels, orders)),
            *(table.ctypes.data for table in tables),
            losses.data_ptr(),
            *(steps.first, members, count, threads, kind),
        )
        works = (ctypes.c_void_p * threads)(*self._works[:threads])
        self._library.train(works, ctypes.byref(job))
        return losses

    def _threads(self) -> int:
        """Number of threads to use, each with its own arrays."""
        threads = torch.get_num_threads()
        while len(self._works) < threads:
            work = self._library.work_new(ctypes.byref(self._shape), self._offsets.ctypes.data)
            if not work:
                raise MemoryError("not enough memory for the arrays of a training step")
            self._works.append(work)
        return threads


def _free(library: Any, works: list[int]) -> None:
    for work in works:
        library.work_free(work)

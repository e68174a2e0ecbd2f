"""The interfaces of the parts of a training step. Weights, gradients and optimizer state of a stack are rows `[members, size]`,
hyperparameters are columns `[members, 1]`, and members never mix.

    losses, gradient = estimator(oracle, weights, t)
    gradient += gradients of penalties
    clip(gradient, weights, rate, shrinkage)
    decay changes gradient and weights
    optimizer.step(weights, gradient, weights, rate, t)
    the stack grows if an event is due

Every part is one file that registers one class, configured by its `Config` (anchorbench.parts).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from anchorbench import parts
from anchorbench.model.gpt import GPT, ModelConfig, Site

ALIGNED = 32
"""Consecutive arrays whose sizes are multiples of this many elements are all aligned to 64 bytes, even in bf16."""


@dataclass(frozen=True)
class Layout:
    """The position of each parameter in a row."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    """Shapes without the member axis."""
    sizes: tuple[int, ...]
    """Elements reserved for each parameter, padded with zeros."""
    hidden: frozenset[str] = frozenset()
    """The matrices between embedding and unembedding."""

    @classmethod
    def of(cls, model: GPT) -> "Layout":
        """The layout of a stack; parameters are padded so that all members' weights are equally aligned."""
        shapes = {name: parameter.shape[1:] for name, parameter in model.named_parameters()}
        sizes = tuple(-(-shape.numel() // ALIGNED) * ALIGNED for shape in shapes.values())
        hidden = (name for name, role in model.roles().items() if role.what == "matrix" and role.part != "embedding")
        return cls(tuple(shapes), tuple(shapes.values()), sizes, frozenset(hidden))

    def views(self, rows: Float[Tensor, "members size"]) -> list[Tensor]:
        """The rows as one view per parameter, `[members, *shape]`."""
        found = zip(rows.split(self.sizes, dim=1), self.shapes, strict=True)
        return [part[:, : shape.numel()].view(len(rows), *shape) for part, shape in found]

    def norms(self, rows: Float[Tensor, "members size"]) -> Float[Tensor, "members parameters"]:
        """The norm of each parameter."""
        return torch.stack([torch.linalg.vector_norm(part, dim=1) for part in rows.split(self.sizes, dim=1)], 1)

    def rms(self, rows: Float[Tensor, "members size"]) -> Float[Tensor, "members parameters"]:
        """The root mean square of each parameter."""
        return self.norms(rows) / rows.new_tensor([math.sqrt(shape.numel()) for shape in self.shapes])

    def largest(self, rows: Float[Tensor, "members size"]) -> Float[Tensor, "members parameters"]:
        """The largest absolute value of each parameter."""
        return torch.stack([part.abs().amax(1) for part in rows.split(self.sizes, dim=1)], 1)

    def scale(self, rows: Float[Tensor, "members size"], factors: Float[Tensor, "members parameters"]) -> Tensor:
        """Multiplies each parameter by its factor, in place; returns `rows`."""
        for part, factor in zip(rows.split(self.sizes, dim=1), factors.unbind(1), strict=True):
            part.mul_(factor[:, None])
        return rows


class RowPart(ABC):
    """A part that operates on the rows of a stack."""

    Config: ClassVar[type[parts.Config]]

    def __init__(self, configs: Sequence[Any], layout: Layout, like: Float[Tensor, "members size"]) -> None:
        """`configs` has one configuration per member, all of one structure; `like` is a buffer of the weights' kind."""
        self.configs, self.layout, self.like = configs, layout, like
        self.state: dict[str, Tensor] = {}
        """State that a checkpoint must hold, each `[members, ...]`."""
        self._columns: dict[str, Tensor] = {}

    def column(self, field: str) -> Float[Tensor, "members 1"]:
        """A numeric field of every member's config, moved to the device once."""
        if field not in self._columns:
            values = [getattr(config, field) for config in self.configs]
            self._columns[field] = torch.tensor(values, dtype=self.like.dtype, device=self.like.device)[:, None]
        return self._columns[field]


class Optimizer(RowPart):
    """A rule that turns gradients into steps."""

    @abstractmethod
    def step(self, into: Tensor, gradient: Tensor, weights: Tensor, rate: Float[Tensor, "members 1"], t: int) -> None:
        """Adds step number `t`, counted from 1, to `into`: the weights themselves, or zeros to get the step alone.

        `rate` is in fp64 on the CPU, where schedules compute it; `rate.to(into)` converts it. The others are rows
        `[members, size]`; `gradient` and `weights` are not modified, unless `into` is the weights.
        """


class Clip(RowPart):
    """A bound on the gradients of a step."""

    @abstractmethod
    def __call__(
        self,
        gradient: Float[Tensor, "members size"],
        weights: Float[Tensor, "members size"],
        rate: Float[Tensor, "members 1"],
        shrinkage: Float[Tensor, "members 1"],
    ) -> None:
        """Clips `gradient` in place. `rate` is the step's learning rate, and `shrinkage` the share of the weights that weight
        decay removes at this rate where it acts; both are in fp64 on the CPU.
        """


class Penalty(RowPart):
    """A loss term that depends only on the weights. It works with any gradient path."""

    of_activations: ClassVar[bool] = False

    @abstractmethod
    def add(self, gradient: Float[Tensor, "members size"], weights: Float[Tensor, "members size"]) -> None:
        """Adds the term's gradient to `gradient` in place; the reported loss remains that of the data."""


@dataclass(frozen=True)
class Pass:
    """A forward pass of some members on the step's batch, to be differentiated."""

    losses: Float[Tensor, " members"]
    """Mean cross-entropy at the last position."""
    logits: Float[Tensor, "members batch vocab"]
    final: Float[Tensor, "members batch d"]
    """Input of the unembedding, before noise."""
    unembedding: Float[Tensor, "members d vocab"]
    parameters: Sequence[Tensor]
    """All parameters, each `[members, ...]`."""


Forward = Callable[[Sequence[Any] | None], Pass]
"""`forward(noise)`: a pass with the noise that these configs describe, one per member, or without noise. It draws the same values
as the step's own noise of the same kind. Equal passes are computed once."""


class ActivationPenalty(RowPart):
    """A loss term that depends on activations; such recipes are trained with autograd."""

    of_activations: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def passes_of(cls, config: Any, noise: Any) -> float:
        """Number of passes over the batch that it adds to a step with this noise."""

    @abstractmethod
    def term(self, forward: Forward, members: slice) -> Float[Tensor, " members"]:
        """The term for each of these members; the reported loss remains that of the data."""


Oracle = Callable[..., tuple[Tensor, Tensor]]
"""`oracle(step, at=None)`: losses `[members]` and gradients `[members, size]` on the batch of `step`, at the weights `at` or at the
stack's own. Negative steps have batches that are never trained on. The next call overwrites the gradients."""


class Estimator(RowPart):
    """The gradient estimate that the optimizer uses."""

    @classmethod
    def passes_of(cls, config: Any) -> float:
        """Average number of forward and backward passes over a batch per step."""
        return 1.0

    @abstractmethod
    def __call__(self, oracle: Oracle, weights: Float[Tensor, "members size"], t: int) -> tuple[Tensor, Tensor]:
        """Losses `[members]` on the batch of step `t`, and the estimate `[members, size]`."""


class Noise(ABC):
    """Randomness in a forward pass during training; evaluation has none."""

    Config: ClassVar[type[parts.Config]]

    def __init__(self, configs: Sequence[Any], generators: Sequence[torch.Generator]) -> None:
        """Each member's config, and the generator that it draws from, seeded by its noise seed and the step."""
        self.configs, self.generators = configs, generators

    @abstractmethod
    def __call__(self, site: Site, x: Tensor) -> Tensor:
        """Replaces the activations `[members, ...]` at a site; sites come in the order of the forward pass."""


class Growth(ABC):
    """An event that enlarges the models of a stack."""

    Config: ClassVar[type[parts.GrowthConfig]]

    def __init__(self, configs: Sequence[Any]) -> None:
        """`configs` has one configuration per member, all of one structure."""
        self.configs = configs

    @classmethod
    @abstractmethod
    def grown(cls, config: Any, shape: ModelConfig) -> ModelConfig:
        """The config of a model after the event. Raises ValueError with one sentence if it cannot grow like that."""

    @abstractmethod
    def weights(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The larger models' weights, from those of the smaller ones: parameter -> `[members, ...]`."""

    @abstractmethod
    def state(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same for optimizer state with one value per weight, if it is to be copied."""


class Schedule(ABC):
    """The learning rate after warm-up, as a factor of the peak."""

    Config: ClassVar[type[parts.Config]]

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def factor(self, step: int, steps: int, end: float) -> float:
        """The factor at `step` of `steps`, both counted after warm-up; decaying schedules end at `end`."""


class Decay(ABC):
    """What weight decay does to a weight w in a step with rate lr."""

    Config: ClassVar[type[parts.Config]]

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def amounts(self, strength: float, rate: float) -> tuple[float, float]:
        """What is added to the gradient per unit of w after clipping, and the share of w that is removed before the step."""

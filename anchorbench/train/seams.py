"""The seams of a training step. Numbers of a stack are rows `[members, size]`, hyper-parameters are columns `[members, 1]`, and
members never mix.

    losses, gradient = estimator(oracle, weights, t)
    gradient changed by penalties
    clip(gradient, weights, rate, shrinkage)
    gradient, weights changed by decay
    optimizer.step(weights, gradient, weights, rate, t)
    the stack grows if an event is due

Every part is one file that registers one class; what it is configured by is its `Config` (anchorbench.parts).
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
"""Consecutive arrays whose sizes are multiples of this many elements are all aligned to 64 bytes, in bf16 too."""


@dataclass(frozen=True)
class Layout:
    """Where each parameter lies in a row."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    """Without the member axis."""
    sizes: tuple[int, ...]
    """The places in a row: as large as the parameter or larger, filled up with zeros."""
    hidden: frozenset[str] = frozenset()
    """The matrices between embedding and unembedding."""

    @classmethod
    def of(cls, model: GPT) -> "Layout":
        """That of a stack: zeros fill each parameter's place up, so that the members' weights are equally aligned."""
        shapes = {name: parameter.shape[1:] for name, parameter in model.named_parameters()}
        sizes = tuple(-(-shape.numel() // ALIGNED) * ALIGNED for shape in shapes.values())
        hidden = (name for name, role in model.roles().items() if role.what == "matrix" and role.part != "embedding")
        return cls(tuple(shapes), tuple(shapes.values()), sizes, frozenset(hidden))

    def views(self, rows: Float[Tensor, "members size"]) -> list[Tensor]:
        """The part of each parameter, `[members, *shape]`."""
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
    """A part that works on the rows of a stack."""

    Config: ClassVar[type[parts.Config]]

    def __init__(self, configs: Sequence[Any], layout: Layout, like: Float[Tensor, "members size"]) -> None:
        """`configs` has one configuration per member, all of one structure; `like` is a buffer of the weights' kind."""
        self.configs, self.layout, self.like = configs, layout, like
        self.state: dict[str, Tensor] = {}
        """What a checkpoint must hold of this part, `[members, ...]` each."""
        self._columns: dict[str, Tensor] = {}

    def column(self, field: str) -> Float[Tensor, "members 1"]:
        """A number of every member's configuration, moved to the device once."""
        if field not in self._columns:
            values = [getattr(config, field) for config in self.configs]
            self._columns[field] = torch.tensor(values, dtype=self.like.dtype, device=self.like.device)[:, None]
        return self._columns[field]


class Optimizer(RowPart):
    """A rule from gradients to steps."""

    @abstractmethod
    def step(self, into: Tensor, gradient: Tensor, weights: Tensor, rate: Float[Tensor, "members 1"], t: int) -> None:
        """Adds step number `t`, counted from 1, to `into`: the weights themselves, or zeros, which gives the step alone.

        `rate` is in float64 and on the CPU, where schedules compute it; `rate.to(into)` fits it to the rows. The others are rows
        `[members, size]`; `gradient` and `weights` are left as they are, unless `into` is the weights.
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
        """Changes `gradient` in place. `rate` is the step's learning rate, and `shrinkage` the share of the weights that weight
        decay takes away at it where it acts; both are in float64 and on the CPU.
        """


class Penalty(RowPart):
    """A term of the loss that depends on the weights alone. It works on any gradient path."""

    of_activations: ClassVar[bool] = False

    @abstractmethod
    def add(self, gradient: Float[Tensor, "members size"], weights: Float[Tensor, "members size"]) -> None:
        """Adds the term's gradient to `gradient` in place; the loss that is reported stays that of the data."""


@dataclass(frozen=True)
class Pass:
    """A forward pass of some members on the step's batch, to be differentiated."""

    losses: Float[Tensor, " members"]
    """Mean cross-entropy at the last position."""
    logits: Float[Tensor, "members batch vocab"]
    final: Float[Tensor, "members batch d"]
    """What the unembedding reads, before noise."""
    unembedding: Float[Tensor, "members d vocab"]
    parameters: Sequence[Tensor]
    """All parameters, `[members, ...]` each."""


Forward = Callable[[Sequence[Any] | None], Pass]
"""`forward(noise)`: a pass with the noise that these configurations describe, one for each of the members, or with none. What it
draws is what the step's own noise of the same kind draws. Equal passes are computed once."""


class ActivationPenalty(RowPart):
    """A term of the loss that depends on activations; the recipe is trained by automatic differentiation."""

    of_activations: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def passes_of(cls, config: Any, noise: Any) -> float:
        """Passes over a batch that it adds to a step with this noise."""

    @abstractmethod
    def term(self, forward: Forward, members: slice) -> Float[Tensor, " members"]:
        """The term of each of these members; the loss that is reported stays that of the data."""


Oracle = Callable[..., tuple[Tensor, Tensor]]
"""`oracle(step, at=None)`: losses `[members]` and gradients `[members, size]` on the batch of `step`, at the rows of weights `at`,
or at the stack's own. Negative steps have batches that are never trained on. The next call overwrites the gradients."""


class Estimator(RowPart):
    """What the optimizer takes for the gradient."""

    @classmethod
    def passes_of(cls, config: Any) -> float:
        """Forward and backward passes over a batch that one step takes on average."""
        return 1.0

    @abstractmethod
    def __call__(self, oracle: Oracle, weights: Float[Tensor, "members size"], t: int) -> tuple[Tensor, Tensor]:
        """Losses `[members]` on the batch of step `t`, and the estimate `[members, size]`."""


class Noise(ABC):
    """Randomness in one forward pass of training; evaluation has none."""

    Config: ClassVar[type[parts.Config]]

    def __init__(self, configs: Sequence[Any], generators: Sequence[torch.Generator]) -> None:
        """Each member's configuration, and the generator that it draws from: seeded by its noise seed and the step."""
        self.configs, self.generators = configs, generators

    @abstractmethod
    def __call__(self, site: Site, x: Tensor) -> Tensor:
        """What takes the place of the activations `[members, ...]` at a site; sites come in the order of the forward pass."""


class Growth(ABC):
    """An event after which the models of a stack are larger."""

    Config: ClassVar[type[parts.GrowthConfig]]

    def __init__(self, configs: Sequence[Any]) -> None:
        """`configs` has one configuration per member, all of one structure."""
        self.configs = configs

    @classmethod
    @abstractmethod
    def grown(cls, config: Any, shape: ModelConfig) -> ModelConfig:
        """What a model of this shape becomes. Raises ValueError with one sentence if it cannot grow like that."""

    @abstractmethod
    def weights(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The larger models' weights from those of the smaller ones: parameter -> `[members, ...]`."""

    @abstractmethod
    def state(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same for numbers that an optimizer keeps of each weight, if they are to be copied."""


class Schedule(ABC):
    """The learning rate over the steps after warm-up, as a factor of the peak."""

    Config: ClassVar[type[parts.Config]]

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def factor(self, step: int, steps: int, end: float) -> float:
        """The factor at `step` of `steps`, both counted after warm-up; schedules that fall, fall to `end`."""


class Decay(ABC):
    """What weight decay does with a weight w at a step of rate lr."""

    Config: ClassVar[type[parts.Config]]

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def amounts(self, strength: float, rate: float) -> tuple[float, float]:
        """What is added to the gradient per unit of w after clipping, and the share of w that is taken away before the step."""

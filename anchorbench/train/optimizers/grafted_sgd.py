"""SGD with fixed per-tensor rates found by grafting: the non-adaptive correction of "Learning Rate Grafting" (OpenReview
FpKgG31Z_i9).

Taking the median ratio of the first steps as rate is our choice; the paper's own procedure was not available. A recipe holds the
rates themselves, so its run id does not depend on a file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError, field_validator
from torch import Tensor

from anchorbench.files import Plain, read_json, write_atomically
from anchorbench.parts import optimizers
from anchorbench.task import first_sentence
from anchorbench.train.optimizers.grafting import RATIO
from anchorbench.train.optimizers.sgd import SGD
from anchorbench.train.seams import Layout

MAX_TENSORS = 10_000
MOST = 1e4
"""Upper bound of rates: a tensor with almost no gradient, such as a key bias, which softmax ignores, has meaningless ratios."""
TensorRate = tuple[Annotated[str, Field(max_length=200)], Annotated[float, Field(ge=0, le=MOST)]]


class Rates(Plain):
    """A file of rates: where they were measured, and pairs [tensor, rate]."""

    run_id: str = Field(max_length=100)
    steps: int = Field(ge=1, le=100_000)
    """Number of first steps that the medians are over."""
    rates: Annotated[list[TensorRate], Field(min_length=1, max_length=MAX_TENSORS)]


def read_rates(path: Path) -> Rates:
    """Reads a file of rates. Raises ValueError with one sentence if it holds anything else."""
    try:
        return Rates.model_validate(read_json(path))
    except ValidationError as error:
        raise ValueError(f"{path} holds no rates: {first_sentence(error)}") from None


def median_rates(run_id: str, state: Mapping[str, Tensor], step: int) -> Rates:
    """Each tensor's median ratio, from the state that a run with optimizer `grafting` and `measure` kept at `step`.

    Raises ValueError if that state holds no ratios, or ratios that are not finite.
    """
    start = f"optimizer.{RATIO}"
    ratios = {name.removeprefix(start): row[:step] for name, row in state.items() if name.startswith(start)}
    if not ratios:
        raise ValueError(f"run {run_id} kept no ratios; allowed: runs of the optimizer grafting, with measure greater than 0")
    if not all(row.isfinite().all() for row in ratios.values()):
        raise ValueError(f"run {run_id} kept ratios that are not finite; allowed: runs that have not diverged by step {step}")
    steps = min(len(row) for row in ratios.values())
    pairs = [(name, min(MOST, float(row.double().quantile(0.5)))) for name, row in sorted(ratios.items())]
    return Rates(run_id=run_id, steps=steps, rates=pairs)


def write_rates(path: Path, run_id: str, state: Mapping[str, Tensor], step: int) -> Rates:
    """Writes `median_rates` to a file. Raises ValueError as that does."""
    rates = median_rates(run_id, state, step)
    write_atomically(path, (rates.model_dump_json(indent=1) + "\n").encode())
    return rates


@optimizers.register
class GraftedSGD(SGD):
    """SGD with a fixed rate per tensor, relative to `lr`."""

    class Config(SGD.Config):
        kind: Literal["grafted-sgd"] = "grafted-sgd"  # pyright: ignore[reportIncompatibleVariableOverride]
        rates: Annotated[list[TensorRate], Field(max_length=MAX_TENSORS)] = []
        """Pairs [tensor, rate], or the path of a file of rates; the rate of any other tensor is 1."""

        @field_validator("rates", mode="before")
        @classmethod
        def _from_file(cls, value: Any) -> Any:
            return read_rates(Path(value)).rates if isinstance(value, str) else value

        @field_validator("rates")
        @classmethod
        def _once_each(cls, rates: list[tuple[str, float]]) -> list[tuple[str, float]]:
            names = [name for name, _ in rates]
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"names {twice[0]!r} twice; allowed: once")
            return rates

    def __init__(self, configs: Sequence[Any], layout: Layout, like: Tensor) -> None:
        super().__init__(configs, layout, like)
        chosen = [dict(config.rates) for config in configs]
        if unknown := [name for rates in chosen for name in rates if name not in layout.names]:
            raise ValueError(f"optimizer.rates names {unknown[0]!r}; allowed: tensors of the model, such as {layout.names[0]!r}")
        self._rates = like.new_tensor([[rates.get(name, 1.0) for name in layout.names] for rates in chosen])

    def step(self, into: Tensor, gradient: Tensor, weights: Tensor, rate: Tensor, t: int) -> None:
        """See `Optimizer`."""
        step = torch.zeros_like(into)
        super().step(step, gradient, weights, rate, t)
        into.add_(self.layout.scale(step, self._rates))

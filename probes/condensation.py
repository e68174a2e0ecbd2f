"""Condensation: do the neurons of a weight matrix point in few directions? (2405.05409, section 4.2; 2501.08537; 2605.04396, E3)

A neuron is the input weights of one output: a column of our `[d_in, d_out]`, a row of the papers' `[d_out, d_in]`. With small
initial weights, neurons align early with a few directions and stay there, which means low complexity.

All scores depend on the initial scale and the weight decay, so they mostly reflect how a model was trained: given the recipe,
they may add nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anchorbench.inspect.open_model import OpenModel, open_one
from anchorbench.palette import CYCLE
from anchorbench.task import Task

from .pair_grid import cosines
from .score import COLORS, Score, jackknife_scores

ALIKE = 0.7
"""Minimum cosine of neurons in one group (2405.05409; the code of 2501.08537 has 0.4)."""
MEASURES = ("directions", "stable_rank", "participation_ratio")
SHOWN = 12
"""Number of singular values in the figure over training."""


def measures(weight: Float[Tensor, "*members d_in d_out"]) -> Float[np.ndarray, "*members measure"]:
    """MEASURES of each matrix; all are 1 for a rank-one matrix.

    `directions` n^2 / sum cos^2 over the n neurons: n if all are orthogonal, 1 if all are parallel. `stable_rank`
    ||W||_F^2 / ||W||_2^2. `participation_ratio` (sum s)^2 / sum s^2 of the singular values s.
    """
    weight = weight.detach().double().cpu()
    unit = torch.nn.functional.normalize(weight, dim=-2)
    gram = unit.transpose(-1, -2) @ unit
    s = torch.linalg.svdvals(weight)
    energy = s.square().sum(-1)
    neurons = weight.shape[-1]
    found = neurons**2 / gram.square().sum((-2, -1)), energy / s[..., 0].square(), s.sum(-1).square() / energy
    return torch.stack(found, -1).numpy()


def groups(cosine: Float[np.ndarray, "neuron neuron"]) -> Int[np.ndarray, " neuron"]:
    """Each neuron's group: the first ungrouped neuron founds a group, and takes all ungrouped neurons that are similar to it."""
    group = np.full(len(cosine), -1)
    while (free := np.flatnonzero(group < 0)).size:
        group[free[cosine[free[0], free] > ALIKE]] = group.max() + 1
        if group[free[0]] < 0:  # a zero neuron is not similar even to itself
            group[free[0]] = group.max() + 1
    return group


@dataclass(frozen=True)
class Condensation:
    """MEASURES of one matrix with 95% intervals over neurons (jackknife); the control is an untrained model."""

    matrix: str
    table: dict[str, Score]
    random: dict[str, float]
    """The measures of a random matrix of the same shape with independent normal entries."""
    cosine: Float[np.ndarray, "neuron neuron"]
    group: Int[np.ndarray, " neuron"]
    """Group of each neuron, as defined in the papers."""
    spectrum: Float[np.ndarray, " value"]
    """Singular values, in descending order."""
    spectrum_control: Float[np.ndarray, " value"]
    does_not_show: str = "Small initialization and weight decay both lead to few directions, whether or not the model composes."
    size: ClassVar[tuple[float, float]] = (7.4, 3.3)

    def scores(self) -> dict[str, Score]:
        return self.table

    def draw(self, figure: Any) -> None:
        """Draws the cosines of the neurons, largest groups first, and the spectrum."""
        heat, curve = figure.subplots(1, 2)
        sizes = np.bincount(self.group)
        order = np.lexsort((self.group, -sizes[self.group]))
        image = heat.imshow(self.cosine[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1)
        figure.colorbar(image, ax=heat, shrink=0.8, label="cosine")
        heat.set(
            title=f"{_words(self.matrix)}: {len(sizes)} groups of {len(order)} neurons",
            xlabel="neuron, by group",
            ylabel="neuron, by group",
        )
        for values, color, style, label in (
            (self.spectrum_control, COLORS["control"], "--", "untrained"),
            (self.spectrum, COLORS["trained"], "-", "this model"),
        ):
            curve.plot(np.arange(1, len(values) + 1), values / values[0], style, color=color, lw=1.6, label=label)
        curve.set(xlabel="rank", ylabel="singular value / largest", title="spectrum", ylim=(0, 1.03))
        curve.legend(frameon=False, fontsize=8)
        curve.spines[["top", "right"]].set_visible(False)


def condensation(model: object, task: Task, matrix: str = "query.0", seed: int = 0) -> Condensation:
    """Condensation of one of a model's matrices (`query.0`, `value.1`, `ff_in.0`, `unembedding`, ...).

    `model` is anything that `anchorbench.classify` accepts; the task is not used. Raises ValueError as `classify` does, and
    for a matrix that the model does not have or that has fewer than three neurons.
    """
    opened, _ = open_one(model, task)
    weight, control = _matrix(opened, matrix)[0], _matrix(opened.untrained(seed), matrix)[0]
    neurons = weight.shape[1]
    if neurons < 3:
        raise ValueError(f"matrix {matrix} has {neurons} neurons; allowed: at least 3, so that there is an interval")

    def named(weight: Tensor) -> dict[str, float]:
        return dict(zip(MEASURES, measures(weight).tolist(), strict=True))

    noise = torch.randn(weight.shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32, device="cpu")
    cosine = cosines(weight.T.numpy())
    return Condensation(
        matrix=matrix,
        table=jackknife_scores(lambda kept: named(weight[:, kept]), neurons, named(control)),
        random=named(noise),
        cosine=cosine,
        group=groups(cosine),
        spectrum=torch.linalg.svdvals(weight).numpy(),
        spectrum_control=torch.linalg.svdvals(control).numpy(),
    )


@dataclass(frozen=True)
class CondensationOverTraining:
    """MEASURES and singular values of one matrix at kept steps."""

    matrix: str
    steps: Int[np.ndarray, " step"]
    measures: Float[np.ndarray, "step members measure"]
    spectra: Float[np.ndarray, "step members value"]
    size: ClassVar[tuple[float, float]] = (7.4, 3.0)

    def draw(self, figure: Any) -> None:
        """Draws the measures and the largest singular values of the first member against the step."""
        curves, spectra = figure.subplots(1, 2)
        for measure, (name, style, color) in enumerate(zip(MEASURES, ("o-", "s--", "^:"), CYCLE, strict=False)):
            values = self.measures[:, :, measure]
            curves.plot(self.steps, values.mean(1), style, color=color, ms=4, lw=1.5, label=name.replace("_", " "))
            if values.shape[1] > 1:
                curves.fill_between(self.steps, values.min(1), values.max(1), color=color, alpha=0.15, lw=0)
        curves.set(title=_words(self.matrix), xlabel="step", ylabel="effective number", ylim=(0, None))
        curves.legend(frameon=False, fontsize=8)
        shown = self.spectra[:, 0, :SHOWN]
        for rank in range(shown.shape[1]):
            spectra.plot(self.steps, shown[:, rank], color=COLORS["trained"], lw=1.4, alpha=1 - 0.8 * rank / SHOWN)
        spectra.set(title=f"its {shown.shape[1]} largest singular values", xlabel="step", ylabel="singular value", ylim=(0, None))
        for axes in (curves, spectra):
            axes.spines[["top", "right"]].set_visible(False)


def condensation_over_training(steps: Mapping[int, OpenModel], matrix: str = "query.0") -> CondensationOverTraining:
    """The measures of `matrix` at each step; `steps` may hold several members as one stack, as opened by `open_runs`."""
    weights = [_matrix(steps[step], matrix) for step in sorted(steps)]
    return CondensationOverTraining(
        matrix=matrix,
        steps=np.array(sorted(steps)),
        measures=np.stack([measures(weight) for weight in weights]),
        spectra=np.stack([torch.linalg.svdvals(weight).numpy() for weight in weights]),
    )


def _words(matrix: str) -> str:
    name, _, layer = matrix.partition(".")
    return f"{name}, layer {int(layer) + 1}" if layer else name


def _matrix(opened: OpenModel, name: str) -> Float[Tensor, "members d_in d_out"]:
    return opened.weight(name).detach().cpu()

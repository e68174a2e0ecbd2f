"""Gradient noise: how much of a batch's gradient is noise? The ratio of its variance over batches to the squared norm of the mean.

This is the noise scale of 1812.06162 (section 2.2) divided by the batch size: where it is far above 1, larger batches pay off. The
mean gradient is estimated from all batches, and the noise in it limits the ratio r to about the number of batches: a value near
BATCHES means that no mean gradient is detectable, as at the end of training. Corrected for this noise, it is r / (1 - r / BATCHES).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int

from anchorbench.palette import BLUE, GREEN, PURPLE, SKY, VERMILION
from anchorbench.task import Task

from .loss import (
    Loss,
    Sequences,
    Vector,
    copy_of,
    in_one_vector,
    loss_of,
    open_own,
    require_finite,
    require_small,
    training_sequences,
)
from .score import Score, draw_scores, jackknife_scores

BATCHES = 40
"""Number of batches; the interval is over them."""
MERGED = (1, 2, 4, 8)
"""How many batches are merged into one in the figure."""
PARTS = {"embedding": PURPLE, "qk": BLUE, "vo": SKY, "mlp": VERMILION, "norm": GREEN}
"""Parts of the model, as in `anchorbench.model.roles`, and their colours."""


def noise_to_signal(gram: Float[np.ndarray, "batch batch"], merged: int = 1) -> float:
    """Variance of the gradient of `merged` batches, summed over weights, divided by the squared norm of the mean over all batches.

    `gram` holds the inner products of the batches' gradients. Batches left over by merging count only in the mean.
    """
    larger = len(gram) // merged
    used = gram[: larger * merged, : larger * merged].reshape(larger, merged, larger, merged).mean((1, 3))
    variance = (np.trace(used) - larger * used.mean()) / (larger - 1)
    return float(variance / gram.mean())


def grams(
    loss: Loss, weights: Vector, batches: list[Sequences], part_of: list[tuple[str, int]]
) -> dict[str, Float[np.ndarray, "batch batch"]]:
    """Part -> inner products of its gradients on the batches; `part_of` gives part and size of each parameter."""
    gradients = weights.new_empty(len(batches), len(weights))
    for row, batch in enumerate(batches):
        gradients[row] = torch.func.grad(loss)(weights, batch)
    require_finite(gradients)
    found = {part: np.zeros((len(batches), len(batches))) for part in PARTS}
    for (part, _), columns in zip(part_of, gradients.split([size for _, size in part_of], dim=1), strict=True):
        found[part] += (columns @ columns.T).numpy()
    return {part: gram for part, gram in found.items() if np.trace(gram) > 0}


@dataclass(frozen=True)
class GradientNoise:
    """The ratio for the whole model (`all`) and for each of its parts, with 95% jackknife intervals over batches.

    The control merges batches in pairs, which halves the noise if batches are independent.
    """

    table: dict[str, Score]
    batch: int
    """Sequences per batch."""
    curves: dict[str, Float[np.ndarray, " merged"]]
    """Part -> ratio, for each count of MERGED batches."""
    does_not_show: str = (
        "The ratio holds for these weights, this loss and this batch size; it shows neither where the noise drives training nor"
        " whether it helps."
    )
    size: ClassVar[tuple[float, float]] = (7.4, 3.9)

    def scores(self) -> dict[str, Score]:
        return self.table

    def draw(self, figure: Any) -> None:
        """Draws one row per part, and the ratio against the batch size."""
        from matplotlib.ticker import LogLocator, StrMethodFormatter

        rows, curve = figure.subplots(1, 2)
        draw_scores(rows, self.table)
        rows.axvline(BATCHES, color="#bbbbbb", lw=1, ls=":", zorder=0, label="no mean detectable")
        rows.set(xscale="log", xlabel="gradient variance / squared mean", title=f"batches of {self.batch} sequences")
        sizes = self.batch * np.array(MERGED)
        for part, values in self.curves.items():
            curve.plot(sizes, values, "o-", color=PARTS.get(part, "#222222"), ms=4, lw=1.5, label=part)
        curve.plot(sizes, self.curves["all"][0] / np.array(MERGED), ":", color="#222222", lw=1.4, label="1 / sequences")
        curve.set(xscale="log", yscale="log", xlabel="sequences per batch", ylabel="variance / squared mean")
        curve.set_title("larger batches")
        curve.set_xticks(sizes, [str(size) for size in sizes])
        curve.spines[["top", "right"]].set_visible(False)
        for axis in (rows.xaxis, curve.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        handles, labels = rows.get_legend_handles_labels()
        renamed = [{"control": "batches merged in pairs"}.get(label, label) for label in labels]
        for axes, entries, columns in ((rows, (handles, renamed), 1), (curve, curve.get_legend_handles_labels(), 2)):
            axes.minorticks_off()
            axes.legend(*entries, frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=columns)


def gradient_noise(model: object, task: Task, batch: int = 32, seed: int = 0) -> GradientNoise:
    """The ratio on BATCHES batches of `batch` fresh training sequences.

    `model` is a run or a stack of one. Raises ValueError as `anchorbench.classify` does, for a model of another origin or of more
    than 10 million weights, for a batch below 1, and for a model whose gradient vanishes.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}; allowed: at least 1")
    opened, task = open_own("gradient_noise", model, task)
    require_small("gradient_noise", opened.module)
    ours = copy_of(opened)
    roles = ours.roles()
    part_of = [(str(roles[name].part), parameter.numel()) for name, parameter in ours.named_parameters()]
    batches = training_sequences(task, BATCHES * batch, seed).parts(BATCHES)
    of_part = grams(loss_of(ours), in_one_vector(ours), batches, part_of)
    if not of_part:
        raise ValueError("the gradient is zero on every batch: there is no signal to compare noise with")
    of_part = {"all": sum(of_part.values(), np.zeros((BATCHES, BATCHES)))} | of_part

    def ratios(kept: Int[np.ndarray, " kept"]) -> dict[str, float]:
        return {part: noise_to_signal(gram[np.ix_(kept, kept)]) for part, gram in of_part.items()}

    control = {part: noise_to_signal(gram, merged=2) for part, gram in of_part.items()}
    return GradientNoise(
        {part: score.within(0, np.inf) for part, score in jackknife_scores(ratios, BATCHES, control).items()},
        batch,
        {part: np.array([noise_to_signal(gram, merged) for merged in MERGED]) for part, gram in of_part.items()},
    )

"""Flatness: how curved is the training loss at the model's weights, and does the gradient vary along curved directions?

The largest eigenvalue of the Hessian H is found by the Lanczos method with full reorthogonalization (Golub and Van Loan, Matrix
Computations, section 10.3), its trace by Hutchinson's estimator (1989), as in PyHessian (1912.07145).

The covariance C of the gradient over sequences tends to be large in directions of large curvature (2305.15850; Feng and Tu, PNAS
2021). `noise_curvature` is tr(HC) / tr(C), the mean curvature along gradient noise. Its control is the same noise under a random
rotation, which keeps all norms and angles: its expectation is the mean eigenvalue, trace / number of weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anchorbench.task import Task

from .loss import (
    Loss,
    Sequences,
    Vector,
    copy_of,
    generator,
    in_one_vector,
    loss_of,
    normal,
    open_own,
    require_finite,
    require_small,
    training_sequences,
)
from .score import BLOCKS, COLORS, Score, jackknife_scores

MOST_STEPS, CONVERGED = 40, 0.01
"""Lanczos stops when the residual of the largest eigenvalue is below 1% of it, or after 40 steps. The eigenvalue's own error is of
the order of the residual's square."""
VECTORS, CONTROL_VECTORS = 2, 10
"""Random vectors for Hutchinson's estimator: per block of sequences, and for the control, which has no blocks."""
RISE, POINTS = 0.5, 11
"""The figure extends to where a quadratic loss would rise by this much along the top eigenvector."""
DIRECTIONS = {"top eigenvector": COLORS["anchor"], "gradient noise": COLORS["trained"], "random direction": COLORS["control"]}
Times = Callable[[Vector], Vector]


def hessian(loss: Loss, weights: Vector, data: Sequences) -> Times:
    """The function v -> Hv: the vector-Jacobian product of the gradient, since H is symmetric."""
    times = torch.func.vjp(lambda at: torch.func.grad(loss)(at, data), weights)[1]
    return lambda vector: times(vector)[0]


def lanczos(times: Times, start: Vector) -> tuple[Float[Tensor, " step"], Vector]:
    """Ritz values in ascending order, and the Ritz vector of the largest, which approximates H's top eigenvector."""
    basis = start.new_empty(min(MOST_STEPS, len(start)), len(start))
    diagonal: list[float] = []
    beside: list[float] = []
    new = start
    while True:
        step = len(diagonal)
        basis[step] = new / new.norm()
        new = times(basis[step])
        diagonal.append(float(basis[step] @ new))
        so_far = basis[: step + 1]
        for _ in range(2):  # one pass leaves rounding errors
            new = new - so_far.T @ (so_far @ new)
        small = torch.tensor(diagonal, dtype=start.dtype, device="cpu").diag()
        if beside:
            between = torch.tensor(beside, dtype=start.dtype, device="cpu")
            small += between.diag(1) + between.diag(-1)
        values, vectors = torch.linalg.eigh(small)
        residual = float(new.norm() * vectors[-1, -1].abs())
        if residual <= CONVERGED * abs(float(values[-1])) or step + 1 == len(basis):
            return values, so_far.T @ vectors[:, -1]
        beside.append(float(new.norm()))


def trace(times: Times, like: Vector, vectors: int, source: torch.Generator) -> float:
    """Hutchinson's estimate: the mean of v'Hv over random sign vectors."""
    signs = (normal(like, source).sign() for _ in range(vectors))
    return float(np.mean([float(vector @ times(vector)) for vector in signs]))


@dataclass(frozen=True)
class Curvatures:
    """Curvatures of each block of sequences, with its own Hessian."""

    top: Float[np.ndarray, " block"]
    """Curvature along the top eigenvector of the Hessian of all sequences."""
    trace: Float[np.ndarray, " block"]
    noise: Float[np.ndarray, " block"]
    """Curvature along gradient noise of other sequences, times its squared norm `noise_norm`."""
    noise_norm: Float[np.ndarray, " block"]

    def scores(self, kept: Int[np.ndarray, " kept"]) -> dict[str, float]:
        """The scores over some of the blocks."""
        return {
            "largest_eigenvalue": float(self.top[kept].mean()),
            "trace": float(self.trace[kept].mean()),
            "noise_curvature": float(self.noise[kept].sum() / self.noise_norm[kept].sum()),
        }


def curvatures(
    loss: Loss, weights: Vector, data: Sequences, top: Vector, noise: Float[Tensor, "block weight"], source: torch.Generator
) -> Curvatures:
    """Curvatures of `data` in as many blocks as there is noise, each with its own random vectors."""
    found: list[tuple[float, ...]] = []
    for block, own_noise in zip(data.parts(len(noise)), noise, strict=True):
        times = hessian(loss, weights, block)
        along = [float(vector @ times(vector)) for vector in (top, own_noise)]
        found.append((along[0], trace(times, weights, VECTORS, source), along[1], float(own_noise @ own_noise)))
    return Curvatures(*np.array(found).T)


def noise_of_gradient(loss: Loss, weights: Vector, data: Sequences, count: int) -> Float[Tensor, "noise weight"]:
    """`count` differences between the gradients of two batches: mean zero, and twice the covariance of one such gradient."""
    noise = weights.new_empty(count, len(weights))
    parts = data.parts(2 * count)
    for row in range(count):
        noise[row] = torch.func.grad(loss)(weights, parts[2 * row]) - torch.func.grad(loss)(weights, parts[2 * row + 1])
    if int(noise.any(1).sum()) < 2:
        raise ValueError("the gradient is the same on every batch: there is no noise along which to measure curvature")
    return noise


@dataclass(frozen=True)
class Flatness:
    """Scores with 95% intervals over sequences (jackknife over blocks; the eigenvector is kept fixed).

    The control for `largest_eigenvalue` and `trace` is an untrained model; for `noise_curvature` it is randomly rotated noise.
    """

    table: dict[str, Score]
    distance: Float[np.ndarray, " point"]
    loss: dict[str, Float[np.ndarray, " point"]]
    """For each direction, the loss at `distance` along it minus the loss at the weights."""
    parabola: dict[str, Float[np.ndarray, " point"]]
    """The same as predicted by gradient and Hessian at the weights."""
    does_not_show: str = (
        "Curvature depends on the scale of the weights, which can change without changing any answer (1703.04933), so a flat"
        " minimum alone does not mean a simpler or better solution."
    )
    size: ClassVar[tuple[float, float]] = (7.4, 3.3)

    def scores(self) -> dict[str, Score]:
        return self.table

    def draw(self, figure: Any) -> None:
        """Draws the curvatures, and the loss along three directions with the parabola that its Hessian predicts."""
        rows, curve = figure.subplots(1, 2)
        weights = self.table["trace"].value / self.table["noise_curvature"].control
        mean = Score(*(bound / weights for bound in self.table["trace"]))
        shown = (self.table["largest_eigenvalue"], self.table["noise_curvature"], mean)
        for row, (score, color) in enumerate(zip(shown, DIRECTIONS.values(), strict=True)):
            rows.plot([score.low, score.high], [-row, -row], color=color, lw=2, solid_capstyle="butt")
            rows.plot(score.value, -row, "o", color=color, ms=6)
        rows.set_xscale("symlog", linthresh=max(abs(mean.value), 1e-12))
        rows.set_yticks([0, -1, -2], [name.replace(" ", "\n") for name in DIRECTIONS])
        rows.set(xlabel="curvature of the loss", ylim=(-2.5, 0.5), title="mean and 95% interval")
        for name, color in DIRECTIONS.items():
            curve.plot(self.distance, self.loss[name], color=color, lw=1.6, label=name)
            curve.plot(self.distance, self.parabola[name], ":", color=color, lw=1.4)
        curve.plot([], [], ":", color="#444444", lw=1.4, label="second order")
        curve.set(xlabel="distance from the weights", ylabel="increase of the loss", title="along one direction each")
        curve.legend(frameon=False, fontsize=8)
        for axes in (rows, curve):
            axes.spines[["top", "right"]].set_visible(False)


def flatness(model: object, task: Task, n: int = 200, seed: int = 0) -> Flatness:
    """Curvature of the loss on `n` fresh training sequences, in all and along the gradient noise of `n` others.

    `model` is a run or a stack of one. Raises ValueError as `anchorbench.classify` does, for a model of another origin or of more
    than 10 million weights, and for an `n` that does not split into blocks.
    """
    if n < 2 * BLOCKS or n % (2 * BLOCKS):
        raise ValueError(f"n is {n}; allowed: multiples of {2 * BLOCKS}, for {BLOCKS} pairs of batches")
    opened, task = open_own("flatness", model, task)
    require_small("flatness", opened.module)
    ours = copy_of(opened)
    data, others = training_sequences(task, 2 * n, seed).parts(2)
    loss, weights, untrained = loss_of(ours), in_one_vector(ours), in_one_vector(copy_of(opened.untrained(seed)))
    require_finite(loss(weights, data), loss(weights, others))
    random = normal(weights, generator(seed))
    times, times_untrained = hessian(loss, weights, data), hessian(loss, untrained, data)
    _, top = lanczos(times, random)
    noise = noise_of_gradient(loss, weights, others, BLOCKS)
    found = curvatures(loss, weights, data, top, noise, generator(seed + 1))
    control = {
        "largest_eigenvalue": float(lanczos(times_untrained, random)[0][-1]),
        "trace": trace(times_untrained, weights, CONTROL_VECTORS, generator(seed + 1)),
        "noise_curvature": found.scores(np.arange(BLOCKS))["trace"] / len(weights),
    }
    table = jackknife_scores(found.scores, BLOCKS, control)
    reach = np.sqrt(2 * RISE / max(table["largest_eigenvalue"].value, 1e-12))
    distance = np.linspace(-reach, reach, POINTS)
    base, slope = loss(weights, data), torch.func.grad(loss)(weights, data)
    risen: dict[str, np.ndarray] = {}
    parabola: dict[str, np.ndarray] = {}
    for name, direction in zip(DIRECTIONS, (top, noise[0], random), strict=True):
        unit = direction / direction.norm()
        risen[name] = np.array([float(loss(weights + far * unit, data) - base) for far in distance.tolist()])
        parabola[name] = distance * float(slope @ unit) + distance**2 / 2 * float(unit @ times(unit))
    return Flatness(table, distance, risen, parabola)

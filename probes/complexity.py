"""Complexity: norms from generalization bounds, and how much weight noise the loss tolerates. All scores are log10.

    spectral   product of all matrices' spectral norms |W|, which bounds a Lipschitz constant
    norm_21    (sum (|W|_21 / |W|)^(2/3))^(3/2), where |W|_21 sums the norms of the neurons' input weights; added to `spectral`,
               this gives the spectral complexity of 1706.08498 (equation 1.2, with reference matrices zero)
    path       path norm of a token (1503.00036; 1506.02617), mean over tokens: the root of the sum, over all paths from the token
               through value, output and feed-forward matrices to the logits, of the product of squared weights
    sigma      standard deviation of Gaussian noise on all weights that raises the mean loss by RISE: the flatness of PAC-Bayes
               bounds (1706.08947; 1912.02178)

The theorems are about networks without attention and LayerNorm, and the path norm skips both: these measures compare models of the
same config, but bound nothing here. The control is an untrained model. `random` has Gaussian matrices with the model's own
Frobenius norms, so it differs in structure, not in scale.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anchorbench.model.gpt import GPT
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
    training_sequences,
)
from .score import BLOCKS, COLORS, Score, draw_scores, jackknife_scores, mean_score

RISE = 0.1
"""Increase of the loss, in nats."""
DRAWS = 8
"""Noise vectors; the interval of `sigma` is over them."""
LOG_SIGMAS = np.arange(-4, 1.01, 0.25)
"""log10 of the standard deviations tried; the increase is interpolated linearly between them."""
WORDS = {
    "spectral": "product of spectral norms",
    "norm_21": "sum of (2,1) norms / spectral norms",
    "path": "path norm",
    "sigma": "sigma",
}
Matrices = Mapping[str, Float[Tensor, "d_in d_out"]]


def spectral(matrices: Matrices) -> float:
    """log10 of the product of the largest singular values."""
    return sum(float(torch.linalg.matrix_norm(weight, 2).log10()) for weight in matrices.values())


def norm_21(matrices: Matrices) -> float:
    """log10 of (sum (|W|_21 / |W|)^(2/3))^(3/2); neurons are columns."""
    ratios = [float(weight.norm(dim=0).sum() / torch.linalg.matrix_norm(weight, 2)) for weight in matrices.values()]
    return 1.5 * float(np.log10(np.sum(np.power(ratios, 2 / 3))))


def paths(model: GPT, tokens: Int[Tensor, " token"]) -> Float[np.ndarray, " token"]:
    """log10 of the path norm from each of `tokens`: a forward pass with squared weights and residual connections."""
    reached = model.token_embedding[0, tokens].square()
    for block in model.layers:
        for first, second in ((block.value, block.output), (block.ff_in, block.ff_out)):
            reached = reached + reached @ first.weight[0].square() @ second.weight[0].square()
    return (reached @ model.unembedding.weight[0].square()).sum(1).log10().numpy() / 2


def matrices_of(model: GPT) -> dict[str, Float[Tensor, "d_in d_out"]]:
    """All matrices of a stack of one. Raises ValueError if one is zero, which has no logarithm."""
    roles = model.roles()
    found = {name: weight[0] for name, weight in model.named_parameters() if roles[name].what == "matrix"}
    for name, weight in found.items():
        if not weight.any():
            raise ValueError(f"matrix {name} is zero, so the logarithm of its norm is not finite")
    return found


def randomized(model: GPT, source: torch.Generator) -> GPT:
    """A copy with Gaussian matrices of the same Frobenius norms."""
    model = copy.deepcopy(model)
    for weight in matrices_of(model).values():
        noise = normal(weight, source)
        weight.copy_(noise * (weight.norm() / noise.norm()))
    return model


def rises(loss: Loss, weights: Vector, data: Sequences, seed: int) -> Float[np.ndarray, "draw sigma"]:
    """How much each noise vector, scaled to each of LOG_SIGMAS, raises the loss; stops once all of them raise it by RISE."""
    base, source = loss(weights, data), generator(seed)
    require_finite(base)
    noise = [normal(weights, source) for _ in range(DRAWS)]
    found: list[list[float]] = []
    for sigma in (10.0**LOG_SIGMAS).tolist():
        found.append([float(loss(weights + sigma * vector, data) - base) for vector in noise])
        if min(found[-1]) > RISE:
            break
    return np.array(found).T


def crossing(rise: Float[np.ndarray, " sigma"]) -> float:
    """log10 of the standard deviation at which `rise` passes RISE; the largest one tried if it never does."""
    above = np.flatnonzero(rise > RISE)
    if not len(above) or above[0] == 0:
        return float(LOG_SIGMAS[0] if len(above) else LOG_SIGMAS[-1])
    last = above[0] - 1
    return float(LOG_SIGMAS[last] + (RISE - rise[last]) / (rise[last + 1] - rise[last]) * (LOG_SIGMAS[last + 1] - LOG_SIGMAS[last]))


@dataclass(frozen=True)
class Complexity:
    """Scores with 95% intervals: over neurons for `spectral` and `norm_21` (jackknife), over tokens for `path`, over noise vectors
    for `sigma` (jackknife). The control is an untrained model.
    """

    table: dict[str, Score]
    random: dict[str, float]
    """The norms with Gaussian matrices of the same Frobenius norms."""
    rise: Float[np.ndarray, "draw sigma"]
    """Increase of the loss under each noise vector, at each of LOG_SIGMAS that was tried."""
    rise_control: Float[np.ndarray, "draw sigma_too"]
    does_not_show: str = (
        "All of these depend on the scale of weights before a LayerNorm, which no answer depends on, so a smaller value does not"
        " prove a simpler solution."
    )
    size: ClassVar[tuple[float, float]] = (7.4, 4.6)

    def scores(self) -> dict[str, Score]:
        return self.table

    def draw(self, figure: Any) -> None:
        """Draws each score on its own scale, and the increase of the loss against the noise."""
        axes = figure.subplot_mosaic([[name, "rise"] for name in self.table])
        for name, score in self.table.items():
            draw_scores(axes[name], {name: score})
            axes[name].set(yticks=[], xlabel=f"log10 of {WORDS[name]}")
            if name in self.random:
                axes[name].plot(self.random[name], 0, "s", ms=5.5, mfc="white", mec=COLORS["anchor"], label="random matrices")
        handles, labels = axes["path"].get_legend_handles_labels()
        figure.legend(handles, ["untrained", *labels[1:]], frameon=False, fontsize=8, loc="outside lower center", ncols=3)
        curve = axes["rise"]
        for rise, color, style, label in (
            (self.rise_control, COLORS["control"], "--", "untrained"),
            (self.rise, COLORS["trained"], "-", "this model"),
        ):
            sigma = 10.0 ** LOG_SIGMAS[: rise.shape[1]]
            curve.plot(sigma, rise.T, style, color=color, lw=0.6, alpha=0.4)
            curve.plot(sigma, rise.mean(0), style, color=color, lw=1.8, label=f"{label}, mean of {DRAWS}")
        curve.axhline(RISE, color="#bbbbbb", lw=1, ls=":", zorder=0)
        curve.set(xscale="log", xlabel="sigma of the weight noise", ylabel="increase of the loss", ylim=(-RISE, 5 * RISE))
        curve.legend(frameon=False, fontsize=8, loc="upper left")
        curve.spines[["top", "right"]].set_visible(False)


def complexity(model: object, task: Task, n: int = 100, seed: int = 0) -> Complexity:
    """Norms of the weights, and the increase of the loss on `n` fresh training sequences under weight noise.

    `model` is a run or a stack of one. Raises ValueError as `anchorbench.classify` does, for a model of another origin, for n below
    1, for a matrix that is zero, and for matrices of one neuron.
    """
    if n < 1:
        raise ValueError(f"n is {n}; allowed: at least 1")
    opened, task = open_own("complexity", model, task)
    ours, untrained = copy_of(opened), copy_of(opened.untrained(seed))
    random = randomized(ours, generator(seed))
    data = training_sequences(task, n, seed)
    tokens = data.tokens.unique()
    matrices = matrices_of(ours)
    blocks = min(BLOCKS, *(weight.shape[1] for weight in matrices.values()))
    if blocks < 2:
        raise ValueError("the model has a matrix with one neuron; allowed: at least 2, so that there is an interval")

    def norms(matrices: Matrices, kept: Int[np.ndarray, " kept"]) -> dict[str, float]:
        """Norms over the neurons whose index modulo `blocks` is in `kept`."""
        some = {name: torch.cat([weight[:, block::blocks] for block in kept], 1) for name, weight in matrices.items()}
        return {"spectral": spectral(some), "norm_21": norm_21(some)}

    everyone = np.arange(blocks)
    loss = loss_of(ours)
    rise, rise_control = (rises(loss, in_one_vector(one), data, seed + 1) for one in (ours, untrained))
    table = jackknife_scores(lambda kept: norms(matrices, kept), blocks, norms(matrices_of(untrained), everyone))
    table["path"] = mean_score(paths(ours, tokens), float(paths(untrained, tokens).mean()))
    found = jackknife_scores(lambda kept: {"sigma": crossing(rise[kept].mean(0))}, DRAWS, {"sigma": crossing(rise_control.mean(0))})
    shown = norms(matrices_of(random), everyone) | {"path": float(paths(random, tokens).mean())}
    return Complexity(table | found, shown, rise, rise_control)

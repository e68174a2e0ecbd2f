"""Effective width: how many feed-forward neurons remain when those with the same direction are merged?

By the embedding principle (2105.14573) the loss landscape of a wide network contains the critical points of narrower ones, with
neurons that share their input weights; dropout and small initial weights lead there (2207.05952). This probe reduces the network
again, as 2105.14573 does for MNIST: neurons whose input weights (including the bias) have a cosine above ALIKE are replaced by the
strongest of them, j, with output weights sum_k a_k |w_k| / |w_j|. Neurons with a strength |a| |w| below FAINT times the layer's
largest are dropped.

Merging equal directions changes nothing with ReLU, and little with GELU, which is not homogeneous. `same_answers` therefore tests
the model with all layers merged: the share of its answers that stay the same. The control for the widths shuffles each neuron's
input weights, which keeps all norms; the control for the answers merges as many neurons, drawn at random. If that changes no answer
either, the feed-forward layers do not matter, and neither does their width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int

from anchorbench.intervals import wilson
from anchorbench.model.gpt import GPT, Block
from anchorbench.task import Task

from .loss import copy_of, open_own
from .pair_grid import cosines
from .reading import trained_examples
from .score import COLORS, Score, jackknife_scores

ALIKE = 0.95
"""Cosine above which two directions count as the same (2207.05952, appendix)."""
FAINT = 0.01
"""Strength, relative to the layer's strongest neuron, below which a neuron is dropped. The papers give no number."""
TOLERANCES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.995)
"""Cosines shown in the figure."""


@dataclass(frozen=True)
class Neurons:
    """The feed-forward neurons of one layer."""

    into: Float[np.ndarray, "neuron d_in"]
    """Input weights, followed by the bias if there is one."""
    out: Float[np.ndarray, "neuron d"]
    """Output weights."""

    @classmethod
    def of(cls, block: Block) -> "Neurons":
        """A copy of the neurons of one block of a stack of one."""
        bias = [] if block.ff_in.bias is None else [block.ff_in.bias.T]
        return cls(torch.cat([block.ff_in.weight[0].T, *bias], 1).numpy(), block.ff_out.weight[0].clone().numpy())

    def __len__(self) -> int:
        return len(self.into)

    def __getitem__(self, kept: Int[np.ndarray, " kept"]) -> "Neurons":
        return Neurons(self.into[kept], self.out[kept])

    @property
    def norms(self) -> Float[np.ndarray, " neuron"]:
        """Norms of the input weights."""
        return np.linalg.norm(self.into, axis=1)

    @property
    def strength(self) -> Float[np.ndarray, " neuron"]:
        """What a neuron can add to the residual stream per unit of input."""
        return self.norms * np.linalg.norm(self.out, axis=1)

    def shuffled(self, rng: np.random.Generator) -> "Neurons":
        """Each neuron's input weights in a random order of its own."""
        return Neurons(rng.permuted(self.into, axis=1), self.out)


def founders(neurons: Neurons, alike: float = ALIKE) -> Int[np.ndarray, " neuron"]:
    """The neuron that each one is merged into, or -1 if it is dropped.

    The strongest neuron absorbs all that are similar to it, then the strongest of the rest does, and so on.
    """
    strength, cosine = neurons.strength, cosines(neurons.into)
    founder = np.full(len(neurons), -1)
    free = (strength > 0) & (strength >= FAINT * strength.max())
    for strongest in np.argsort(-strength, kind="stable"):
        if free[strongest]:
            taken = free & (cosine[strongest] > alike)
            taken[strongest] = True
            founder[taken] = strongest
            free &= ~taken
    return founder


def at_random(founder: Int[np.ndarray, " neuron"], neurons: Neurons, rng: np.random.Generator) -> Int[np.ndarray, " neuron"]:
    """Groups of the same sizes as those of `founder`, but of random neurons; each is again merged into its strongest neuron."""
    merged, strength = np.flatnonzero(founder >= 0), neurons.strength
    drawn = rng.permutation(merged)
    found = founder.copy()
    for old in np.unique(founder[merged]):
        group = drawn[founder[merged] == old]
        found[group] = group[strength[group].argmax()]
    return found


def merge(neurons: Neurons, founder: Int[np.ndarray, " neuron"]) -> Float[np.ndarray, "neuron d"]:
    """Output weights after merging: sums at the founders, zero at all other neurons."""
    out = np.zeros_like(neurons.out)
    gone = np.flatnonzero(founder >= 0)
    ratio = neurons.norms[gone] / neurons.norms[founder[gone]]
    np.add.at(out, founder[gone], ratio[:, None] * neurons.out[gone])
    return out


def width(founder: Int[np.ndarray, " neuron"]) -> float:
    """The share of neurons that remain."""
    return len(np.unique(founder[founder >= 0])) / len(founder)


@dataclass(frozen=True)
class EffectiveWidth:
    """`width_0`, ...: the share of each layer's neurons that remain, with a 95% interval over neurons (jackknife); the control
    shuffles each neuron's input weights. `same_answers`: the share of answers that merging does not change, with its Wilson
    interval over sequences; the control merges as many neurons, drawn at random.
    """

    table: dict[str, Score]
    neurons: int
    """Neurons per layer."""
    widths: Float[np.ndarray, "layer tolerance"]
    """The widths at each of TOLERANCES."""
    widths_control: Float[np.ndarray, "layer tolerance"]
    same: Float[np.ndarray, " tolerance"]
    """`same_answers` at each of TOLERANCES."""
    same_control: Float[np.ndarray, " tolerance"]
    does_not_show: str = (
        "If neurons can be merged, the solution needs fewer of them; it does not follow that a narrower model would have found it."
    )
    size: ClassVar[tuple[float, float]] = (7.4, 3.9)

    def scores(self) -> dict[str, Score]:
        return self.table

    def draw(self, figure: Any) -> None:
        """Draws widths and the share of unchanged answers against the largest angle merged."""
        from matplotlib import colormaps

        remain, same = figure.subplots(1, 2)
        angle = np.degrees(np.arccos(TOLERANCES))
        layers = len(self.widths)
        for layer, color in enumerate(colormaps["viridis"](np.linspace(0, 0.8, layers))):
            label = f"layer {layer + 1}" if layer in (0, layers - 1) else None
            remain.plot(angle, self.widths[layer], "o-", color=color, ms=4, lw=1.6, label=label)
            shuffled = "weights in random order" if layer == 0 else None
            remain.plot(angle, self.widths_control[layer], "--", color=COLORS["control"], lw=1.2, label=shuffled)
        same.plot(angle, self.same, "o-", color=COLORS["trained"], ms=4, lw=1.6, label="similar neurons merged")
        same.plot(angle, self.same_control, "D--", color=COLORS["control"], ms=3, lw=1.2, label="as many at random")
        remain.set(title=f"{self.neurons} neurons per layer", ylabel="share that remains")
        same.set(title="all layers merged", ylabel="share of answers unchanged")
        for axes in (remain, same):
            axes.axvline(np.degrees(np.arccos(ALIKE)), color="#bbbbbb", lw=1, ls=":", zorder=0)
            axes.set(xlabel="largest angle merged (degrees)", ylim=(-0.03, 1.05))
            axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.22))
            axes.spines[["top", "right"]].set_visible(False)


def effective_width(model: object, task: Task, n: int = 500, seed: int = 0) -> EffectiveWidth:
    """Effective widths, and the answers to `n` sequences of trained groups after merging.

    `model` is a run or a stack of one. Raises ValueError as `anchorbench.classify` does, for a model of another origin, for n below
    1, and for layers of fewer than three neurons.
    """
    if n < 1:
        raise ValueError(f"n is {n}; allowed: at least 1")
    opened, task = open_own("effective_width", model, task)
    ours = copy_of(opened)
    layers = [Neurons.of(block) for block in ours.layers]
    count = len(layers[0])
    if count < 3:
        raise ValueError(f"the model has {count} feed-forward neurons per layer; allowed: at least 3, so that there is an interval")
    rng = np.random.default_rng(seed)
    shuffled = [neurons.shuffled(rng) for neurons in layers]
    table: dict[str, Score] = {}
    for layer, (neurons, control) in enumerate(zip(layers, shuffled, strict=True)):
        name = f"width_{layer}"
        found = jackknife_scores(_width_of(name, neurons), count, _width_of(name, control)(np.arange(count)))
        table[name] = found[name].within(0, 1)
    tokens = torch.from_numpy(trained_examples(task, n, seed).tokens)
    before = answers(ours, tokens)

    def same(alike: float, *, random: bool) -> float:
        for block, neurons in zip(ours.layers, layers, strict=True):
            founder = founders(neurons, alike)
            founder = at_random(founder, neurons, np.random.default_rng(seed)) if random else founder
            block.ff_out.weight[0] = torch.from_numpy(merge(neurons, founder))
        return float((answers(ours, tokens) == before).mean())

    value = same(ALIKE, random=False)
    table["same_answers"] = Score(value, *wilson(round(value * n), n), same(ALIKE, random=True))

    def over_tolerances(which: list[Neurons]) -> Float[np.ndarray, "layer tolerance"]:
        return np.array([[width(founders(neurons, alike)) for alike in TOLERANCES] for neurons in which])

    return EffectiveWidth(
        table=table,
        neurons=count,
        widths=over_tolerances(layers),
        widths_control=over_tolerances(shuffled),
        same=np.array([same(alike, random=False) for alike in TOLERANCES]),
        same_control=np.array([same(alike, random=True) for alike in TOLERANCES]),
    )


def _width_of(name: str, neurons: Neurons) -> Callable[[Int[np.ndarray, " kept"]], dict[str, float]]:
    return lambda kept: {name: width(founders(neurons[kept]))}


def answers(model: GPT, tokens: Int[torch.Tensor, "n seq"]) -> Int[np.ndarray, " n"]:
    """The answers of a stack of one."""
    return model(tokens[None])[0].argmax(-1).numpy()

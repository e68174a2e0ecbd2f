"""What dropout does to training beside adding noise (Zhang and Xu, TPAMI 2024, 2207.05952; Zhang et al., ICLR 2024, 2305.15850).

For squared error and dropout before a linear output, the mean loss with dropout is R_S + R1: the loss without it and an explicit
term (lemma 1). The first paper isolates the two parts by the losses that are trained here: R_S, with dropout R_drop, R_S + R1 (its
L1: the term without noise) and R_drop - R1 (its L4: noise without the term). That R1 condenses neurons is its section on
condensation, that its minima are flat its theorem 2 and the slices of the loss; the alignment of dropout's noise with the Hessian
is the second paper's, of which we know reviews and excerpts only.

Nets are stacked over seeds. A net is a vector theta: input weights, the last row of which are biases, and then output weights.
Pilot runs on other seeds chose initial scale, learning rate and steps: with those, nets condense within minutes.
"""

from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from anchorbench.claim import CANNOT, Claim, Curve, Experiment, Findings, Measure, Panel, Verdict, above, all_of, below, claims
from anchorbench.parts import noises
from anchorbench.probes.effective_width import ALIKE, Neurons, founders, width
from anchorbench.seeds import stream_seed
from anchorbench.train.penalties.dropout_r1 import r1

ARMS: dict[str, tuple[bool, float]] = {
    "plain": (False, 0.0),
    "dropout": (True, 0.0),
    "R1, no noise": (False, 1.0),
    "dropout minus R1": (True, -1.0),
}
"""Loss -> whether it has dropout, and the factor of R1 that is added."""
PLAIN, DROPOUT, TERM, NOISE = ARMS
SLICE = (-0.5, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5)
"""Distances along a slice of the loss, in norms of each layer."""
AT = 0.1
"""The distance whose rise of the loss is the measure, on both sides."""


class Settings(Experiment):
    """Data, nets and training."""

    inputs: int = Field(ge=1, le=1000)
    examples: int = Field(ge=2, le=10_000)
    width: int = Field(ge=3, le=10_000)
    """Hidden neurons."""
    scale: float = Field(gt=0, le=10)
    """Standard deviation of all initial weights."""
    rate: float = Field(gt=0, lt=1)
    """The share of hidden neurons that dropout drops."""
    learning_rate: float = Field(gt=0, le=1)
    """Initial learning rate of full-batch Adam; it falls linearly to zero, so that the result does not depend on the last step."""
    steps: int = Field(ge=1, le=10_000_000)
    looks: int = Field(ge=1, le=100)
    """Evenly spaced steps at which directions and alignment are measured, besides the start."""
    matched: float = Field(gt=0, le=1)
    """The loss down to which every net is trained, without dropout or R1, before its flatness is measured."""
    most: int = Field(ge=1, le=10_000_000)
    """Steps after which that is given up."""
    masks: int = Field(ge=2, le=1_000_000)
    """Draws of dropout over which its loss is averaged at one net."""
    gradients: int = Field(ge=2, le=100_000)
    """Draws of dropout from which the covariance of its gradients is estimated."""
    slices: int = Field(ge=1, le=10_000)
    """Random directions along which the loss is followed."""


class Data(NamedTuple):
    """The examples of each seed; the last input is 1, for the biases."""

    x: Float[Tensor, "*seeds n inputs_and_one"]
    y: Float[Tensor, "*seeds n"]


# ------------------------------------------------------------------------------------------------ nets


def draw(settings: Settings) -> tuple[Data, Float[Tensor, "seeds weights"]]:
    """Standard normal inputs labelled by tanh of their sum, and initial weights."""
    xs, weights = [], []
    for seed in range(settings.seeds):
        generator = torch.Generator().manual_seed(stream_seed(seed, "claim dropout-regularization"))
        xs.append(torch.randn(settings.examples, settings.inputs, generator=generator))
        weights.append(settings.scale * torch.randn((settings.inputs + 2) * settings.width, generator=generator))
    x = torch.stack(xs)
    return Data(torch.cat([x, torch.ones_like(x[..., :1])], -1), x.sum(-1).tanh()), torch.stack(weights)


def layers(theta: Float[Tensor, "*seeds weights"], inputs: int) -> tuple[Tensor, Tensor]:
    """Input weights `[*seeds, inputs, width]`, where the biases' is one of the inputs, and output weights `[*seeds, width]`."""
    width = theta.shape[-1] // (inputs + 1)
    return theta[..., :-width].unflatten(-1, (inputs, width)), theta[..., -width:]


def forward(theta: Float[Tensor, "*seeds weights"], data: Data) -> tuple[Tensor, Tensor]:
    """Hidden activations `[*seeds, n, width]`, and the output weights as a map `[*seeds, width, 1]`."""
    into, out = layers(theta, data.x.shape[-1])
    return (data.x @ into).tanh(), out[..., None]


def loss(theta: Float[Tensor, "*seeds weights"], data: Data, mask: Tensor | float = 1.0) -> Float[Tensor, "*seeds"]:
    """Half the mean squared error; `mask` multiplies the hidden activations."""
    hidden, out = forward(theta, data)
    return ((hidden * mask) @ out - data.y[..., None]).square().mean((-2, -1)) / 2


def added(theta: Float[Tensor, "seeds weights"], data: Data, rate: float) -> Float[Tensor, " seeds"]:
    """R1."""
    return r1(*forward(theta, data), torch.full(theta.shape[:1], rate))


class Masks:
    """The registered dropout before the output; every seed draws from a stream of its own."""

    def __init__(self, settings: Settings, use: str) -> None:
        part = noises["dropout"]
        config = part.Config(embedding=0.0, residual=0.0, final=settings.rate)
        streams = [stream_seed(seed, f"{use} of claim dropout-regularization") for seed in range(settings.seeds)]
        self.noise = part([config] * settings.seeds, [torch.Generator().manual_seed(stream) for stream in streams])
        self.like = torch.ones(settings.seeds, settings.examples, settings.width)

    def __call__(self) -> Float[Tensor, "seeds n width"]:
        """Zeros, and what makes up for them."""
        return self.noise("final", self.like)


# ------------------------------------------------------------------------------------------------ training


def train(start: Float[Tensor, "seeds weights"], data: Data, arm: str, settings: Settings) -> list[Float[Tensor, "seeds weights"]]:
    """The nets at every look, from the start to the last step."""
    noisy, strength = ARMS[arm]
    masks = Masks(settings, "training")
    theta = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=settings.learning_rate)
    looks = {settings.steps * look // settings.looks for look in range(settings.looks + 1)}
    found = [start]
    for step in range(1, settings.steps + 1):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - (step - 1) / settings.steps)
        losses = loss(theta, data, masks() if noisy else 1.0)
        if strength:
            losses = losses + strength * added(theta, data, settings.rate)
        optimizer.zero_grad()
        losses.sum().backward()  # each seed has weights of its own
        optimizer.step()
        if step in looks:
            found.append(theta.detach().clone())
    return found


def descend(start: Float[Tensor, "seeds weights"], data: Data, settings: Settings) -> tuple[Float[Tensor, "seeds weights"], int]:
    """Training goes on without dropout, by a quarter of the rate; each net stops where its loss is `matched`. Also the steps."""
    theta = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=settings.learning_rate / 4)
    for step in range(settings.most):
        losses = loss(theta, data)
        going = losses.detach() > settings.matched
        if not going.any():
            return theta.detach(), step
        before = theta.detach().clone()
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        with torch.no_grad():
            theta.copy_(torch.where(going[:, None], theta, before))
    return theta.detach(), settings.most


# ------------------------------------------------------------------------------------------------ measures


def directions(theta: Float[Tensor, " weights"], inputs: int) -> float:
    """How many directions the neurons have, of those whose |cosine| exceeds 0.95 one each; faint neurons are left out.

    An input weight w with output weight a is the same neuron as -w with -a, for tanh is odd. So w w' / |w| is compared, which has
    the norm of w and no sign, and with another the cosine squared.
    """
    into, out = (part.double().numpy() for part in layers(theta, inputs))
    into = into.T
    squares = into[:, :, None] * into[:, None, :] / np.linalg.norm(into, axis=1)[:, None, None]
    return width(founders(Neurons(squares.reshape(len(into), -1), out[:, None]), ALIKE**2)) * len(into)


def rises(theta: Float[Tensor, " weights"], data: Data, slices: int, seed: int) -> Float[np.ndarray, " distance"]:
    """The mean rise of the loss at each distance of SLICE, along normal directions that have the norm of theta in each layer."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "slices of claim dropout-regularization"))
    direction = torch.randn(slices, len(theta), generator=generator)
    last = len(layers(theta, data.x.shape[-1])[1])
    for layer in (slice(None, -last), slice(-last, None)):
        direction[:, layer] *= theta[layer].norm() / direction[:, layer].norm(dim=1, keepdim=True)
    at = torch.stack([loss(theta + distance * direction, data) for distance in SLICE])
    return (at - loss(theta, data)).mean(1).numpy()


def hessian(theta: Float[Tensor, " weights"], data: Data) -> Float[Tensor, "weights weights"]:
    """The Hessian of the loss without dropout."""
    return cast(Tensor, torch.func.jacrev(torch.func.grad(loss))(theta, data))


def noise_gradients(
    theta: Float[Tensor, " weights"], data: Data, masks: Float[Tensor, "masks n width"]
) -> Float[Tensor, "masks weights"]:
    """Gradients of the loss with dropout at fixed weights, one for each draw, less their mean."""
    found = torch.vmap(torch.func.grad(loss), (None, None, 0))(theta, data, masks)
    return found - found.mean(0)


def alignment(curvature: Float[Tensor, "d d"], noise: Float[Tensor, "draws d"]) -> tuple[float, float]:
    """The cosine of H and the covariance C of the noise, tr(HC) / |H| |C|; and what 97.5% of random rotations of C stay below.

    A rotation keeps both spectra. Over all of them the cosine has the mean tr(H) tr(C) / (d |H| |C|), and its variance follows from
    Schur's lemma: without their traces, H and C are vectors of a space of (d - 1)(d + 2) / 2 dimensions that no rotation divides.
    """
    draws, d = noise.shape
    gram = (noise @ noise.T).double()
    total = gram.trace() / (draws - 1)
    # The covariance of few draws is too concentrated: squares of a draw with itself are left out of |C|^2.
    size = ((gram.square().sum() - gram.diagonal().square().sum()) / (draws * (draws - 1))).sqrt()
    curvature, noise = curvature.double(), noise.double()
    norm = curvature.norm()
    cosine = ((noise @ curvature) * noise).sum() / (draws - 1) / (norm * size)
    round_h, round_c = curvature.trace() / (norm * d**0.5), total / (size * d**0.5)
    spread = (2 / ((d - 1) * (d + 2)) * (1 - round_h**2) * (1 - round_c**2)).sqrt()
    return float(cosine), float(round_h * round_c + 1.96 * spread)


@claims.register
class DropoutRegularization(Claim):
    """See the module."""

    name = "dropout-regularization"
    paper = (
        "Zhang and Xu, Implicit regularization of dropout (TPAMI 2024, 2207.05952), lemma 1, theorem 2 and the experiments on"
        " condensation and flatness; alignment from Zhang, Li, Luo and Xu, Stochastic modified equations and dynamics of dropout"
        " algorithm (ICLR 2024, 2305.15850)"
    )
    statement = (
        "Dropout adds an explicit term R1 to the mean loss, which condenses neurons even without noise; its minima are flatter, and"
        " its noise lies along the curved directions of the loss."
    )
    ground = (
        "Nets of one hidden layer of 100 tanh neurons, 10 inputs, labels tanh of their sum, 30 examples, half of the neurons"
        " dropped, squared error, Adam on all examples: the first paper's own ground, but for standard normal inputs, a smaller"
        " initial scale and a higher learning rate that falls to zero; scales and steps were chosen on other seeds, so that nets"
        " condense within the steps. Arms share data and initial weights by seed. As training with dropout ends at a higher loss,"
        " flatness is compared after each arm went on, without dropout or R1, to a loss of 1e-6. Slices are the paper's measure;"
        " they scale with the weights, so that the trace is asked for too. Interpolation between minima and the papers' networks"
        " for images and text are not tried. Dropout, R1 and the count of directions are the registered parts. The paper scale has"
        " the initial scale of its one-dimensional nets, width^-0.1, and its learning rate at the first step."
    )
    measures = {
        "condensed_r1": "log2 of the number of directions of neurons at the end: R1 without noise over plain training",
        "condensed": "the same: dropout over plain training",
        "condensed_noise": "the same: dropout minus R1, which is noise alone, over plain training",
        "directions": "directions of neurons after plain training",
        "identity": "mean rise of the loss by dropout over R1, minus 1; mean of the ends of plain training and dropout",
        "flatness": "log2 of the Hessian's trace at equal loss: dropout over plain training",
        "flatness_top": "the same of the Hessian's largest eigenvalue",
        "flatness_slice": "log2 of the rise of the loss a tenth of each layer's norm away, at equal loss: dropout over plain",
        "flatness_r1": "the same slice: R1 without noise over plain training",
        "flatness_noise": "the same slice: dropout minus R1 over plain training",
        "alignment": "cosine of Hessian and covariance of dropout's noise, less the 97.5% quantile of rotations, end of dropout",
        "alignment_plain": "the same at the end of plain training",
        "unmatched": "share of plain and dropout nets that did not reach the loss at which flatness is compared",
    }
    rule = (
        "It replicates if identity is within 0.02 of 0, condensed_r1 and condensed lie below -1 (half the directions), flatness and"
        " flatness_slice below 0, and alignment above 0.5, each with its whole interval; it does not if one of them lies on the"
        " other side; else it cannot be told, nor if more than a tenth of nets miss the loss of comparison (unmatched). What is"
        " said of noise alone, of R1's flatness, of the largest eigenvalue and of the noise at plain minima decides nothing."
    )
    reading = (
        "All but flatness replicates. R1 without noise condenses more than dropout does, and noise without R1 hardly at all; the"
        " identity holds to 0.3%. Whether minima are flatter depends on the measure: along slices that are scaled by the norm of"
        " each layer the loss rises a 28th as much as at plain minima of the same loss, while the Hessian's trace is the same, and"
        " its largest eigenvalue four times as large (told with certainty, though it decides nothing). R1 makes output weights"
        " small and leaves input weights larger: we believe that the slices show this change of norms rather than of curvature. The"
        " paper's theorem on the trace is for ReLU, on which we did not try it. R1 without noise is not shown to be flatter even in"
        " slices, so that noise has a part in that. The noise lies along curved directions at plain minima nearly as much, so"
        " alignment belongs to the noise and not to where it leads."
    )
    seconds = 200
    scales = {
        "laptop": Settings(
            seeds=10,
            inputs=10,
            examples=30,
            width=100,
            scale=0.2,
            rate=0.5,
            learning_rate=4e-3,
            steps=12_000,
            looks=4,
            matched=1e-6,
            most=10_000,
            masks=4000,
            gradients=500,
            slices=50,
        ),
        "paper": Settings(
            seeds=10,
            inputs=10,
            examples=30,
            width=100,
            scale=0.63,
            rate=0.5,
            learning_rate=1e-3,
            steps=200_000,
            looks=10,
            matched=1e-6,
            most=100_000,
            masks=20_000,
            gradients=2000,
            slices=50,
        ),
    }

    settings: Settings

    def run(self) -> Findings:
        settings = self.settings
        data, start = draw(settings)
        seeds, inputs = range(settings.seeds), data.x.shape[-1]
        of_seed = [Data(data.x[seed], data.y[seed]) for seed in seeds]
        nets = {arm: train(start, data, arm, settings) for arm in ARMS}
        counts = {arm: np.array([[directions(net[seed], inputs) for net in nets[arm]] for seed in seeds]) for arm in ARMS}

        matched, steps, left = {}, {}, 0.0
        for arm in ARMS:
            # Noise alone ends at a loss far above the others; it gets there all the same, or is compared where it stops.
            matched[arm], steps[arm] = descend(nets[arm][-1], data, settings)
            if arm in (PLAIN, DROPOUT):
                left += float((loss(matched[arm], data) > settings.matched).double().mean()) / 2
        risen = {arm: np.array([rises(matched[arm][seed], of_seed[seed], settings.slices, seed) for seed in seeds]) for arm in ARMS}
        flat = {arm: np.log2(rise[:, [SLICE.index(-AT), SLICE.index(AT)]].mean(1)) for arm, rise in risen.items()}
        curvatures = {
            arm: [torch.linalg.eigvalsh(hessian(matched[arm][seed], of_seed[seed])) for seed in seeds] for arm in (PLAIN, DROPOUT)
        }
        traces = {arm: np.log2([float(each.sum()) for each in values]) for arm, values in curvatures.items()}
        largest = {arm: np.log2([float(each[-1]) for each in values]) for arm, values in curvatures.items()}
        aligned = {DROPOUT: self.alignments(nets[DROPOUT], of_seed), PLAIN: self.alignments(nets[PLAIN][-1:], of_seed)}
        logs = {arm: np.log2(count[:, -1]) for arm, count in counts.items()}
        measures = {
            "condensed_r1": Measure.of(logs[TERM] - logs[PLAIN]),
            "condensed": Measure.of(logs[DROPOUT] - logs[PLAIN]),
            "condensed_noise": Measure.of(logs[NOISE] - logs[PLAIN]),
            "directions": Measure.of(counts[PLAIN][:, -1]),
            "identity": Measure.of((self.identity(nets[PLAIN][-1], data) + self.identity(nets[DROPOUT][-1], data)) / 2),
            "flatness": Measure.of(traces[DROPOUT] - traces[PLAIN]),
            "flatness_top": Measure.of(largest[DROPOUT] - largest[PLAIN]),
            "flatness_slice": Measure.of(flat[DROPOUT] - flat[PLAIN]),
            "flatness_r1": Measure.of(flat[TERM] - flat[PLAIN]),
            "flatness_noise": Measure.of(flat[NOISE] - flat[PLAIN]),
            "alignment": Measure.of(aligned[DROPOUT][:, -1, 0] - aligned[DROPOUT][:, -1, 1]),
            "alignment_plain": Measure.of(aligned[PLAIN][:, -1, 0] - aligned[PLAIN][:, -1, 1]),
            "unmatched": Measure.exact(left),
        }
        at = [settings.steps * look // settings.looks for look in range(settings.looks + 1)]
        panels = [
            Panel(
                title=f"directions of {settings.width} neurons",
                x="step",
                y="directions",
                curves=[Curve.over_units(arm, at, counts[arm], dashed=arm == PLAIN) for arm in ARMS],
            ),
            Panel(
                title="slices of the loss at equal loss",
                x="distance, in norms of each layer",
                y="log10 of the rise of the loss",
                curves=[
                    Curve.over_units(
                        arm,
                        [distance for distance in SLICE if distance > 0],
                        np.log10(risen[arm][:, len(SLICE) // 2 + 1 :]),
                        dashed=arm == PLAIN,
                    )
                    for arm in ARMS
                ],
            ),
            Panel(
                title="alignment of dropout's noise with the Hessian",
                x="step with dropout",
                y="cosine",
                curves=[
                    Curve.over_units(label, at, aligned[DROPOUT][:, :, k], dashed=k == 1)
                    for k, label in enumerate(("the noise as it is", "97.5% of its rotations"))
                ],
            ),
        ]
        others = sum(steps.values()) + 2 * settings.masks + settings.gradients * (settings.looks + 2)
        passes = settings.seeds * (len(ARMS) * settings.steps + others)
        return Findings(measures, panels, passes)

    def identity(self, theta: Float[Tensor, "seeds weights"], data: Data) -> Float[np.ndarray, " seeds"]:
        """By how much dropout raises each net's loss on average, over R1, minus 1."""
        masks = Masks(self.settings, "identity")
        mean = torch.stack([loss(theta, data, masks()) for _ in range(self.settings.masks)]).double().mean(0)
        return ((mean - loss(theta, data)) / added(theta, data, self.settings.rate) - 1).numpy()

    def alignments(self, nets: list[Float[Tensor, "seeds weights"]], data: list[Data]) -> Float[np.ndarray, "seeds nets pair"]:
        """`alignment` of each net of each seed."""
        masks = Masks(self.settings, "alignment")
        drawn = torch.stack([masks() for _ in range(self.settings.gradients)], 1)
        return np.array(
            [
                [alignment(hessian(net[seed], of), noise_gradients(net[seed], of, drawn[seed])) for net in nets]
                for seed, of in enumerate(data)
            ]
        )

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        if measures["unmatched"].value > 0.1:
            return CANNOT
        return all_of(
            above(measures["identity"], -0.02),
            below(measures["identity"], 0.02),
            below(measures["condensed_r1"], -1),
            below(measures["condensed"], -1),
            below(measures["flatness"], 0),
            below(measures["flatness_slice"], 0),
            above(measures["alignment"], 0.5),
        )

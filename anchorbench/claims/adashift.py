"""The counterexamples to Adam, and AdaShift (Zhou, Zhang et al., ICLR 2019, 1810.00143; after Reddi, Kale and Kumar, ICLR 2018).

A number x is moved against gradients that do not depend on it: mostly small ones that push it up, now and then a large one that
pushes it down. Their mean is positive, so that x should fall, but Adam divides each gradient by a scale that this same gradient
has just raised: large gradients count too little, and x rises. AdaShift takes the scale from a gradient of n steps ago.

Both are moved by the registered optimizers themselves, one member per seed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from anchorbench.claim import Claim, Curve, Experiment, Findings, Measure, Panel, Verdict, above, all_of, below, claims
from anchorbench.files import Plain
from anchorbench.parts import optimizers
from anchorbench.seeds import stream_seed
from anchorbench.train.seams import Layout

ADAM, AMSGRAD, ADASHIFT = "adamw", "amsgrad", "adashift"


class Game(Plain):
    """A stream of gradients, and how the optimizers are set."""

    large: float = Field(gt=0, le=1e6)
    """The rare gradient."""
    small: float = Field(lt=0, ge=-1e6)
    """The usual one."""
    steps: int = Field(ge=100, le=100_000_000)
    rate: float = Field(gt=0, le=10)
    optimizers: dict[str, dict[str, Any]]
    """Kind -> the fields that differ from its defaults."""


class Settings(Experiment):
    """Both games; a seed has streams of the stochastic one of its own."""

    periodic: Game
    period: int = Field(ge=2, le=1_000_000)
    """Steps between large gradients of the periodic game."""
    stochastic: Game
    share: float = Field(gt=0, lt=1)
    """Probability of a large gradient in the stochastic game."""
    streams: int = Field(ge=1, le=10_000)
    """Numbers that each seed moves."""


def play(
    kind: str, game: Game, gradients: Callable[[int], Tensor], shape: tuple[int, int], *, bounded: bool = False
) -> Float[np.ndarray, "steps members"]:
    """The mean over its numbers of each member after every step, from 0; `gradients` gives those of a step, counted from 1.

    `bounded` keeps the numbers in [-1, 1].
    """
    part = optimizers[kind]
    members, size = shape
    configs = [part.Config(**game.optimizers[kind])] * members
    x = torch.zeros(shape, dtype=torch.float64)
    optimizer = part(configs, Layout(("x",), (torch.Size([size]),), (size,)), x)
    rate = torch.full((members, 1), game.rate, dtype=torch.float64)
    path = np.empty((game.steps, members))
    for t in range(1, game.steps + 1):
        optimizer.step(x, gradients(t), x, rate, t)
        if bounded:
            x.clamp_(-1, 1)
        path[t - 1] = x.mean(1).numpy()
    return path


def settings_of(steps: tuple[int, int]) -> Settings:
    """The papers' games, over so many steps of the periodic and the stochastic one."""
    with_momentum, without = {"beta1": 0.9, "beta2": 0.99}, {"beta1": 0.0, "beta2": 0.999}
    scalar = {"phi": "identity"}  # nothing to reduce over
    return Settings(
        seeds=32,
        periodic=Game(
            large=1010,
            small=-10,
            steps=steps[0],
            rate=0.01,
            optimizers={ADAM: with_momentum, AMSGRAD: with_momentum, ADASHIFT: {**with_momentum, **scalar, "window": 10}},
        ),
        period=101,
        stochastic=Game(
            large=101,
            small=-1,
            steps=steps[1],
            rate=1e-3,
            optimizers={ADAM: without, AMSGRAD: without, ADASHIFT: {**without, **scalar, "window": 1}},
        ),
        share=1.02 / 102,
        streams=16,
    )


@claims.register
class AdaShift(Claim):
    """See the module."""

    name = "adashift"
    paper = (
        "Zhou, Zhang, Lu, Wang, Zhang and Yu, AdaShift (ICLR 2019, 1810.00143), the counterexamples after Reddi et al. (ICLR 2018)"
    )
    statement = (
        "On the periodic and the stochastic counterexample Adam moves away from the optimum and AMSGrad gets to it too slowly,"
        " while AdaShift, whose second moment is of earlier gradients, gets there."
    )
    ground = (
        "A number with gradients that do not depend on it, as in the papers, moved by the registered optimizers. Periodic: 1010"
        " every 101 steps and -10 else, x in [-1, 1] from 0, optimum at -1; no chance is involved. Stochastic: 101 with"
        " probability 1.02/102 and -1 else, whose mean is 0.02, no momentum, x unbounded, so that its drift is seen rather than"
        " a bound; all optimizers see the same gradients. Learning rates are equal and constant. The papers' experiments on"
        " networks are not tried. The paper scale plays ten times as long."
    )
    measures = {
        "drift": "stochastic: AdaShift's drift, in learning rates per 1000 steps, after the first tenth (the optimum lies below)",
        "drift_adam": "the same for Adam",
        "drift_difference": "Adam's drift minus AdaShift's",
        "drift_amsgrad": "the same drift for AMSGrad",
        "drift_slower": "AMSGrad's drift minus AdaShift's",
        "end": "periodic: AdaShift's x, mean of the last period",
        "end_adam": "the same for Adam",
        "end_amsgrad": "the same for AMSGrad",
    }
    rule = (
        "It replicates if drift lies below 0, drift_adam above 0 and drift_slower above 0, each with its whole interval, and"
        " end is below -0.9 (arrived), end_adam above 0 (the wrong half) and end_amsgrad above -0.9 (not arrived). It does not"
        " if one of the six lies on the other side; else it cannot be told."
    )
    reading = (
        "Adam fails, AMSGrad is slow: it moves the right way at three quarters of AdaShift's drift in the stochastic game, and"
        " is barely past the middle when AdaShift has arrived in the periodic one; that it fails would be too much to say, as in"
        " more steps it arrives. The jump of both at the start, which the measure leaves out, is the same bias: as long as no"
        " large gradient has come, the small ones are divided by their own small scale. In the stochastic game the drift is"
        " small against the noise of a path (the band), so that the difference between optimizers on the same gradients is told"
        " far better than either drift."
    )
    seconds = 25
    scales = {"laptop": settings_of(steps=(6060, 20_000)), "paper": settings_of(steps=(60_600, 200_000))}
    settings: Settings

    def run(self) -> Findings:
        settings = self.settings
        kinds = {ADAM: "Adam", AMSGRAD: "AMSGrad", ADASHIFT: "AdaShift"}
        for kind in kinds:  # before the first of them has run
            optimizers[kind]
        stream = self.stream()
        ends, drifts = {}, {}
        periodic: list[Curve] = []
        stochastic: list[Curve] = []
        for kind, label in kinds.items():
            path = play(kind, settings.periodic, self.periodic, (1, 1), bounded=True)[:, 0]
            ends[kind] = Measure.exact(float(path[-settings.period :].mean()))
            periodic.append(curve(label, path[:, None]))
            path = play(kind, settings.stochastic, stream, (settings.seeds, settings.streams)) / settings.stochastic.rate
            skipped = settings.stochastic.steps // 10
            drifts[kind] = (path[-1] - path[skipped - 1]) * 1000 / (settings.stochastic.steps - skipped)
            stochastic.append(curve(label, path))
        measures = {
            "drift": Measure.of(drifts[ADASHIFT]),
            "drift_adam": Measure.of(drifts[ADAM]),
            "drift_difference": Measure.of(drifts[ADAM] - drifts[ADASHIFT]),
            "drift_amsgrad": Measure.of(drifts[AMSGRAD]),
            "drift_slower": Measure.of(drifts[AMSGRAD] - drifts[ADASHIFT]),
            "end": ends[ADASHIFT],
            "end_adam": ends[ADAM],
            "end_amsgrad": ends[AMSGRAD],
        }
        panels = [
            Panel(title="periodic (the optimum is -1)", x="step", y="x", level=-1, curves=periodic),
            Panel(title="stochastic (down is right)", x="step", y="x, in learning rates", level=0, curves=stochastic),
        ]
        steps = settings.periodic.steps + settings.stochastic.steps * settings.seeds * settings.streams
        return Findings(measures, panels, len(kinds) * steps)

    def periodic(self, t: int) -> Tensor:
        """The gradient of step t, counted from 1, of the only member."""
        game = self.settings.periodic
        return torch.full((1, 1), game.large if t % self.settings.period == 1 else game.small, dtype=torch.float64)

    def stream(self) -> Callable[[int], Tensor]:
        """The gradients of a step, counted from 1, of the stochastic game."""
        settings, game = self.settings, self.settings.stochastic
        large = np.empty((game.steps, settings.seeds, settings.streams), bool)
        for seed in range(settings.seeds):
            rng = np.random.default_rng(stream_seed(seed, "gradients of claim adashift"))
            large[:, seed] = rng.random((game.steps, settings.streams)) < settings.share
        return lambda t: torch.from_numpy(np.where(large[t - 1], game.large, game.small))

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        return all_of(
            below(measures["drift"], 0),
            above(measures["drift_adam"], 0),
            above(measures["drift_slower"], 0),
            below(measures["end"], -0.9),
            above(measures["end_adam"], 0),
            above(measures["end_amsgrad"], -0.9),
        )


def curve(label: str, path: Float[np.ndarray, "steps members"]) -> Curve:
    """A path at about 200 steps, with a band over members where there are several."""
    at = np.unique(np.linspace(1, len(path), 200).astype(int))
    steps, rows = at.tolist(), path[at - 1].T
    return Curve(label=label, x=steps, y=rows[0].tolist()) if len(rows) == 1 else Curve.over_units(label, steps, rows)

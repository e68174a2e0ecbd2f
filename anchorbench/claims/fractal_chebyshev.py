"""The fractal Chebyshev schedule on a quadratic (Agarwal, Goel and Zhang, ICML 2021, 2103.01338).

Gradient descent on a quadratic of curvatures in [m, M] multiplies the error along curvature c by 1 - eta_t c at step t. With
the T steps 1 / gamma_t, gamma_t = (M + m)/2 - (M - m)/2 cos((t - 1/2) pi / T), in any order, the worst error after T steps is
the least that T fixed steps can have, 1 / cosh(T acosh((M + m) / (M - m))). Most of the steps are longer than 2 / M, so that
the order decides what happens on the way: the fractal one is sigma_1 = [1], sigma_2T = sigma_T interlaced with 2T + 1 -
sigma_T.

All figures are exact: products are sums of logarithms over a fine grid of curvatures, and noise that is added to every gradient
goes through the steps that are left.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, field_validator

from anchorbench.claim import Claim, Curve, Experiment, Findings, Measure, Panel, Verdict, above, all_of, below, claims
from anchorbench.seeds import stream_seed


class Settings(Experiment):
    """A quadratic of largest curvature 1; `seeds` are random orders of the steps."""

    steps: int = Field(ge=2, le=4096)
    condition: float = Field(gt=1, le=1e8)
    """Largest curvature over the smallest."""
    noise: float = Field(gt=0, le=1)
    """Standard deviation of the noise in each coordinate of a gradient; the initial error is 1 in each."""
    curvatures: int = Field(ge=2, le=100_000)
    """Points of the grid, half of them spaced evenly and half evenly in the logarithm."""

    @field_validator("steps")
    @classmethod
    def _power_of_two(cls, steps: int) -> int:
        if steps & (steps - 1):
            raise ValueError(f"is {steps}; allowed: a power of two")
        return steps


def nodes(steps: int, condition: float) -> Float[np.ndarray, " steps"]:
    """gamma_1, gamma_2, ...: ascending, so that the first is the longest step."""
    least = 1 / condition
    return (1 + least) / 2 - (1 - least) / 2 * np.cos((np.arange(steps) + 0.5) * np.pi / steps)


def fractal(steps: int) -> Int[np.ndarray, " steps"]:
    """The fractal order, counted from 0."""
    order = np.array([1])
    while len(order) < steps:
        order = np.stack([order, 2 * len(order) + 1 - order], axis=1).flatten()
    return order - 1


def theory(steps: int, condition: float) -> float:
    """log10 of the least worst-case error that `steps` fixed steps can have."""
    along = steps * np.arccosh((condition + 1) / (condition - 1))
    return float(-np.logaddexp(along, -along) / np.log(10) + np.log10(2))


class Descent:
    """Gradient descent with given rates, on every curvature of the grid."""

    def __init__(self, rates: Float[np.ndarray, " steps"], curvatures: Float[np.ndarray, " grid"]) -> None:
        self.rates = rates
        with np.errstate(divide="ignore"):
            factors = np.log10(np.abs(1 - rates[:, None] * curvatures))
        start = np.zeros((1, len(curvatures)))
        self.prefixes: Float[np.ndarray, "steps_and_one grid"] = np.concatenate([start, factors.cumsum(0)])
        """log10 of what the error is multiplied by from the first step to after step t, t = 0, 1, ..."""
        self.suffixes: Float[np.ndarray, "steps_and_one grid"] = np.concatenate([factors[::-1].cumsum(0)[::-1], start])
        """The same from after step t to the end."""

    @property
    def residual(self) -> float:
        """log10 of the worst error at the end."""
        return float(self.prefixes[-1].max())

    @property
    def growth(self) -> float:
        """log10 of the worst factor by which an error is ever multiplied: from the start, or from any step to the end."""
        return float(max(self.prefixes.max(), self.suffixes.max()))

    def noisy(self, noise: float) -> float:
        """log10 of the root mean square error at the end, over the grid: what is left of the start, and of the noise."""
        shares = 2 * (np.log10(noise * self.rates)[:, None] + self.suffixes[1:])
        return float(log10_sum([2 * self.prefixes[-1][None], shares]) - np.log10(self.prefixes.shape[1])) / 2


def log10_sum(parts: list[np.ndarray]) -> float:
    """log10 of the sum of all 10^part."""
    return float(np.logaddexp.reduce(np.concatenate([part.flatten() for part in parts]) * np.log(10)) / np.log(10))


@claims.register
class FractalChebyshev(Claim):
    """See the module."""

    name = "fractal-chebyshev"
    paper = "Agarwal, Goel and Zhang, Acceleration via fractal learning rate schedules (ICML 2021, 2103.01338), on quadratics"
    statement = (
        "On a quadratic, Chebyshev steps in fractal order reach the accelerated rate without momentum, and stay stable on the"
        " way, where other orders of the same steps are not."
    )
    ground = (
        "Exact worst cases over a grid of curvatures. Arms: the same Chebyshev steps in fractal order, in random orders, and"
        " sorted either way; and the best constant step 2/(m + M). The paper proves bounds for quadratics and trains networks"
        " with the schedule; its networks are not tried here. The paper scale has a larger condition number and more steps."
    )
    measures = {
        "growth": "log10 of the worst growth of an error, prefixes and suffixes: random orders minus fractal order",
        "growth_sorted": "the same: the better of both sorted orders minus fractal order",
        "growth_fractal": "log10 of the worst growth in fractal order, over the condition number",
        "residual": "log10 of the worst error at the end, fractal order minus theory",
        "acceleration": "log10 of the worst error at the end: constant step minus fractal order",
        "noise": "log10 of the error at the end with noisy gradients: constant step minus fractal order",
        "noise_random": "the same: random orders minus fractal order",
        "noise_sorted": "the same: the better of both sorted orders minus fractal order",
    }
    rule = (
        "It replicates if residual is within 0.001 of 0, growth_fractal is below 0 (no error ever grows by more than the"
        " condition number), growth and growth_sorted are above 1 (other orders let it grow ten times as much), and acceleration"
        " and noise_random are above 0, each with its whole interval; it does not if one of them lies on the other side; else it"
        " cannot be told. noise and noise_sorted are reported and decide nothing: they depend on how much noise there is."
    )
    reading = (
        "The residual is a theorem for every order and holds to rounding; what could have failed is the growth. The fractal"
        " order's is that of its first and longest step. At this noise, steps sorted from the longest end a little less noisy"
        " (noise_sorted is negative): what they pay is a growth of 10^27 on the way, and of 10^255 at the paper scale, which"
        " single precision does not hold."
    )
    seconds = 5
    scales = {
        "laptop": Settings(seeds=40, steps=64, condition=100.0, noise=1e-6, curvatures=2000),
        "paper": Settings(seeds=40, steps=512, condition=10_000.0, noise=1e-6, curvatures=4000),
    }

    settings: Settings

    def run(self) -> Findings:
        settings = self.settings
        least = 1 / settings.condition
        half = settings.curvatures // 2
        curvatures = np.concatenate([np.linspace(least, 1, settings.curvatures - half), np.geomspace(least, 1, half)])
        rates = 1 / nodes(settings.steps, settings.condition)
        constant = Descent(np.full(settings.steps, 2 / (1 + least)), curvatures)
        ours = Descent(rates[fractal(settings.steps)], curvatures)
        falling, rising = Descent(rates, curvatures), Descent(rates[::-1], curvatures)
        orders = [
            np.random.default_rng(stream_seed(seed, "orders of claim fractal-chebyshev")).permutation(settings.steps)
            for seed in range(settings.seeds)
        ]
        drawn = [Descent(rates[order], curvatures) for order in orders]
        measures = {
            "growth": Measure.of([each.growth - ours.growth for each in drawn]),
            "growth_sorted": Measure.exact(min(falling.growth, rising.growth) - ours.growth),
            "growth_fractal": Measure.exact(ours.growth - float(np.log10(settings.condition))),
            "residual": Measure.exact(ours.residual - theory(settings.steps, settings.condition)),
            "acceleration": Measure.exact(constant.residual - ours.residual),
            "noise": Measure.exact(constant.noisy(settings.noise) - ours.noisy(settings.noise)),
            "noise_sorted": Measure.exact(
                min(falling.noisy(settings.noise), rising.noisy(settings.noise)) - ours.noisy(settings.noise)
            ),
            "noise_random": Measure.of([each.noisy(settings.noise) - ours.noisy(settings.noise) for each in drawn]),
        }
        steps = [float(step) for step in range(settings.steps + 1)]
        lines = {"fractal": ours, "sorted, longest first": falling, "sorted, shortest first": rising, "constant step": constant}
        panels: list[Panel] = []
        for title, rows_of in (
            ("from the start to step t", lambda each: each.prefixes.max(1)),
            ("from step t to the end", lambda each: each.suffixes.max(1)),
        ):
            curves = [
                Curve(label=label, x=steps, y=rows_of(each).tolist(), dashed=label == "constant step")
                for label, each in lines.items()
            ]
            random = np.array([rows_of(each) for each in drawn])
            curves.insert(1, Curve.over_units(f"random, mean of {settings.seeds} orders", steps, random))
            panels.append(
                Panel(title=f"worst growth of an error {title}", x="step t", y="log10 of the factor", level=0, curves=curves)
            )
        return Findings(measures, panels, settings.steps * (settings.seeds + len(lines)))

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        return all_of(
            above(measures["residual"], -0.001),
            below(measures["residual"], 0.001),
            below(measures["growth_fractal"], 0),
            above(measures["growth"], 1),
            above(measures["growth_sorted"], 1),
            above(measures["acceleration"], 0),
            above(measures["noise_random"], 0),
        )

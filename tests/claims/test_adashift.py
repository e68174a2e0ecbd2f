"""AdaShift: the game is played by the registered optimizers, which are the definition's."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import references
import torch
from claim_runs import require_findings, run
from torch import Tensor

from anchorbench.claim import claims
from anchorbench.claims import adashift
from anchorbench.parts import OptimizerConfig, optimizers
from anchorbench.train.seams import Layout, Optimizer


class PlainAdaShift(Optimizer):
    """For a scalar per tensor, from the definition: every gradient is kept."""

    class Config(OptimizerConfig):
        kind: Literal["adashift"] = "adashift"
        structural: ClassVar[tuple[str, ...]] = ("window", "phi")
        window: int = 10
        phi: str = "identity"
        beta1: float = 0.9
        beta2: float = 0.999
        eps: float = 1e-10

    def __init__(self, configs: Sequence[Any], layout: Layout, like: Tensor) -> None:
        super().__init__(configs, layout, like)
        self.seen: list[Tensor] = []
        self.second = torch.zeros_like(like)

    def step(self, into: Tensor, gradient: Tensor, weights: Tensor, rate: Tensor, t: int) -> None:
        c = self.configs[0]
        self.seen = [*self.seen[-c.window :], gradient.clone()]
        if t <= c.window:
            return
        self.second = c.beta2 * self.second + (1 - c.beta2) * self.seen[0] ** 2
        scale = (self.second / (1 - c.beta2 ** (t - c.window))).sqrt() + c.eps
        powers = [c.beta1**j for j in range(c.window)]
        mean = sum(p * g for p, g in zip(powers, self.seen[::-1], strict=False)) / sum(powers)
        into -= rate * mean / scale


@pytest.fixture
def with_adashift(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The registered optimizer, or the plain one where there is none."""
    if "adashift" not in optimizers.all:
        monkeypatch.setitem(optimizers.all, "adashift", PlainAdaShift)
    yield


def played(kind: str, steps: int, gradients: Callable[[int], float]) -> float:
    """Where the claim's own loop takes one number."""
    game = claims["adashift"].scales["laptop"].model_dump()["periodic"] | {"steps": steps}
    tensor = torch.ones(1, 1, dtype=torch.float64)
    return adashift.play(kind, adashift.Game(**game), lambda t: gradients(t) * tensor, (1, 1))[-1, 0]


@pytest.mark.parametrize("kind", ["adamw", "amsgrad"])
def test_the_game_is_played_by_the_optimizers(kind: str) -> None:
    def gradient(t: int) -> float:
        return 1010.0 if t % 101 == 1 else -10.0

    config = optimizers[kind].Config(beta1=0.9, beta2=0.99)
    gradients = [torch.tensor([gradient(t)], dtype=torch.float64) for t in range(1, 301)]
    expected = getattr(references, kind)(config, gradients, [0.01] * 300)
    assert played(kind, 300, gradient) == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.usefixtures("with_adashift")
def test_adashift_is_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0).standard_normal(301)
    found = played("adashift", 300, lambda t: float(draws[t]))
    monkeypatch.setitem(optimizers.all, "adashift", PlainAdaShift)
    assert found == pytest.approx(played("adashift", 300, lambda t: float(draws[t])), rel=1e-9)


@pytest.mark.usefixtures("with_adashift")
def test_adashift() -> None:
    settings = claims["adashift"].scales["laptop"].model_dump()
    found = run("adashift", seeds=5, streams=64, stochastic=settings["stochastic"] | {"steps": 1000})
    require_findings("adashift", found)
    assert found.measures["drift_difference"].low > 3
    assert found.measures["end"].value < -0.95
    assert found.measures["end_adam"].value > 0.95
    assert -0.5 < found.measures["end_amsgrad"].value < 0


def test_a_claim_without_its_optimizer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(optimizers.all, "adashift", raising=False)
    with pytest.raises(ValueError, match="unknown optimizer 'adashift'"):
        run("adashift")

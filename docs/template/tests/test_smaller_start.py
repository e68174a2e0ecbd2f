"""The rule by hand, and the experiment in small."""

import pytest
from my_parts.smaller_start import SmallerStart

from anchorbench.claim import Measure


@pytest.mark.parametrize(
    ("low", "high", "fit", "verdict"),
    [
        (0.1, 0.3, 1.0, "replicates"),
        (-0.3, -0.1, 1.0, "does not replicate"),
        (-0.1, 0.3, 1.0, "cannot be told at this scale"),
        (0.1, 0.3, 0.8, "cannot be told at this scale"),
    ],
)
def test_the_rule(low: float, high: float, fit: float, verdict: str) -> None:
    gain = Measure(value=(low + high) / 2, low=low, high=high, n=6)
    assert SmallerStart.judge({"gain": gain, "fit": Measure.exact(fit)}) == verdict


def test_the_experiment_in_small() -> None:
    settings = SmallerStart.scales["laptop"].model_dump()
    model = {"d_model": 8, "d_head": 8, "d_ff": 8}
    short = settings["base"] | {"model": model, "optimizer": {"warmup": 0}, "batch": 4, "steps": 2, "data_size": 50}
    small = type(SmallerStart.scales["laptop"]).model_validate(settings | {"seeds": 2, "base": short})
    findings = SmallerStart(small).run()
    assert findings.measures.keys() == SmallerStart.measures.keys()
    assert findings.passes == 2 * 2 * 2

"""What claims about `composite` share: the papers' two trainings in small, and intervals over the pairs that are held out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from anchorbench.claim import CANNOT, DOES_NOT, REPLICATES, Curve, Measure, Verdict
from anchorbench.claims.arms import Arms, accuracy, composed
from anchorbench.sweeps.run_folder import Run

PAIRS = 6
"""Unordered pairs of different anchors, which seeds hold out in turn in `heldout-pairs`."""
FIT = 0.9
"""Mean accuracy at unseen keys and positions that the arms that decide have to reach: an underfit model is not asked."""
MARGIN = 0.2
"""A difference in the share composed that is smaller counts as none."""
SMALL_TASK: dict[str, Any] = {"task": "composite", "variant": "heldout-pairs", "task_config": {"key_max": 59, "seq_len": 5}}
"""Fewer keys and places than the papers', so that small models fit within a thousand steps."""


def post_ln(layers: int) -> dict[str, Any]:
    """The training of 2405.05409 in small, on `SMALL_TASK`."""
    return SMALL_TASK | {
        "model": {
            **{"n_layer": layers, "d_model": 32, "d_head": 32, "d_ff": 96},
            **{"norm": "post", "activation": "relu", "bias": False, "unembed_bias": True},
        },
        "init": {"depth_scale": False, "unembed_bias": "uniform"},
        "optimizer": {"lr": 4e-3, "warmup": 100, "start": 0.04, "end": 0.04},
        "batch": 64,
        "steps": 1500,
    }


def pre_ln() -> dict[str, Any]:
    """The training of 2501.08537 in small, on `SMALL_TASK`, with two layers instead of ten."""
    return SMALL_TASK | {
        "model": {"d_model": 32, "d_head": 32, "d_ff": 64},
        "init": {"fan": "d_model"},
        "optimizer": {"lr": 4e-3, "weight_decay": 0.0, "warmup": 100, "start": 1 / 3, "end": 1 / 3},
        "batch": 64,
        "steps": 1500,
    }


def over_pairs(values: Float[np.ndarray, " seeds"]) -> Measure:
    """The mean with its interval over held-out pairs, each the mean of its seeds: pairs differ more than seeds do."""
    return Measure.of([values[pair::PAIRS].mean() for pair in range(min(PAIRS, len(values)))])


# ------------------------------------------------------------------------------------------------ mechanism against behaviour

LEAST_RANK = 0.3
"""A rank correlation below it counts as none: not a tenth of the variance in common."""


def solutions(seeds: int, base: dict[str, Any], gammas: Sequence[float], decays: Sequence[float]) -> Arms:
    """Every rate with every decay, so that runs differ in how much they compose."""
    grid = [(gamma, decay) for gamma in gammas for decay in decays]
    arms: dict[str, dict[str, Any]] = {
        f"gamma {gamma:g}, decay {decay:g}": {"init.gamma": gamma, "optimizer.weight_decay": decay} for gamma, decay in grid
    }
    return Arms(seeds=seeds, base=base, arms=arms)


def fit_runs(runs: Mapping[str, Sequence[Run]]) -> list[Run]:
    """The runs of all arms that fit the trained pairs."""
    return [run for arm in runs.values() for run in arm if accuracy(run) >= FIT]


def rank_correlation(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> Measure:
    """Spearman's, with its interval over the units by Fisher's transformation (error by Bonett and Wright, 2000)."""
    from scipy import stats

    n = len(x)
    if n < 5 or np.std(x) == 0 or np.std(y) == 0:
        return Measure(value=0, low=-1, high=1, n=max(n, 1))
    found: Any = stats.spearmanr(x, y)
    value = float(found.statistic)
    half = 1.96 * np.sqrt((1 + value**2 / 2) / (n - 3))
    z = np.arctanh(np.clip(value, -0.999999, 0.999999))
    return Measure(value=value, low=min(value, float(np.tanh(z - half))), high=max(value, float(np.tanh(z + half))), n=n)


def related(measure: Measure) -> Verdict:
    """Whether two things go together, by the interval of their rank correlation."""
    return REPLICATES if measure.low > 0 else DOES_NOT if measure.high < LEAST_RANK else CANNOT


def by_composed(label: str, runs: Sequence[Run], values: Sequence[float]) -> Curve:
    """The values over what each run composes, in three equal parts of the runs."""
    shares = np.array([composed(run) for run in runs])
    parts = [part for part in np.array_split(np.argsort(shares, kind="stable"), 3) if len(part)]
    if not parts:
        return Curve(label=label, x=[0], y=[0])
    return Curve(
        label=label, x=[float(shares[part].mean()) for part in parts], y=[float(np.array(values)[part].mean()) for part in parts]
    )

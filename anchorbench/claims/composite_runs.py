"""What claims about `composite` share: the papers' two trainings in small, and intervals over the pairs that are held out."""

from typing import Any

import numpy as np
from jaxtyping import Float

from anchorbench.claim import Measure

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

"""What claims of 2401.08309 share: its model and training at paper scale, and a small model of the same kind for a laptop."""

from typing import Any

from anchorbench.claim import Measure
from anchorbench.verdict import FIT

PAPER = "Zhang et al., Anchor function: a type of benchmark functions for studying language models (2401.08309)"
SMALLER = (
    " The model is narrower than the paper's (width 32, 2 layers of 1 head, against 400, 4 of 4) and trained with a higher rate"
    " for fewer steps, and its weights, embeddings included, have standard deviation d^-0.5 at first, where the paper has"
    " PyTorch's defaults."
)
"""How the laptop's ground differs from the paper's."""


def small(task: str, **fields: Any) -> dict[str, Any]:
    """A recipe that a laptop trains in seconds: post-LN, ReLU and no biases, as in the paper."""
    return {
        "task": task,
        "model": {"d_model": 32, "d_head": 32, "d_ff": 64, "norm": "post", "activation": "relu", "bias": False},
        "optimizer": {"lr": 3e-3, "weight_decay": 0.01, "warmup": 50},
        "batch": 32,
        **fields,
    }


def in_the_paper(
    task: str,
    *,
    n_layer: int = 4,
    n_head: int = 4,
    lr: float = 2e-4,
    batch: int = 50,
    init: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """The paper's model and optimizer; `epochs` gives the steps, which follow from the size of the data."""
    model = {"d_model": 400, "d_ff": 1200, "d_head": 64, "n_layer": n_layer, "n_head": n_head}
    return {
        "task": task,
        "model": {**model, "norm": "post", "activation": "relu", "bias": False, "unembed_bias": True},
        "init": {"depth_scale": False, "unembed_bias": "uniform", **(init or {})},
        "optimizer": {"lr": lr, "weight_decay": 0.01, "start": 0.1, "end": 0.1, "warmup": 0},
        "batch": batch,
        **fields,
    }


def epochs(n: int, count: int, batch: int = 50) -> dict[str, Any]:
    """So many examples, and so many passes over them, a tenth of these to warm up."""
    steps = count * -(-n // batch)
    return {"data_size": n, "steps": steps, "optimizer.warmup": steps // 10}


def fits(*shares: Measure) -> bool:
    """Whether every mean is at least the share from which a run counts as fit."""
    return all(share.value >= FIT for share in shares)

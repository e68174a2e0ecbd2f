"""Ways to have every kind of every part of training, and stacks that are trained with them."""

from typing import Any

import torch
from conftest import TINY
from torch import Tensor

from anchorbench.recipe import Recipe
from anchorbench.train.stack import Stack

WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "model": {
        "gpt": {},
        "rms-norm": {"model.kind": "rms-norm"},
        "layer-sharing": {"model.kind": "layer-sharing", "model.n_layer": 3, "model.share": "pairs"},
        "border-tokens": {"model.kind": "border-tokens", "model.before": 2, "model.after": 1},
        "scale-invariant": {"model.kind": "scale-invariant"},
        "shifted-values": {"model.kind": "shifted-values"},
    },
    "initializer": {"rate": {"init.gamma": 0.6}},
    "optimizer": {
        "adamw": {"optimizer.beta1": 0.8},
        "amsgrad": {"optimizer.kind": "amsgrad", "optimizer.beta2": 0.9},
        "sgd": {"optimizer.kind": "sgd", "optimizer.nesterov": True},
        "adashift": {"optimizer.kind": "adashift", "optimizer.window": 2, "optimizer.beta2": 0.9},
        "adashift mean": {"optimizer.kind": "adashift", "optimizer.window": 1, "optimizer.phi": "mean"},
        "adashift identity": {"optimizer.kind": "adashift", "optimizer.window": 3, "optimizer.phi": "identity"},
        "grafting": {"optimizer.kind": "grafting", "optimizer.magnitude": {"beta1": 0.8}, "optimizer.measure": 4},
        "grafting global": {
            "optimizer.kind": "grafting",
            "optimizer.magnitude": {"kind": "sgd", "nesterov": True},
            "optimizer.direction": "adamw",
            "optimizer.by": "global",
        },
        "grafted-sgd": {
            "optimizer.kind": "grafted-sgd",
            "optimizer.nesterov": True,
            "optimizer.rates": [["blocks.0.query.weight", 3.0], ["blocks.0.query.bias", 0.5]],
        },
        "lion": {"optimizer.kind": "lion", "optimizer.beta1": 0.8, "optimizer.beta2": 0.95},
        "muon": {"optimizer.kind": "muon", "optimizer.momentum": 0.8, "optimizer.beta1": 0.8},
        "muon spectral": {
            "optimizer.kind": "muon",
            "optimizer.scale": "spectral",
            "optimizer.nesterov": False,
            "optimizer.iterations": 3,
        },
        "normalized-sgd": {"optimizer.kind": "normalized-sgd", "optimizer.momentum": 0.8},
        "normalized-sgd max": {"optimizer.kind": "normalized-sgd", "optimizer.by": "max"},
        "normalized-sgd norm": {"optimizer.kind": "normalized-sgd", "optimizer.by": "norm", "optimizer.momentum": 0.0},
    },
    "schedule": {
        "cosine": {"optimizer.schedule": "cosine"},
        "linear": {"optimizer.schedule": "linear"},
        "constant": {"optimizer.schedule": "constant"},
        "piecewise": {"optimizer.schedule": {"kind": "piecewise", "factors": [[2, 0.5], [4, 0.1]]}},
        "restarts": {"optimizer.schedule": {"kind": "restarts", "period": 3, "growth": 2.0}},
        "stable": {"optimizer.schedule": {"kind": "stable", "decay": 0.5}},
        "k-decay": {"optimizer.schedule": {"kind": "k-decay", "k": 3.0, "power": 2.0}},
        "k-decay cosine": {"optimizer.schedule": {"kind": "k-decay", "base": "cosine"}},
        "k-decay exponential": {"optimizer.schedule": {"kind": "k-decay", "base": "exponential", "speed": 2.0}},
        "chebyshev": {"optimizer.schedule": {"kind": "chebyshev", "cycle": 4, "kappa": 20.0}},
        "chebyshev falling": {"optimizer.schedule": {"kind": "chebyshev", "order": "falling"}},
        "chebyshev rising": {"optimizer.schedule": {"kind": "chebyshev", "order": "rising"}},
        "matched": {"optimizer.schedule": {"kind": "matched", "of": {"k": 3.0, "kind": "k-decay"}}},
        "matched linear": {"optimizer.schedule": {"kind": "matched", "shape": "linear", "of": {"kind": "stable", "decay": 0.4}}},
    },
    "decay": {kind: {"optimizer.decay": kind, "optimizer.weight_decay": 0.02} for kind in ("scaled", "unscaled", "coupled")},
    "clip": {
        "norm": {"optimizer.clip": 0.1},
        "none": {"optimizer.clip": "none"},
        "relative": {"optimizer.clip": {"kind": "relative", "factor": 0.1}},
    },
    "estimator": {"plain": {}, "svrg": {"estimator": {"kind": "svrg", "every": 2, "batches": 2, "alpha": 0.7}}},
    "penalty": {
        "l1": {"penalties": [{"kind": "l1", "strength": 0.01}]},
        "dropout-r1": {"penalties": [{"kind": "dropout-r1", "rate": 0.3, "strength": 0.5}]},
        "dropout-r2": {"penalties": [{"kind": "dropout-r2", "strength": 0.5, "noise": {"kind": "dropout", "final": 0.3}}]},
    },
    "noise": {
        "none": {},
        "dropout": {
            "noise": {"kind": "dropout", "embedding": 0.1, "attention": 0.2, "residual": 0.3, "mlp": 0.4, "final": 0.5},
        },
    },
    "growth": {"split": {"growth": [{"kind": "split", "at": 2, "width": 3, "alpha": 0.4}]}},
}
"""Registry -> kind, and a word for a further row -> what a recipe says to have it, with other numbers than the defaults."""
SHAPE = {"model.d_model": 32, "model.n_head": 1, "model.d_head": 32, "model.d_ff": 32, "batch": 32, "optimizer.lr": 0.01}
FIELDS = {f"{word}: {kind}": fields for word, kinds in WAYS.items() for kind, fields in kinds.items()}
STEPS = TINY.steps


def members(fields: dict[str, Any], count: int = 3) -> list[Recipe]:
    """Members that differ in seeds, initialization and learning rate."""
    base = TINY.override(SHAPE | fields)
    return [
        base.override({"seed": seed, "init.gamma": 0.4 + seed / 10, "optimizer.lr": 0.01 / (seed + 1)}) for seed in range(count)
    ]


def trained(stack: Stack, steps: int = STEPS) -> Stack:
    while stack.step < steps:
        stack.advance()
    return stack


def numbers(stack: Stack, member: int) -> dict[str, Tensor]:
    """The member's weights and its part of all state."""
    return {**stack.named(member), **stack.state_of(member)}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name

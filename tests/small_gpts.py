"""Models that are small enough for every weight's gradient, and the task that they are asked."""

from typing import Any

import numpy as np
import torch
from conftest import SMALL_COMPOSITE, random_gpt

from anchorbench import load_task
from anchorbench.model.gpt import GPT
from anchorbench.probes.loss import Sequences

TASK = load_task("composite", **SMALL_COMPOSITE)


def small_gpt(seed: int = 0, **shape: Any) -> GPT:
    """At most a thousand weights."""
    sizes = {"n_layer": 1, "n_head": 2, "d_model": 6, "d_head": 3, "d_ff": 8} | shape
    return random_gpt(seed, vocab_size=32, seq_len=TASK.seq_len, **sizes)


SMALL = small_gpt()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def labelled(tokens: np.ndarray, labels: np.ndarray | None = None) -> Sequences:
    labels = np.full(len(tokens), 2) if labels is None else labels
    return Sequences(torch.from_numpy(tokens)[:, None], torch.from_numpy(labels))

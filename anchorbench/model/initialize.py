"""Draws the weights of a stack, each member with its own initializer and seed."""

from collections.abc import Sequence
from typing import Any

import torch

from anchorbench.model.gpt import GPT
from anchorbench.parts import initializers
from anchorbench.seeds import stream_seed


def initialize(model: GPT, inits: Sequence[Any], seeds: Sequence[int]) -> None:
    """Draws the weights of every member in place. Members with equal seeds get the same draws, scaled by their own rates."""
    with torch.no_grad():
        for member, (init, seed) in enumerate(zip(inits, seeds, strict=True)):
            initializers[init.kind](init).draw(model, member, torch.Generator().manual_seed(stream_seed(seed, "weights")))

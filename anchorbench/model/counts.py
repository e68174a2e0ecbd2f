"""Parameters of a model and MACs of a training step, computed from shapes, without allocating."""

import torch

from anchorbench.model.gpt import ModelConfig, new_model
from anchorbench.parts import models


def parameters(shape: ModelConfig, vocab_size: int, seq_len: int) -> int:
    """Parameters of one member."""
    with torch.device("meta"):
        model = new_model(shape, members=1, vocab_size=vocab_size, seq_len=seq_len)
    return sum(parameter.numel() for parameter in model.parameters())


def macs_per_step(shape: ModelConfig, batch: int, vocab_size: int, seq_len: int) -> int:
    """Matmul MACs of one member's training step: forward, and twice as many backward."""
    return 3 * batch * models[shape.kind].forward_macs(shape, vocab_size, seq_len)

"""Layers that share weights: one block for all layers, or one per pair of adjacent layers.

It is inspired by Weight Net, whose Weight Block reuses a convolution's weights. Weight Net is unpublished, and nothing here
reproduces it; whole blocks are shared as in ALBERT (1909.11942) and the Universal Transformer (1807.03819).

Controls: for equal depth and cost, kind `gpt` with the same fields; for equal parameters, kind `gpt` with `n_layer` 1
(`share: all`) or half of it, rounded up (`share: pairs`).
"""

from typing import Any, Literal, cast

from anchorbench.model.gpt import GPT, Block, ModelConfig
from anchorbench.parts import models


@models.register
class LayerSharingGPT(GPT):
    """The GPT whose layers share their weights."""

    class Config(ModelConfig):
        kind: Literal["layer-sharing"] = "layer-sharing"  # pyright: ignore[reportIncompatibleVariableOverride]
        share: Literal["all", "pairs"] = "all"
        """Which layers share a block: all of them, or the first and second, the third and fourth, ..."""

    def __init__(self, shape: Any, *, members: int, vocab_size: int, seq_len: int) -> None:
        super().__init__(shape, members=members, vocab_size=vocab_size, seq_len=seq_len)
        self.uses = shape.n_layer if shape.share == "all" else 2
        """Consecutive layers that are one block."""
        self.blocks = self.blocks[: -(-shape.n_layer // self.uses)]

    @property
    def layers(self) -> list[Block]:
        """The block of each layer."""
        return [cast(Block, self.blocks[layer // self.uses]) for layer in range(self.shape.n_layer)]

"""Ten anchors, one per sequence: each adds its offset to the key that follows it.

    position   0   1   2   3    4   5   6   7   8
    token     57  33  81  [a]  key  24  90  46  61   ->   key + offset[a]

Variants
    intervals   anchor a = 1..10 adds a and is never trained with its own tenth of the keys, 20 + 8(a-1) .. 27 + 8(a-1): with ten
                different intervals, do models read anchor and key separately? (2401.08309, multi-anchor, multi-interval)
    arithmetic  anchors 1..10 add -4, +3, -5, -2, +1, +4, -3, -1, +2, +5, trained with every key (2401.08309, multi-task)

The anchor is at p = 0..7; a key x is in `iid` if x and p have the same residue, else in `train`; `ood` holds each anchor's
unseen interval, on training residues. The authors' arithmetic generator draws a key but never writes it into the sequence, so
its answer cannot be inferred; here the key follows the anchor. Their interval generator omits the keys 20 and 99;
here they are ordinary keys.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int
from pydantic import model_validator

from anchorbench.task import Offsets, register

from .two_anchors import OffsetsConfig, OffsetsTask


class TenAnchorsConfig(OffsetsConfig):
    """Config; defaults from the paper's code."""

    offsets: Offsets = {anchor: anchor for anchor in range(1, 11)}
    """Anchor token -> the offset that it adds to the key."""
    unseen_intervals: bool = True
    """Whether the keys are divided into equal intervals, one per anchor, of which the a-th anchor never sees the a-th."""

    def trains(self, anchor: int, key: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Whether each `key [n]` is trained with `anchor`."""
        width = len(self.keys) // len(self.offsets) if self.unseen_intervals else 0
        low = self.key_min + width * list(self.offsets).index(anchor)
        return (key < low) | (key >= low + width)

    @model_validator(mode="after")
    def _has_intervals(self) -> "TenAnchorsConfig":
        if self.unseen_intervals and len(self.keys) < len(self.offsets):
            raise ValueError(f"{len(self.keys)} keys cannot be cut into {len(self.offsets)} intervals, one for each anchor")
        return self


@register
class TenAnchors(OffsetsTask):
    """Ten anchors with offsets, each with or without an interval of keys that it is never trained with (2401.08309)."""

    name = "ten-anchors"
    paper = "2401.08309, multi-anchor with many intervals; multi-task"
    Config = TenAnchorsConfig
    config: TenAnchorsConfig
    description = "Each of ten anchors adds its offset to the key after it, and is never trained with one interval of the keys."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "intervals": {},
        "arithmetic": {
            "offsets": dict(zip(range(1, 11), [-4, 3, -5, -2, 1, 4, -3, -1, 2, 5], strict=True)),
            "unseen_intervals": False,
        },
    }
    sizes = {"train": 20_000, "iid": 500, "ood": 500}

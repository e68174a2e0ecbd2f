"""Nine anchors, 81 pairs: does a model still compose when the table that it could memorize is five times as large?

    position   0   1   2    3    4   5   6   7   8
    token     57  33  key  a1   a2  81  24  90  46   ->   key + offset[a1] + offset[a2]

Anchors 1..9 add -4..+4 (anchor 5 adds nothing); everything else is as in `composite`: keys 20..99, iid where key and position have
the same residue. Many pairs share a sum, so a model may group them by their effect.

Variants
    heldout-both  (3,4) and (4,3) are never trained
    heldout-ten   (1,2), (3,4), (5,6), (7,8), (1,9) and their mirrors are never trained; every anchor is still seen on both sides
    conflict      (3,4) is trained as x+1 instead of x-3, (4,3) held out

The generator is public, but not which pairs the authors hold out: (3,4) is carried over from `composite`, as is the conflict's
distance of 4 from the sum; `heldout-ten` is ours.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from anchorbench.task import Offsets, register

from .composite import Composite, CompositeConfig

TEN_PAIRS = [(1, 2), (3, 4), (5, 6), (7, 8), (1, 9)]


class NineAnchorsConfig(CompositeConfig):
    """The config of `composite`, with nine anchors."""

    offsets: Offsets = {anchor: anchor - 5 for anchor in range(1, 10)}


@register
class NineAnchors(Composite):
    """Key, first anchor, second anchor, out of 81 pairs (2501.08537, code)."""

    name = "nine-anchors"
    paper = "2501.08537, code, more anchors"
    Config = NineAnchorsConfig
    description = "Composition of two out of nine anchors, which add -4..+4 to the key."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "heldout-both": {"held_out": [(3, 4), (4, 3)]},
        "heldout-ten": {"held_out": [*TEN_PAIRS, *(pair[::-1] for pair in TEN_PAIRS)]},
        "conflict": {"exceptions": [{"pair": (3, 4), "offset": 1}], "held_out": [(4, 3)]},
    }
    sizes = {"train": 180_000, "iid": 20_000, "ood": 20_000}
    variant_sizes = {}

"""Composition as first published in the anchor-function paper: one of sixteen anchor pairs is held out, its mirror is trained.

    position   0   1   2    3    4   5   6   7   8
    token     57  33  key  a1   a2  81  24  90  46   ->   key + offset[a1] + offset[a2]   (key-first, the paper's "inverse")
    token     57  33  a1   a2  key  81  24  90  46   ->   the same                        (anchors-first)

(2401.08309, composition.) Anchors 1, 2, 3, 4 add +5, +1, -2, -5, as in the runs behind the paper's figure, which have the key
first; we decoded these from their stored predictions. The code's default is -8 for anchor 4, and anchors first. `iid` where the
key and the first position of the three have the same residue modulo 8.

Caution: with (3,4) held out, (4,3) is trained with the rule, or vice versa. A model that ignores the order of the pair answers
the held-out pair correctly, so inferential and symmetric answers coincide and this task cannot tell them apart; `composite`
(conflict, heldout-both) can.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from anchorbench.task import Modulus, Offsets, Pairs, register

from .composite import Composite, CompositeConfig


class CompositionConfig(CompositeConfig):
    """The fields of `composite`, with the defaults of 2401.08309."""

    offsets: Offsets = {1: 5, 2: 1, 3: -2, 4: -5}
    held_out: Pairs = ((3, 4),)
    modulus: Modulus = 8


MINUS_8: Mapping[str, Any] = {"offsets": {1: 5, 2: 1, 3: -2, 4: -8}}


@register
class Composition(Composite):
    """Two anchors and a key, one ordered pair held out whose mirror is trained (2401.08309, composition)."""

    name = "composition"
    paper = "2401.08309, composition"
    Config = CompositionConfig
    description = "Composition with one pair held out and its mirror trained: inferential and symmetric answers coincide."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "key-first": {},
        "key-first-43": {"held_out": [(4, 3)]},
        "key-first-minus-8": MINUS_8,
        "anchors-first": {"key_first": False},
        "anchors-first-43": {"key_first": False, "held_out": [(4, 3)]},
        "anchors-first-minus-8": {"key_first": False, **MINUS_8},
    }
    sizes = {"train": 20_000, "iid": 500, "ood": 500}

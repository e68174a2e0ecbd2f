"""Data complexity: how much slower is training when some pairs follow no rule and can only be memorized?

    position   0   1   2    3    4   5   6   7   8
    token     57  33  key  a1   a2  81  24  90  46   ->   key + offset[a1] + offset[a2], or key + offset of the pair {a1, a2}

The sequences are those of `composite`; all sixteen pairs are trained, so there is no ood split. In variant `wrong-K` the first K
of these unordered pairs, in both orders, add an offset other than their anchors' sum (in brackets):

    {1,2}: +4 (+6)   {1,3}: +1 (+3)   {1,4}: -5 (-3)   {2,3}: +5 (-1)   {2,4}: -9 (-7)   {3,4}: -6 (-10)

The measures are the first epoch with a training loss below 0.1 and the first with more than 99% accuracy on a pair
(2405.05409v1, section on data complexity; 2501.08537, figure 8). The wrong pairs are the groups of role `exception`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from anchorbench.task import register

from .composite import Composite

WRONG_OFFSETS = {(1, 2): 4, (1, 3): 1, (1, 4): -5, (2, 3): 5, (2, 4): -9, (3, 4): -6}
WRONG = [{"pair": order, "offset": offset} for pair, offset in WRONG_OFFSETS.items() for order in (pair, pair[::-1])]


@register
class DataComplexity(Composite):
    """Composite with all pairs trained, of which K of the six unordered ones break the rule (2405.05409v1)."""

    name = "data-complexity"
    paper = "2405.05409v1, section on data complexity; 2501.08537, figure 8"
    description = "Composition of two anchors, all pairs trained, K of the six unordered pairs with a symmetric wrong offset."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {f"wrong-{k}": {"exceptions": WRONG[: 2 * k]} for k in range(7)}
    sizes = {"train": 90_000, "iid": 10_000}

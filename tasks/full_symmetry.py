"""Full symmetry: each unordered pair follows one of two rule sets, so only symmetry can answer the pair that is never trained.

    position   0   1    2    3   4   5   6   7
    token     57  key  a1   a2  33  81  24  90   ->   key + offset[a1] + offset[a2], with the offsets of the pair's set

    set 1: anchors 0, 1, 2, 3, 4 add +2, +5, +1, -2, -8 in the pairs {0,1}, {0,2}, {1,4}, {2,3}, {3,4}
    set 2: anchors 0, 1, 2, 3, 4 add -9, +6, -7, +3, +5 in the pairs {0,3}, {0,4}, {1,2}, {1,3}, {2,4}

(2509.17514, section on symmetry.) There are no doubled pairs; of the twenty ordered pairs only (4,3) is never trained. Its set
can only be known from (3,4), so the correct answer is the symmetric one. It is the foil `inferential` here, and `other_set`
is the answer of a model that composes but puts (4,3) in set 2; Mamba is reported to fail on (4,3) and to solve (3,4).

The text does not say what anchor 4 adds in set 2. Data and label of (4,3) do not need it, but the trained pairs {0,4} and {2,4}
do, as does `other_set`. We chose +5: then the offsets of both sets have the same total, -2; no two pairs of a set have the
same sum; and no label is an anchor's id.
"""

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import NO_ANSWER, Answers, Examples, Group, Parser, Split, register

from .pairs import PairTask
from .sequence import KeyConfig

SETS = [[(0, 1), (0, 2), (1, 4), (2, 3), (3, 4)], [(0, 3), (0, 4), (1, 2), (1, 3), (2, 4)]]
HELD_OUT = (4, 3)


class FullSymmetryConfig(KeyConfig):
    """Config; defaults from the paper."""

    seq_len: int = Field(8, ge=3, le=1024)
    anchor_4_in_set_2: int = Field(5, ge=-32_768, le=32_768)
    """Not given in the paper."""

    @property
    def offsets(self) -> Int[np.ndarray, "sets anchors"]:
        return np.array([[2, 5, 1, -2, -8], [-9, 6, -7, 3, self.anchor_4_in_set_2]])

    @model_validator(mode="after")
    def _makes_sense(self) -> "FullSymmetryConfig":
        for anchor in range(5):
            self.require_anchor(anchor)
        # set 2 also includes (4,3), where it is the foil
        in_sets = ((0, SETS[0]), (1, [*SETS[1], HELD_OUT]))
        sums = [self.offsets[i, a] + self.offsets[i, b] for i, pairs in in_sets for a, b in pairs]
        self.require_labels(int(self.key_min + min(sums)), int(self.key_max + max(sums)))
        self.require_cells(self.seq_len - 2)
        return self


@register
class FullSymmetry(PairTask):
    """Key and two anchors whose unordered pair decides between two rule sets (2509.17514)."""

    name = "full-symmetry"
    paper = "2509.17514, section on symmetry"
    Config = FullSymmetryConfig
    config: FullSymmetryConfig
    description = "Two rule sets, chosen by the unordered anchor pair; only (4,3) is never trained, and only symmetry answers it."
    sizes = {"train": 270_000, "iid": 30_000, "ood": 15_000}

    @property
    def anchors(self) -> dict[int, str]:
        return {anchor: f"adds {a:+d} in set 1, {b:+d} in set 2" for anchor, (a, b) in enumerate(self.config.offsets.T.tolist())}

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [order for a, b in SETS[0] + SETS[1] for order in ((a, b), (b, a))]

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(Group(f"({a},{b})", "held_out" if (a, b) == HELD_OUT else "trained") for a, b in self.pairs)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        tokens, found = self.write_pairs(rng, split, n)
        in_set = found.group // (2 * len(SETS[0]))  # the pairs of set 1 come first
        sums = self.config.offsets[:, found.first] + self.config.offsets[:, found.second]
        label, other = found.key + np.where(in_set == 0, sums, sums[::-1])
        return Examples(
            tokens=tokens,
            label=label,
            group=found.group,
            key=found.key,
            position=found.position,
            foils={"inferential": label, "other_set": np.full(n, NO_ANSWER) if split != "ood" else other},
        )

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        found = self.read_pairs(tokens, parser)
        low, high = np.minimum(found.first, found.second), np.maximum(found.first, found.second)
        sums = [
            sum(offset * ((found.first == anchor).astype(int) + (found.second == anchor)) for anchor, offset in enumerate(offsets))
            for offsets in self.config.offsets.tolist()
        ]
        in_first = np.logical_or.reduce([(low == a) & (high == b) for a, b in SETS[0]])
        label = found.key + np.where(in_first, sums[0], sums[1])
        other = found.key + np.where(in_first, sums[1], sums[0])
        held_out = (found.first == HELD_OUT[0]) & (found.second == HELD_OUT[1])
        return parser.answers(
            label=label,
            group=found.group,
            key=found.key,
            position=found.position,
            split=self.split_of(found),
            foils={"inferential": label, "other_set": np.where(held_out, other, NO_ANSWER)},
        )

    def intermediate_values(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Key, anchors, and the rule set selected by their pair, 1 or 2; the answer adds that set's two offsets to the key."""
        found = self.read_pairs(tokens, Parser(len(tokens)))
        rule_set = 1 + found.group // (2 * len(SETS[0]))  # the pairs of set 1 come first
        return {"key": found.key, "first_anchor": found.first, "second_anchor": found.second, "rule_set": rule_set}

"""Near synonym: anchor 9 means the same as anchor 3; does it generalize to pairs where only its synonym was seen?

    position   0   1   2   3    4   5   6   7   8
    token     57  33  a1   a2  key  24  90  46  61   ->   key + offset[a1] + offset[a2]

(2401.08309, synonym, `near_synonym`.) Anchors 1, 2, 3, 4 add +5, +1, -2, -8, and 9 adds -2 like 3. (4,9) and (9,4) are held out.
The pair is at p = 0..6; a key x is in `iid` if x and p have the same residue, else in `train`; `ood` holds the two held-out
pairs on the training residues.

Variants: additions to the base data, which are the pairs of 9 with 1 and 2, and pairs of two different anchors among 1, 2, 4.
    add-synonym  A: the six pairs of 3 with 1, 2 or 4. Shares 1 (pairs of 9) : m (pairs of 3) : m + 1 (of 1, 2, 4).
    add-doubled  B: (1,1), (2,2), (4,4), (9,9) in place of the pairs of 3, with the same shares: 1 : m : m + 1.
    add-nothing  C: only more of the base data, 1 : 1. Anchor 3 does not occur here or in B.
Within a share all pairs are equally likely; `weights` gives the exact frequencies. The authors train on 1,000 (m + 1)
sequences, m = 1 to 19; in their single runs A reaches 100% on the held-out pairs, B at most 60%, C at most 15%. Their shares in B
are unknown: ours are those of A.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import NO_ANSWER, SPLITS, Answers, Examples, Group, Parser, Split, register

from .sequence import KeyConfig, KeyTask, add_in_turn, cells, read, residue_split, swap_anchors, write

Pairs = tuple[tuple[int, int], ...]
OFFSETS = {1: 5, 2: 1, 3: -2, 4: -8, 9: -2}
HELD_OUT: Pairs = ((4, 9), (9, 4))
OF_9: Pairs = ((1, 9), (2, 9), (9, 1), (9, 2))
OF_3: Pairs = ((1, 3), (2, 3), (4, 3), (3, 1), (3, 2), (3, 4))
DOUBLED: Pairs = ((1, 1), (2, 2), (4, 4), (9, 9))
OF_OTHERS: Pairs = tuple(itertools.permutations((1, 2, 4), 2))


class NearSynonymConfig(KeyConfig):
    """Config; defaults from the paper's code."""

    seq_len: int = Field(9, ge=3, le=1024)
    augmentation: Literal["synonym", "doubled", "nothing"] = "synonym"
    ratio: int = Field(19, ge=1, le=1000)
    """m in the shares 1 : m : m + 1; has no effect if the augmentation is `nothing`."""

    @property
    def shares(self) -> dict[Pairs, int]:
        """Trained pairs -> their share in the data."""
        if self.augmentation == "nothing":
            return {OF_9: 1, OF_OTHERS: 1}
        return {OF_9: 1, OF_3 if self.augmentation == "synonym" else DOUBLED: self.ratio, OF_OTHERS: self.ratio + 1}

    @model_validator(mode="after")
    def _makes_sense(self) -> "NearSynonymConfig":
        for anchor in OFFSETS:
            self.require_anchor(anchor)
        sums = [OFFSETS[a] + OFFSETS[b] for a, b in itertools.chain(HELD_OUT, *self.shares)]
        self.require_labels(self.key_min + min(sums), self.key_max + max(sums))
        self.require_cells(self.seq_len - 2)
        return self


@register
class NearSynonym(KeyTask):
    """Two anchors, then the key; two of the anchors mean the same (2401.08309, synonym)."""

    name = "near-synonym"
    paper = "2401.08309, synonym"
    Config = NearSynonymConfig
    config: NearSynonymConfig
    description = "Composition of two anchors, one of which is a rare synonym of another."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "add-synonym": {"augmentation": "synonym"},
        "add-doubled": {"augmentation": "doubled"},
        "add-nothing": {"augmentation": "nothing"},
    }
    sizes = {"train": 20_000, "iid": 500, "ood": 500}

    @property
    def anchors(self) -> dict[int, str]:
        synonyms = {3: ", as 9 does", 9: ", as 3 does"}
        return {anchor: f"adds {offset:+d}{synonyms.get(anchor, '')}" for anchor, offset in OFFSETS.items()}

    @property
    def pairs(self) -> Pairs:
        """The ordered anchor pairs, in the order of `groups`."""
        return (*itertools.chain(*self.config.shares), *HELD_OUT)

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(Group(f"({a},{b})", "held_out" if (a, b) in HELD_OUT else "trained") for a, b in self.pairs)

    @property
    def weights(self) -> list[int]:
        """Relative frequency of each group in `train` and `iid`; 0 for held-out groups."""
        common = math.lcm(*map(len, self.config.shares))
        trained = [share * common // len(pairs) for pairs, share in self.config.shares.items() for _ in pairs]
        return trained + [0] * len(HELD_OUT)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config = self.config
        keys, positions = cells(config.keys, np.arange(self.seq_len - 2), config.modulus, split)
        cell = rng.integers(len(keys), size=n, dtype=np.uint32)
        key, start = keys[cell], positions[cell]
        weights = [int(weight == 0) for weight in self.weights] if split == "ood" else self.weights
        ballots = np.repeat(np.arange(len(weights)), weights)
        group = ballots[rng.integers(len(ballots), size=n, dtype=np.uint32)]
        first, second = np.array(self.pairs)[group].T
        tokens = self.filler(rng, n)
        write(tokens, start, first)
        write(tokens, start + 1, second)
        write(tokens, start + 2, key)
        label = key + np.array([OFFSETS[a] + OFFSETS[b] for a, b in self.pairs])[group]
        return Examples(tokens=tokens, label=label, group=group, key=key, position=start + 2, foils={"inferential": label})

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        at = self.find_anchors(tokens, parser, 2, "two anchors")
        first, second, key = (read(tokens, at + i) for i in range(3))
        parser.require(np.isin(second, list(OFFSETS)), "its anchors are not neighbours")
        parser.require(config.is_key(key), "no key follows its anchors")
        group = np.full(len(tokens), NO_ANSWER)
        for i, (a, b) in enumerate(self.pairs):
            group[(first == a) & (second == b)] = i
        parser.require(group != NO_ANSWER, f"its anchor pair does not occur with the augmentation {config.augmentation}")

        label = key + sum(offset * ((first == anchor).astype(int) + (second == anchor)) for anchor, offset in OFFSETS.items())
        split = residue_split(key, at, config.modulus)
        held_out = ((first == 4) & (second == 9)) | ((first == 9) & (second == 4))
        ood = np.where(split == SPLITS.index("train"), SPLITS.index("ood"), NO_ANSWER)
        return parser.answers(
            label=label,
            group=group,
            key=key,
            position=at + 2,
            split=np.where(held_out, ood, split),
            foils={"inferential": label},
        )

    def intermediate_values(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Key, anchors, and the value after each; the last is the answer."""
        at = np.isin(tokens, list(OFFSETS)).argmax(1)
        return add_in_turn(read(tokens, at + 2), read(tokens, at), read(tokens, at + 1), OFFSETS)

    def mirror(self, tokens: Int[np.ndarray, "n seq_len"]) -> Int[np.ndarray, "n seq_len"]:
        """The same sequences with the two anchors swapped."""
        return swap_anchors(tokens, OFFSETS)

"""Counting anchors: the answer is the number of anchors in the sequence.

    position   0   1   2   3   4   5   6   7   8
    token     57 [18] 33  81 [18] [18] 24  90  46   ->   3

The number k of anchors, uniform over 1..8, is the group; their positions are uniform, all other tokens are filler.

Variants
    one-token    every anchor is token 18
    four-tokens  each anchor is one of the tokens 16..19, which all count equally

The generator is known only from the bytecode in the code of 2501.08537, which names the tokens and the label. It has no key and
no unseen data: our `iid` has the sets of positions whose sum is a multiple of `modulus`, which are never trained. With
modulus 9, the sequence length, that is about a ninth of the sets for each k; every position is trained with every k in other sets,
except position 0 alone.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import NO_ANSWER, SPLITS, Answers, Examples, Group, Modulus, Parser, Split, TokenId, register

from .sequence import KeyConfig, KeyTask


class CountAnchorConfig(KeyConfig):
    """Config; tokens as in the code."""

    anchors: tuple[TokenId, ...] = Field((18,), min_length=1)
    """Tokens that are counted."""
    max_count: int = Field(8, ge=2, le=16)
    seq_len: int = Field(9, ge=2, le=16)
    modulus: Modulus = 9
    """Modulus of the sum of the anchors' positions."""

    def places(self, split: Split) -> Int[np.ndarray, "sets seq_len"]:
        """All sets of anchor positions in the split, as rows of zeros and ones, ordered by number of anchors."""
        position = np.arange(self.seq_len)
        sets = np.arange(2**self.seq_len)[:, None] >> position & 1
        count = sets.sum(1)
        inside = ((sets @ position % self.modulus == 0) == (split == "iid")) & (count >= 1) & (count <= self.max_count)
        return sets[inside][count[inside].argsort(kind="stable")]

    @model_validator(mode="after")
    def _makes_sense(self) -> "CountAnchorConfig":
        for anchor in self.anchors:
            self.require_anchor(anchor)
        if len(set(self.anchors)) < len(self.anchors):
            raise ValueError(f"anchors name a token twice: {self.anchors}")
        self.require_labels(1, self.max_count)
        for split in ("train", "iid"):
            missing = set(range(1, self.max_count + 1)) - set(self.places(split).sum(1).tolist())
            if missing:
                raise ValueError(f"modulus {self.modulus} leaves no places for {min(missing)} anchors in the split {split!r}")
        return self


@register
class CountAnchor(KeyTask):
    """The number of anchors in the sequence (2501.08537, code)."""

    name = "count-anchor"
    paper = "2501.08537, code, counting"
    Config = CountAnchorConfig
    config: CountAnchorConfig
    description = "The number of anchors in the sequence."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"one-token": {}, "four-tokens": {"anchors": (16, 17, 18, 19)}}
    sizes = {"train": 100_000, "iid": 10_000}

    @property
    def anchors(self) -> dict[int, str]:
        return dict.fromkeys(self.config.anchors, "counts one")

    @property
    def chance(self) -> float:
        return 1 / self.config.max_count

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(Group(f"{k}-anchor{'s' * (k > 1)}", "trained") for k in range(1, self.config.max_count + 1))

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config = self.config
        places = config.places(split)
        sets = np.bincount(places.sum(1), minlength=config.max_count + 1)
        label = rng.integers(1, config.max_count + 1, size=n)
        chosen = sets.cumsum()[label - 1] + rng.integers(sets[label])
        is_anchor = places.astype(bool)[chosen]
        tokens = self.filler(rng, n)
        tokens[is_anchor] = np.array(config.anchors)[rng.integers(len(config.anchors), size=label.sum(), dtype=np.uint32)]
        none = np.full(n, NO_ANSWER)
        return Examples(tokens=tokens, label=label, group=label - 1, key=none, position=none)

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        is_anchor = np.isin(tokens, config.anchors)
        parser.require((is_anchor | config.is_filler(tokens)).all(1), "it holds a token that is neither anchor nor filler")
        count = is_anchor.sum(1)
        parser.require((count >= 1) & (count <= config.max_count), f"it does not hold 1..{config.max_count} anchors")
        total = np.where(is_anchor, np.arange(self.seq_len), 0).sum(1)
        none = np.full(len(tokens), NO_ANSWER)
        split = np.where(total % config.modulus == 0, SPLITS.index("iid"), SPLITS.index("train"))
        return parser.answers(label=count, group=count - 1, key=none, position=none, split=split)

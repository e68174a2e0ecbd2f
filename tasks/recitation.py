"""Recitation: two tokens appear with anchors between them; when one of them is repeated, the answer is the other.

    position   0   1   2   3   4   5   6   7   8
    token     57   a  [3]  b  33  81  24  90   a   ->   b   (forward)
    token     57   a  [3]  b  33  81  24  90   b   ->   a   (reverse)

(2401.08309, forward-reverse recitation, `context`; gaps of two and three are its `context2`, a 3 4 b, and `context3`, a 3 4 5 b.)
Each group makes up half of the sequences; reverse needs more data than forward, because b cannot look ahead. a is at
p = 0..seq_len - gap - 3. A sequence is in `iid` if a and b both have the residue of their own positions, in `train` if neither
does; if only one does, it is in no split. a and b differ, or the two groups could not be told apart.

`key` is the repeated token, `position` its first position. Each is uniform over the keys of its split; the
authors add the position to a residue class instead, so their keys extend beyond the key range.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import NO_ANSWER, Answers, Examples, Group, Parser, Split, TokenId, register

from .context import draw_keys, require_keys
from .sequence import KeyConfig, KeyTask, read, residue_split, write


class RecitationConfig(KeyConfig):
    """Config; defaults from the paper's code."""

    gap: int = Field(1, ge=1, le=16)
    """Anchors between a and b."""
    anchor: TokenId = 3
    """The first anchor; the others are the ids that follow it."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "RecitationConfig":
        for anchor in range(self.anchor, self.anchor + self.gap):
            self.require_anchor(anchor)
        if self.seq_len < self.gap + 3:
            raise ValueError(f"seq_len is {self.seq_len}; a gap of {self.gap} needs at least {self.gap + 3}")
        require_keys(self, each=2)
        return self


@register
class Recitation(KeyTask):
    """One of two linked tokens is repeated: the answer is the other (2401.08309, forward-reverse recitation)."""

    name = "recitation"
    paper = "2401.08309, forward-reverse recitation"
    Config = RecitationConfig
    config: RecitationConfig
    description = "Two tokens linked by anchors; the last token repeats one of them, the answer is the other."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"gap-1": {"gap": 1}, "gap-2": {"gap": 2}, "gap-3": {"gap": 3}}
    sizes = {"train": 4_000, "iid": 500}

    @property
    def anchors(self) -> dict[int, str]:
        first = self.config.anchor
        return {first + i: f"link {i + 1} between the two tokens" for i in range(self.config.gap)}

    @property
    def groups(self) -> tuple[Group, ...]:
        return Group("forward", "trained"), Group("reverse", "trained")

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config = self.config
        a_at = rng.integers(self.seq_len - config.gap - 2, size=n)
        b_at = a_at + config.gap + 1
        a, b = draw_keys(rng, config, a_at, split), draw_keys(rng, config, b_at, split)
        while (same := a == b).any():
            b[same] = draw_keys(rng, config, b_at[same], split)
        reverse = rng.integers(2, size=n)
        query = np.where(reverse, b, a)
        tokens = self.filler(rng, n)
        write(tokens, a_at, a)
        for i in range(config.gap):
            write(tokens, a_at + 1 + i, config.anchor + i)
        write(tokens, b_at, b)
        tokens[:, -1] = query
        return Examples(
            tokens=tokens, label=np.where(reverse, a, b), group=reverse, key=query, position=np.where(reverse, b_at, a_at)
        )

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        at = self.find_anchors(tokens, parser, config.gap, f"{config.gap} anchors")
        for i, anchor in enumerate(self.anchors):
            parser.require(read(tokens, at + i) == anchor, "its anchors are not neighbours in order")
        a_at, b_at = at - 1, at + config.gap
        parser.require((a_at >= 0) & (b_at <= self.seq_len - 2), "its anchors do not have a key on either side")
        a, b, query = read(tokens, a_at), read(tokens, b_at), tokens[:, -1]
        parser.require(config.is_key(a) & config.is_key(b), "its anchors do not have a key on either side")
        parser.require(a != b, "both tokens are the same")
        parser.require((query == a) | (query == b), "its last token repeats neither of the two tokens")
        a_split, b_split = residue_split(a, a_at, config.modulus), residue_split(b, b_at, config.modulus)
        return parser.answers(
            label=np.where(query == a, b, a),
            group=(query == b).astype(int),
            key=query,
            position=np.where(query == a, a_at, b_at),
            split=np.where(a_split == b_split, a_split, NO_ANSWER),
        )

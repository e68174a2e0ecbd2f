"""The successor: one more than the token that the anchor points to.

    position   0   1   2    3   4   5   6   7   8
    token     57  33  [3]  key  24  90  46  61  50   ->   key + 1

A key is in `iid` if it and the anchor's position have the same residue, else in `train`. There is no held-out group.
"""

import numpy as np
from jaxtyping import Int
from pydantic import model_validator

from anchorbench.task import Answers, Examples, Group, Parser, Split, TokenId, register
from anchorbench.tasks.sequence import KeyConfig, KeyTask, cells, read, residue_split, write


class SuccessorConfig(KeyConfig):
    """What can be changed."""

    anchor: TokenId = 3

    @model_validator(mode="after")
    def _makes_sense(self) -> "SuccessorConfig":
        self.require_anchor(self.anchor)
        self.require_labels(self.key_min + 1, self.key_max + 1)
        self.require_cells(self.seq_len - 1)
        return self


@register
class Successor(KeyTask):
    """One more than the token after the anchor."""

    name = "successor"
    paper = "none: an example"
    Config = SuccessorConfig
    config: SuccessorConfig
    description = "One more than the token after the anchor."

    @property
    def anchors(self) -> dict[int, str]:
        return {self.config.anchor: "the answer is one more than the token after it"}

    @property
    def groups(self) -> tuple[Group, ...]:
        return (Group("successor", "trained"),)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        keys, places = cells(self.config.keys, np.arange(self.seq_len - 1), self.config.modulus, split)
        cell = rng.integers(len(keys), size=n)
        key, anchor_at = keys[cell], places[cell]
        tokens = self.filler(rng, n)
        write(tokens, anchor_at, self.config.anchor)
        write(tokens, anchor_at + 1, key)
        return Examples(tokens=tokens, label=key + 1, group=np.zeros(n, int), key=key, position=anchor_at + 1)

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        anchor_at = self.find_anchors(tokens, parser)
        key = read(tokens, anchor_at + 1)
        parser.require(self.config.is_key(key), "no key follows its anchor")
        split = residue_split(key, anchor_at, self.config.modulus)
        return parser.answers(label=key + 1, group=np.zeros(len(key), int), key=key, position=anchor_at + 1, split=split)

    def token_positions(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Positions of the key and the anchor, each `[n]`."""
        return super().token_positions(tokens) | {"anchor": (tokens == self.config.anchor).argmax(1)}

"""Anchors of one, two or three tokens: how much data does a longer anchor need?

    position   0   1   2   3   4    5   6   7   8
    one       57  33  81  24  [3] key  90  46  61   ->   key
    two       57  33  81  [2] [3] key  90  46  61   ->   key
    three     57  33  [1] [2] [3] key  90  46  61   ->   key

(2401.08309, prompts `3`, `23` and `123`. Only its results are public, neither generator nor full definition.) Our definition: the
identity task with a run of distinct tokens as its anchor, which appears exactly once, as a whole; the answer is the next token. A
key x after position q is in `iid` if x and q have the same residue, else in `train`, so that `one` is the identity task. The
authors' share of long sentences is omitted: its meaning is not recorded. There is no held-out group.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int
from pydantic import model_validator

from anchorbench.task import Answers, Examples, Group, Parser, Split, TokenId, register

from .sequence import KeyConfig, KeyTask, cells, read, residue_split, write


class AnchorLengthConfig(KeyConfig):
    """Config; defaults from the paper."""

    anchor: tuple[TokenId, ...] = (3,)
    """The sequence of tokens that forms the anchor."""

    @property
    def ends(self) -> Int[np.ndarray, " positions"]:
        """Possible positions of the anchor's last token."""
        return np.arange(len(self.anchor) - 1, self.seq_len - 1)

    @model_validator(mode="after")
    def _makes_sense(self) -> "AnchorLengthConfig":
        if not 0 < len(self.anchor) < self.seq_len:
            raise ValueError(f"anchor has {len(self.anchor)} tokens; allowed: 1 to {self.seq_len - 1}, one less than seq_len")
        if len(set(self.anchor)) < len(self.anchor):
            raise ValueError(f"anchor is {self.anchor}; its tokens must differ")
        for token in self.anchor:
            self.require_anchor(token)
        for split in ("train", "iid"):
            cells(self.keys, self.ends, self.modulus, split)
        return self


@register
class AnchorLength(KeyTask):
    """The token after an anchor of one, two or three tokens (2401.08309, defined here)."""

    name = "anchor-length"
    paper = "2401.08309, anchor length (definition ours)"
    Config = AnchorLengthConfig
    config: AnchorLengthConfig
    description = "The token after an anchor that is a run of one, two or three tokens."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "one": {"anchor": (3,)},
        "two": {"anchor": (2, 3)},
        "three": {"anchor": (1, 2, 3)},
    }
    sizes = {"train": 300, "iid": 500}

    @property
    def anchors(self) -> dict[int, str]:
        run = self.config.anchor
        return {token: f"token {i} of {len(run)}; the answer is the token after the run" for i, token in enumerate(run, 1)}

    @property
    def groups(self) -> tuple[Group, ...]:
        return (Group("identity", "trained"),)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config = self.config
        keys, ends = cells(config.keys, config.ends, config.modulus, split)
        cell = rng.integers(len(keys), size=n, dtype=np.uint32)
        key, end = keys[cell], ends[cell]
        tokens = self.filler(rng, n)
        for back, token in enumerate(reversed(config.anchor)):
            write(tokens, end - back, token)
        write(tokens, end + 1, key)
        return Examples(tokens=tokens, label=key, group=np.zeros(n, int), key=key, position=end + 1)

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        at = self.find_anchors(tokens, parser, len(config.anchor))
        for i, token in enumerate(config.anchor):
            parser.require(read(tokens, at + i) == token, "its anchor is not complete and in order")
        key_at = at + len(config.anchor)
        key = read(tokens, key_at)
        parser.require(config.is_key(key), "no key follows its anchor")
        split = residue_split(key, key_at - 1, config.modulus)
        return parser.answers(label=key, group=np.zeros(len(tokens), int), key=key, position=key_at, split=split)

    def token_positions(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Positions of the key and of the anchor's last token, each `[n]`."""
        return super().token_positions(tokens) | {"anchor": (tokens == self.config.anchor[-1]).argmax(1)}

"""The middle word: two anchors enclose an odd number of tokens, and the answer is the one in the middle.

    position   0   1   2    3   4    5   6   7   8
    gap-1     57  33  [3]  key [4]  81  24  90  46   ->   key
    gap-3     57  33  [3]  81  key  24  [4] 90  46   ->   key
    gap-5     57  [3] 33   81  key  24  90  [4] 46   ->   key

(2401.08309, middle word, the authors' `output_middle_word`.) The groups are the gaps 1, 3 and 5, all trained. A key x at position q
is in `iid` if x and q have the same residue, else in `train`: the key's own position, because its distance to the anchors
varies. The authors' public generator never sets the label; we take the rule from its name. No function is held out.
"""

from typing import Annotated

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import Answers, Examples, Group, Parser, Split, TokenId, register

from .sequence import KeyConfig, KeyTask, cells, read, residue_split, write
from .two_anchors import draw_cells


class MiddleWordConfig(KeyConfig):
    """Config; defaults from the paper's code."""

    first: TokenId = 3
    """The anchor before the run."""
    last: TokenId = 4
    """The anchor after the run."""
    gaps: tuple[Annotated[int, Field(ge=1, lt=1024)], ...] = Field((1, 3, 5), min_length=1)
    """Numbers of tokens between the anchors."""

    def positions(self, gap: int) -> Int[np.ndarray, " positions"]:
        """Possible positions of the key in a run of `gap` tokens."""
        return np.arange(self.seq_len - gap - 1) + (gap + 1) // 2

    @model_validator(mode="after")
    def _makes_sense(self) -> "MiddleWordConfig":
        if self.first == self.last:
            raise ValueError(f"both anchors are {self.first}; they must differ")
        for anchor in (self.first, self.last):
            self.require_anchor(anchor)
        if len(set(self.gaps)) < len(self.gaps):
            raise ValueError(f"gaps are {self.gaps}; each may be named once")
        self.require_size(len(self.gaps))
        for gap in self.gaps:
            if gap % 2 == 0 or not 1 <= gap <= self.seq_len - 2:
                raise ValueError(f"gap {gap} is not allowed; allowed: odd, from 1 to {self.seq_len - 2}, two less than seq_len")
            for split in ("train", "iid"):
                cells(self.keys, self.positions(gap), self.modulus, split)
        return self


@register
class MiddleWord(KeyTask):
    """The middle token of the run between two anchors (2401.08309)."""

    name = "middle-word"
    paper = "2401.08309, middle word"
    Config = MiddleWordConfig
    config: MiddleWordConfig
    description = "The middle one of the 1, 3 or 5 tokens between two anchors."
    sizes = {"train": 30_000, "iid": 500}

    @property
    def anchors(self) -> dict[int, str]:
        return {self.config.first: "the run starts after it", self.config.last: "the run ends before it"}

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(Group(f"gap-{gap}", "trained") for gap in self.config.gaps)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config = self.config
        cells_of = {i: cells(config.keys, config.positions(gap), config.modulus, split) for i, gap in enumerate(config.gaps)}
        group, key, key_at = draw_cells(rng, n, cells_of)
        half = (np.array(config.gaps)[group] + 1) // 2
        tokens = self.filler(rng, n)
        write(tokens, key_at - half, config.first)
        write(tokens, key_at + half, config.last)
        write(tokens, key_at, key)
        return Examples(tokens=tokens, label=key, group=group, key=key, position=key_at)

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        is_first, is_last = tokens == config.first, tokens == config.last
        parser.require((is_first | is_last | config.is_filler(tokens)).all(1), "it holds a token that is neither anchor nor key")
        parser.require((is_first.sum(1) == 1) & (is_last.sum(1) == 1), "it does not hold each anchor exactly once")
        start, end = is_first.argmax(1), is_last.argmax(1)
        parser.require(start < end, "its anchors are in the wrong order")
        gap = end - start - 1
        parser.require(np.isin(gap, config.gaps), f"the gap between its anchors is none of {', '.join(map(str, config.gaps))}")
        group = np.zeros(len(tokens), int)
        for i, allowed in enumerate(config.gaps):
            group[gap == allowed] = i
        middle = (start + end) // 2
        key = read(tokens, middle)
        parser.require(config.is_key(key), "there is no key in the middle between its anchors")
        return parser.answers(label=key, group=group, key=key, position=middle, split=residue_split(key, middle, config.modulus))

    def token_positions(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Positions of the key and both anchors, each `[n]`."""
        first, last = (tokens == self.config.first).argmax(1), (tokens == self.config.last).argmax(1)
        return super().token_positions(tokens) | {"first anchor": first, "last anchor": last}

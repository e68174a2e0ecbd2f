"""Mean of two keys: one anchor, and an answer that depends on both tokens after it.

    position   0   1   2    3   4   5   6   7   8
    token     57  33  [3]  x1  x2  24  90  46  61   ->   (x1 + x2) // 2

(2401.08309, `3x1x2_to_x1+x2` in the code, which computes the mean despite that name.) The anchor is at p = 0..6. A key that
follows position q counts as unseen if key and q have the same residue, as in the identity task. In `train` neither key is unseen,
in `iid` both are; sequences with one of each belong to no split. (How the authors split pairs of keys is not recorded: this
keeps their rule that every key is trained, but only at some positions.) There is no held-out group.
"""

import numpy as np
from jaxtyping import Int
from pydantic import model_validator

from anchorbench.task import NO_ANSWER, Answers, Examples, Group, Parser, Split, TokenId, register

from .sequence import KeyConfig, KeyTask, cells, read, residue_split, write


class TwoKeyMeanConfig(KeyConfig):
    """Config; defaults from the paper's code."""

    anchor: TokenId = 3

    @model_validator(mode="after")
    def _makes_sense(self) -> "TwoKeyMeanConfig":
        self.require_anchor(self.anchor)
        if self.seq_len < 3:
            raise ValueError(f"seq_len is {self.seq_len}; an anchor and two keys need at least 3")
        if self.modulus > len(self.keys):
            raise ValueError(f"modulus is {self.modulus}; allowed: at most the number of keys, {len(self.keys)}")
        return self


@register
class TwoKeyMean(KeyTask):
    """The mean, rounded down, of the two tokens after the anchor (2401.08309)."""

    name = "two-key-mean"
    paper = "2401.08309, two keys of one anchor (3x1x2)"
    Config = TwoKeyMeanConfig
    config: TwoKeyMeanConfig
    description = "The mean, rounded down, of the two tokens after the one anchor; `key` is the first of them."
    sizes = {"train": 2_000, "iid": 500}

    @property
    def anchors(self) -> dict[int, str]:
        return {self.config.anchor: "the answer is the mean of the two tokens after it"}

    @property
    def groups(self) -> tuple[Group, ...]:
        return (Group("mean", "trained"),)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config = self.config
        starts = np.arange(self.seq_len - 2)
        keys, positions = cells(config.keys, starts, config.modulus, split)
        cell = rng.integers(len(keys), size=n, dtype=np.uint32)
        first, start = keys[cell], positions[cell]
        allowed = [cells(config.keys, np.array([q]), config.modulus, split)[0] for q in starts + 1]  # second keys, by start
        counts = np.array([len(seconds) for seconds in allowed])
        pick = (np.cumsum(counts) - counts)[start] + rng.integers(counts[start])
        second = np.concatenate(allowed)[pick]

        tokens = self.filler(rng, n)
        write(tokens, start, config.anchor)
        write(tokens, start + 1, first)
        write(tokens, start + 2, second)
        return Examples(tokens=tokens, label=(first + second) // 2, group=np.zeros(n, int), key=first, position=start + 1)

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        at = self.find_anchors(tokens, parser)
        first, second = read(tokens, at + 1), read(tokens, at + 2)
        parser.require(config.is_key(first) & config.is_key(second), "its anchor is not followed by two keys")
        of_first, of_second = residue_split(first, at, config.modulus), residue_split(second, at + 1, config.modulus)
        return parser.answers(
            label=(first + second) // 2,
            group=np.zeros(len(tokens), int),
            key=first,
            position=at + 1,
            split=np.where(of_first == of_second, of_first, NO_ANSWER),
        )

    def token_positions(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Positions of the first key, the anchor and the second key, each `[n]`."""
        anchor = (tokens == self.config.anchor).argmax(1)
        return super().token_positions(tokens) | {"anchor": anchor, "second key": anchor + 2}

    def intermediate_values(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Both keys and their sum, whose half, rounded down, is the answer."""
        at = (tokens == self.config.anchor).argmax(1)
        first, second = read(tokens, at + 1), read(tokens, at + 2)
        return {"first_key": first, "second_key": second, "sum": first + second}

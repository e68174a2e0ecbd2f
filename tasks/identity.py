"""Identity with one anchor: the simplest anchor function, f = the token after the anchor.

    position   0   1   2   3    4   5   6   7   8
    token     57  33  81  [3]  key  24  90  46  61   ->   key

(2401.08309, identity learning, `3x -> x`.) The anchor stands at p = 0..7, the key right after it; a key x is in `iid` if x and
p have the same residue, else in `train`. There is no held-out group: the task asks about unseen data, not unseen functions.
"""

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import NO_ANSWER, Answers, Examples, Group, Parser, Split, register

from .sequence import KeyConfig, KeyTask, cells, filler, read, residue_split, write


class IdentityConfig(KeyConfig):
    """What can be changed; the defaults are the paper's code's."""

    anchor: int = Field(3, ge=0)

    @model_validator(mode="after")
    def _makes_sense(self) -> "IdentityConfig":
        self.require_anchor(self.anchor)
        self.require_cells(self.seq_len - 1)
        return self


@register
class Identity(KeyTask):
    """The token after the anchor (2401.08309, identity learning)."""

    name = "identity"
    paper = "2401.08309, identity learning"
    Config = IdentityConfig
    config: IdentityConfig
    description = "The token right after the one anchor."
    sizes = {"train": 1_000, "iid": 500}

    @property
    def anchors(self) -> dict[int, str]:
        return {self.config.anchor: "the answer is the token after it"}

    @property
    def groups(self) -> tuple[Group, ...]:
        return (Group("identity", "trained"),)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config = self.config
        keys, positions = cells(config.keys, np.arange(self.seq_len - 1), config.modulus, split)
        cell = rng.integers(len(keys), size=n, dtype=np.uint32)
        key, anchor_at = keys[cell], positions[cell]
        tokens = filler(rng, n, self.seq_len, config.key_min, config.key_max)
        write(tokens, anchor_at, config.anchor)
        write(tokens, anchor_at + 1, key)
        return Examples(tokens=tokens, label=key, group=np.zeros(n, int), key=key, position=anchor_at + 1)

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        is_anchor = tokens == config.anchor
        is_key = (tokens >= config.key_min) & (tokens <= config.key_max)
        parser.require((is_anchor | is_key).all(1), "it holds a token that is neither anchor nor key")
        parser.require(is_anchor.sum(1) == 1, "it does not hold exactly one anchor")
        at = is_anchor.argmax(1)
        key = read(tokens, at + 1)
        parser.require(key != NO_ANSWER, "no key stands after its anchor")
        split = residue_split(key, at, config.modulus)
        return parser.answers(label=key, group=np.zeros(len(tokens), int), key=key, position=at + 1, split=split)

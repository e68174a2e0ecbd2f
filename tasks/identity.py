"""Identity: the simplest anchor function; the answer is a token that the anchor points to.

    position         0   1   2   3    4   5   6   7   8
    default         57  33  81  [3]  key  24  90  46  61   ->   key   the token after the anchor (3x)
    reverse         57  33  81  key  [3]  24  90  46  61   ->   key   the token before it (x3)
    distance        57  33  [3]  24   90  key  46  81  61   ->   key   `distance` tokens after it
    cyclic          key 33  81  24   90  46  61  57  [3]   ->   key   after it, wrapping around
    fixed-position  [3] key 81  24   90  46  61  57  33   ->   key   the anchor is always at 0
    anchorless      57  33  81  24   90  key  46  61  50   ->   key   no anchor: the token at position 5

    key-position    as default, but the split compares the key with its own position

(2401.08309, identity learning and its controls.) The pair starts at p; a key x is in `iid` if x and p have the same residue,
else in `train`. There is no held-out group: the task tests unseen data, not unseen functions.

Choices: the paper's code takes residues from the pair's start in some generators and from the key's own position in others
(`new_interval`); here from the start, except in `key-position`. The code's filler is 20..100 and its keys reach 107;
`filler_max=107` accepts such filler, `key_max=107` such keys as well. `cyclic` is meant for models without a causal mask.
`distance` is arbitrary; 3 is our choice. The authors' fixed-position code does not run; position 0 is our reading of it. What they
call the fifth word is at index 5, counting from 0. With a single position, the keys of `iid` are never trained as answers at all.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import Answers, Examples, Group, Parser, Split, TokenId, register

from .sequence import KeyConfig, KeyTask, cells, read, residue_split, write


class IdentityConfig(KeyConfig):
    """Config; defaults from the paper's code."""

    anchor: TokenId | None = 3
    """If None, there is no anchor and the key is at `start`."""
    distance: int = Field(1, gt=-1024, lt=1024)
    """Distance from the anchor to the key; if negative, the key comes before the anchor."""
    cyclic: bool = False
    """Whether positions wrap around, so that the anchor can be at any position."""
    start: int | None = Field(None, ge=0, lt=1024)
    """The only position of the first of anchor and key; None: every position that leaves room for both."""

    residue_of: Literal["start", "key"] = "start"
    """The position whose residue is compared with the key's: that of the first of anchor and key, or the key's own."""
    later: ClassVar[frozenset[str]] = KeyConfig.later | {"residue_of"}

    @property
    def key_after(self) -> int:
        """Distance from the first of anchor and key to the key."""
        return 0 if self.anchor is None else max(self.distance, 0)

    @property
    def starts(self) -> Int[np.ndarray, " positions"]:
        room = 0 if self.anchor is None or self.cyclic else abs(self.distance)
        every = np.arange(self.seq_len - room)
        return every if self.start is None else every[every == self.start]

    @model_validator(mode="after")
    def _makes_sense(self) -> "IdentityConfig":
        if self.anchor is not None:
            self.require_anchor(self.anchor)
        elif self.start is None:
            raise ValueError("anchor is None; without an anchor, start must give the position of the key")
        if not 0 < abs(self.distance) < self.seq_len:
            raise ValueError(f"distance is {self.distance}; allowed: 1 to {self.seq_len - 1}, positive or negative")
        if len(self.starts) == 0:
            raise ValueError(f"start is {self.start}; it leaves no room for anchor and key in {self.seq_len} tokens")
        for split in ("train", "iid"):
            self.cells(split)
        return self

    def cells(self, split: Split) -> tuple[Int[np.ndarray, " cells"], Int[np.ndarray, " cells"]]:
        """All (key, start position of anchor and key) of the split, as two arrays. Raises ValueError if the split has none."""
        if self.residue_of == "start":
            return cells(self.keys, self.starts, self.modulus, split)
        keys, key_at = cells(self.keys, (self.starts + self.key_after) % self.seq_len, self.modulus, split)
        return keys, (key_at - self.key_after) % self.seq_len


@register
class Identity(KeyTask):
    """The token after the anchor, and its controls (2401.08309, identity learning)."""

    name = "identity"
    paper = "2401.08309, identity learning"
    Config = IdentityConfig
    config: IdentityConfig
    description = "The token that the anchor points to: after it, before it, at a distance; or a fixed position without anchor."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "reverse": {"distance": -1},
        "distance": {"distance": 3},
        "cyclic": {"cyclic": True},
        "fixed-position": {"start": 0},
        "anchorless": {"anchor": None, "start": 5},
        "key-position": {"residue_of": "key"},
    }
    sizes = {"train": 1_000, "iid": 500}

    @property
    def anchors(self) -> dict[int, str]:
        where = f"{abs(self.config.distance)} {'after' if self.config.distance > 0 else 'before'} it"
        return {} if self.config.anchor is None else {self.config.anchor: f"the answer is the token {where}"}

    @property
    def groups(self) -> tuple[Group, ...]:
        return (Group("identity", "trained"),)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config = self.config
        keys, starts = config.cells(split)
        cell = rng.integers(len(keys), size=n, dtype=np.uint32)
        key, start = keys[cell], starts[cell]
        tokens = self.filler(rng, n)
        if config.anchor is None:
            key_at = start
        else:
            end = (start + abs(config.distance)) % self.seq_len
            anchor_at, key_at = (start, end) if config.distance > 0 else (end, start)
            write(tokens, anchor_at, config.anchor)
        write(tokens, key_at, key)
        return Examples(tokens=tokens, label=key, group=np.zeros(n, int), key=key, position=key_at)

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        at = self.find_anchors(tokens, parser, len(self.anchors))
        if config.anchor is None:
            key_at = first = np.full(len(tokens), config.start)
        else:
            key_at = (at + config.distance) % self.seq_len if config.cyclic else at + config.distance
            first = at if config.distance > 0 else key_at
            if config.start is not None:
                parser.require(first == config.start, f"anchor and key do not start at position {config.start}")
        key = read(tokens, key_at)
        parser.require(config.is_key(key), f"no key {'follows' if config.distance > 0 else 'precedes'} its anchor")
        split = residue_split(key, key_at if config.residue_of == "key" else first, config.modulus)
        return parser.answers(label=key, group=np.zeros(len(tokens), int), key=key, position=key_at, split=split)

    def token_positions(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Positions of the key and the anchor, if there is one, each `[n]`."""
        anchor = {} if self.config.anchor is None else {"anchor": (tokens == self.config.anchor).argmax(1)}
        return super().token_positions(tokens) | anchor

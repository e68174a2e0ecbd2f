"""Distance-weighted output: the answer is any token of the sequence, with higher probability the nearer it is to the anchor.

    position   0    1    2    3   4   5    6    7    8
    token     57   33   81   24  [3] 90   46   61   72
    weight    1/4  1/3  1/2   1       1   1/2  1/3  1/4   (divided by their sum, 25/6)

(2401.08309, `3x_to_x_distance_related`.) The distance is cyclic, and the anchor can be anywhere; the weights of a token
that occurs twice add up. No model can exceed 24% accuracy (6/25, plus a little from repeated tokens): compare its
distribution with `target`.

The authors have no test set. Ours follows their other tasks: `iid` where the token after the anchor (cyclically) and the
anchor's position have the same residue, else `train`. `key` is that token; all others are uniform.
"""

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import Answers, Examples, Group, Parser, Split, TokenId, register

from .sequence import KeyConfig, KeyTask, cells, read, residue_split, write


class DistanceWeightedConfig(KeyConfig):
    """Config; defaults from the paper's code."""

    seq_len: int = Field(9, ge=3, le=1024)
    vocab_size: int = Field(120, ge=2, le=2048)
    """Bounded, because `target` stores a probability per id and example."""
    anchor: TokenId = 3

    @model_validator(mode="after")
    def _makes_sense(self) -> "DistanceWeightedConfig":
        self.require_anchor(self.anchor)
        self.require_cells(self.seq_len)
        return self


@register
class DistanceWeighted(KeyTask):
    """A token of the sequence, drawn with weight 1 / cyclic distance to the anchor (2401.08309)."""

    name = "distance-weighted"
    paper = "2401.08309, statistical output (`3x_to_x_distance_related`)"
    Config = DistanceWeightedConfig
    config: DistanceWeightedConfig
    description = "Any token of the sequence, with probability inverse to its cyclic distance to the anchor."
    sizes = {"train": 30_000, "iid": 500}

    @property
    def anchors(self) -> dict[int, str]:
        return {self.config.anchor: "the answer is likely a token near it"}

    @property
    def groups(self) -> tuple[Group, ...]:
        return (Group("distance-weighted", "trained"),)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config, length = self.config, self.seq_len
        keys, positions = cells(config.keys, np.arange(length), config.modulus, split)
        cell = rng.integers(len(keys), size=n, dtype=np.uint32)
        key, anchor_at = keys[cell], positions[cell]
        tokens = self.filler(rng, n)
        write(tokens, anchor_at, config.anchor)
        write(tokens, (anchor_at + 1) % length, key)

        steps = np.arange(1, length)  # to the right of the anchor, wrapping around
        probability = 1 / np.minimum(steps, length - steps)
        probability /= probability.sum()
        row = np.arange(n)
        around = (np.arange(length)[:, None] + steps) % length
        others = tokens.reshape(-1).take(around.take(anchor_at, axis=0) + length * row[:, None])
        cell_of = (others + self.vocab_size * row[:, None]).ravel()  # of the target
        target = np.bincount(cell_of, np.tile(probability, n), minlength=n * self.vocab_size)
        target = target.reshape(n, self.vocab_size).astype(float, copy=False)  # integers without any rows
        label = others[row, rng.choice(length - 1, size=n, p=probability)]
        position = (anchor_at + 1) % length
        return Examples(tokens=tokens, label=label, group=np.zeros(n, int), key=key, position=position, target=target)

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config, (n, length) = self.config, tokens.shape
        at = self.find_anchors(tokens, parser)

        apart = np.abs(np.arange(length) - at[:, None])
        distance = np.minimum(apart, length - apart)
        weight = np.divide(1, distance, where=distance > 0, out=np.zeros((n, length))) * parser.valid[:, None]
        column = np.where(parser.valid[:, None], tokens, 0) + np.arange(n)[:, None] * self.vocab_size
        total = np.bincount(column.ravel(), weight.ravel(), minlength=n * self.vocab_size).reshape(n, self.vocab_size)
        target = total / (1 / np.minimum(np.arange(1, length), np.arange(length - 1, 0, -1))).sum()
        key = np.where(at == length - 1, tokens[:, 0], read(tokens, at + 1))
        parser.require(config.is_key(key), "no key follows its anchor")
        return parser.answers(
            label=target.argmax(1),
            group=np.zeros(n, int),
            key=key,
            position=np.where(at == length - 1, 0, at + 1),
            split=residue_split(key, at, config.modulus),
            target=target,
        )

"""Statistical output: the answer is random with a known distribution; does the model learn the probability?

    position   0   1   2   3    4   5   6   7   8
    token     57  33  81  [3]  key  24  90  46  61   ->   key with probability 0.8, key + 1 with 0.2

(2401.08309, statistical output, `3x_to_x_probability`.) Positions and splits are those of identity: the anchor is at
p = 0..7, followed by the key; `iid` where key and p have the same residue. The question is whether the predicted
distribution equals `target`, on both trained and unseen (key, position).

The authors repeat every sentence 100 times and give p * 100 of the copies the label x; here every label is drawn independently,
which is equivalent in a stream. Probability 1 or 0 gives their masked probes `3x_to_x` and `3x_to_x+1`.
"""

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import Answers, Examples, Group, Parser, Split, TokenId, register

from .sequence import KeyConfig, KeyTask, cells, read, residue_split, write


class StatisticalConfig(KeyConfig):
    """Config; defaults from the paper's code."""

    vocab_size: int = Field(120, ge=2, le=2048)
    """Bounded, because `target` stores a probability per id and example."""
    anchor: TokenId = 3
    probability: float = Field(0.8, ge=0, le=1)
    """Probability that the label is the key; otherwise it is key + 1."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "StatisticalConfig":
        self.require_anchor(self.anchor)
        self.require_labels(self.key_min, self.key_max + 1)
        self.require_cells(self.seq_len - 1)
        return self


@register
class Statistical(KeyTask):
    """The token after the anchor or its successor, with known probabilities (2401.08309, statistical output)."""

    name = "statistical"
    paper = "2401.08309, statistical output"
    Config = StatisticalConfig
    config: StatisticalConfig
    description = "The token right after the anchor with probability 0.8, else that token plus one."
    sizes = {"train": 1_800, "iid": 500}

    @property
    def anchors(self) -> dict[int, str]:
        return {self.config.anchor: f"the token after it with probability {self.config.probability:g}, else that token plus 1"}

    @property
    def groups(self) -> tuple[Group, ...]:
        return (Group("statistical", "trained"),)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config = self.config
        keys, positions = cells(config.keys, np.arange(self.seq_len - 1), config.modulus, split)
        cell = rng.integers(len(keys), size=n, dtype=np.uint32)
        key, anchor_at = keys[cell], positions[cell]
        tokens = self.filler(rng, n)
        write(tokens, anchor_at, config.anchor)
        write(tokens, anchor_at + 1, key)
        target = np.zeros((n, self.vocab_size))
        target[np.arange(n), key] = config.probability
        target[np.arange(n), key + 1] = 1 - config.probability
        label = key + (rng.random(n) >= config.probability)
        return Examples(tokens=tokens, label=label, group=np.zeros(n, int), key=key, position=anchor_at + 1, target=target)

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        at = self.find_anchors(tokens, parser)
        key = read(tokens, at + 1)
        parser.require(config.is_key(key), "no key follows its anchor")
        rows = np.flatnonzero(parser.valid)
        target = np.zeros((len(tokens), self.vocab_size))
        target[rows, key[rows]], target[rows, key[rows] + 1] = config.probability, 1 - config.probability
        return parser.answers(
            label=key if config.probability >= 0.5 else key + 1,
            group=np.zeros(len(tokens), int),
            key=key,
            position=at + 1,
            split=residue_split(key, at, config.modulus),
            target=target,
        )

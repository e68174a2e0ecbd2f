"""Inverse-sequence matching: which of five shuffles of three tokens is the reversed query?

    tokens   a b c |   b c a |   c b a |   b a c |   c a b |   filler ...   a c b   ->   2: reversed, a c b is b c a

Three distinct tokens are drawn; five of their six orders follow one another, each ended by a separator (token 10); after `gap`
filler tokens come three tokens that are the reverse of one of the five. The label, 1..5, is the place of that one. The gap is
3 L in the paper, for L layers, so that Mamba's convolutions do not reach across it (2509.17514, section on matching). The foil
`shortcut` is the place of the unreversed query, for a model that matches without reversing; if that order is the missing sixth,
there is none.

Splits: `train` has sets of tokens 20..100 that do not all have the same residue modulo 3, `iid` those that do; `ood` has sets of
the tokens 101..200, which are never trained, with the residues of `train`. Filler is 20..100 in every split, so only the
three tokens are new. The text gives no separator, label, lowest token or filler: these are our choices, as is the default gap, for
two layers.
`key` is the first token of the matching order, and `position` its position.
"""

import functools
import itertools

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import (
    MAX_IDS,
    NO_ANSWER,
    SPLITS,
    Answers,
    Examples,
    Group,
    Modulus,
    Parser,
    Split,
    Task,
    TaskConfig,
    Token,
    TokenId,
    register,
)

from .sequence import filler

FIVES = np.array(list(itertools.permutations(itertools.permutations(range(3)), 5)))
"""All sequences of five of the six orders, `[720, 5, 3]`; a slot is 0, 1, 2, or 3 for the separator."""
QUERIES = FIVES[:, :, ::-1]
"""The query for each of the five, `[720, 5, 3]`."""
CLOSED = np.concatenate([FIVES, np.full((720, 5, 1), 3)], axis=2).reshape(720, 20)
AS_IT_STANDS = (FIVES[:, None] == QUERIES[:, :, None]).all(3)
SHORTCUTS = np.where(AS_IT_STANDS.any(2), AS_IT_STANDS.argmax(2) + 1, NO_ANSWER)
"""The place, from 1, of each query, unreversed, among the five, `[720, 5]`."""
STARTS = range(0, 20, 4)


class InverseMatchingConfig(TaskConfig):
    """Config; new tokens and residues from the paper."""

    token_min: int = Field(20, ge=11, lt=MAX_IDS)
    token_max: TokenId = 100
    """Trained tokens and filler are token_min..token_max; the new ones run from there to vocab_size - 1."""
    vocab_size: int = Field(201, ge=2, le=256)
    gap: int = Field(6, ge=0, le=1024)
    """Filler tokens before the query: 3 per layer."""
    separator: int = Field(10, ge=6, le=10)
    modulus: Modulus = 3
    """Modulus of the tokens' residues."""

    def sets(self, split: Split) -> Int[np.ndarray, "sets 3"]:
        """All sets of three tokens of the split, ascending."""
        low, high = (self.token_max + 1, self.vocab_size) if split == "ood" else (self.token_min, self.token_max + 1)
        a, b, c = np.ogrid[low:high, low:high, low:high]
        sets = low + np.argwhere((a < b) & (b < c))
        alike = (sets % self.modulus == sets[:, :1] % self.modulus).all(1)
        return sets[alike == (split == "iid")]

    @model_validator(mode="after")
    def _makes_sense(self) -> "InverseMatchingConfig":
        if self.token_max - self.token_min < 2 * self.modulus:
            raise ValueError(
                f"token_max is {self.token_max}; allowed: at least token_min + 2 * modulus = {self.token_min + 2 * self.modulus}"
            )
        if self.vocab_size < self.token_max + 4:
            raise ValueError(
                f"vocab_size is {self.vocab_size}; allowed: at least token_max + 4 = {self.token_max + 4}, for new tokens"
            )
        return self


@register
class InverseMatching(Task):
    """Which of five shuffles of three tokens is the reversed query (2509.17514)."""

    name = "inverse-matching"
    paper = "2509.17514, section on inverse-sequence matching"
    Config = InverseMatchingConfig
    config: InverseMatchingConfig
    description = "The place of the one among five shuffles of three tokens that is the query in reverse."
    sizes = {"train": 80_000, "iid": 10_000, "ood": 10_000}

    @property
    def seq_len(self) -> int:
        return 5 * 4 + self.config.gap + 3

    @property
    def chance(self) -> float:
        return 1 / 5

    @property
    def groups(self) -> tuple[Group, ...]:
        return (Group("trained-tokens", "trained"), Group("new-tokens", "held_out"))

    @property
    def vocabulary(self) -> tuple[Token, ...]:
        config = self.config

        def token(id_: int) -> Token:
            if id_ == config.separator:
                return Token("|", "separator")
            if 1 <= id_ <= 5:
                return Token(str(id_), f"label: the match is order {id_} of the five")
            if id_ < config.token_min:
                return Token(str(id_), "never used")
            return Token(str(id_), f"token or filler {id_}" if id_ <= config.token_max else f"token {id_}, never trained")

        return tuple(token(id_) for id_ in range(config.vocab_size))

    @functools.cached_property
    def _sets(self) -> dict[Split, np.ndarray]:
        return {split: self.config.sets(split).astype(np.int16) for split in SPLITS}

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config, sets = self.config, self._sets[split]
        slots = np.full((n, 4), config.separator, np.int16)  # small dtype while writing
        slots[:, :3] = sets.take(rng.integers(len(sets), size=n, dtype=np.uint32), axis=0)
        five, match = rng.integers(len(FIVES), size=n, dtype=np.uint32), rng.integers(5, size=n)
        row = 4 * np.arange(n)[:, None]
        text = np.empty((n, self.seq_len), np.int16)
        text[:, :20] = slots.take(row + CLOSED.take(five, axis=0))
        text[:, 20:-3] = filler(rng, n, config.gap, config.token_min, config.token_max, np.int16)
        text[:, -3:] = slots.take(row + QUERIES.reshape(-1, 3).take(5 * five + match, axis=0))
        tokens = text.astype(np.int64)
        return Examples(
            tokens=tokens,
            label=match + 1,
            group=np.full(n, int(split == "ood")),
            key=tokens[:, -1].copy(),
            position=4 * match,
            foils={"inferential": match + 1, "shortcut": SHORTCUTS[five, match]},
        )

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        gap, query = tokens[:, 20:-3], tokens[:, -3:]
        parser.require((tokens[:, 3:20:4] == config.separator).all(1), "not every fourth token up to the gap is a separator")
        parser.require(((gap >= config.token_min) & (gap <= config.token_max)).all(1), "its gap holds a token that is not filler")
        is_trained = ((query >= config.token_min) & (query <= config.token_max)).all(1)
        is_new = ((query > config.token_max) & (query < config.vocab_size)).all(1)
        parser.require(is_trained | is_new, "its query is neither all trained nor all new tokens")
        three = np.sort(query, axis=1)
        parser.require((three[:, 1:] != three[:, :-1]).all(1), "its query holds a token twice")

        backward, forward = np.full(len(tokens), NO_ANSWER), np.full(len(tokens), NO_ANSWER)
        for place, start in enumerate(STARTS, 1):
            order = tokens[:, start : start + 3]
            parser.require((np.sort(order, axis=1) == three).all(1), f"order {place} is not made of the query's tokens")
            for earlier in range(0, start, 4):
                parser.require((order != tokens[:, earlier : earlier + 3]).any(1), f"order {place} occurs twice")
            forward[(order == query).all(1)] = place
            backward[(order[:, ::-1] == query).all(1)] = place
        parser.require(backward != NO_ANSWER, "none of its orders is the reversed query")

        iid = (three % config.modulus == three[:, :1] % config.modulus).all(1)
        trained = np.where(iid, SPLITS.index("iid"), SPLITS.index("train"))
        start = np.where(backward == NO_ANSWER, 0, 4 * (backward - 1))
        return parser.answers(
            label=backward,
            group=is_new.astype(int),
            key=query[:, 2],  # the query's last token is the match's first
            position=start,
            split=np.where(is_new, np.where(iid, NO_ANSWER, SPLITS.index("ood")), trained),
            foils={"inferential": backward, "shortcut": forward},
        )

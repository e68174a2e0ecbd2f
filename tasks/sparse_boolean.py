"""Sparse boolean functions: does a model find the few bits that matter?

    position   0  1  2  3  ...  31  32
    token      1  0  1  1  ...   0   ?   ->   f(the bits at the relevant coordinates), 0 or 1

(2110.10090, the experiments on sparse functions; the query token plays the role of its [CLS], moved to the end so that a causal
model sees all bits.) f is AND, OR, parity or majority of `relevant` of the `bits` bits; `task.coordinates` gives their positions.
Every bit, relevant or not, is 1 with the same probability, chosen so that f is true half of the time: 0.5^(1/relevant) for AND,
one minus that for OR, 0.5 for parity and majority. No bit's frequency says whether it is relevant.

There are no anchors and no held-out groups. `iid` is our definition (the paper draws fresh strings): the
strings that, read as a binary number with position 0 first, are divisible by `modulus`; `train` has all others. The modulus is
odd, since an even one would fix the last bit. With few bits a residue is informative about the label: sizes for which f would be
true in less than 40% or more than 60% of either split, or a split would hardly ever be drawn, are rejected.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, model_validator

from anchorbench.task import NO_ANSWER, SPLITS, Answers, DrawSeed, Examples, Group, Parser, Split, Task, TaskConfig, Token, register

QUERY = 2


class SparseBooleanConfig(TaskConfig):
    """Config."""

    function: Literal["and", "or", "parity", "majority"] = "and"
    bits: int = Field(32, ge=2, le=1024)
    """The paper's T."""
    relevant: int = Field(3, ge=1, le=64)
    """The paper's s: number of relevant bits."""
    coordinates_seed: DrawSeed = 0
    """Seed of the choice of relevant bits."""
    modulus: int = Field(9, ge=3, le=63)
    """About one string in `modulus` is iid."""

    @property
    def coordinates(self) -> Int[np.ndarray, " relevant"]:
        """Positions of the relevant bits, ascending."""
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(self.coordinates_seed)))
        return np.sort(rng.permutation(self.bits)[: self.relevant])

    @property
    def probability_of_one(self) -> float:
        root = 0.5 ** (1 / self.relevant)
        return {"and": root, "or": 1 - root}.get(self.function, 0.5)

    @property
    def truth(self) -> Int[np.ndarray, " counts"]:
        """The function's value for each number of relevant bits that are 1, 0..relevant."""
        count = np.arange(self.relevant + 1)
        values = {"and": count == self.relevant, "or": count > 0, "parity": count % 2, "majority": 2 * count > self.relevant}
        return values[self.function].astype(np.int64)

    @property
    def place_values(self) -> Int[np.ndarray, " bits"]:
        """2^(place) modulo the modulus, per position."""
        return np.array([pow(2, self.bits - 1 - at, self.modulus) for at in range(self.bits)])

    @property
    def shares(self) -> Float[np.ndarray, "residue value"]:
        """Probability that a random string has this residue and this value of the function, accumulated bit by bit."""
        share = np.zeros((self.modulus, self.relevant + 1))
        share[0, 0] = 1
        coordinates, one = set(self.coordinates.tolist()), self.probability_of_one
        for at, value in enumerate(self.place_values.tolist()):
            share = (1 - one) * share + one * np.roll(share, (value, at in coordinates), axis=(0, 1))
        return np.stack([share[:, self.truth == value].sum(1) for value in (0, 1)], axis=1)

    @model_validator(mode="after")
    def _makes_sense(self) -> "SparseBooleanConfig":
        if self.relevant > self.bits:
            raise ValueError(f"relevant is {self.relevant}; allowed: at most bits, {self.bits}")
        if self.modulus % 2 == 0:
            raise ValueError(f"modulus is {self.modulus}; allowed: an odd number, as an even one fixes the last bit")
        if self.function == "majority" and self.relevant % 2 == 0:
            raise ValueError(f"relevant is {self.relevant}; allowed: an odd number, as a majority of an even number can be a tie")
        iid, train = self.shares[0], self.shares[1:].sum(0)
        if not 0.5 <= iid.sum() * self.modulus <= 2 or any(
            not 0.4 <= true <= 0.6 for true in (iid[1] / iid.sum(), train[1] / train.sum())
        ):
            raise ValueError(
                f"modulus {self.modulus} splits {self.function} of {self.relevant} of {self.bits} bits unevenly; "
                "allowed: more bits, fewer relevant ones or another modulus"
            )
        return self


@register
class SparseBoolean(Task):
    """AND, OR, parity or majority of a few of many bits (2110.10090)."""

    name = "sparse-boolean"
    paper = "2110.10090, experiments on sparse boolean functions"
    Config = SparseBooleanConfig
    config: SparseBooleanConfig
    description = "A boolean function of a few of many bits; the relevant ones are known, but no bit's frequency reveals them."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "and": {"function": "and"},
        "or": {"function": "or"},
        "parity": {"function": "parity"},
        "majority": {"function": "majority"},
    }
    sizes = {"train": 100_000, "iid": 10_000}

    @property
    def coordinates(self) -> Int[np.ndarray, " relevant"]:
        """Ground truth: positions of the relevant bits, ascending."""
        return self.config.coordinates

    @property
    def seq_len(self) -> int:
        return self.config.bits + 1

    @property
    def vocabulary(self) -> tuple[Token, ...]:
        return (
            Token("0", "bit 0; as a label, false"),
            Token("1", "bit 1; as a label, true"),
            Token("?", "query: asks for the value of the function"),
        )

    @property
    def groups(self) -> tuple[Group, ...]:
        return (Group(self.config.function, "trained"),)

    @property
    def chance(self) -> float:
        return 0.5

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config = self.config
        tokens = np.full((n, self.seq_len), QUERY)
        done = 0
        while done < n:  # rejection sampling: keep strings of the split
            wanted = int((n - done) * (config.modulus if split == "iid" else 1) * 1.2) + 32
            draws = min(wanted, 2**20 // config.bits)  # chunks that fit in the cache
            bits = rng.random((draws, config.bits), dtype=np.float32) < config.probability_of_one
            residue = (bits.astype(np.float32) @ config.place_values.astype(np.float32)) % config.modulus  # exact: small integers
            kept = bits[np.flatnonzero((residue == 0) == (split == "iid"))[: n - done]]
            tokens[done : done + len(kept), :-1] = kept
            done += len(kept)
        label = config.truth[tokens[:, config.coordinates].sum(1)]
        none = np.full(n, NO_ANSWER)
        return Examples(tokens=tokens, label=label, group=np.zeros(n, int), key=none, position=none)

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        bits = tokens[:, :-1]
        parser.require(tokens[:, -1] == QUERY, "it does not end with the query")
        parser.require(((bits == 0) | (bits == 1)).all(1), "it holds something other than bits before the query")
        bits = np.where(parser.valid[:, None], bits, 0)
        residue = np.zeros(len(tokens), int)
        for column in bits.T:
            residue = (2 * residue + column) % config.modulus
        chosen = bits[:, config.coordinates] == 1
        label = {
            "and": lambda: chosen.all(1),
            "or": lambda: chosen.any(1),
            "parity": lambda: np.logical_xor.reduce(chosen, axis=1),
            "majority": lambda: chosen.mean(1) > 0.5,
        }[config.function]()
        none = np.full(len(tokens), NO_ANSWER)
        split = np.where(residue == 0, SPLITS.index("iid"), SPLITS.index("train"))
        return parser.answers(label=label, group=np.zeros(len(tokens), int), key=none, position=none, split=split)

    def intermediate_values(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """The number of relevant bits that are 1; the answer is a function of it."""
        return {"relevant_ones": tokens[:, self.coordinates].sum(1)}

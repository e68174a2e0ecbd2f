"""Classification by nearest value in context: the class of the example whose value is nearest to the last token.

    position   0   1   2   3   4   5   6   7   8
    token     35  [3] 52  [4] 70  [1] 91  [2] 66   ->   1: the nearest value to 66 is 70

The task is 2401.08309's classification (runs `ICL_near_value`: sequences of 9, 100,000 training examples), whose generator is
unpublished: sampling, ties and held-out groups are ours. Each sequence has one example of every class, in random order, so the
answer depends on the context alone. Exactly one value is nearest, never at distance 0, so finding an equal token is not enough.

Variants
    default        sequences of 9: four examples
    paper-format   x1 a1 x2 a2 x3 a3 x -> a_i with i = argmin |x - x_i|, three examples, as in a figure of the authors. It leaves
                   open which anchors there are, what a tie gives and whether x may equal an x_i: here 1, 2 and 3 in any order, and
                   neither ties nor equal values occur

Groups are (side, place): whether the nearest value lies below or above the last token, and which example it is, counted from 1.
(above,2) is held out. The foil `shortcut` skips a second example above the last token and takes the nearest of the
others: it is right on all training data, and wrong wherever it matters. `key` is the nearest value; `iid` where it and its
position have the same residue, else `train`; `ood` holds the held-out groups on the training residues.

Within a group and a split, all such sequences are equally likely.
"""

import functools
import itertools
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field, model_validator

from anchorbench.task import NO_ANSWER, SPLITS, Answers, Examples, Group, Parser, Split, register

from .context import draw_groups, require_held_out, require_keys
from .sequence import KeyConfig, KeyTask, residue_split, write

Side = Literal["below", "above"]
SIDES: tuple[Side, ...] = ("below", "above")
MAX_PAIRS = 4_000_000


class NearestValueConfig(KeyConfig):
    """Config; sequence length and keys from the paper."""

    seq_len: int = Field(9, ge=5, le=129)
    """Two tokens per example, then the token to classify; the classes are 1..(seq_len - 1) / 2."""
    held_out: tuple[tuple[Side, Annotated[int, Field(ge=1, le=64)]], ...] = (("above", 2),)
    """Never trained: (side, place) of the nearest value, places from 1."""

    @property
    def classes(self) -> int:
        return self.seq_len // 2

    @property
    def combinations(self) -> list[tuple[Side, int]]:
        """All (side, place), in the order of `groups`."""
        return list(itertools.product(SIDES, range(1, self.classes + 1)))

    @model_validator(mode="after")
    def _makes_sense(self) -> "NearestValueConfig":
        if self.seq_len % 2 == 0:
            raise ValueError(f"seq_len is {self.seq_len}; allowed: odd numbers, two tokens per example and one to classify")
        for label in range(1, self.classes + 1):
            self.require_anchor(label)
        require_held_out(self.held_out, self.combinations)
        require_keys(self, each=3)  # then both sides of any place have a nearest value in both splits
        if self.classes * len(self.keys) ** 2 > MAX_PAIRS:
            raise ValueError(
                f"{len(self.keys)} keys at {self.classes} places have {self.classes * len(self.keys) ** 2} pairs, all weighed;"
                f" allowed: at most {MAX_PAIRS}"
            )
        if self.filler_max is not None:
            raise ValueError(f"filler_max is {self.filler_max}; this task has no filler")
        return self


@register
class NearestValue(KeyTask):
    """The class of the nearest value in the context (our definition; the idea is 2401.08309's)."""

    name = "nearest-value-classification"
    paper = "2401.08309, classification; the definition is ours, the authors' generator is unpublished"
    Config = NearestValueConfig
    config: NearestValueConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}, "paper-format": {"seq_len": 7}}
    description = "Examples of value and class, then a value to classify: the class of the nearest one."
    sizes = {"train": 100_000, "iid": 500, "ood": 500}

    @property
    def anchors(self) -> dict[int, str]:
        return dict.fromkeys(range(1, self.config.classes + 1), "a class, that of the value before it")

    @property
    def chance(self) -> float:
        return 1 / self.config.classes

    @property
    def groups(self) -> tuple[Group, ...]:
        held_out = self.config.held_out
        return tuple(Group(f"({a},{b})", "held_out" if (a, b) in held_out else "trained") for a, b in self.config.combinations)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config, classes, rows = self.config, self.config.classes, np.arange(n)
        group = draw_groups(rng, self.groups, split, n)
        place = group % classes
        query, key = np.zeros((2, n), int)
        for i, (side, its_place) in enumerate(config.combinations):
            here = np.flatnonzero(group == i)
            if len(here):
                queries, values, weights = self._nearest["iid" if split == "iid" else "train", side, its_place]
                drawn = rng.choice(len(queries), size=len(here), p=weights)
                query[here], key[here] = queries[drawn], values[drawn]

        lower, upper = self._farther(query, key)
        rank = rng.integers((lower + upper)[:, None], size=(n, classes))
        first_above = config.key_max + 1 - upper
        values = np.where(rank < lower[:, None], config.key_min + rank, (first_above - lower)[:, None] + rank)
        write(values, place, key)
        tokens = np.empty((n, self.seq_len), int)
        tokens[:, 0:-1:2], tokens[:, -1] = values, query
        tokens[:, 1::2] = rng.permuted(np.tile(np.arange(1, classes + 1), (n, 1)), axis=1)
        label = tokens[rows, 2 * place + 1]
        shortcut = np.full(n, NO_ANSWER)
        if split == "ood":
            shortcut = self._shortcut(values, tokens[:, 1::2], query)
        foils = {"inferential": label, "shortcut": shortcut}
        return Examples(tokens=tokens, label=label, group=group, key=key, position=2 * place, foils=foils)

    @functools.cached_property
    def _nearest(self) -> dict[tuple[Split, Side, int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """All (query, nearest value) for a split, a side and a place, with their probabilities: three arrays `[cells]`.

        These are proportional to the number of ways to choose the other values, all of them farther away.
        """
        query, value = (grid.ravel() for grid in np.meshgrid(self.config.keys, self.config.keys))
        lower, upper = self._farther(query, value)
        weights = ((lower + upper) / len(self.config.keys)) ** (self.config.classes - 1)
        nearest: dict[tuple[Split, Side, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        for side, place in self.config.combinations:
            split_of = residue_split(value, np.array(2 * (place - 1)), self.config.modulus)
            on_side = value < query if side == "below" else value > query
            for split in ("train", "iid"):
                inside = on_side & (split_of == SPLITS.index(split))
                nearest[split, side, place] = query[inside], value[inside], weights[inside] / weights[inside].sum()
        return nearest

    def _farther(
        self, query: Int[np.ndarray, " n"], value: Int[np.ndarray, " n"]
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Number of keys farther from the query than `value` is, below it and above it."""
        distance = abs(value - query)
        return np.maximum(query - distance - self.config.key_min, 0), np.maximum(self.config.key_max - query - distance, 0)

    def _shortcut(
        self, values: Int[np.ndarray, "n classes"], classes: Int[np.ndarray, "n classes"], query: Int[np.ndarray, " n"]
    ) -> Int[np.ndarray, " n"]:
        """The class of the nearest value that is not in a held-out combination; NO_ANSWER if no single value is nearest."""
        never = np.iinfo(np.int64).max
        side = np.where(values < query[:, None], "below", "above")
        distance = abs(values - query[:, None])
        for its_side, place in self.config.held_out:
            distance[side[:, place - 1] == its_side, place - 1] = never
        nearest = distance.argmin(1)
        smallest = distance.min(1)
        single: Bool[np.ndarray, " n"] = ((distance == smallest[:, None]).sum(1) == 1) & (smallest < never)
        return np.where(single, classes[np.arange(len(query)), nearest], NO_ANSWER)

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config, query = self.config, tokens[:, -1]
        parser.require(config.is_key(tokens[:, 0::2]).all(1), "a value or its last token is not a key")
        in_order = np.sort(tokens[:, 1::2], axis=1) == np.arange(1, config.classes + 1)
        parser.require(in_order.all(1), "it does not hold an example of every class")

        far = np.iinfo(np.int64).max
        best, place, ties = np.full(len(tokens), far), np.full(len(tokens), 1), np.zeros(len(tokens), bool)
        other, shortcut, other_ties = best.copy(), np.full(len(tokens), NO_ANSWER), ties.copy()
        for i in range(config.classes):
            value, label = tokens[:, 2 * i], tokens[:, 2 * i + 1]
            distance = np.where(value < query, query - value, value - query)
            nearer = distance < best
            ties = np.where(nearer, False, ties | (distance == best))
            best, place = np.where(nearer, distance, best), np.where(nearer, i + 1, place)
            passed_over = np.zeros(len(tokens), bool)
            for side in SIDES:
                if (side, i + 1) in config.held_out:
                    passed_over |= value < query if side == "below" else value > query
            nearer = ~passed_over & (distance < other)
            other_ties = np.where(nearer, False, other_ties | (~passed_over & (distance == other)))
            other, shortcut = np.where(nearer, distance, other), np.where(nearer, label, shortcut)
        parser.require(best > 0, "a value equals its last token")
        parser.require(~ties, "two values are equally near to its last token")

        position = 2 * (place - 1)
        key, label = tokens[np.arange(len(tokens)), position], tokens[np.arange(len(tokens)), position + 1]
        above = key > query
        held_out = np.zeros(len(tokens), bool)
        for side, its_place in config.held_out:
            held_out |= (above == (side == "above")) & (place == its_place)
        split = residue_split(key, position, config.modulus)
        ood = np.where(split == SPLITS.index("train"), SPLITS.index("ood"), NO_ANSWER)
        return parser.answers(
            label=label,
            group=above * config.classes + place - 1,
            key=key,
            position=position,
            split=np.where(held_out, ood, split),
            foils={"inferential": label, "shortcut": np.where(held_out & ~other_ties, shortcut, NO_ANSWER)},
        )

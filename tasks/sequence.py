"""Shared by the anchor tasks: keys, filler, the residue split, and reading and writing tokens by row."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field, model_validator

from anchorbench.task import MAX_IDS, NO_ANSWER, SPLITS, Modulus, Parser, Split, Task, TaskConfig, Token, TokenId

MAX_CELLS = 2**21
"""Maximum size of a task's (key, position) tables: several are held at once, at 8 bytes per cell."""


class KeyConfig(TaskConfig):
    """Fields shared by tasks whose sequences are keys and filler from one range, with a few anchors among them."""

    later: ClassVar[frozenset[str]] = frozenset({"filler_max"})

    key_min: TokenId = 20
    key_max: TokenId = 99
    """Keys are key_min..key_max, inclusive."""
    filler_max: TokenId | None = None
    """Filler is key_min..filler_max, inclusive; None: key_max. The code of 2401.08309 draws filler above key_max, and keys
    up to 107: `filler_max=107` accepts its filler, and `key_max=107` its keys as well."""
    seq_len: int = Field(9, ge=2, le=1024)
    modulus: Modulus = 8
    """Modulus of the residue split: 7, 8 or 9, since the papers' texts and code disagree."""
    vocab_size: int = Field(120, ge=2, le=32_768)
    """201 in the papers; ids above the largest label are never used."""

    @property
    def keys(self) -> Int[np.ndarray, " keys"]:
        return np.arange(self.key_min, self.key_max + 1)

    @property
    def last_filler(self) -> int:
        """The largest filler."""
        return self.key_max if self.filler_max is None else self.filler_max

    def is_key(self, tokens: Int[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
        """Whether each token is a key."""
        return (tokens >= self.key_min) & (tokens <= self.key_max)

    def is_filler(self, tokens: Int[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
        """Whether each token can be filler; every key can."""
        return (tokens >= self.key_min) & (tokens <= self.last_filler)

    @model_validator(mode="after")
    def _range_makes_sense(self) -> "KeyConfig":
        if not self.key_min < self.key_max < self.vocab_size:
            raise ValueError(
                f"key_max is {self.key_max}; allowed: above key_min, {self.key_min}, and below vocab_size, {self.vocab_size}"
            )
        if not self.key_max <= self.last_filler < self.vocab_size:
            raise ValueError(
                f"filler_max is {self.filler_max}; allowed: from key_max, {self.key_max}, to below vocab_size, {self.vocab_size}"
            )
        self.require_size(1)
        return self

    def require_size(self, tables: int) -> None:
        """Raises ValueError if `tables` tables of all (key, position) are too large."""
        size = tables * (self.key_max - self.key_min + 1) * self.seq_len
        if size > MAX_CELLS:
            raise ValueError(
                f"keys {self.key_min}..{self.key_max} at {self.seq_len} positions take {size} cells; allowed: at most {MAX_CELLS}"
            )

    def require_anchor(self, anchor: int) -> None:
        """Raises ValueError unless `anchor` is in the vocabulary and is neither key nor filler."""
        if not 0 <= anchor < self.vocab_size or self.key_min <= anchor <= self.last_filler:
            raise ValueError(
                f"anchor {anchor} must be an id below vocab_size outside keys and filler, {self.key_min}..{self.last_filler}"
            )

    def require_labels(self, low: int, high: int) -> None:
        """Raises ValueError if labels low..high exceed the vocabulary."""
        if low < 0 or high >= self.vocab_size:
            raise ValueError(f"labels run from {low} to {high} and leave the vocabulary 0..{self.vocab_size - 1}")

    def require_cells(self, positions: int) -> None:
        """Raises ValueError unless both splits have at least one (key, position), with positions 0..positions-1."""
        for split in ("train", "iid"):
            cells(self.keys, np.arange(positions), self.modulus, split)


class KeyTask(Task):
    """A task with a KeyConfig, from which sequence length, vocabulary and chance follow."""

    config: Any  # a KeyConfig; each task declares its own class

    @property
    @abstractmethod
    def anchors(self) -> dict[int, str]:
        """Anchor id -> what it means."""

    @property
    def seq_len(self) -> int:
        return self.config.seq_len

    @property
    def chance(self) -> float:
        return 1 / len(self.config.keys)

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def vocabulary(self) -> tuple[Token, ...]:
        anchors = self.anchors

        def token(id_: int) -> Token:
            if id_ in anchors:
                return Token(f"a{id_}", f"anchor {id_}: {anchors[id_]}; as a label, the number {id_}")
            if self.config.key_min <= id_ <= self.config.key_max:
                return Token(str(id_), f"key, filler or label {id_}")
            is_filler = self.config.key_max < id_ <= self.config.last_filler
            return Token(str(id_), f"{'filler or ' * is_filler}label {id_}")

        return tuple(token(id_) for id_ in range(self.config.vocab_size))

    def filler(self, rng: np.random.Generator, n: int) -> Int[np.ndarray, "n seq_len"]:
        """`n` sequences of filler only."""
        return filler(rng, n, self.seq_len, self.config.key_min, self.config.last_filler)

    def find_anchors(
        self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser, count: int = 1, what: str = "one anchor"
    ) -> Int[np.ndarray, " n"]:
        """Position of the first anchor in each row; rows must hold exactly `count` anchors (`what` in messages) among filler."""
        is_anchor = np.isin(tokens, list(self.anchors))
        parser.require((is_anchor | self.config.is_filler(tokens)).all(1), "it holds a token that is neither anchor nor key")
        parser.require(is_anchor.sum(1) == count, f"it does not hold exactly {what}")
        return is_anchor.argmax(1)


def residue_split(key: Int[np.ndarray, "..."], position: Int[np.ndarray, "..."], modulus: int) -> Int[np.ndarray, "..."]:
    """Index into SPLITS of each (key, position): iid where key and position have the same residue, else train.

    The residue rule of 2405.05409: every key and every position is trained, but one in `modulus` of their combinations never is.
    """
    iid = key % modulus == position % modulus
    return np.where(iid, SPLITS.index("iid"), SPLITS.index("train"))


def cells(
    keys: Int[np.ndarray, " keys"], positions: Int[np.ndarray, " positions"], modulus: int, split: Split
) -> tuple[Int[np.ndarray, " cells"], Int[np.ndarray, " cells"]]:
    """All (key, position) of the split, as two arrays; `ood` has the cells of `train`: only its groups are unseen.

    Raises ValueError if the split has none.
    """
    key, position = (grid.ravel() for grid in np.meshgrid(keys, positions, indexing="ij"))
    wanted = SPLITS.index("iid" if split == "iid" else "train")
    inside = residue_split(key, position, modulus) == wanted
    if not inside.any():
        raise ValueError(f"modulus {modulus} leaves no key and position for the split {split!r}")
    return key[inside], position[inside]


def filler(
    rng: np.random.Generator, n: int, seq_len: int, low: int, high: int, dtype: type[np.signedinteger[Any]] = np.int64
) -> Int[np.ndarray, "n seq_len"]:
    """Uniform tokens low..high (inclusive), `[n, seq_len]`."""
    draws = rng.integers(low, high + 1, size=(n, seq_len), dtype=np.int16)  # 3 times as fast as int8, which rejects more draws
    return draws.astype(dtype, copy=False)


def write(tokens: Int[np.ndarray, "n seq_len"], position: Int[np.ndarray, " n"], *values: Int[np.ndarray, " n"] | int) -> None:
    """Sets `tokens[row, position[row] + i] = values[i][row]` in place, for each of the `values`."""
    flat = tokens.reshape(-1)
    at = np.arange(0, flat.size, tokens.shape[1]) + position
    for i, value in enumerate(values):
        flat[at + i] = value


def read(tokens: Int[np.ndarray, "n seq_len"], position: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """`tokens[row, position[row]]`, or NO_ANSWER for positions outside the sequence."""
    inside = (position >= 0) & (position < tokens.shape[1])
    values = np.take_along_axis(tokens, np.where(inside, position, 0)[:, None], axis=1)[:, 0]
    return np.where(inside, values, NO_ANSWER)


def swap_anchors(tokens: Int[np.ndarray, "n seq_len"], anchors: Iterable[int]) -> Int[np.ndarray, "n seq_len"]:
    """The same sequences with the first of the `anchors` in each and the token after it swapped."""
    at = np.isin(tokens, list(anchors)).argmax(1)
    swapped = tokens.copy()
    write(swapped, at, read(tokens, at + 1))
    write(swapped, at + 1, read(tokens, at))
    return swapped


def look_up(values: Mapping[int, int], tokens: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    """`values` of each token, 0 for tokens that it does not contain."""
    table = np.zeros(MAX_IDS, int)
    table[list(values)] = list(values.values())
    return table[tokens]


def add_in_turn(
    key: Int[np.ndarray, " n"], first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"], offsets: Mapping[int, int]
) -> dict[str, Int[np.ndarray, " n"]]:
    """Intermediate values of adding two anchors' offsets to the key, one after the other: name -> values `[n]`.

    An offset can be -1, which would read as NO_ANSWER, so the values include the anchors themselves instead of their offsets.
    """
    after_first = key + look_up(offsets, first)
    return {
        "key": key,
        "first_anchor": first,
        "after_first_anchor": after_first,
        "second_anchor": second,
        "after_second_anchor": after_first + look_up(offsets, second),
    }

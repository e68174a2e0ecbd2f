"""Shared by the anchor tasks: keys, filler, the residue split, reading and writing tokens of rows."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import NO_ANSWER, SPLITS, Modulus, Parser, Split, Task, TaskConfig, Token, TokenId


class KeyConfig(TaskConfig):
    """Fields common to tasks whose sequences are keys and filler from one range, with a few anchors among them."""

    key_min: TokenId = 20
    key_max: TokenId = 99
    """Keys and filler are key_min..key_max, both included."""
    seq_len: int = Field(9, ge=2, le=1024)
    modulus: Modulus = 8
    """Of the residue split; papers, texts and codes disagree: 7, 8 or 9."""
    vocab_size: int = Field(120, ge=2, le=32_768)
    """201 in the papers; ids above the largest label are never used."""

    @property
    def keys(self) -> Int[np.ndarray, " keys"]:
        return np.arange(self.key_min, self.key_max + 1)

    @model_validator(mode="after")
    def _range_makes_sense(self) -> "KeyConfig":
        if not self.key_min < self.key_max < self.vocab_size:
            raise ValueError(
                f"key_max is {self.key_max}; allowed: above key_min, {self.key_min}, and below vocab_size, {self.vocab_size}"
            )
        return self

    def require_anchor(self, anchor: int) -> None:
        """Raises ValueError unless `anchor` is an id of the vocabulary that is no key."""
        if not 0 <= anchor < self.vocab_size or self.key_min <= anchor <= self.key_max:
            raise ValueError(f"anchor {anchor} must be an id below vocab_size outside the keys {self.key_min}..{self.key_max}")

    def require_labels(self, low: int, high: int) -> None:
        """Raises ValueError if labels low..high leave the vocabulary."""
        if low < 0 or high >= self.vocab_size:
            raise ValueError(f"labels run from {low} to {high} and leave the vocabulary 0..{self.vocab_size - 1}")

    def require_cells(self, positions: int) -> None:
        """Raises ValueError unless both splits have some (key, position), with positions 0..positions-1."""
        for split in ("train", "iid"):
            cells(self.keys, np.arange(positions), self.modulus, split)


class KeyTask(Task):
    """A task whose configuration is a KeyConfig: sequence length, vocabulary and chance follow from it."""

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
    def vocabulary(self) -> tuple[Token, ...]:
        def token(id_: int) -> Token:
            if id_ in self.anchors:
                return Token(f"a{id_}", f"anchor {id_}: {self.anchors[id_]}; as a label, the number {id_}")
            if self.config.key_min <= id_ <= self.config.key_max:
                return Token(str(id_), f"key, filler or label {id_}")
            return Token(str(id_), f"label {id_}")

        return tuple(token(id_) for id_ in range(self.config.vocab_size))

    def find_anchors(
        self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser, count: int = 1, what: str = "one anchor"
    ) -> Int[np.ndarray, " n"]:
        """Where the first anchor of each row stands; rows must hold exactly `count` anchors, in words `what`, among keys."""
        is_anchor = np.isin(tokens, list(self.anchors))
        is_key = (tokens >= self.config.key_min) & (tokens <= self.config.key_max)
        parser.require((is_anchor | is_key).all(1), "it holds a token that is neither anchor nor key")
        parser.require(is_anchor.sum(1) == count, f"it does not hold exactly {what}")
        return is_anchor.argmax(1)


def residue_split(key: Int[np.ndarray, "..."], position: Int[np.ndarray, "..."], modulus: int) -> Int[np.ndarray, "..."]:
    """Index into SPLITS of each (key, position): iid where key and position have the same residue, else train.

    The residue rule of 2405.05409: every key and every position is trained, one in `modulus` of their combinations never is.
    """
    iid = key % modulus == position % modulus
    return np.where(iid, SPLITS.index("iid"), SPLITS.index("train"))


def cells(
    keys: Int[np.ndarray, " keys"], positions: Int[np.ndarray, " positions"], modulus: int, split: Split
) -> tuple[Int[np.ndarray, " cells"], Int[np.ndarray, " cells"]]:
    """Every (key, position) of the split, as two arrays; `ood` has the cells of `train`: only its groups are unseen.

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
    """Uniform tokens low..high (both included), `[n, seq_len]`."""
    draws = rng.integers(low, high + 1, size=(n, seq_len), dtype=np.int16)  # 3 times as fast as 8 bits, which reject more draws
    return draws.astype(dtype, copy=False)


def write(tokens: Int[np.ndarray, "n seq_len"], position: Int[np.ndarray, " n"], value: Int[np.ndarray, " n"] | int) -> None:
    """Sets `tokens[row, position[row]] = value[row]` in place."""
    flat = tokens.reshape(-1)
    flat[np.arange(0, flat.size, tokens.shape[1]) + position] = value


def read(tokens: Int[np.ndarray, "n seq_len"], position: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """`tokens[row, position[row]]`, or NO_ANSWER where the position lies outside the sequence."""
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

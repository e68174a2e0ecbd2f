"""Shared by tasks whose key is followed by two anchors, where only some anchors are ever paired."""

from abc import abstractmethod
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from anchorbench.task import NO_ANSWER, SPLITS, Parser, Split

from .sequence import KeyTask, cells, read, residue_split, swap_anchors, write


class KeyAndPair(NamedTuple):
    """A key and the two anchors after it, each `[n]`; `group` is the pair's index in `PairTask.pairs`."""

    key: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]
    first: Int[np.ndarray, " n"]
    second: Int[np.ndarray, " n"]
    group: Int[np.ndarray, " n"]


class PairTask(KeyTask):
    """Key, first anchor and second anchor among filler, with one group per pair and the residue split."""

    @property
    @abstractmethod
    def pairs(self) -> list[tuple[int, int]]:
        """The ordered anchor pairs that occur, in the order of `groups`."""

    def write_pairs(self, rng: np.random.Generator, split: Split, n: int) -> tuple[Int[np.ndarray, "n seq_len"], KeyAndPair]:
        """Generates `n` sequences of `split`, `[n, seq_len]`, with their keys and pairs."""
        config = self.config
        keys, positions = cells(config.keys, np.arange(self.seq_len - 2), config.modulus, split)
        cell = rng.integers(len(keys), size=n, dtype=np.uint32)
        in_split = [i for i, group in enumerate(self.groups) if (group.role in ("held_out", "mirror")) == (split == "ood")]
        group = np.array(in_split)[rng.integers(len(in_split), size=n, dtype=np.uint32)]
        first, second = np.array(self.pairs)[group].T
        found = KeyAndPair(keys[cell], positions[cell], first, second, group)
        tokens = self.filler(rng, n)
        for column, value in enumerate((found.key, first, second)):
            write(tokens, found.position + column, value)
        return tokens, found

    def read_pairs(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> KeyAndPair:
        """The keys and pairs in `tokens [n, seq_len]`; in rows that the parser rejects, ids that are safe to index with."""
        anchors = list(self.anchors)
        at = self.find_anchors(tokens, parser, 2, "two anchors")
        key, first, second = (read(tokens, at + column) for column in (-1, 0, 1))
        parser.require(np.isin(second, anchors), "its anchors are not neighbours")
        parser.require(self.config.is_key(key), "no key precedes its anchors")

        group_of = np.full((max(anchors) + 1,) * 2, NO_ANSWER)
        for i, pair in enumerate(self.pairs):
            group_of[pair] = i
        first, second = (np.where(parser.valid, anchor, anchors[0]) for anchor in (first, second))
        group = group_of[first, second]
        parser.require(group != NO_ANSWER, "its two anchors are never paired")
        return KeyAndPair(np.where(parser.valid, key, self.config.key_min), at - 1, first, second, group)

    def split_of(self, found: KeyAndPair) -> Int[np.ndarray, " n"]:
        """Index into SPLITS of each row; NO_ANSWER for a held-out pair outside the training residues."""
        held_out = np.array([group.role in ("held_out", "mirror") for group in self.groups])[found.group]
        residue = residue_split(found.key, found.position, self.config.modulus)
        return np.where(held_out, np.where(residue == SPLITS.index("train"), SPLITS.index("ood"), NO_ANSWER), residue)

    def token_positions(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Positions of key, first anchor and second anchor, each `[n]`."""
        found = super().token_positions(tokens)
        return found | {"first anchor": found["key"] + 1, "second anchor": found["key"] + 2}

    def mirror(self, tokens: Int[np.ndarray, "n seq_len"]) -> Int[np.ndarray, "n seq_len"]:
        """The same sequences with the two anchors swapped."""
        return swap_anchors(tokens, self.anchors)

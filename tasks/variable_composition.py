"""Variable-length composition: trained on few operations, tested on more.

    position   0   1   2   3    4   5   6   7   8
    token     57  [9] key  33  op1  81 op2  24  90   ->   key + the offset of each operation

Marker 9 precedes the key; the operations 1, 2, 3, 4 (+1, +3, -2, -3) are scattered over the positions after it, among filler.
The groups are the numbers of operations; variant `12-to-34` is trained on one and two and tested on three and four (ood), and
likewise `123-to-4` and `124-to-3`. The marker is placed only where the largest number of operations still fits, so that its
position says nothing about their number; operations may repeat. A key is in `iid` if it and the marker's position have the same
residue.

The generator is known only from the bytecode in the code of 2501.08537, with its operations and the first variant. The placement
of operations and the residue split (the same authors' modulus, 9) are carried over from their other generators.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int
from pydantic import model_validator

from anchorbench.task import NO_ANSWER, SPLITS, Answers, Examples, Group, Modulus, Offsets, Parser, Split, TokenId, register

from .sequence import KeyConfig, KeyTask, cells, look_up, read, residue_split, write


class VariableCompositionConfig(KeyConfig):
    """Config; defaults from the code where it is known."""

    marker: TokenId = 9
    operations: Offsets = {1: 1, 2: 3, 3: -2, 4: -3}
    """Operation token -> the offset that it adds to the key."""
    trained: tuple[TokenId, ...] = (1, 2)
    """Numbers of operations that are trained."""
    held_out: tuple[TokenId, ...] = (3, 4)
    """Numbers of operations that are never trained."""
    modulus: Modulus = 9

    @property
    def counts(self) -> list[int]:
        return sorted((*self.trained, *self.held_out))

    @property
    def starts(self) -> int:
        """Number of marker positions: 0..starts-1."""
        return self.seq_len - 1 - self.counts[-1]

    @model_validator(mode="after")
    def _makes_sense(self) -> "VariableCompositionConfig":
        if not self.operations:
            raise ValueError("operations are empty; at least one is needed")
        for anchor in (self.marker, *self.operations):
            self.require_anchor(anchor)
        if self.marker in self.operations:
            raise ValueError(f"marker {self.marker} is also an operation")
        if not self.trained or self.counts[0] < 1 or len(set(self.counts)) < len(self.counts):
            raise ValueError(f"trained is {self.trained} and held_out {self.held_out}; allowed: different numbers of at least 1")
        if self.starts < 1:
            raise ValueError(f"seq_len is {self.seq_len}; marker, key and {self.counts[-1]} operations need {self.counts[-1] + 2}")
        sums = [count * offset for count in self.counts for offset in self.operations.values()]
        self.require_labels(self.key_min + min(sums), self.key_max + max(sums))
        self.require_cells(self.starts)
        return self


@register
class VariableComposition(KeyTask):
    """A marked key and a varying number of operations after it (2501.08537, code)."""

    name = "variable-composition"
    paper = "2501.08537, code, composition split by the number of operations"
    Config = VariableCompositionConfig
    config: VariableCompositionConfig
    description = "A varying number of scattered operations on the marked key, split by how many there are."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "12-to-34": {"trained": (1, 2), "held_out": (3, 4)},
        "123-to-4": {"trained": (1, 2, 3), "held_out": (4,)},
        "124-to-3": {"trained": (1, 2, 4), "held_out": (3,)},
    }

    @property
    def anchors(self) -> dict[int, str]:
        operations = {anchor: f"adds {offset:+d}" for anchor, offset in self.config.operations.items()}
        return operations | {self.config.marker: "the key is the token after it"}

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(
            Group(f"{count}-operation{'s' * (count > 1)}", "held_out" if count in self.config.held_out else "trained")
            for count in self.config.counts
        )

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config = self.config
        keys, positions = cells(config.keys, np.arange(config.starts), config.modulus, split)
        cell = rng.integers(len(keys), size=n, dtype=np.uint32)
        key, at = keys[cell], positions[cell]
        counts = np.array(config.held_out if split == "ood" else config.trained)
        count = counts[rng.integers(len(counts), size=n, dtype=np.uint32)]
        tokens = self.filler(rng, n)
        write(tokens, at, config.marker, key)

        up_to_key = np.tri(config.starts, self.seq_len, 1, np.float32)  # 1 at positions that come after all those behind the key
        order = np.maximum(rng.random((n, self.seq_len), dtype=np.float32), up_to_key.take(at, axis=0))
        anchors, offsets = (np.array(list(values)) for values in (config.operations, config.operations.values()))
        label = key.copy()
        for i in range(counts.max()):
            drawn = rng.integers(len(anchors), size=n, dtype=np.uint32)
            place = order.argmin(1)  # of equal ones the first
            order[np.arange(n), place] = 1
            here = np.flatnonzero(count > i)
            tokens[here, place[here]] = anchors[drawn[here]]
            label[here] += offsets[drawn[here]]
        group = np.searchsorted(config.counts, count)
        return Examples(tokens=tokens, label=label, group=group, key=key, position=at + 1, foils={"inferential": label})

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        is_marker = tokens == config.marker
        is_operation = np.isin(tokens, list(config.operations))
        parser.require(
            (is_marker | is_operation | config.is_filler(tokens)).all(1),
            "it holds a token that is neither marker, operation nor key",
        )
        parser.require(is_marker.sum(1) == 1, "it does not hold exactly one marker")
        at = is_marker.argmax(1)
        key = read(tokens, at + 1)
        parser.require(config.is_key(key), "no key follows its marker")
        parser.require(at < config.starts, f"its marker comes after position {config.starts - 1}")
        before = np.arange(self.seq_len) < at[:, None]
        parser.require(~(is_operation & before).any(1), "an operation comes before its key")
        count = is_operation.sum(1)
        parser.require(np.isin(count, config.counts), f"its operations are not {' or '.join(map(str, config.counts))}")

        added = sum(offset * (tokens == anchor).sum(1) for anchor, offset in config.operations.items())
        residue = residue_split(key, at, config.modulus)
        on_training_cell = residue == SPLITS.index("train")
        ood = np.where(on_training_cell, SPLITS.index("ood"), NO_ANSWER)
        return parser.answers(
            label=key + added,
            group=np.array([config.counts.index(c) if c in config.counts else NO_ANSWER for c in range(self.seq_len + 1)])[count],
            key=key,
            position=at + 1,
            split=np.where(np.isin(count, config.held_out), ood, residue),
            foils={"inferential": key + added},
        )

    def intermediate_values(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """The key and the value after each operation, from left to right; the last one present is the answer."""
        operations = self.config.operations
        key = read(tokens, (tokens == self.config.marker).argmax(1) + 1)
        value = key[:, None] + look_up(operations, tokens).cumsum(1)
        count = np.isin(tokens, list(operations)).cumsum(1)
        values = {"key": key}
        for i in range(1, self.config.counts[-1] + 1):
            done = count == i  # from the i-th operation to before the next
            values[f"after_operation_{i}"] = np.where(done.any(1), read(value, done.argmax(1)), NO_ANSWER)
        return values

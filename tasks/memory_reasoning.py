"""Memory anchors and reasoning anchors: does a model learn a table or a rule first?

    position   0   1   2    3    4   5   6   7   8
    token     57  33  key  11   13  81  24  90  46   ->   key + 11 + 13           (two reasoning anchors, 11..20)
    token     57  33  key   4    9  81  24  90  46   ->   table[4, 9, key]        (two memory anchors, 1..10)

(2502.04375.) Keys are 21..120. A reasoning anchor adds its own id; for each key and ordered pair of memory anchors the label
is drawn once from `memory_seed`, which is part of the task: a different seed is a different task. The two kinds are never mixed,
which leaves 100 + 100 ordered pairs; the reasoning pairs (11,13) and (13,11) are never trained. Memory pairs have the role
`exception`: they do not follow the rule, and nothing can be inferred about them, so they have no `inferential` foil.

The text describes no unseen data of trained pairs. As in `composite`, by the same authors, `iid` has the keys with the same residue
as their position: each (key, pair) is trained at other positions, so that a memorized table can be tested too.

Variants
    default  a memory label is any key
    near     a memory label is within key - (a1 + a2) .. key + (a1 + a2): reported to be learned faster
"""

import functools
from collections.abc import Mapping
from itertools import product
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import NO_ANSWER, Answers, DrawSeed, Examples, Group, Modulus, Pairs, Parser, Role, Split, TokenId, register

from .pairs import PairTask
from .sequence import KeyConfig, add_in_turn

MEMORY, REASONING = range(1, 11), range(11, 21)


class MemoryReasoningConfig(KeyConfig):
    """Config; defaults from the paper."""

    key_min: TokenId = 21
    key_max: TokenId = 120
    seq_len: int = Field(9, ge=3, le=1024)
    modulus: Modulus = 9
    vocab_size: int = Field(201, ge=2, le=32_768)
    held_out: Pairs = ((11, 13), (13, 11))
    """Ordered pairs of reasoning anchors that are never trained."""
    memory_labels: Literal["any", "near"] = "any"
    memory_seed: DrawSeed = 0
    """Seed of the memory anchors' table."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "MemoryReasoningConfig":
        for anchor in (*MEMORY, *REASONING):
            self.require_anchor(anchor)
        for pair in self.held_out:
            if not set(pair) <= set(REASONING):
                raise ValueError(f"pair {pair} is not made of the reasoning anchors {REASONING[0]}..{REASONING[-1]}")
        farthest = 2 * MEMORY[-1] if self.memory_labels == "near" else 0
        self.require_labels(self.key_min - farthest, self.key_max + 2 * REASONING[-1])
        self.require_cells(self.seq_len - 2)
        return self


@register
class MemoryReasoning(PairTask):
    """Key and two anchors that either add to it or index a random table (2502.04375)."""

    name = "memory-reasoning"
    paper = "2502.04375, memory and reasoning anchors"
    Config = MemoryReasoningConfig
    config: MemoryReasoningConfig
    description = "Two reasoning anchors add their ids to the key; two memory anchors stand for a fixed random answer."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}, "near": {"memory_labels": "near"}}
    sizes = {"train": 180_000, "iid": 20_000, "ood": 2_000}

    @property
    def anchors(self) -> dict[int, str]:
        memory = dict.fromkeys(MEMORY, "memory, a random answer for each key and pair")
        return memory | {anchor: f"reasoning, adds {anchor:+d}" for anchor in REASONING}

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [*product(MEMORY, MEMORY), *product(REASONING, REASONING)]

    @property
    def groups(self) -> tuple[Group, ...]:
        def role(pair: tuple[int, int]) -> Role:
            if pair[0] in MEMORY:
                return "exception"
            return "held_out" if pair in self.config.held_out else "trained"

        return tuple(Group(f"({a},{b})", role((a, b))) for a, b in self.pairs)

    @functools.cached_property
    def table(self) -> Int[np.ndarray, "memory memory keys"]:
        """The label for each (first memory anchor, second memory anchor, key), all counted from 0."""
        config = self.config
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(config.memory_seed)))
        shape = (len(MEMORY), len(MEMORY), len(config.keys))
        if config.memory_labels == "any":
            return rng.integers(config.key_min, config.key_max + 1, size=shape)
        farthest = np.add.outer(MEMORY, MEMORY)[:, :, None]
        return config.keys + rng.integers(-farthest, farthest + 1, size=shape)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        tokens, found = self.write_pairs(rng, split, n)
        label = found.key + found.first + found.second
        inferential = label.copy()
        memory = np.flatnonzero(found.first < REASONING[0])
        label[memory] = self.table.reshape(-1, len(self.config.keys))[found.group[memory], found.key[memory] - self.config.key_min]
        inferential[memory] = NO_ANSWER
        return Examples(
            tokens=tokens,
            label=label,
            group=found.group,
            key=found.key,
            position=found.position,
            foils={"inferential": inferential},
        )

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        found = self.read_pairs(tokens, parser)
        from_memory = np.isin(found.first, MEMORY)
        first, second = (np.where(from_memory, anchor - MEMORY[0], 0) for anchor in (found.first, found.second))
        remembered = self.table[first, np.minimum(second, len(MEMORY) - 1), found.key - self.config.key_min]
        added = np.where(from_memory, NO_ANSWER, found.key + found.first + found.second)
        return parser.answers(
            label=np.where(from_memory, remembered, added),
            group=found.group,
            key=found.key,
            position=found.position,
            split=self.split_of(found),
            foils={"inferential": added},
        )

    def intermediate_values(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Key, anchors, and the value after each, the last of which is the answer; memory anchors have no such values."""
        found = self.read_pairs(tokens, Parser(len(tokens)))
        values = add_in_turn(found.key, found.first, found.second, {anchor: anchor for anchor in (*MEMORY, *REASONING)})
        for name in ("after_first_anchor", "after_second_anchor"):
            values[name][found.first < REASONING[0]] = NO_ANSWER
        return values

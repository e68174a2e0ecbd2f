"""Composite anchor functions: does a model compose two anchors that it has never seen together?

    position   0   1   2    3    4   5   6   7   8
    token     57  33  key  a1   a2  81  24  90  46   ->   key + offset[a1] + offset[a2]

Keys are 20..99; anchors 1, 2, 3, 4 add +5, +1, -2, -8; all other tokens are filler, uniform over the keys. The sixteen
ordered pairs (a1, a2) are the groups. A key x at position p is in `iid` if x and p have the same residue, else in `train`;
`ood` holds the untrained pairs on the training residues.

Variants
    heldout-both      (3,4) and (4,3) are never trained: does the model compose? (2501.08537, phase diagram)
    conflict          (3,4) is trained as x-6 instead of x-10, (4,3) held out: an ordered model answers x-10, a symmetric one
                      x-6 (2405.05409, section 3). A symmetric answer does not prove memorizing: see the README.
    conflict-control  conflict, with an ordinary pair and its mirror also held out: both questions at once. The pair rotates over
                      seeds (seed modulo 5), and some pairs are much easier than others: compare only runs with the same pair.
    heldout-pairs     two different anchors are never trained together, in either order: each unordered pair in turn, by seed
                      (seed modulo 6), so that no conclusion rests on one pair
    no-rule           heldout-pairs, but each trained pair adds a number of its own, drawn by seed: a control, since nothing that is
                      trained says what a held-out pair adds (asked is the sum, as in the others)
    other-rule        heldout-pairs, but trained pairs add the first anchor's offset and subtract the second's, while held-out ones
                      are asked for the sum: a control, since what can be inferred is not what is asked

Labels can equal an anchor's id (key 20 with anchors 4, 4 gives 4), as in the papers' own setting: labels are never inputs.
"""

import functools
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import (
    NO_ANSWER,
    SPLITS,
    Answers,
    DrawSeed,
    Examples,
    Group,
    Modulus,
    Offset,
    Offsets,
    Pairs,
    Parser,
    Role,
    Split,
    Task,
    TokenId,
    register,
)

from .sequence import KeyConfig, KeyTask, add_in_turn, cells, read, residue_split, swap_anchors, write


class Override(NamedTuple):
    """An anchor pair trained with an offset other than the sum of its anchors' offsets."""

    pair: tuple[TokenId, TokenId]
    offset: Offset


class CompositeConfig(KeyConfig):
    """Config; defaults from the papers."""

    later: ClassVar[frozenset[str]] = KeyConfig.later | {"trained_as", "table_seed"}

    offsets: Offsets = {1: 5, 2: 1, 3: -2, 4: -8}
    """Anchor token -> the offset that it adds to the key."""
    held_out: Pairs = ()
    """Ordered anchor pairs that are never trained."""
    exceptions: tuple[Override, ...] = Field((), max_length=4096)
    """Pairs trained with a different offset."""
    key_first: bool = True
    """Whether the order is key, a1, a2 (2405.05409) or a1, a2, key (2401.08309)."""
    trained_as: Literal["sum", "difference", "table"] = "sum"
    """What trained pairs add: the sum of the anchors' offsets, the first minus the second, or a number drawn for each pair."""
    table_seed: DrawSeed = 0
    """Seed of the drawn numbers."""
    modulus: Modulus = 9
    """Modulus of the residue split: 9 in the code of 2405.05409, 7 in its text, 8 in that of 2401.08309 and 2509.17514."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "CompositeConfig":
        if len(self.offsets) < 2:
            raise ValueError(f"offsets are {self.offsets}; at least two anchors are needed")
        if self.seq_len < 3:
            raise ValueError(f"seq_len is {self.seq_len}; key and two anchors need at least 3")
        for anchor in self.offsets:
            self.require_anchor(anchor)
        pairs = set(itertools.product(self.offsets, repeat=2))
        trained_otherwise = {override.pair for override in self.exceptions}
        for pair in [*self.held_out, *trained_otherwise]:
            if pair not in pairs:
                raise ValueError(f"pair {pair} is not made of the anchors {', '.join(map(str, self.offsets))}")
        for what, listed in (("held_out", list(self.held_out)), ("exceptions", [override.pair for override in self.exceptions])):
            if len(listed) != len(set(listed)):
                raise ValueError(f"{what} names a pair twice: {listed}")
        for pair in self.held_out:
            if pair in trained_otherwise:
                raise ValueError(f"pair {pair} is held out but also trained (as an exception)")
        if len(self.held_out) >= len(pairs):
            raise ValueError("held_out names every pair; at least one must be trained")
        offsets = self.offsets.values()
        sums = [self.offsets[a] + self.offsets[b] for a, b in pairs] + [override.offset for override in self.exceptions]
        sums += [] if self.trained_as == "sum" else [min(offsets) - max(offsets), max(offsets) - min(offsets)]
        self.require_labels(self.key_min + min(sums), self.key_max + max(sums))
        self.require_cells(self.seq_len - 2)
        return self


NO_OFFSET = np.iinfo(np.int64).min
CONFLICT: Mapping[str, Any] = {"exceptions": [{"pair": (3, 4), "offset": -6}], "held_out": [(4, 3)]}
CONTROL_PAIRS = [(1, 2), (1, 3), (2, 4), (1, 4), (2, 3)]


@register
class Composite(KeyTask):
    """Key, first anchor, second anchor: the answer adds both anchors' offsets to the key (2405.05409; 2501.08537)."""

    name = "composite"
    paper = "2405.05409, section 3; 2501.08537, phase diagram (both pairs held out)"
    Config = CompositeConfig
    config: CompositeConfig
    description = "Composition of two anchors applied to a key; labels may equal an anchor's id, as in the papers' setting."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "heldout-both": {"held_out": [(3, 4), (4, 3)]},
        "conflict": CONFLICT,
        "conflict-control": {**CONFLICT, "held_out": [(4, 3), CONTROL_PAIRS[0], CONTROL_PAIRS[0][::-1]]},
        "heldout-pairs": {"held_out": [(1, 2), (2, 1)]},
        "no-rule": {"held_out": [(1, 2), (2, 1)], "trained_as": "table"},
        "other-rule": {"held_out": [(1, 2), (2, 1)], "trained_as": "difference"},
    }
    sizes = {"train": 157_500, "iid": 17_500, "ood": 22_500}
    variant_sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "conflict": {"train": 759_375, "iid": 84_375, "ood": 50_625},
    }

    def for_seed(self, seed: int) -> Task:
        """In `conflict-control` and the variants on `heldout-pairs`, the ordinary pair that is held out rotates over seeds."""
        every_pair = list(itertools.combinations(self.config.offsets, 2))
        rotating: dict[str, list[tuple[int, int]]] = {
            **dict.fromkeys(("heldout-pairs", "no-rule", "other-rule"), every_pair),
            "conflict-control": CONTROL_PAIRS,
        }
        if self.variant not in rotating:
            return self
        pairs = rotating[self.variant]
        pair = pairs[seed % len(pairs)]
        mirror = [(4, 3)] if self.variant == "conflict-control" else []
        fields = self.config.model_dump() | {"held_out": [*mirror, pair, pair[::-1]]}
        fields |= {"table_seed": seed} if self.config.trained_as == "table" else {}
        return Composite(self.variant, self.Config.model_validate(fields))

    @property
    def anchors(self) -> dict[int, str]:
        return {anchor: f"adds {offset:+d}" for anchor, offset in self.config.offsets.items()}

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The ordered anchor pairs, in the order of `groups`."""
        return list(itertools.product(self.config.offsets, self.config.offsets))

    @property
    def groups(self) -> tuple[Group, ...]:
        exceptions, held_out = {override.pair for override in self.config.exceptions}, set(self.config.held_out)

        def role(pair: tuple[int, int]) -> Role:
            if pair in exceptions:
                return "exception"
            if pair in held_out:
                return "mirror" if pair[::-1] in exceptions else "held_out"
            return "trained"

        return tuple(Group(f"({a},{b})", role((a, b))) for a, b in self.pairs)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        keys, positions, groups = self._in_split[split]
        cell = rng.integers(len(keys), size=n, dtype=np.uint32)
        key, start = keys.take(cell), positions.take(cell)
        group = groups.take(rng.integers(len(groups), size=n, dtype=np.uint32))
        first, second, composed, trained, symmetric = (values.take(group) for values in self._by_group)
        tokens = self.filler(rng, n)
        key_first = self.config.key_first
        write(tokens, start, *((key, first, second) if key_first else (first, second, key)))
        return Examples(
            tokens=tokens,
            label=key + trained,
            group=group,
            key=key,
            position=start if key_first else start + 2,
            foils={
                "inferential": key + composed,
                "symmetric": np.where(symmetric == NO_OFFSET, NO_ANSWER, key + symmetric),
            },
        )

    @functools.cached_property
    def _in_split(self) -> dict[Split, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Per split: keys and positions, each `[cells]`, and the groups."""
        unseen = np.array([group.role in ("held_out", "mirror") for group in self.groups])
        grid = self.config.keys, np.arange(self.seq_len - 2), self.config.modulus
        return {split: (*cells(*grid, split), np.flatnonzero(unseen == (split == "ood"))) for split in SPLITS}

    @functools.cached_property
    def _by_group(self) -> tuple[np.ndarray, ...]:
        """Per group, each `[groups]`: anchors, composed offset, the label's offset, and the mirror's trained exception."""
        exceptions = {override.pair: override.offset for override in self.config.exceptions}
        first, second = np.array(self.pairs).T
        composed = [self.config.offsets[a] + self.config.offsets[b] for a, b in self.pairs]
        unseen = {*self.config.held_out}
        trained = [
            offset if pair in unseen else exceptions.get(pair, added)
            for pair, offset, added in zip(self.pairs, composed, self._added, strict=True)
        ]
        symmetric = [
            exceptions[b, a] if group.role == "mirror" else NO_OFFSET for (a, b), group in zip(self.pairs, self.groups, strict=True)
        ]
        return first, second, np.array(composed), np.array(trained), np.array(symmetric)

    @functools.cached_property
    def _added(self) -> list[int]:
        """What each of `pairs` adds where it is trained, exceptions apart."""
        offsets = self.config.offsets
        if self.config.trained_as == "sum":
            return [offsets[a] + offsets[b] for a, b in self.pairs]
        if self.config.trained_as == "difference":
            return [offsets[a] - offsets[b] for a, b in self.pairs]
        least, most = 2 * min(offsets.values()), 2 * max(offsets.values())
        return np.random.default_rng(self.config.table_seed).integers(least, most + 1, size=len(self.pairs)).tolist()

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        at = self.find_anchors(tokens, parser, 2, "two anchors")
        first, second = read(tokens, at), read(tokens, at + 1)
        parser.require(np.isin(second, list(config.offsets)), "its anchors are not neighbours")
        key_at = at - 1 if config.key_first else at + 2
        key = read(tokens, key_at)
        parser.require(config.is_key(key), f"no key {'precedes' if config.key_first else 'follows'} its anchors")

        shift = np.zeros(max(config.offsets) + 1, int)
        shift[list(config.offsets)] = list(config.offsets.values())
        safe_first, safe_second = (np.where(parser.valid, anchor, min(config.offsets)) for anchor in (first, second))
        inferential = key + shift[safe_first] + shift[safe_second]
        label, symmetric = inferential.copy(), np.full(len(tokens), NO_ANSWER)
        if config.trained_as != "sum":
            for (a, b), offset in zip(self.pairs, self._added, strict=True):
                if (a, b) not in config.held_out:
                    here = (first == a) & (second == b)
                    label[here] = (key + offset)[here]
        for (a, b), offset in config.exceptions:
            label[(first == a) & (second == b)] = (key + offset)[(first == a) & (second == b)]
        held_out, exceptions = np.zeros(len(tokens), bool), dict(config.exceptions)
        for a, b in config.held_out:
            here = (first == a) & (second == b)
            held_out |= here
            if (b, a) in exceptions:
                symmetric[here] = (key + exceptions[b, a])[here]

        rank = {anchor: i for i, anchor in enumerate(config.offsets)}
        order = np.zeros(max(rank) + 1, int)
        order[list(rank)] = list(rank.values())
        start = np.minimum(key_at, at)
        residue = residue_split(key, start, config.modulus)
        on_training_cell = residue == SPLITS.index("train")
        return parser.answers(
            label=label,
            group=order[safe_first] * len(rank) + order[safe_second],
            key=key,
            position=key_at,
            split=np.where(held_out, np.where(on_training_cell, SPLITS.index("ood"), NO_ANSWER), residue),
            foils={"inferential": inferential, "symmetric": symmetric},
        )

    def token_positions(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Positions of key, first anchor and second anchor, each `[n]`."""
        first = np.isin(tokens, list(self.config.offsets)).argmax(1)
        return super().token_positions(tokens) | {"first anchor": first, "second anchor": first + 1}

    def intermediate_values(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Key, anchors, and the value after each anchor; the last is the answer, except for a trained exception.

        No value is negative: the pair of an anchor with itself has a label too, and the value after one anchor lies halfway to it.
        """
        at = np.isin(tokens, list(self.config.offsets)).argmax(1)
        key = read(tokens, at - 1 if self.config.key_first else at + 2)
        return add_in_turn(key, read(tokens, at), read(tokens, at + 1), self.config.offsets)

    def mirror(self, tokens: Int[np.ndarray, "n seq_len"]) -> Int[np.ndarray, "n seq_len"]:
        """The same sequences with the two anchors swapped."""
        return swap_anchors(tokens, self.config.offsets)

"""Several anchors, one per sequence: each adds its offset to the key that follows it; some are never trained with some keys.

    position   0   1   2   3    4   5   6   7   8
    token     57  33  81  [a]  key  24  90  46  61   ->   key + offset[a]

(2401.08309, two anchors, frequency principle, multi-anchor.) The anchor is at p = 0..7; a key x is in `iid` if x and p have
the same residue, else in `train`. Keys that an anchor is never trained with form a held-out group of that anchor; `ood` draws
from those groups, on training residues.

Variants (anchor: offset, keys that it is trained with)
    identities           3: +0, 4: +0, all keys
    plus-one             3: +0, 4: +1, all keys; `identities` is learned first (frequency principle)
    odd-even             3: +0, odd keys; 4: +0, even keys
    intervals            3: +0, 20..59; 4: +1, 60..99; the shortcut is that the interval decides: 3 with 60..99 gives key + 1
    intervals-identities the same with both +0
    overlap              3: +0, 20..69; 4: +1, 50..99
    overlap-identities   the same with both +0
    three-intervals      3: +0, 20..69; 4: +1, 20..99; 5: +2, 50..99

Choice: the paper masks combinations of an anchor and an interval. Where intervals overlap, a masked combination contains
trained inputs (key 60 with anchor 3 belongs to both intervals); here a held-out group has only keys of no trained interval, so
anchor 4 of `three-intervals` has none. `shortcut` is the answer of the other anchors that are trained with this key, where
they agree with one another but not with the rule.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Int
from pydantic import model_validator

from anchorbench.task import NO_ANSWER, SPLITS, Answers, Examples, Group, Offsets, Parser, Split, TokenId, register

from .sequence import KeyConfig, KeyTask, cells, look_up, read, residue_split, write


class OffsetsConfig(KeyConfig):
    """Shared by tasks with several anchors, one per sequence, which adds its offset to the key that follows it."""

    offsets: Offsets = {3: 0, 4: 0}
    """Anchor token -> the offset that it adds to the key."""

    def trains(self, anchor: int, key: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Whether each `key [n]` is trained with `anchor`; all are, unless a subclass overrides this."""
        return np.ones(len(key), bool)

    @property
    def combinations(self) -> dict[Group, tuple[int, Int[np.ndarray, " keys"]]]:
        """Group -> its anchor and keys; groups without keys are omitted."""
        seen = {Group(f"{a}", "trained"): (a, self.keys[self.trains(a, self.keys)]) for a in self.offsets}
        unseen = {Group(f"{a}-unseen-keys", "held_out"): (a, self.keys[~self.trains(a, self.keys)]) for a in self.offsets}
        return seen | {group: (anchor, keys) for group, (anchor, keys) in unseen.items() if len(keys)}

    @model_validator(mode="after")
    def _makes_sense(self) -> "OffsetsConfig":
        if len(self.offsets) < 2:
            raise ValueError(f"offsets are {self.offsets}; at least two anchors are needed")
        self.require_size(2 * len(self.offsets))
        for anchor in self.offsets:
            self.require_anchor(anchor)
        self.require_labels(self.key_min + min(self.offsets.values()), self.key_max + max(self.offsets.values()))
        for group, (anchor, keys) in self.combinations.items():
            if len(keys) == 0:
                raise ValueError(f"anchor {anchor} is trained with none of the keys {self.key_min}..{self.key_max}")
            splits: tuple[Split, ...] = ("train", "iid") if group.role == "trained" else ("ood",)
            for split in splits:
                cells(keys, np.arange(self.seq_len - 1), self.modulus, split)
        return self


class OffsetsTask(KeyTask):
    """A task with an OffsetsConfig."""

    config: Any  # an OffsetsConfig; each task declares its own class
    sizes = {"train": 2_000, "iid": 500, "ood": 500}
    variant_sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "overlap": {"train": 3_000, "iid": 500, "ood": 500},
        "overlap-identities": {"train": 3_000, "iid": 500, "ood": 500},
        "three-intervals": {"train": 18_000, "iid": 500, "ood": 500},
    }

    @property
    def anchors(self) -> dict[int, str]:
        return {anchor: f"adds {offset:+d} to the key after it" for anchor, offset in self.config.offsets.items()}

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(self.config.combinations)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config = self.config
        in_split = [i for i, group in enumerate(self.groups) if (group.role == "held_out") == (split == "ood")]
        combinations = list(config.combinations.values())
        group, key, start = draw_cells(
            rng, n, {i: cells(combinations[i][1], np.arange(self.seq_len - 1), config.modulus, split) for i in in_split}
        )
        anchor = np.array([anchor for anchor, _ in combinations])[group]
        offset = np.array([config.offsets[anchor] for anchor, _ in combinations])[group]

        tokens = self.filler(rng, n)
        write(tokens, start, anchor)
        write(tokens, start + 1, key)

        label, foils = key + offset, dict[str, np.ndarray]()
        if "ood" in self.splits:
            foils["inferential"] = label
            if (self._shortcuts != NO_ANSWER).any():
                rank = np.array([list(config.offsets).index(anchor) for anchor, _ in combinations])[group]
                foils["shortcut"] = self._shortcuts[rank, key - config.key_min]
        return Examples(tokens=tokens, label=label, group=group, key=key, position=start + 1, foils=foils)

    @cached_property
    def _shortcuts(self) -> Int[np.ndarray, "anchors keys"]:
        """The shortcut for each (anchor, key); NO_ANSWER where there is none."""
        config, own = self.config, np.array(list(self.config.offsets.values()))[:, None]
        trained = np.stack([config.trains(anchor, config.keys) for anchor in config.offsets])
        values = np.unique(own)
        occurs = np.stack([(trained & (own == value)).any(0) for value in values])  # whether the key is trained with that offset
        shortcut = values[occurs.argmax(0)]
        return np.where(~trained & (occurs.sum(0) == 1) & (shortcut != own), config.keys + shortcut, NO_ANSWER)

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        at = self.find_anchors(tokens, parser)
        anchor, key = read(tokens, at), read(tokens, at + 1)
        parser.require(config.is_key(key), "no key follows its anchor")

        names = [group.name for group in self.groups]
        label, group, unseen = key.copy(), np.zeros(len(tokens), int), np.zeros(len(tokens), bool)
        low, high = np.full(len(tokens), np.iinfo(np.int64).max), np.full(len(tokens), np.iinfo(np.int64).min)
        for a, offset in config.offsets.items():
            here, trained = anchor == a, config.trains(a, key)
            label[here] += offset
            group[here & trained] = names.index(f"{a}")
            if f"{a}-unseen-keys" in names:
                group[here & ~trained] = names.index(f"{a}-unseen-keys")
                unseen |= here & ~trained
            low[trained] = np.minimum(low, key + offset)[trained]
            high[trained] = np.maximum(high, key + offset)[trained]
        foils = {"inferential": label} if "ood" in self.splits else {}
        if foils and (self._shortcuts != NO_ANSWER).any():
            foils["shortcut"] = np.where(unseen & (low == high) & (low != label), low, NO_ANSWER)
        residue = residue_split(key, at, config.modulus)
        on_training_cell = residue == SPLITS.index("train")
        return parser.answers(
            label=label,
            group=group,
            key=key,
            position=at + 1,
            split=np.where(unseen, np.where(on_training_cell, SPLITS.index("ood"), NO_ANSWER), residue),
            foils=foils,
        )

    def token_positions(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Positions of the key and the anchor, each `[n]`."""
        return super().token_positions(tokens) | {"anchor": np.isin(tokens, list(self.config.offsets)).argmax(1)}

    def intermediate_values(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Key, anchor, and the value after it, the answer."""
        at = np.isin(tokens, list(self.config.offsets)).argmax(1)
        key, anchor = read(tokens, at + 1), read(tokens, at)
        return {"key": key, "anchor": anchor, "after_anchor": key + look_up(self.config.offsets, anchor)}


def draw_cells(
    rng: np.random.Generator, n: int, cells_of: Mapping[int, tuple[np.ndarray, np.ndarray]]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """`n` groups, keys and positions: a uniform group of `cells_of` (group -> keys, positions), then a uniform cell of it."""
    counts = np.array([len(keys) for keys, _ in cells_of.values()])
    keys, positions = (np.concatenate(column) for column in zip(*cells_of.values(), strict=True))
    pick = rng.integers(len(counts), size=n, dtype=np.uint32)
    cell = (np.cumsum(counts) - counts)[pick] + rng.integers(counts[pick])
    return np.array(list(cells_of))[pick], keys[cell], positions[cell]


class TwoAnchorsConfig(OffsetsConfig):
    """Config; the default is two identities."""

    trained_keys: dict[TokenId, tuple[TokenId, TokenId] | Literal["odd", "even"]] = {}
    """Anchor -> the keys that it is trained with: an interval, inclusive, or a parity; all keys if not listed."""

    def trains(self, anchor: int, key: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Whether each `key [n]` is trained with `anchor`."""
        wanted = self.trained_keys.get(anchor, (self.key_min, self.key_max))
        if isinstance(wanted, str):
            return key % 2 == (wanted == "odd")
        return (key >= wanted[0]) & (key <= wanted[1])

    @model_validator(mode="after")
    def _names_anchors(self) -> "TwoAnchorsConfig":
        for anchor in self.trained_keys:
            if anchor not in self.offsets:
                raise ValueError(f"trained_keys names {anchor}; the anchors are {', '.join(map(str, self.offsets))}")
        return self


DISJOINT = {3: (20, 59), 4: (60, 99)}
OVERLAP = {3: (20, 69), 4: (50, 99)}


@register
class TwoAnchors(OffsetsTask):
    """Two or three anchors with offsets, each trained with all keys or with some (2401.08309)."""

    name = "two-anchors"
    paper = "2401.08309, two anchors, frequency principle, multi-anchor"
    Config = TwoAnchorsConfig
    config: TwoAnchorsConfig
    description = "Each of two or three anchors adds its offset to the key after it; some are never trained with some keys."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "identities": {},
        "plus-one": {"offsets": {3: 0, 4: 1}},
        "odd-even": {"trained_keys": {3: "odd", 4: "even"}},
        "intervals": {"offsets": {3: 0, 4: 1}, "trained_keys": DISJOINT},
        "intervals-identities": {"trained_keys": DISJOINT},
        "overlap": {"offsets": {3: 0, 4: 1}, "trained_keys": OVERLAP},
        "overlap-identities": {"trained_keys": OVERLAP},
        "three-intervals": {"offsets": {3: 0, 4: 1, 5: 2}, "trained_keys": {3: (20, 69), 5: (50, 99)}},
    }

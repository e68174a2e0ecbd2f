"""Random permutations as anchors: the two maps of a held-out pair must be composed in the right order.

    position   0     1    2
    token     key   a_i  a_j   ->   perm_j[perm_i[key]]

(2605.04396.) Keys are 0..15, anchors 16..23, each a random permutation of the keys; there is no filler. Of the 64 ordered pairs
45 are trained and 19 (`ood`) never are. Permutations and held-out pairs are drawn from `seed`, which is part of the task. Unlike
offsets, permutations do not commute: the foil `swapped` is the answer of a model that applies them in the other order or
treats the pair as unordered, wherever that differs from the correct one. 30% of the pairs are held out regardless of their mirrors,
so all of them have the role `held_out`.

The training split is finite: 720 inputs, and the paper trains on all of them, so trained pairs have no unseen inputs left and
the first variant has no `iid` split. Every 720 (ood: 304) consecutive examples contain each input exactly once, in random order:
n = 720 is the paper's training set. Held-out pairs are composed late: see recipes/random-permutations.yaml.

Variants
    default        as in the paper
    heldout-cells  in addition, (key, i, j) with key = i + j modulo 8 is `iid`: an eighth of each trained pair is never trained, and
                   each key is still trained with every anchor on either side. `ood` then leaves these cells out, too.
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field, model_validator

from anchorbench.task import (
    NO_ANSWER,
    SPLITS,
    Answers,
    DrawSeed,
    Examples,
    Group,
    Modulus,
    Parser,
    Split,
    Task,
    TaskConfig,
    Token,
    register,
)

MAX_INPUTS = 2**20


class RandomPermutationsConfig(TaskConfig):
    """Config; defaults from the paper."""

    n_keys: int = Field(16, ge=3, le=1024)
    n_anchors: int = Field(8, ge=2, le=64)
    n_held_out: int = Field(19, ge=1, lt=64**2)
    """Ordered pairs that are never trained."""
    modulus: Modulus | None = None
    """Modulus that defines the cells of `iid`; None: no such split."""
    seed: DrawSeed = 0
    """Seed of the permutations and of the choice of held-out pairs."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "RandomPermutationsConfig":
        if self.n_held_out >= self.n_anchors**2:
            raise ValueError(f"n_held_out is {self.n_held_out}; allowed: below the number of pairs, {self.n_anchors**2}")
        if self.n_keys * self.n_anchors**2 > MAX_INPUTS:
            raise ValueError(
                f"{self.n_keys} keys and {self.n_anchors} anchors make {self.n_keys * self.n_anchors**2} inputs; "
                f"allowed: at most {MAX_INPUTS}"
            )
        if self.modulus is not None and self.modulus > self.n_keys:
            raise ValueError(f"modulus is {self.modulus}; allowed: at most n_keys, {self.n_keys}")
        return self


@register
class RandomPermutations(Task):
    """Key and two anchors, each a random permutation of the keys (2605.04396)."""

    name = "random-permutations"
    paper = "2605.04396, composition of random permutations"
    Config = RandomPermutationsConfig
    config: RandomPermutationsConfig
    description = "Two random permutations applied to a key in order; 19 of 64 ordered pairs are never trained."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}, "heldout-cells": {"modulus": 8}}
    sizes = {"train": 720, "iid": 90, "ood": 304}
    variant_sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {"heldout-cells": {"train": 630, "iid": 90, "ood": 266}}

    @property
    def seq_len(self) -> int:
        return 3

    @property
    def splits(self) -> tuple[Split, ...]:
        return SPLITS if self.config.modulus else ("train", "ood")

    @property
    def chance(self) -> float:
        return 1 / self.config.n_keys

    @property
    def vocabulary(self) -> tuple[Token, ...]:
        keys = [Token(str(key), f"key or label {key}") for key in range(self.config.n_keys)]
        return (*keys, *(Token(f"a{len(keys) + i}", f"permutation {i}") for i in range(self.config.n_anchors)))

    @functools.cached_property
    def permutations(self) -> Int[np.ndarray, "anchors keys"]:
        """The key that each anchor maps each key to."""
        return self._drawn[0]

    @functools.cached_property
    def held_out(self) -> Bool[np.ndarray, "anchors anchors"]:
        """Which ordered pairs are never trained."""
        return self._drawn[1]

    @functools.cached_property
    def _drawn(self) -> tuple[np.ndarray, np.ndarray]:
        n_keys, n_anchors = self.config.n_keys, self.config.n_anchors
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(self.config.seed)))
        permutations = rng.permuted(np.tile(np.arange(n_keys), (n_anchors, 1)), axis=1)
        held_out = rng.permutation(n_anchors**2) < self.config.n_held_out
        return permutations, held_out.reshape(n_anchors, n_anchors)

    @property
    def groups(self) -> tuple[Group, ...]:
        n_keys = self.config.n_keys
        return tuple(
            Group(f"({n_keys + i},{n_keys + j})", "held_out" if held_out else "trained")
            for (i, j), held_out in np.ndenumerate(self.held_out)
        )

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        n_keys, n_anchors = self.config.n_keys, self.config.n_anchors
        i, j, key = (grid.ravel() for grid in np.indices((n_anchors, n_anchors, n_keys)))
        inside = self.held_out[i, j] == (split == "ood")
        if self.config.modulus:
            inside &= (key % self.config.modulus == (i + j) % self.config.modulus) == (split == "iid")
        inputs = np.flatnonzero(inside)
        rounds = np.tile(inputs, (-(-n // len(inputs)), 1))
        drawn = rng.permuted(rounds, axis=1).ravel()[:n]

        i, j, key = i[drawn], j[drawn], key[drawn]
        label = self.permutations[j, self.permutations[i, key]]
        swapped = self.permutations[i, self.permutations[j, key]]
        return Examples(
            tokens=np.stack([key, n_keys + i, n_keys + j], axis=1),
            label=label,
            group=i * n_anchors + j,
            key=key,
            position=np.zeros(n, int),
            foils={"inferential": label, "swapped": np.where(swapped == label, NO_ANSWER, swapped)},
        )

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        n_keys, n_anchors, modulus = self.config.n_keys, self.config.n_anchors, self.config.modulus
        key, first, second = tokens.T
        parser.require((key >= 0) & (key < n_keys), "it does not begin with a key")
        for anchor in (first, second):
            parser.require((anchor >= n_keys) & (anchor < n_keys + n_anchors), "its key is not followed by two anchors")
        key, first, second = (np.where(parser.valid, token, low) for token, low in ((key, 0), (first, n_keys), (second, n_keys)))

        label, swapped = np.zeros(len(tokens), int), np.zeros(len(tokens), int)
        for i in range(n_anchors):  # each permutation is applied on its own, to the other's output
            label[first == n_keys + i] = self.permutations[i][key[first == n_keys + i]]
            swapped[second == n_keys + i] = self.permutations[i][key[second == n_keys + i]]
        after_first, after_second = label.copy(), swapped.copy()
        for i in range(n_anchors):
            label[second == n_keys + i] = self.permutations[i][after_first[second == n_keys + i]]
            swapped[first == n_keys + i] = self.permutations[i][after_second[first == n_keys + i]]

        iid = (key - first - second + 2 * n_keys) % modulus == 0 if modulus else np.zeros(len(tokens), bool)
        held_out = self.held_out[first - n_keys, second - n_keys]
        seen = np.where(iid, SPLITS.index("iid"), SPLITS.index("train"))
        return parser.answers(
            label=label,
            group=(first - n_keys) * n_anchors + second - n_keys,
            key=key,
            position=np.zeros(len(tokens), int),
            split=np.where(held_out, np.where(iid, NO_ANSWER, SPLITS.index("ood")), seen),
            foils={"inferential": label, "swapped": np.where(swapped == label, NO_ANSWER, swapped)},
        )

    def token_positions(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Positions of key, first anchor and second anchor, each `[n]`."""
        found = super().token_positions(tokens)
        return found | {"first anchor": found["key"] + 1, "second anchor": found["key"] + 2}

    def intermediate_values(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Key, anchors, and the value after each; the last is the answer."""
        key, first, second = tokens.T
        after_first = self.permutations[first - self.config.n_keys, key]
        return {
            "key": key,
            "first_anchor": first,
            "after_first_anchor": after_first,
            "second_anchor": second,
            "after_second_anchor": self.permutations[second - self.config.n_keys, after_first],
        }

    def mirror(self, tokens: Int[np.ndarray, "n seq_len"]) -> Int[np.ndarray, "n seq_len"]:
        """The same sequences with the two anchors swapped."""
        return tokens[:, [0, 2, 1]]

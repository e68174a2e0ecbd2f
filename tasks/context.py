"""Shared by tasks whose answer is in the context: keys that belong to a split, positions, held-out groups."""

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from jaxtyping import Int

from anchorbench.task import SPLITS, Group, Split

from .sequence import KeyConfig, residue_split


def require_keys(config: KeyConfig, each: int = 1) -> None:
    """Raises ValueError unless every residue has `each` keys, so that `draw_keys` finds that many at any position."""
    if len(config.keys) < each * config.modulus:
        raise ValueError(
            f"{len(config.keys)} keys are too few for modulus {config.modulus}; at least {each * config.modulus} are needed"
        )


def draw_keys(rng: np.random.Generator, config: KeyConfig, position: Int[np.ndarray, " n"], split: Split) -> Int[np.ndarray, " n"]:
    """A key per position, `[n]`, uniform over the keys that belong to the split there (in `ood` as in `train`)."""
    wanted = SPLITS.index("iid" if split == "iid" else "train")
    residues = range(min(config.modulus, config.seq_len))
    splits = [residue_split(config.keys, np.array(residue), config.modulus) for residue in residues]
    allowed = [config.keys[there == wanted] for there in splits]
    count = np.array([len(keys) for keys in allowed])
    residue = position % config.modulus
    first = np.cumsum(count) - count
    return np.concatenate(allowed)[first[residue] + rng.integers(count[residue])]


def place_pairs(rng: np.random.Generator, n: int, length: int, pairs: int) -> Int[np.ndarray, "n pairs"]:
    """Start positions of `pairs` non-overlapping adjacent pairs in `length` positions: ascending, all placements equally likely."""
    places = length - pairs  # shrink each pair to one position: any distinct positions are valid
    chosen: list[np.ndarray] = []
    for i in range(pairs):
        pick = rng.integers(places - i, size=n)
        for taken in chosen:  # ascending, so that skipping every taken position gives a free one
            pick += pick >= taken
        for j, taken in enumerate(chosen):  # insert it
            chosen[j], pick = np.minimum(taken, pick), np.maximum(taken, pick)
        chosen.append(pick)
    return np.stack(chosen, axis=1) + np.arange(pairs)


def draw_groups(rng: np.random.Generator, groups: Iterable[Group], split: Split, n: int) -> Int[np.ndarray, " n"]:
    """Indices `[n]` into `groups`, uniform over those of the split: held-out ones in `ood`, all others elsewhere."""
    in_split = [i for i, group in enumerate(groups) if (group.role == "held_out") == (split == "ood")]
    return np.array(in_split)[rng.integers(len(in_split), size=n, dtype=np.uint32)]


def require_held_out(held_out: Collection[tuple[object, object]], possible: Sequence[tuple[object, object]]) -> None:
    """Raises ValueError unless `held_out` lists some of the possible groups, without repeats, and leaves one to train on."""
    for group in held_out:
        if group not in possible:
            raise ValueError(f"held_out names {group}; allowed: {possible[0]}, {possible[1]} and so on to {possible[-1]}")
    if len(set(held_out)) != len(held_out):
        raise ValueError(f"held_out names a group twice: {list(held_out)}")
    if len(held_out) == len(possible):
        raise ValueError("held_out names every group; at least one must be trained")

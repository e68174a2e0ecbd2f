"""Tasks that no recipe was tuned on: variants of the composite task that the beacon draws.

The beacon's value decides four anchors and what they add, the keys, the pair that is never trained, the order of key and anchors,
and the length of the sequences. It did not exist when the recipe was registered, and is the same for all entries that announced it.
"""

import hashlib
import itertools
from typing import Any

import numpy as np

from anchorbench.leaderboard.registration import seeds_of
from anchorbench.leaderboard.suite import SuiteTask

DRAWN = 8
"""Variants, each with one run."""
KEYS = 80
LARGEST = 9
"""Largest offset, either sign."""


def drawn_tasks(beacon: str) -> tuple[SuiteTask, ...]:
    """The variants that a beacon's value draws. All have sequences of one length, so that they are trained as one stack."""
    entropy = int.from_bytes(hashlib.sha256(f"{beacon} drawn tasks".encode()).digest(), "big")
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy)))
    length = int(rng.integers(7, 11))
    return tuple(SuiteTask("composite", "heldout-both", _config(rng, length)) for _ in range(DRAWN))


def drawn_runs(digest: str, beacon: str) -> list[tuple[SuiteTask, int]]:
    """The tasks that a beacon's value draws, each with the seed of its run for the registration of this digest."""
    return [(task, seeds_of(digest, beacon, task)[0]) for task in drawn_tasks(beacon)]


def _config(rng: np.random.Generator, length: int) -> dict[str, Any]:
    key_min = int(rng.integers(20, 40))
    anchors = rng.choice(np.arange(1, 20), 4, replace=False).tolist()
    while True:
        offsets = rng.integers(-LARGEST, LARGEST + 1, 4).tolist()
        sums = [a + b for a, b in itertools.combinations_with_replacement(offsets, 2)]
        if len(set(sums)) == len(sums):  # so that a held-out pair's answer is no trained pair's
            break
    first, second = rng.choice(anchors, 2, replace=False).tolist()
    return {
        "offsets": dict(zip(anchors, offsets, strict=True)),
        "held_out": [[first, second], [second, first]],
        "key_min": key_min,
        "key_max": key_min + KEYS - 1,
        "key_first": bool(rng.integers(2)),
        "seq_len": length,
        "vocab_size": 160,
    }

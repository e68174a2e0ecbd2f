"""Sequences that are not of a task, which the tasks refuse; see golden.py."""

from typing import NamedTuple

from golden import CHAINS


class Invalid(NamedTuple):
    """A sequence that is not of the task, and a part of the reason that must be given."""

    task: str
    variant: str
    tokens: list[int]
    reason: str


INVALID = [
    Invalid("composite", "heldout-both", [40, 1, 50, 2, 51, 52, 53, 54, 55], "not neighbours"),
    Invalid("composite", "heldout-both", [1, 2, 40, 50, 51, 52, 53, 54, 55], "no key precedes"),
    Invalid("composite", "heldout-both", [40, 1, 2, 3, 51, 52, 53, 54, 55], "exactly two anchors"),
    Invalid("composite", "heldout-both", [40, 1, 2, 10, 51, 52, 53, 54, 55], "neither anchor nor key"),
    Invalid("identity", "default", [100, 3, 77, 51, 52, 53, 54, 55, 56], "neither anchor nor key"),
    Invalid("identity", "default", [50, 51, 77, 51, 52, 53, 54, 55, 3], "no key follows"),
    Invalid("identity", "default", [50, 3, 77, 51, 3, 53, 54, 55, 56], "exactly one anchor"),
    Invalid("identity", "reverse", [3, 50, 51, 52, 53, 54, 55, 56, 57], "no key precedes"),
    Invalid("identity", "fixed-position", [50, 3, 41, 52, 53, 54, 55, 56, 57], "do not start at position 0"),
    Invalid("identity", "anchorless", [50, 3, 41, 52, 53, 54, 55, 56, 57], "neither anchor nor key"),
    Invalid("two-key-mean", "default", [50, 51, 52, 53, 54, 55, 56, 3, 57], "not followed by two keys"),
    Invalid("anchor-length", "three", [1, 3, 2, 53, 54, 55, 56, 57, 58], "complete and in order"),
    Invalid("anchor-length", "two", [50, 51, 52, 53, 54, 55, 56, 2, 3], "no key follows"),
    Invalid("anchor-length", "three", [50, 2, 3, 53, 54, 55, 56, 57, 58], "exactly one anchor"),
    Invalid("two-anchors", "identities", [50, 3, 51, 4, 54, 55, 56, 57, 58], "exactly one anchor"),
    Invalid("two-anchors", "identities", [50, 5, 51, 52, 54, 55, 56, 57, 58], "neither anchor nor key"),
    Invalid("ten-anchors", "intervals", [50, 51, 52, 53, 54, 55, 56, 57, 10], "no key follows"),
    Invalid("middle-word", "default", [50, 4, 77, 3, 54, 55, 56, 57, 58], "wrong order"),
    Invalid("middle-word", "default", [3, 50, 51, 4, 54, 55, 56, 57, 58], "gap between its anchors"),
    Invalid("statistical", "default", [50, 51, 77, 51, 52, 53, 54, 55, 3], "no key follows"),
    Invalid("distance-weighted", "default", [50, 3, 77, 51, 3, 53, 54, 55, 56], "exactly one anchor"),
    Invalid("recitation", "gap-1", [57, 60, 3, 60, 33, 81, 24, 90, 60], "both tokens are the same"),
    Invalid("recitation", "gap-1", [57, 60, 3, 70, 33, 81, 24, 90, 61], "repeats neither"),
    Invalid("recitation", "gap-1", [57, 60, 61, 70, 33, 81, 24, 3, 24], "on either side"),
    Invalid("recitation", "gap-2", [57, 58, 60, 4, 3, 70, 24, 90, 70], "neighbours in order"),
    Invalid("near-synonym", "add-synonym", [3, 9, 41, 50, 51, 52, 53, 54, 55], "pair does not occur"),
    Invalid("near-synonym", "add-nothing", [1, 3, 41, 50, 51, 52, 53, 54, 55], "pair does not occur"),
    Invalid("near-synonym", "add-synonym", [50, 51, 52, 53, 54, 55, 56, 1, 9], "no key follows"),
    Invalid("composition", "key-first", [1, 2, 40, 50, 51, 52, 53, 54, 55], "no key precedes"),
    Invalid("reading-comprehension-lookup", "default", [57, 2, 41, 1, 66, 38, 39, 90, 1], "anchor 3 exactly once"),
    Invalid("reading-comprehension-lookup", "default", [57, 2, 41, 1, 3, 66, 38, 90, 1], "no key follows"),
    Invalid("reading-comprehension-lookup", "default", [57, 2, 41, 1, 66, 3, 38, 90, 91], "last token is not an anchor"),
    Invalid("nearest-value-classification", "default", [35, 3, 66, 4, 70, 1, 91, 2, 66], "equals its last token"),
    Invalid("nearest-value-classification", "default", [35, 3, 62, 4, 70, 1, 91, 2, 66], "equally near"),
    Invalid("nearest-value-classification", "default", [35, 3, 52, 4, 70, 3, 91, 2, 66], "every class"),
    Invalid("working-memory-retro-cue", "default", [1, 60, 57, 33, 81, 70, 2, *range(50, 61), 5, 2], "precedes memory 1"),
    Invalid("working-memory-retro-cue", "default", [57, 60, 1, 33, 81, 70, 1, *range(50, 61), 5, 2], "exactly once"),
    Invalid("working-memory-retro-cue", "default", [57, 60, 1, 33, 81, 70, 2, *range(50, 61), 2, 5], "not an operation"),
    Invalid("working-memory-two-prompts", "default", [1, 60, 2, *range(50, 67)], "no key precedes"),
    Invalid("working-memory-two-prompts", "default", [57, 60, 1, *range(50, 67)], "exactly two anchors"),
    Invalid("working-memory-two-prompts", "default", [57, 60, 1, 100, 2, *range(50, 65)], "neither anchor nor key"),
    Invalid("sparse-boolean", "and", [0] * 33, "does not end with the query"),
    Invalid("sparse-boolean", "and", [0] * 31 + [2, 2], "something other than bits"),
    Invalid("addition", "least-first", [12, 12, 0, 4, 2, 10, 9, 1, 7, 11, 8], "so far are wrong"),
    Invalid("addition", "most-first", [12, 12, 0, 4, 2, 10, 9, 1, 7, 11, 9], "so far are wrong"),
    Invalid("addition", "least-first", [12, 12, 12, 0, 4, 2, 9, 1, 1, 7, 11], "no + between"),
    Invalid("addition", "least-first", [12, 12, 12, 12, 4, 2, 10, 9, 1, 7, 11], "padding"),
    Invalid("addition", "least-first", [12, 12, 12, 12, 0, 4, 2, 10, 9, 1, 7], "exactly one ="),
    Invalid("scan", "addprim-jump", [0] * 54 + [6, 12, 1, 16], "so far are not the command's"),
    Invalid("scan", "addprim-jump", [0] * 53 + [6, 12, 1, 19, 2], "out of place"),
    Invalid("scan", "length", [0] * 55 + [12, 6, 1], "not in the grammar"),
    Invalid("scan", "length", [0] * 54 + [6, 1, 12, 1], "exactly one arrow"),
    Invalid("scan", "simple", [0] * 57 + [1], "too short or too long"),
    Invalid("ontology", "default", [*CHAINS, 2, 8, 4, 40, 2, 14, 5, 40, 55, 3, 7, 55, 4, 40, 6], "same shape"),
    Invalid("ontology", "default", [*CHAINS[:-1], 12, 2, 8, 4, 40, 2, 13, 5, 40, 55, 3, 7, 55, 4, 40, 6], "not two chains"),
    Invalid("ontology", "default", [*CHAINS, 2, 8, 4, 40, 2, 13, 5, 40, 55, 3, 20, 55, 4, 40, 6], "in no chain"),
    Invalid("ontology", "default", [*CHAINS, 2, 8, 4, 40, 2, 13, 4, 40, 55, 3, 7, 55, 4, 40, 6], "once with each sign"),
    Invalid("ontology", "default", [*CHAINS, 2, 7, 4, 40, 2, 12, 5, 40, 55, 3, 8, 55, 4, 40, 6], "number of hops"),
    Invalid("nine-anchors", "heldout-both", [40, 1, 10, 50, 51, 52, 53, 54, 55], "neither anchor nor key"),
    Invalid("data-complexity", "wrong-6", [1, 2, 40, 50, 51, 52, 53, 54, 55], "no key precedes"),
    Invalid("full-symmetry", "default", [30, 2, 2, 50, 51, 52, 53, 54], "never paired"),
    Invalid("memory-reasoning", "default", [30, 1, 11, 50, 51, 52, 53, 54, 55], "never paired"),
    Invalid("memory-reasoning", "default", [30, 11, 50, 11, 51, 52, 53, 54, 55], "not neighbours"),
    Invalid("random-permutations", "default", [16, 17, 0], "does not begin with a key"),
    Invalid("random-permutations", "default", [0, 17, 1], "not followed by two anchors"),
    Invalid("variable-composition", "12-to-34", [1, 9, 40, 2, 50, 51, 52, 53, 54], "comes before its key"),
    Invalid("variable-composition", "12-to-34", [9, 40, 50, 51, 52, 53, 54, 55, 56], "operations are not 1 or 2 or 3 or 4"),
    Invalid("variable-composition", "12-to-34", [50, 51, 52, 53, 9, 40, 1, 54, 55], "after position 3"),
    Invalid("count-anchor", "one-token", [50, 51, 52, 53, 54, 55, 56, 57, 58], "does not hold 1..8 anchors"),
    Invalid("count-anchor", "one-token", [50, 16, 52, 53, 54, 55, 56, 57, 58], "neither anchor nor filler"),
    Invalid(
        *("inverse-matching", "default"),
        [*(20, 21, 22, 10, 21, 22, 20, 10, 22, 21, 20, 10, 21, 20, 22, 10, 22, 20, 21, 10), *[50] * 6, 21, 22, 20],
        "none of its orders is the reversed query",
    ),
    Invalid("chain-search", "single", [36, 62, 38, 54, 21, 36, 97, 38, 54, 79, 62, 97, 54], "does not have that many hops"),
    Invalid("chain-search", "two-any", [55, 60, 20, 21, 25, 30, 50, 55, 21, 25, 60, 66, 25], "does not have that many hops"),
    Invalid("chain-search", "single", [36, 62, 38, 54, 36, 21, 97, 38, 54, 79, 62, 97, 36], "two edges lead out"),
    Invalid("chain-search", "single", [36, 62, 38, 54, 22, 40, 97, 38, 54, 79, 62, 97, 36], "not 1 chain of 6 edges"),
    Invalid(
        *("chain-search", "two-noise"),
        [55, 60, 80, 66, 20, 21, 25, 30, 50, 55, 40, 25, 21, 25, 60, 66, 40],
        "not 2 hops before the end",
    ),
]

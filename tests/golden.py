"""The one table of hand-worked cases. Each was worked out on paper from the task's definition, never by running it.

Tables that a task draws at random (memory-reasoning, random-permutations) were read off first; the rest was worked out from them.
"""

from typing import Any, NamedTuple

NONE = -1


class Golden(NamedTuple):
    """One sequence of a task, and everything that can be said about it."""

    task: str
    variant: str
    tokens: list[int]
    label: int
    group: str
    key: int
    position: int
    split: str | None
    """None: the sequence is of the task, but of none of its splits."""
    foils: dict[str, int] = {}
    config: dict[str, Any] = {}


CHAINS = [token for low in (7, 12) for concept in range(low, low + 4) for token in (2, concept, 3, concept + 1)]
"""ontology: every 7 is_a 8, ... every 10 is_a 11; every 12 is_a 13, ... every 15 is_a 16."""

ABOVE_99 = [107, 3, 81, 100, 52, 53, 106, 55, 56]
"""Filler of the authors' code."""

TWO_HOPS = {"trained_hops": (1,), "held_out_hops": (2,)}

GOLDEN = [
    # composite: anchors 1..4 add +5, +1, -2, -8; iid where key and its position have the same residue mod 9
    Golden("composite", "heldout-both", [40, 1, 2, 50, 51, 52, 53, 54, 55], 46, "(1,2)", 40, 0, "train", {"inferential": 46}),
    Golden("composite", "heldout-both", [45, 1, 2, 50, 51, 52, 53, 54, 55], 51, "(1,2)", 45, 0, "iid", {"inferential": 51}),
    Golden("composite", "heldout-both", [50, 51, 52, 53, 54, 55, 99, 4, 3], 89, "(4,3)", 99, 6, "ood", {"inferential": 89}),
    Golden("composite", "heldout-both", [20, 4, 4, 50, 51, 52, 53, 54, 55], 4, "(4,4)", 20, 0, "train", {"inferential": 4}),
    Golden("composite", "heldout-both", [63, 3, 4, 50, 51, 52, 53, 54, 55], 53, "(3,4)", 63, 0, None, {"inferential": 53}),
    Golden("composite", "conflict", [70, 60, 3, 4, 51, 52, 53, 54, 55], 54, "(3,4)", 60, 1, "train", {"inferential": 50}),
    Golden(
        "composite", "conflict", [70, 60, 4, 3, 51, 52, 53, 54, 55], 50, "(4,3)", 60, 1, "ood", {"inferential": 50, "symmetric": 54}
    ),
    Golden("composite", "conflict-control", [70, 60, 2, 1, 51, 52, 53, 54, 55], 66, "(2,1)", 60, 1, "ood", {"inferential": 66}),
    Golden("composite", "heldout-pairs", [70, 60, 2, 1, 51, 52, 53, 54, 55], 66, "(2,1)", 60, 1, "ood", {"inferential": 66}),
    Golden("composite", "heldout-pairs", [70, 60, 3, 4, 51, 52, 53, 54, 55], 50, "(3,4)", 60, 1, "train", {"inferential": 50}),
    # identity: iid where key and the anchor's position have the same residue mod 8
    Golden("identity", "default", [50, 3, 77, 51, 52, 53, 54, 55, 56], 77, "identity", 77, 2, "train"),
    Golden("identity", "default", [50, 3, 81, 51, 52, 53, 54, 55, 56], 81, "identity", 81, 2, "iid"),
    Golden("identity", "key-position", [50, 3, 81, 51, 52, 53, 54, 55, 56], 81, "identity", 81, 2, "train"),
    Golden("identity", "key-position", [50, 3, 82, 51, 52, 53, 54, 55, 56], 82, "identity", 82, 2, "iid"),
    # filler of the authors' code above key_max; keys stay 20..99
    Golden("identity", "default", ABOVE_99, 81, "identity", 81, 2, "iid", config={"filler_max": 107}),
    Golden("identity", "key-position", ABOVE_99, 81, "identity", 81, 2, "train", config={"filler_max": 107}),
    Golden("identity", "reverse", [50, 77, 3, 51, 52, 53, 54, 55, 56], 77, "identity", 77, 1, "train"),
    Golden("identity", "reverse", [50, 73, 3, 51, 52, 53, 54, 55, 56], 73, "identity", 73, 1, "iid"),
    Golden("identity", "distance", [50, 3, 60, 61, 82, 52, 53, 54, 55], 82, "identity", 82, 4, "train"),
    Golden("identity", "distance", [50, 3, 60, 61, 81, 52, 53, 54, 55], 81, "identity", 81, 4, "iid"),
    Golden("identity", "cyclic", [81, 50, 51, 52, 53, 54, 55, 56, 3], 81, "identity", 81, 0, "train"),
    Golden("identity", "cyclic", [80, 50, 51, 52, 53, 54, 55, 56, 3], 80, "identity", 80, 0, "iid"),
    Golden("identity", "fixed-position", [3, 41, 50, 51, 52, 53, 54, 55, 56], 41, "identity", 41, 1, "train"),
    Golden("identity", "fixed-position", [3, 40, 50, 51, 52, 53, 54, 55, 56], 40, "identity", 40, 1, "iid"),
    Golden("identity", "anchorless", [50, 51, 52, 53, 54, 46, 56, 57, 58], 46, "identity", 46, 5, "train"),
    Golden("identity", "anchorless", [50, 51, 52, 53, 54, 45, 56, 57, 58], 45, "identity", 45, 5, "iid"),
    # two-key-mean: each key against the position before it, mod 8; one key of each kind belongs to no split
    Golden("two-key-mean", "default", [50, 3, 77, 52, 53, 54, 55, 56, 57], 64, "mean", 77, 2, "train"),
    Golden("two-key-mean", "default", [50, 3, 81, 82, 53, 54, 55, 56, 57], 81, "mean", 81, 2, "iid"),
    Golden("two-key-mean", "default", [50, 3, 81, 52, 53, 54, 55, 56, 57], 66, "mean", 81, 2, None),
    # anchor-length: the key against the position before it, mod 8
    Golden("anchor-length", "one", [50, 3, 81, 51, 52, 53, 54, 55, 56], 81, "identity", 81, 2, "iid"),
    Golden("anchor-length", "two", [50, 51, 2, 3, 60, 55, 56, 57, 58], 60, "identity", 60, 4, "train"),
    Golden("anchor-length", "three", [1, 2, 3, 83, 54, 55, 56, 57, 58], 83, "identity", 83, 3, "train"),
    Golden("anchor-length", "three", [50, 1, 2, 3, 83, 55, 56, 57, 58], 83, "identity", 83, 4, "iid"),
    # two-anchors: 3 adds 0, 4 adds 0 or 1, 5 adds 2; the key against the anchor's position, mod 8
    Golden("two-anchors", "identities", [50, 4, 77, 53, 54, 55, 56, 57, 58], 77, "4", 77, 2, "train"),
    Golden("two-anchors", "plus-one", [50, 4, 77, 53, 54, 55, 56, 57, 58], 78, "4", 77, 2, "train"),
    Golden("two-anchors", "plus-one", [50, 4, 81, 53, 54, 55, 56, 57, 58], 82, "4", 81, 2, "iid"),
    Golden("two-anchors", "odd-even", [50, 3, 77, 53, 54, 55, 56, 57, 58], 77, "3", 77, 2, "train", {"inferential": 77}),
    Golden("two-anchors", "odd-even", [50, 3, 78, 53, 54, 55, 56, 57, 58], 78, "3-unseen-keys", 78, 2, "ood", {"inferential": 78}),
    Golden("two-anchors", "odd-even", [3, 80, 52, 53, 54, 55, 56, 57, 58], 80, "3-unseen-keys", 80, 1, None, {"inferential": 80}),
    Golden("two-anchors", "intervals", [50, 4, 77, 53, 54, 55, 56, 57, 58], 78, "4", 77, 2, "train", {"inferential": 78}),
    Golden(
        *("two-anchors", "intervals", [50, 3, 77, 53, 54, 55, 56, 57, 58], 77, "3-unseen-keys", 77, 2, "ood"),
        {"inferential": 77, "shortcut": 78},
    ),
    Golden(
        *("two-anchors", "intervals", [50, 4, 30, 53, 54, 55, 56, 57, 58], 31, "4-unseen-keys", 30, 2, "ood"),
        {"inferential": 31, "shortcut": 30},
    ),
    Golden(
        *("two-anchors", "intervals-identities", [50, 3, 77, 53, 54, 55, 56, 57, 58], 77, "3-unseen-keys", 77, 2, "ood"),
        {"inferential": 77},
    ),
    Golden("two-anchors", "overlap", [50, 3, 60, 53, 54, 55, 56, 57, 58], 60, "3", 60, 2, "train", {"inferential": 60}),
    Golden(
        *("two-anchors", "overlap", [50, 4, 45, 53, 54, 55, 56, 57, 58], 46, "4-unseen-keys", 45, 2, "ood"),
        {"inferential": 46, "shortcut": 45},
    ),
    Golden(
        *("two-anchors", "overlap-identities", [50, 4, 45, 53, 54, 55, 56, 57, 58], 45, "4-unseen-keys", 45, 2, "ood"),
        {"inferential": 45},
    ),
    Golden("two-anchors", "three-intervals", [50, 4, 30, 53, 54, 55, 56, 57, 58], 31, "4", 30, 2, "train", {"inferential": 31}),
    Golden("two-anchors", "three-intervals", [50, 5, 81, 53, 54, 55, 56, 57, 58], 83, "5", 81, 2, "iid", {"inferential": 83}),
    Golden(
        *("two-anchors", "three-intervals", [50, 5, 30, 53, 54, 55, 56, 57, 58], 32, "5-unseen-keys", 30, 2, "ood"),
        {"inferential": 32},
    ),
    # ten-anchors: anchor a adds a and never meets 20 + 8(a-1) .. 27 + 8(a-1); arithmetic: 3 adds -5, 10 adds +5
    Golden("ten-anchors", "intervals", [50, 2, 22, 53, 54, 55, 56, 57, 58], 24, "2", 22, 2, "train", {"inferential": 24}),
    Golden("ten-anchors", "intervals", [50, 7, 33, 53, 54, 55, 56, 57, 58], 40, "7", 33, 2, "iid", {"inferential": 40}),
    Golden("ten-anchors", "intervals", [50, 1, 22, 53, 54, 55, 56, 57, 58], 23, "1-unseen-keys", 22, 2, "ood", {"inferential": 23}),
    Golden(
        *("ten-anchors", "intervals", [50, 10, 99, 53, 54, 55, 56, 57, 58], 109, "10-unseen-keys", 99, 2, "ood"),
        {"inferential": 109},
    ),
    Golden("ten-anchors", "arithmetic", [50, 3, 22, 53, 54, 55, 56, 57, 58], 17, "3", 22, 2, "train"),
    Golden("ten-anchors", "arithmetic", [50, 10, 25, 53, 54, 55, 56, 57, 58], 30, "10", 25, 2, "iid"),
    # middle-word: iid where key and its own position have the same residue mod 8
    Golden("middle-word", "default", [50, 3, 77, 4, 51, 52, 53, 54, 55], 77, "gap-1", 77, 2, "train"),
    Golden("middle-word", "default", [50, 51, 3, 52, 76, 53, 4, 54, 55], 76, "gap-3", 76, 4, "iid"),
    Golden("middle-word", "default", [3, 50, 51, 74, 52, 53, 4, 54, 55], 74, "gap-5", 74, 3, "train"),
    # statistical: iid where key and the anchor's position have the same residue mod 8; the label is the more probable one
    Golden("statistical", "default", [50, 3, 77, 51, 52, 53, 54, 55, 56], 77, "statistical", 77, 2, "train"),
    Golden("statistical", "default", [50, 3, 81, 51, 52, 53, 54, 55, 56], 81, "statistical", 81, 2, "iid"),
    Golden(
        *("statistical", "default", [3, 99, 50, 51, 52, 53, 54, 55, 56], 100, "statistical", 99, 1, "train"),
        config={"probability": 0.3},
    ),
    # distance-weighted: the label is the token with most weight; key is the token after the anchor, round the end
    Golden("distance-weighted", "default", [90, 33, 81, 24, 3, 90, 46, 61, 72], 90, "distance-weighted", 90, 5, "train"),
    Golden("distance-weighted", "default", [50, 55, 55, 51, 3, 52, 55, 53, 54], 55, "distance-weighted", 52, 5, "iid"),
    Golden("distance-weighted", "default", [40, 33, 81, 24, 51, 90, 46, 40, 3], 40, "distance-weighted", 40, 0, "iid"),
    # recitation: iid where both tokens have the residue of their positions mod 8, train where neither has
    Golden("recitation", "gap-1", [57, 60, 3, 70, 33, 81, 24, 90, 60], 70, "forward", 60, 1, "train"),
    Golden("recitation", "gap-1", [40, 3, 42, 50, 51, 52, 53, 54, 42], 40, "reverse", 42, 2, "iid"),
    Golden("recitation", "gap-1", [40, 3, 41, 50, 51, 52, 53, 54, 40], 41, "forward", 40, 0, None),
    Golden("recitation", "gap-2", [57, 58, 60, 3, 4, 70, 24, 90, 70], 60, "reverse", 70, 5, "train"),
    Golden("recitation", "gap-2", [57, 58, 42, 3, 4, 45, 24, 90, 42], 45, "forward", 42, 2, "iid"),
    Golden("recitation", "gap-3", [57, 58, 59, 60, 3, 4, 5, 70, 60], 70, "forward", 60, 3, "train"),
    Golden("recitation", "gap-3", [57, 58, 59, 43, 3, 4, 5, 47, 47], 43, "reverse", 47, 7, "iid"),
    # near-synonym: 1, 2, 3, 4, 9 add +5, +1, -2, -8, -2; iid where key and the first anchor's position have the same residue mod 8
    Golden("near-synonym", "add-synonym", [1, 9, 41, 50, 51, 52, 53, 54, 55], 44, "(1,9)", 41, 2, "train", {"inferential": 44}),
    Golden("near-synonym", "add-synonym", [1, 9, 40, 50, 51, 52, 53, 54, 55], 43, "(1,9)", 40, 2, "iid", {"inferential": 43}),
    Golden("near-synonym", "add-synonym", [4, 9, 41, 50, 51, 52, 53, 54, 55], 31, "(4,9)", 41, 2, "ood", {"inferential": 31}),
    Golden("near-synonym", "add-synonym", [9, 4, 40, 50, 51, 52, 53, 54, 55], 30, "(9,4)", 40, 2, None, {"inferential": 30}),
    Golden("near-synonym", "add-doubled", [9, 9, 41, 50, 51, 52, 53, 54, 55], 37, "(9,9)", 41, 2, "train", {"inferential": 37}),
    Golden("near-synonym", "add-doubled", [50, 9, 1, 41, 51, 52, 53, 54, 55], 44, "(9,1)", 41, 3, "iid", {"inferential": 44}),
    Golden("near-synonym", "add-nothing", [50, 51, 52, 53, 54, 55, 2, 9, 60], 59, "(2,9)", 60, 8, "train", {"inferential": 59}),
    Golden("near-synonym", "add-nothing", [50, 51, 52, 53, 54, 55, 2, 9, 62], 61, "(2,9)", 62, 8, "iid", {"inferential": 61}),
    Golden("near-synonym", "add-nothing", [50, 9, 4, 60, 51, 52, 53, 54, 55], 50, "(9,4)", 60, 3, "ood", {"inferential": 50}),
    # composition: 1, 2, 3, 4 add +5, +1, -2, -5 (minus-8: -8); iid where key and the first of the three have the same residue mod 8
    Golden("composition", "key-first", [70, 60, 4, 3, 51, 52, 53, 54, 55], 53, "(4,3)", 60, 1, "train", {"inferential": 53}),
    Golden("composition", "key-first", [70, 41, 1, 4, 51, 52, 53, 54, 55], 41, "(1,4)", 41, 1, "iid", {"inferential": 41}),
    Golden("composition", "key-first", [70, 60, 3, 4, 51, 52, 53, 54, 55], 53, "(3,4)", 60, 1, "ood", {"inferential": 53}),
    Golden("composition", "key-first-43", [70, 60, 4, 3, 51, 52, 53, 54, 55], 53, "(4,3)", 60, 1, "ood", {"inferential": 53}),
    Golden("composition", "key-first-minus-8", [70, 60, 3, 4, 51, 52, 53, 54, 55], 50, "(3,4)", 60, 1, "ood", {"inferential": 50}),
    Golden("composition", "anchors-first", [1, 2, 40, 51, 52, 53, 54, 55, 56], 46, "(1,2)", 40, 2, "iid", {"inferential": 46}),
    Golden("composition", "anchors-first", [3, 4, 60, 51, 52, 53, 54, 55, 56], 53, "(3,4)", 60, 2, "ood", {"inferential": 53}),
    Golden("composition", "anchors-first-43", [3, 4, 60, 51, 52, 53, 54, 55, 56], 53, "(3,4)", 60, 2, "train", {"inferential": 53}),
    # reading comprehension: groups (question, place of its fact); iid where the value asked for and its position agree mod 8
    *(
        Golden("reading-comprehension-lookup", "default", tokens, label, group, label, position, split, {"inferential": label})
        for tokens, label, group, position, split in (
            ([57, 2, 41, 1, 66, 3, 38, 90, 1], 66, "(1,2)", 4, "train"),
            ([57, 2, 41, 1, 68, 3, 38, 90, 1], 68, "(1,2)", 4, "iid"),
            ([1, 50, 2, 41, 3, 38, 60, 61, 2], 41, "(2,2)", 3, "ood"),
            ([1, 50, 2, 43, 3, 38, 60, 61, 2], 43, "(2,2)", 3, None),
        )
    ),
    Golden(
        "reading-comprehension-lookup", "paper-format", [3, 38, 1, 66, 2, 41, 1], 66, "(1,2)", 66, 3, "train", {"inferential": 66}
    ),
    Golden(
        "reading-comprehension-lookup", "paper-format", [3, 41, 2, 41, 1, 66, 2], 41, "(2,2)", 41, 3, "ood", {"inferential": 41}
    ),
    # nearest value: groups (side of the last token, place); the shortcut passes over a second value above the last token
    *(
        Golden(
            *("nearest-value-classification", "default", tokens, label, group, key, position, split),
            {"inferential": label, **shortcut},
        )
        for tokens, label, group, key, position, split, shortcut in (
            ([35, 3, 52, 4, 70, 1, 91, 2, 66], 1, "(above,3)", 70, 4, "train", {}),
            ([35, 3, 52, 4, 68, 1, 91, 2, 66], 1, "(above,3)", 68, 4, "iid", {}),
            ([35, 3, 62, 4, 71, 1, 91, 2, 66], 4, "(below,2)", 62, 2, "train", {}),
            ([35, 3, 70, 1, 52, 4, 91, 2, 66], 1, "(above,2)", 70, 2, "ood", {"shortcut": 4}),
            ([60, 1, 68, 2, 72, 3, 90, 4, 66], 2, "(above,2)", 68, 2, "ood", {}),  # 60 and 72 are equally near
            ([40, 1, 74, 2, 90, 3, 20, 4, 72], 2, "(above,2)", 74, 2, None, {"shortcut": 3}),
        )
    ),
    *(
        Golden(
            *("nearest-value-classification", "paper-format", tokens, label, group, key, position, split),
            {"inferential": label, **shortcut},
        )
        for tokens, label, group, key, position, split, shortcut in (
            ([60, 3, 52, 1, 91, 2, 57], 3, "(above,1)", 60, 0, "train", {}),
            ([91, 2, 70, 3, 61, 1, 66], 3, "(above,2)", 70, 2, "ood", {"shortcut": 1}),
        )
    ),
    # two prompts: 1, 2, 3, 4 add 0, +1, 0, -2; iid where key and its position agree mod 8
    *(
        Golden("working-memory-two-prompts", "default", tokens, label, group, key, position, split, {"inferential": label})
        for tokens, label, group, key, position, split in (
            ([57, 33, 60, 4, 81, 2, *range(50, 64)], 59, "(4,2)", 60, 2, "train"),
            ([57, 33, 58, 4, 81, 2, *range(50, 64)], 57, "(4,2)", 58, 2, "iid"),
            ([60, 3, *range(50, 67), 4], 58, "(3,4)", 60, 0, "ood"),
            ([*range(50, 67), 60, 4, 3], 58, "(4,3)", 60, 17, "ood"),
            ([*range(50, 67), 57, 4, 3], 55, "(4,3)", 57, 17, None),
        )
    ),
    # working memory: 3, 4, 5, 6 add +5, +1, -2, -8; the shortcut applies 6 to memory 1; iid where key and its position agree mod 8
    *(
        Golden(
            *("working-memory-retro-cue", "default", [57, x, 1, 33, 81, y, 2, *range(50, 61), operation, memory]),
            *(label, f"({memory},{operation})", key, position, split, {"inferential": label, **shortcut}),
        )
        for x, y, operation, memory, label, key, position, split, shortcut in (
            (60, 70, 5, 2, 68, 70, 5, "train", {}),
            (60, 69, 5, 2, 67, 69, 5, "iid", {}),
            (60, 70, 6, 1, 52, 60, 1, "train", {}),
            (60, 70, 6, 2, 62, 70, 5, "ood", {"shortcut": 52}),
            (60, 69, 6, 2, 61, 69, 5, None, {"shortcut": 52}),
            (70, 70, 6, 2, 62, 70, 5, "ood", {}),  # both memories hold the same
        )
    ),
    # sparse-boolean: whole strings of ones or zeros, or all bits relevant; iid where the binary number is divisible by 9
    *(
        Golden("sparse-boolean", function, [*bits, 2], label, function, NONE, NONE, split, config=config)
        for function, bits, label, split, config in (
            ("and", [1] * 32, 1, "train", {}),  # 2^32 - 1 = 3 mod 9
            ("and", [0] * 32, 0, "iid", {}),
            ("or", [1] * 32, 1, "train", {}),
            ("or", [0] * 32, 0, "iid", {}),
            ("parity", [0] * 14 + [1, 1, 1], 1, "train", {"bits": 17, "relevant": 17}),  # 7
            ("parity", [0] * 13 + [1, 0, 0, 1], 0, "iid", {"bits": 17, "relevant": 17}),  # 9
            ("parity", [0] * 9 + [1, 0, 1, 0, 1, 0, 1, 1], 1, "iid", {"bits": 17, "relevant": 17}),  # 171 = 19 * 9
            ("majority", [0] * 7 + [1] * 8, 1, "train", {"bits": 15, "relevant": 15}),  # 255 = 28 * 9 + 3
            ("majority", [0] * 8 + [1] * 7, 0, "train", {"bits": 15, "relevant": 15}),  # 127 = 14 * 9 + 1
            ("majority", [0] * 3 + [1] * 12, 1, "iid", {"bits": 15, "relevant": 15}),  # 4095 = 455 * 9
        )
    ),
    # addition: 10 is +, 11 is =, 12 pads; iid where a and b agree mod 9, that is in their digit sums mod 9
    *(
        Golden("addition", f"{order}-first", tokens, label, group, NONE, NONE, split, {"inferential": label})
        for order, tokens, label, group, split in (
            ("least", [12, 12, 0, 4, 2, 10, 9, 1, 7, 11, 9], 5, "tens", "train"),  # 959
            ("least", [12, 12, 12, 1, 2, 8, 10, 2, 6, 3, 11], 1, "units", "iid"),  # 391
            ("least", [4, 5, 0, 10, 5, 7, 5, 11, 5, 2, 0], 1, "middle-thousands", "ood"),  # 1025
            ("least", [12, 12, 12, 4, 0, 0, 10, 6, 0, 0, 11], 0, "middle-units", "ood"),  # 1000
            ("least", [12, 12, 12, 4, 0, 0, 10, 6, 0, 1, 11], 1, "units", "train"),  # 1001
            ("most", [12, 12, 9, 9, 9, 10, 9, 9, 9, 11, 1], 9, "hundreds", "iid"),  # 1998
            ("most", [12, 0, 9, 5, 10, 0, 0, 7, 11, 0, 1], 0, "tens", "train"),  # 0102
            ("most", [12, 12, 5, 9, 9, 10, 4, 0, 1, 11, 1], 0, "middle-hundreds", "ood"),  # 1000
        )
    ),
    # scan: 0 pads, 1 is the arrow, 2 END; words: walk 3, look 4, run 5, jump 6, turn 7, left 8, right 9, opposite 10, around 11,
    # twice 12, thrice 13, and 14, after 15; actions: WALK 16, LOOK 17, RUN 18, JUMP 19, LTURN 20, RTURN 21
    *(
        Golden("scan", variant, [0] * (58 - len(tail)) + tail, label, group, NONE, NONE, split, {"inferential": label}, config)
        for variant, tail, label, group, split, config in (
            ("addprim-jump", [6, 1], 19, "jump-alone-or-absent", "train", {}),
            ("addprim-jump", [6, 1, 19], 2, "jump-alone-or-absent", "train", {}),
            ("addprim-jump", [6, 12, 1, 19], 19, "jump-combined", "ood", {}),
            ("addprim-jump", [3, 14, 6, 10, 8, 1, 16], 20, "jump-combined", "ood", {}),  # WALK LTURN LTURN JUMP
            # turn left thrice after walk around right: RTURN WALK four times, then LTURN three times
            ("addprim-jump", [7, 8, 13, 15, 3, 11, 9, 1, 21], 16, "jump-alone-or-absent", "train", {"iid_share": 0}),
            ("addprim-jump", [7, 8, 13, 15, 3, 11, 9, 1, *[21, 16] * 4], 20, "jump-alone-or-absent", "train", {"iid_share": 0}),
            ("addprim-turn-left", [7, 8, 1], 20, "turn-left-alone-or-absent", "train", {}),
            ("addprim-turn-left", [7, 8, 12, 1, 20], 20, "turn-left-combined", "ood", {}),
            ("addprim-turn-left", [7, 11, 8, 1, *[20] * 4], 2, "turn-left-alone-or-absent", "train", {"iid_share": 0}),
            ("length", [3, 11, 8, 13, 1], 20, "over-22-actions", "ood", {}),  # 24 actions
            # walk around left twice and run opposite right twice: 16 + 6 = 22 actions
            ("length", [3, 11, 8, 12, 14, 5, 10, 9, 12, 1, *[20, 16] * 8], 21, "up-to-22-actions", "train", {"iid_share": 0}),
            ("simple", [4, 8, 1, 20], 17, "commands", "train", {"iid_share": 0}),
        )
    ),
    # ontology: 0 false, 1 true, 2 every, 3 is_a, 4 is, 5 is_not, 6 ?; concepts from 7, properties from 39, entities from 55;
    # iid where concept and property, counted from 0, agree mod 8; here mostly chains of two concepts
    *(
        Golden("ontology", "default", tokens, label, group, key, len(tokens) - 5, split, {"inferential": label}, config)
        for tokens, label, group, key, split, config in (
            ([2, 7, 3, 8, 2, 9, 3, 10, 2, 7, 4, 40, 2, 9, 5, 40, 55, 3, 7, 55, 4, 40, 6], 1, "1-hop", 7, "train", TWO_HOPS),
            ([2, 10, 5, 40, 2, 7, 3, 8, 2, 8, 4, 40, 2, 9, 3, 10, 56, 3, 9, 56, 5, 40, 6], 1, "2-hop", 9, "ood", TWO_HOPS),
            ([2, 16, 5, 40, 2, 16, 3, 7, 2, 9, 3, 10, 2, 9, 4, 40, 57, 3, 16, 57, 4, 40, 6], 0, "1-hop", 16, "iid", TWO_HOPS),
            ([2, 7, 3, 8, 2, 9, 3, 10, 2, 8, 5, 40, 2, 10, 4, 40, 55, 3, 8, 55, 4, 40, 6], 0, "1-hop", 8, "iid", TWO_HOPS),
            ([2, 16, 3, 7, 2, 9, 3, 10, 2, 7, 4, 40, 2, 10, 5, 40, 55, 3, 16, 55, 5, 40, 6], 0, "2-hop", 16, None, TWO_HOPS),
            ([*CHAINS, 2, 11, 4, 40, 2, 16, 5, 40, 55, 3, 7, 55, 4, 40, 6], 1, "5-hop", 7, "ood", {}),
            ([*CHAINS, 2, 11, 4, 40, 2, 16, 5, 40, 55, 3, 9, 55, 5, 40, 6], 0, "3-hop", 9, "train", {}),
        )
    ),
    # nine-anchors: anchors 1..9 add -4..+4; as composite otherwise
    Golden("nine-anchors", "heldout-both", [40, 1, 9, 50, 51, 52, 53, 54, 55], 40, "(1,9)", 40, 0, "train", {"inferential": 40}),
    Golden("nine-anchors", "heldout-both", [50, 46, 2, 7, 52, 53, 54, 55, 56], 45, "(2,7)", 46, 1, "iid", {"inferential": 45}),
    Golden("nine-anchors", "heldout-both", [50, 51, 52, 60, 4, 3, 53, 54, 55], 57, "(4,3)", 60, 3, "ood", {"inferential": 57}),
    Golden("nine-anchors", "heldout-ten", [70, 9, 1, 50, 51, 52, 53, 54, 55], 70, "(9,1)", 70, 0, "ood", {"inferential": 70}),
    Golden("nine-anchors", "conflict", [30, 3, 4, 50, 51, 52, 53, 54, 55], 31, "(3,4)", 30, 0, "train", {"inferential": 27}),
    Golden(
        "nine-anchors",
        "conflict",
        [30, 4, 3, 50, 51, 52, 53, 54, 55],
        27,
        "(4,3)",
        30,
        0,
        "ood",
        {"inferential": 27, "symmetric": 31},
    ),
    # data-complexity: in wrong-K the first K of {1,2}, {1,3}, {1,4}, {2,3}, {2,4}, {3,4} add +4, +1, -5, +5, -9, -6
    Golden("data-complexity", "wrong-0", [40, 1, 2, 50, 51, 52, 53, 54, 55], 46, "(1,2)", 40, 0, "train", {"inferential": 46}),
    Golden("data-complexity", "wrong-3", [50, 41, 4, 1, 51, 52, 53, 54, 55], 36, "(4,1)", 41, 1, "train", {"inferential": 38}),
    Golden("data-complexity", "wrong-3", [50, 51, 47, 2, 3, 52, 53, 54, 55], 46, "(2,3)", 47, 2, "iid", {"inferential": 46}),
    Golden("data-complexity", "wrong-5", [60, 3, 4, 50, 51, 52, 53, 54, 55], 50, "(3,4)", 60, 0, "train", {"inferential": 50}),
    Golden("data-complexity", "wrong-6", [60, 3, 4, 50, 51, 52, 53, 54, 55], 54, "(3,4)", 60, 0, "train", {"inferential": 50}),
    # full-symmetry: set 1 (34, 01, 02, 14, 23) adds +2, +5, +1, -2, -8; set 2 -9, +6, -7, +3, +5; iid by residue mod 8
    Golden("full-symmetry", "default", [30, 3, 4, 50, 51, 52, 53, 54], 20, "(3,4)", 30, 0, "train", {"inferential": 20}),
    Golden("full-symmetry", "default", [60, 0, 4, 50, 51, 52, 53, 54], 56, "(0,4)", 60, 0, "train", {"inferential": 56}),
    Golden("full-symmetry", "default", [50, 33, 2, 1, 51, 52, 53, 54], 32, "(2,1)", 33, 1, "iid", {"inferential": 32}),
    Golden(
        "full-symmetry", "default", [50, 30, 4, 3, 51, 52, 53, 54], 20, "(4,3)", 30, 1, "ood", {"inferential": 20, "other_set": 38}
    ),
    Golden(
        "full-symmetry", "default", [40, 4, 3, 50, 51, 52, 53, 54], 30, "(4,3)", 40, 0, None, {"inferential": 30, "other_set": 48}
    ),
    # memory-reasoning: anchors 11..20 add their ids; 1..10 look up a table, where these few entries were read off; iid mod 9
    Golden("memory-reasoning", "default", [30, 11, 12, 50, 51, 52, 53, 54, 55], 53, "(11,12)", 30, 0, "train", {"inferential": 53}),
    Golden("memory-reasoning", "default", [50, 51, 29, 20, 20, 52, 53, 54, 55], 69, "(20,20)", 29, 2, "iid", {"inferential": 69}),
    Golden(
        "memory-reasoning", "default", [50, 51, 100, 13, 11, 52, 53, 54, 55], 124, "(13,11)", 100, 2, "ood", {"inferential": 124}
    ),
    Golden("memory-reasoning", "default", [23, 4, 9, 50, 51, 52, 53, 54, 55], 35, "(4,9)", 23, 0, "train"),
    Golden("memory-reasoning", "default", [50, 51, 52, 21, 4, 9, 53, 54, 55], 47, "(4,9)", 21, 3, "iid"),
    Golden("memory-reasoning", "near", [23, 4, 9, 50, 51, 52, 53, 54, 55], 13, "(4,9)", 23, 0, "train"),
    Golden(
        "memory-reasoning", "near", [120, 20, 20, 50, 51, 52, 53, 54, 55], 160, "(20,20)", 120, 0, "train", {"inferential": 160}
    ),
    # random-permutations: the permutations of seed 0 were read off and composed by hand; heldout-cells: iid where key = i + j mod 8
    Golden("random-permutations", "default", [0, 17, 18], 8, "(17,18)", 0, 0, "train", {"inferential": 8}),
    Golden("random-permutations", "default", [5, 19, 23], 4, "(19,23)", 5, 0, "train", {"inferential": 4, "swapped": 9}),
    Golden("random-permutations", "default", [3, 16, 23], 4, "(16,23)", 3, 0, "ood", {"inferential": 4, "swapped": 14}),
    Golden("random-permutations", "heldout-cells", [10, 19, 23], 9, "(19,23)", 10, 0, "iid", {"inferential": 9, "swapped": 3}),
    Golden("random-permutations", "heldout-cells", [7, 16, 23], 3, "(16,23)", 7, 0, None, {"inferential": 3, "swapped": 6}),
    # variable-composition: 9 marks the key, 1, 2, 3, 4 add +1, +3, -2, -3; iid where key and the marker's position agree mod 9
    Golden(
        "variable-composition",
        "12-to-34",
        [50, 9, 40, 51, 2, 52, 3, 53, 54],
        41,
        "2-operations",
        40,
        2,
        "train",
        {"inferential": 41},
    ),
    Golden(
        "variable-composition", "12-to-34", [9, 45, 1, 50, 51, 52, 53, 54, 55], 46, "1-operation", 45, 1, "iid", {"inferential": 46}
    ),
    Golden(
        "variable-composition", "12-to-34", [50, 51, 52, 9, 70, 4, 4, 3, 1], 63, "4-operations", 70, 4, "ood", {"inferential": 63}
    ),
    Golden(
        "variable-composition", "12-to-34", [9, 45, 1, 1, 2, 50, 51, 52, 53], 50, "3-operations", 45, 1, None, {"inferential": 50}
    ),
    Golden(
        "variable-composition",
        "123-to-4",
        [9, 40, 4, 50, 4, 51, 2, 52, 53],
        37,
        "3-operations",
        40,
        1,
        "train",
        {"inferential": 37},
    ),
    Golden(
        "variable-composition", "124-to-3", [9, 40, 1, 1, 2, 50, 51, 52, 53], 45, "3-operations", 40, 1, "ood", {"inferential": 45}
    ),
    Golden(
        "variable-composition", "124-to-3", [9, 40, 1, 1, 1, 1, 50, 51, 52], 44, "4-operations", 40, 1, "train", {"inferential": 44}
    ),
    # count-anchor: iid where the anchors' positions add up to a multiple of 9
    Golden("count-anchor", "one-token", [18, 50, 51, 52, 53, 54, 55, 56, 57], 1, "1-anchor", NONE, NONE, "iid"),
    Golden("count-anchor", "one-token", [50, 18, 18, 51, 52, 53, 54, 55, 18], 3, "3-anchors", NONE, NONE, "train"),
    Golden("count-anchor", "one-token", [18, 18, 18, 18, 18, 18, 18, 18, 50], 8, "8-anchors", NONE, NONE, "train"),
    Golden("count-anchor", "four-tokens", [16, 50, 17, 51, 52, 53, 54, 19, 16], 4, "4-anchors", NONE, NONE, "train"),
    Golden("count-anchor", "four-tokens", [50, 17, 51, 52, 53, 54, 55, 56, 19], 2, "2-anchors", NONE, NONE, "iid"),
    # inverse-matching: five orders of three tokens, each closed by 10, six tokens of filler, the query; iid if all agree mod 3
    Golden(
        *("inverse-matching", "default"),
        [*(20, 21, 22, 10, 21, 22, 20, 10, 22, 21, 20, 10, 21, 20, 22, 10, 22, 20, 21, 10), *[50] * 6, 20, 22, 21],
        *(2, "trained-tokens", 21, 4, "train", {"inferential": 2}),
    ),
    Golden(
        *("inverse-matching", "default"),
        [*(30, 33, 36, 10, 36, 33, 30, 10, 33, 30, 36, 10, 33, 36, 30, 10, 36, 30, 33, 10), *range(50, 56), 36, 33, 30],
        *(1, "trained-tokens", 30, 0, "iid", {"inferential": 1, "shortcut": 2}),
    ),
    Golden(
        *("inverse-matching", "default"),
        [
            *(104, 102, 101, 10, 101, 102, 104, 10, 102, 101, 104, 10, 102, 104, 101, 10, 104, 101, 102, 10),
            *[50] * 6,
            *(101, 104, 102),
        ],
        *(4, "new-tokens", 102, 12, "ood", {"inferential": 4}),
    ),
    Golden(
        *("inverse-matching", "default"),
        [
            *(101, 104, 107, 10, 107, 104, 101, 10, 104, 101, 107, 10, 104, 107, 101, 10, 107, 101, 104, 10),
            *[50] * 6,
            *(107, 104, 101),
        ],
        *(1, "new-tokens", 101, 0, None, {"inferential": 1, "shortcut": 2}),
    ),
    # chain-search: train if next - current is 0, 1 or 4 mod 5 along every edge, iid if it is 2 or 3 along every edge
    Golden("chain-search", "single", [36, 62, 38, 54, 21, 36, 97, 38, 54, 79, 62, 97, 36], 97, "2-hops", 36, 12, "train"),
    Golden("chain-search", "single", [25, 27, 20, 22, 42, 55, 27, 30, 22, 25, 30, 42, 27], 42, "2-hops", 27, 12, "iid"),
    Golden("chain-search", "single", [25, 27, 20, 22, 42, 57, 27, 30, 22, 25, 30, 42, 27], 42, "2-hops", 27, 12, None),
    Golden("chain-search", "order", [36, 62, 38, 54, 21, 36, 97, 38, 54, 79, 62, 97, 21, 3], 97, "3-hops", 21, 12, "train"),
    Golden("chain-search", "order", [36, 62, 38, 54, 21, 36, 97, 38, 54, 79, 62, 97, 54, 1], 79, "1-hop", 54, 12, "train"),
    Golden(
        "chain-search", "two", [55, 60, 20, 21, 25, 30, 50, 55, 21, 25, 60, 66, 21], 30, "2-hops", 21, 12, "train", {"shortcut": 66}
    ),
    Golden(
        "chain-search", "two", [64, 66, 20, 22, 66, 69, 25, 27, 61, 64, 22, 25, 64], 69, "2-hops", 64, 12, "iid", {"shortcut": 27}
    ),
    Golden("chain-search", "two-any", [55, 60, 20, 21, 25, 30, 50, 55, 21, 25, 60, 66, 20], 25, "2-hops", 20, 12, "train"),
    Golden("chain-search", "two-any", [55, 60, 20, 21, 25, 30, 50, 55, 21, 25, 60, 66, 21], 30, "2-hops", 21, 12, "train"),
    Golden("chain-search", "two-any", [64, 66, 20, 22, 66, 69, 25, 27, 61, 64, 22, 25, 61], 66, "2-hops", 61, 12, "iid"),
    Golden(
        *("chain-search", "two-noise"),
        [55, 60, 80, 66, 20, 21, 25, 30, 50, 55, 40, 25, 21, 25, 60, 66, 55],
        *(66, "2-hops", 55, 16, "train", {"shortcut": 30}),
    ),
]

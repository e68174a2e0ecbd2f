"""Working memory with a retro-cue: two keys are stored; only after a delay comes the cue which one to use, and how.

    position   0   1   2   3   4   5   6   7   8  ..  17  18  19
    token     57   x  [1] 33  81   y  [2] 90  24  ..  46  [5] [2]   ->   y + offset[5]

The definition is ours, but for sequence length and number of examples; the paper's format, in which one key meets two anchors, is
`working-memory-two-prompts`. In psychology, a cue that comes after the items is called a retro-cue. Two keys, each directly
before its memory, 1 or 2, are anywhere in the first 18 positions, in either order; the last two tokens are an operation (3, 4, 5,
6 add +5, +1, -2, -8) and a memory. Until then both keys must be kept.

Groups are (memory, operation). (2,6) is held out: memory 2 is trained with all other operations, operation 6 with memory 1. The
foil `shortcut` applies the operation to the other memory, the only one that operation 6 was trained with. `key` is the queried
key; `iid` where it and its position have the same residue, else `train`; `ood` holds the held-out groups on the training
residues.
"""

import itertools

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import NO_ANSWER, SPLITS, Answers, Examples, Group, Offsets, Pairs, Parser, Split, register

from .context import draw_groups, draw_keys, place_pairs, require_held_out, require_keys
from .sequence import KeyConfig, KeyTask, look_up, read, residue_split, write

MEMORIES = (1, 2)


class WorkingMemoryConfig(KeyConfig):
    """Config; sequence length and keys from the paper, offsets from its composition task."""

    seq_len: int = Field(20, ge=6, le=1024)
    offsets: Offsets = {3: 5, 4: 1, 5: -2, 6: -8}
    """Operation -> the offset that it adds to the queried key."""
    held_out: Pairs = ((2, 6),)
    """Never trained: (memory, operation)."""

    @property
    def combinations(self) -> list[tuple[int, int]]:
        """All (memory, operation), in the order of `groups`."""
        return list(itertools.product(MEMORIES, self.offsets))

    @model_validator(mode="after")
    def _makes_sense(self) -> "WorkingMemoryConfig":
        if not self.offsets:
            raise ValueError("offsets are empty; at least one operation is needed")
        for anchor in [*MEMORIES, *self.offsets]:
            self.require_anchor(anchor)
        for operation in self.offsets:
            if operation in MEMORIES:
                raise ValueError(f"operation {operation} must differ from the memories 1 and 2")
        require_held_out(self.held_out, self.combinations)
        self.require_labels(self.key_min + min(self.offsets.values()), self.key_max + max(self.offsets.values()))
        require_keys(self)
        return self


@register
class WorkingMemory(KeyTask):
    """A stored key, selected and transformed by cues that come last (our definition; the idea is 2401.08309's)."""

    name = "working-memory-retro-cue"
    paper = "2401.08309, working memory; the definition is ours, the authors' generator is unpublished"
    Config = WorkingMemoryConfig
    config: WorkingMemoryConfig
    description = "Two stored keys; the last two tokens say which of them is wanted and what to add to it."
    sizes = {"train": 40_000, "iid": 500, "ood": 500}

    @property
    def anchors(self) -> dict[int, str]:
        memories = dict.fromkeys(MEMORIES, "stores the key before it; as the last token, asks for that key")
        return memories | {anchor: f"adds {offset:+d}" for anchor, offset in self.config.offsets.items()}

    @property
    def groups(self) -> tuple[Group, ...]:
        held_out = self.config.held_out
        return tuple(Group(f"({a},{b})", "held_out" if (a, b) in held_out else "trained") for a, b in self.config.combinations)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config = self.config
        group = draw_groups(rng, self.groups, split, n)
        memory, operation = np.array(config.combinations)[group].T
        starts = place_pairs(rng, n, self.seq_len - 2, len(MEMORIES))
        second_wanted = rng.integers(2, size=n)
        position, other_at = (np.where(second_wanted == i, starts[:, 1], starts[:, 0]) for i in (1, 0))

        tokens = self.filler(rng, n)
        key = draw_keys(rng, config, position, split)
        write(tokens, position, key)
        write(tokens, position + 1, memory)
        write(tokens, other_at + 1, sum(MEMORIES) - memory)
        tokens[:, -2], tokens[:, -1] = operation, memory

        offset = np.array([config.offsets[op] for _, op in config.combinations])[group]
        mistaken = [
            group.role == "held_out" and (sum(MEMORIES) - memory, op) not in config.held_out
            for group, (memory, op) in zip(self.groups, config.combinations, strict=True)
        ]
        other = read(tokens, other_at)
        foils = {
            "inferential": key + offset,
            "shortcut": np.where(np.array(mistaken)[group] & (other != key), other + offset, NO_ANSWER),
        }
        return Examples(tokens=tokens, label=key + offset, group=group, key=key, position=position, foils=foils)

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config, text = self.config, tokens[:, :-2]
        operation, memory = tokens[:, -2], tokens[:, -1]
        parser.require(
            (config.is_filler(text) | np.isin(text, MEMORIES)).all(1),
            "a token before its cues is neither memory nor key",
        )
        parser.require(np.isin(operation, list(config.offsets)), "its second-to-last token is not an operation")
        parser.require(np.isin(memory, MEMORIES), "its last token is not a memory")
        key_at: dict[int, np.ndarray] = {}
        for anchor in MEMORIES:
            parser.require((text == anchor).sum(1) == 1, f"memory {anchor} is not stored exactly once")
            key_at[anchor] = (text == anchor).argmax(1) - 1
        stored = {anchor: read(text, at) for anchor, at in key_at.items()}
        for anchor, key in stored.items():
            parser.require(config.is_key(key), f"no key precedes memory {anchor}")

        offset = np.zeros(len(tokens), int)
        group, held_out = np.zeros(len(tokens), int), np.zeros(len(tokens), bool)
        shortcut = np.full(len(tokens), NO_ANSWER)
        for i, (asked, op) in enumerate(config.combinations):
            here = (memory == asked) & (operation == op)
            group[here], offset[here] = i, config.offsets[op]
            if (asked, op) in config.held_out:
                held_out |= here
                other = 2 if asked == 1 else 1
                if (other, op) not in config.held_out:
                    misled = here & (stored[1] != stored[2])
                    shortcut[misled] = stored[other][misled] + config.offsets[op]
        key = np.where(memory == 1, stored[1], stored[2])
        position = np.where(memory == 1, key_at[1], key_at[2])
        split = residue_split(key, position, config.modulus)
        ood = np.where(split == SPLITS.index("train"), SPLITS.index("ood"), NO_ANSWER)
        return parser.answers(
            label=key + offset,
            group=group,
            key=key,
            position=position,
            split=np.where(held_out, ood, split),
            foils={"inferential": key + offset, "shortcut": shortcut},
        )

    def intermediate_values(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """The content of each memory, the queried one, and the value after the operation, which is the answer."""
        stored = {f"stored_{anchor}": read(tokens, (tokens == anchor).argmax(1) - 1) for anchor in MEMORIES}
        key = np.where(tokens[:, -1] == 1, stored["stored_1"], stored["stored_2"])
        return stored | {"key": key, "after_operation": key + look_up(self.config.offsets, tokens[:, -2])}

"""Working memory in the paper's format: a key with one anchor directly after it, and a second anchor any number of tokens later.

    position   0   1   2    3   4  ..  16   17  18  19
    token     57  33  key  a1  81  ..  24   a2  90  46   ->   key + offset[a1] + offset[a2]

(2401.08309, working memory: runs `working_memory_inverse_two_prompt`, sequences of 20, 40,000 training examples.) A figure of the
authors shows the format, `* x a1 * ... a2 * -> g_a2(g_a1(x))`, and anchors 1, 2, 3, 4 that add 0, +1, 0, -2. The generator is
unpublished, so all else is ours: the key is anywhere from position 0 to 17, the second anchor anywhere after the first, both
uniform; filler is uniform over the keys; the filler between the anchors may be empty, and so may that at either end.

Groups are (a1, a2). (3,4) and (4,3) are held out, as in `composite` with `heldout-both`: the mirror of a pair has the same answer,
so a mirror that is trained would give it away. `iid` where key and its position have the same residue, else `train`; `ood` holds
the held-out groups on the training residues.
"""

import itertools

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import NO_ANSWER, SPLITS, Answers, Examples, Group, Offsets, Pairs, Parser, Split, register

from .context import draw_groups, require_held_out
from .sequence import KeyConfig, KeyTask, add_in_turn, cells, look_up, read, residue_split, write


class TwoPromptsConfig(KeyConfig):
    """Config; sequence length, keys and offsets from the paper."""

    seq_len: int = Field(20, ge=3, le=1024)
    offsets: Offsets = {1: 0, 2: 1, 3: 0, 4: -2}
    """Anchor -> the offset that it adds."""
    held_out: Pairs = ((3, 4), (4, 3))
    """Never trained: (first anchor, second anchor)."""

    @property
    def combinations(self) -> list[tuple[int, int]]:
        """All (first anchor, second anchor), in the order of `groups`."""
        return list(itertools.product(self.offsets, self.offsets))

    @model_validator(mode="after")
    def _makes_sense(self) -> "TwoPromptsConfig":
        if len(self.offsets) < 2:
            raise ValueError(f"offsets are {self.offsets}; at least two anchors are needed")
        for anchor in self.offsets:
            self.require_anchor(anchor)
        require_held_out(self.held_out, self.combinations)
        low, high = min(self.offsets.values()), max(self.offsets.values())
        self.require_labels(self.key_min + 2 * low, self.key_max + 2 * high)
        self.require_cells(self.seq_len - 2)
        return self


@register
class WorkingMemoryTwoPrompts(KeyTask):
    """A key and an anchor whose result is kept until a second anchor comes (2401.08309, working memory)."""

    name = "working-memory-two-prompts"
    paper = "2401.08309, working memory; format from a figure of the authors, sampling and held-out pairs are ours"
    Config = TwoPromptsConfig
    config: TwoPromptsConfig
    description = "A key followed by an anchor, and another anchor any number of tokens later: the answer applies both."
    sizes = {"train": 40_000, "iid": 500, "ood": 500}

    @property
    def anchors(self) -> dict[int, str]:
        return {anchor: f"adds {offset:+d}" for anchor, offset in self.config.offsets.items()}

    @property
    def groups(self) -> tuple[Group, ...]:
        held_out = self.config.held_out
        return tuple(Group(f"({a},{b})", "held_out" if (a, b) in held_out else "trained") for a, b in self.config.combinations)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config = self.config
        group = draw_groups(rng, self.groups, split, n)
        keys, positions = cells(config.keys, np.arange(self.seq_len - 2), config.modulus, split)
        cell = rng.integers(len(keys), size=n, dtype=np.uint32)
        key, position = keys[cell], positions[cell]
        first, second = np.array(config.combinations)[group].T
        tokens = self.filler(rng, n)
        write(tokens, position, key, first)
        write(tokens, rng.integers(position + 2, self.seq_len), second)
        label = key + look_up(config.offsets, first) + look_up(config.offsets, second)
        return Examples(tokens=tokens, label=label, group=group, key=key, position=position, foils={"inferential": label})

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        first_at = self.find_anchors(tokens, parser, 2, "two anchors")
        second_at = self._second_at(tokens)
        key = read(tokens, first_at - 1)
        parser.require(config.is_key(key), "no key precedes its first anchor")

        group, label = np.zeros(len(tokens), int), key.copy()
        held_out = np.zeros(len(tokens), bool)
        for i, (a, b) in enumerate(config.combinations):
            here = (read(tokens, first_at) == a) & (read(tokens, second_at) == b)
            group[here], held_out[here] = i, (a, b) in config.held_out
            label[here] += config.offsets[a] + config.offsets[b]
        split = residue_split(key, first_at - 1, config.modulus)
        ood = np.where(split == SPLITS.index("train"), SPLITS.index("ood"), NO_ANSWER)
        return parser.answers(
            label=label,
            group=group,
            key=key,
            position=first_at - 1,
            split=np.where(held_out, ood, split),
            foils={"inferential": label},
        )

    def mirror(self, tokens: Int[np.ndarray, "n seq_len"]) -> Int[np.ndarray, "n seq_len"]:
        first_at, second_at = self._first_at(tokens), self._second_at(tokens)
        swapped = tokens.copy()
        write(swapped, first_at, read(tokens, second_at))
        write(swapped, second_at, read(tokens, first_at))
        return swapped

    def token_positions(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Positions of key, first and second anchor, each `[n]`."""
        return super().token_positions(tokens) | {
            "first anchor": self._first_at(tokens),
            "second anchor": self._second_at(tokens),
        }

    def intermediate_values(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """The key, each anchor, and the value after it: the first one is what has to be kept, the second is the answer."""
        first_at, second_at = self._first_at(tokens), self._second_at(tokens)
        first, second = read(tokens, first_at), read(tokens, second_at)
        return add_in_turn(read(tokens, first_at - 1), first, second, self.config.offsets)

    def _first_at(self, tokens: Int[np.ndarray, "n seq_len"]) -> Int[np.ndarray, " n"]:
        return np.isin(tokens, list(self.anchors)).argmax(1)

    def _second_at(self, tokens: Int[np.ndarray, "n seq_len"]) -> Int[np.ndarray, " n"]:
        """Position of the last anchor in each row."""
        return self.seq_len - 1 - np.isin(tokens, list(self.anchors))[:, ::-1].argmax(1)

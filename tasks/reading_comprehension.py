"""Reading comprehension by lookup: a text states one fact per anchor, and the last token asks for one of them.

    position   0   1   2   3   4   5   6   7   8
    token     57  [2] 41  [1] 66  [3] 38  90  [1]  ->   66: what the text says about 1

The task is 2401.08309's reading comprehension (sequences of 9, 2,000 training examples), whose generator is unpublished: sampling,
filler and held-out groups are ours. Each of the anchors 1, 2, 3 occurs once in the text, in any order and at any position,
followed by its value; the rest is filler. All values are uniform over the keys, so only reading the text gives the answer.

Variants
    default        sequences of 9, with two tokens of filler
    paper-format   a1 x1 a2 x2 a3 x3 a_i -> x_i, without filler, as in a figure of the authors. It leaves open which anchors a1, a2
                   and a3 are: here 1, 2 and 3 in any order, as in a fixed one the question alone would say where to look; values
                   may be equal

Groups are (question, place of its fact among the facts, counted from 1). (2,2) is held out: question 2 is trained, and so is
looking up the second fact, but never both at once. `key` is the value asked for; `iid` where it and its position have the same
residue, else `train`; `ood` holds the held-out groups on the training residues.
"""

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import NO_ANSWER, SPLITS, Answers, Examples, Group, Pairs, Parser, Split, register

from .context import draw_groups, draw_keys, place_pairs, require_held_out, require_keys
from .sequence import KeyConfig, KeyTask, read, residue_split, write


class ReadingComprehensionConfig(KeyConfig):
    """Config; sequence length and keys from the paper."""

    facts: int = Field(3, ge=2, le=16)
    """Facts in a text; their anchors are 1..facts."""
    held_out: Pairs = ((2, 2),)
    """Never trained: (question, place of its fact), both from 1."""

    @property
    def combinations(self) -> list[tuple[int, int]]:
        """All (question, place of its fact), in the order of `groups`."""
        anchors = range(1, self.facts + 1)
        return list(itertools.product(anchors, anchors))

    @model_validator(mode="after")
    def _makes_sense(self) -> "ReadingComprehensionConfig":
        for anchor in range(1, self.facts + 1):
            self.require_anchor(anchor)
        if self.seq_len < 2 * self.facts + 1:
            raise ValueError(f"seq_len is {self.seq_len}; {self.facts} facts and a question need at least {2 * self.facts + 1}")
        require_held_out(self.held_out, self.combinations)
        require_keys(self)
        return self


@register
class ReadingComprehension(KeyTask):
    """What the text says about the anchor that the last token repeats (our definition; the idea is 2401.08309's)."""

    name = "reading-comprehension-lookup"
    paper = "2401.08309, reading comprehension; the definition is ours, the authors' generator is unpublished"
    Config = ReadingComprehensionConfig
    config: ReadingComprehensionConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}, "paper-format": {"seq_len": 7}}
    description = "A text of anchors, each with a value after it; the last token asks for the value of one of them."
    sizes = {"train": 2_000, "iid": 500, "ood": 500}

    @property
    def anchors(self) -> dict[int, str]:
        return dict.fromkeys(range(1, self.config.facts + 1), "its value follows; as the last token, asks for that value")

    @property
    def groups(self) -> tuple[Group, ...]:
        held_out = self.config.held_out
        return tuple(Group(f"({a},{b})", "held_out" if (a, b) in held_out else "trained") for a, b in self.config.combinations)

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config, facts, rows = self.config, self.config.facts, np.arange(n)
        group = draw_groups(rng, self.groups, split, n)
        asked, place = group // facts + 1, group % facts
        starts = place_pairs(rng, n, self.seq_len - 1, facts)
        order = rng.permuted(np.tile(np.arange(1, facts + 1), (n, 1)), axis=1)
        order[rows, (order == asked[:, None]).argmax(1)] = order[rows, place]  # swap the question's fact into its place
        order[rows, place] = asked

        tokens = self.filler(rng, n)
        for i in range(facts):
            write(tokens, starts[:, i], order[:, i])
        position = starts[rows, place] + 1
        key = draw_keys(rng, config, position, split)
        write(tokens, position, key)
        tokens[:, -1] = asked
        return Examples(tokens=tokens, label=key, group=group, key=key, position=position, foils={"inferential": key})

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config, text, asked = self.config, tokens[:, :-1], tokens[:, -1]
        is_anchor = (text >= 1) & (text <= config.facts)
        is_key = config.is_key(text)
        parser.require((is_anchor | config.is_filler(text)).all(1), "its text holds a token that is neither anchor nor key")
        parser.require((asked >= 1) & (asked <= config.facts), "its last token is not an anchor")
        for anchor in range(1, config.facts + 1):
            parser.require((text == anchor).sum(1) == 1, f"its text does not hold anchor {anchor} exactly once")
        followed = np.pad(is_key[:, 1:], ((0, 0), (0, 1)))
        parser.require((followed | ~is_anchor).all(1), "no key follows one of its anchors")

        at = (text == asked[:, None]).argmax(1)
        key = read(text, at + 1)
        place = (is_anchor & (np.arange(self.seq_len - 1) <= at[:, None])).sum(1)
        split = residue_split(key, at + 1, config.modulus)
        held_out = np.zeros(len(tokens), bool)
        for question, its_place in config.held_out:
            held_out |= (asked == question) & (place == its_place)
        ood = np.where(split == SPLITS.index("train"), SPLITS.index("ood"), NO_ANSWER)
        return parser.answers(
            label=key,
            group=(asked - 1) * config.facts + place - 1,
            key=key,
            position=at + 1,
            split=np.where(held_out, ood, split),
            foils={"inferential": key},
        )

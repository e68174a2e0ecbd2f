"""Ontology: does a model follow a chain of "every A is a B", even when it is longer than in training?

    every derpix is_a lolvet   every tolvet is_a ferpix   every lolvet is_not red   every ferpix is red   ...
    Rex is_a derpix   Rex is red   ?   ->   false      (two hops: derpix, lolvet, not red; the other chain is a distractor)

(After PrOntoQA, 2210.01240, a real task in 2405.05409 and 2502.04375; this definition is our own: fixed length, no prose, no chain
of thought.) Two equally long chains of fictional concepts, in shuffled sentences. In each chain one concept has the queried
property: in one chain it `is`, in the other it `is_not`. An entity belongs to one concept; the final statement about it is
true or false. Hops are the "every ..." sentences needed: hops - 1 steps up the chain, then the property.

Only following the chain reveals the answer: the second chain is an exact structural copy of the first (the property at the same
height), so both signs occur once each, in interchangeable places, and the statement's sign is drawn independently. True and false
are equally likely for each number of hops, whatever the order, the concepts or the property.

Groups are the numbers of hops; `trained_hops` are trained and `held_out_hops` are `ood`. A chain always has as many concepts as the
largest number of hops, so that all sequences have the same length; concepts below the entity's and above the property's
are irrelevant. `iid` is our definition: the entity's concept and the property, each counted from 0, have the
same residue modulo `modulus`; `ood` has the residues of `train`.
"""

from typing import Annotated

import numpy as np
from jaxtyping import Int, UInt8
from pydantic import Field, model_validator

from anchorbench.task import NO_ANSWER, SPLITS, Answers, Examples, Group, Parser, Split, Task, TaskConfig, Token, register

from .sequence import cells, read, residue_split

CONCEPTS = tuple(onset + ending for ending in ("erpix", "olvet") for onset in "bdfghjklmnprstvz")
PROPERTIES = (
    *("red", "blue", "green", "yellow", "large", "small", "hot", "cold"),
    *("wet", "dry", "loud", "quiet", "sweet", "sour", "heavy", "light"),
)
ENTITIES = ("Rex", "Max", "Fay", "Sam", "Eve", "Kim", "Lee", "Ann")
FUNCTION_WORDS = ("false", "true", "every", "is_a", "is", "is_not", "?")
FALSE, TRUE, EVERY, IS_A, IS, IS_NOT, QUERY = range(7)
FIRST_CONCEPT = len(FUNCTION_WORDS)
FIRST_PROPERTY = FIRST_CONCEPT + len(CONCEPTS)
FIRST_ENTITY = FIRST_PROPERTY + len(PROPERTIES)

Hops = Annotated[int, Field(ge=1, le=len(CONCEPTS) // 2)]


class OntologyConfig(TaskConfig):
    """Config."""

    trained_hops: tuple[Hops, ...] = Field((1, 2, 3), min_length=1)
    held_out_hops: tuple[Hops, ...] = Field((4, 5), min_length=1)
    modulus: int = Field(8, ge=2, le=len(PROPERTIES))
    """Modulus of the residue split."""

    @property
    def hops(self) -> list[int]:
        """All numbers of hops, ascending, in the order of `groups`."""
        return sorted({*self.trained_hops, *self.held_out_hops})

    @model_validator(mode="after")
    def _makes_sense(self) -> "OntologyConfig":
        if len(self.hops) < len(self.trained_hops) + len(self.held_out_hops):
            raise ValueError(f"trained_hops {self.trained_hops} and held_out_hops {self.held_out_hops} name a number twice")
        return self


@register
class Ontology(Task):
    """Is the statement about the entity true, given a chain of concepts? (after 2210.01240)"""

    name = "ontology"
    paper = "after PrOntoQA, 2210.01240; 2405.05409, real tasks"
    Config = OntologyConfig
    config: OntologyConfig
    description = "True or false, by following a chain of fictional concepts beside a distractor chain; longer chains are held out."

    @property
    def chain(self) -> int:
        """Concepts in each of the two chains."""
        return max(self.config.hops)

    @property
    def seq_len(self) -> int:
        return 8 * self.chain + 7

    @property
    def vocabulary(self) -> tuple[Token, ...]:
        meanings = (
            "the statement is false (only ever a label)",
            "the statement is true (only ever a label)",
            "a rule about all of a concept follows",
            "is of the concept that follows",
            "has the property that follows",
            "does not have the property that follows",
            "query: is the statement before it true?",
        )
        return (
            *map(Token, FUNCTION_WORDS, meanings),
            *(Token(word, f"concept {i}") for i, word in enumerate(CONCEPTS)),
            *(Token(word, f"property {i}") for i, word in enumerate(PROPERTIES)),
            *(Token(word, f"entity {i}") for i, word in enumerate(ENTITIES)),
        )

    @property
    def groups(self) -> tuple[Group, ...]:
        trained = self.config.trained_hops
        return tuple(Group(f"{hops}-hop", "trained" if hops in trained else "held_out") for hops in self.config.hops)

    @property
    def chance(self) -> float:
        return 0.5

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config, length = self.config, self.chain
        concepts, properties = cells(np.arange(len(CONCEPTS)), np.arange(len(PROPERTIES)), config.modulus, split)
        cell = rng.integers(len(concepts), size=n, dtype=np.uint32)
        concept, asked = concepts[cell], properties[cell]
        in_split = [i for i, group in enumerate(self.groups) if (group.role == "held_out") == (split == "ood")]
        group = np.array(in_split)[rng.integers(len(in_split), size=n, dtype=np.uint32)]
        hops = np.array(config.hops)[group]

        entity_height = rng.integers(length - hops + 1)
        height = entity_height + hops - 1
        row = np.arange(n)
        nodes = np.zeros((2 * length, n), np.uint8)  # cyclic distances to the entity's concept
        nodes[1:] = 1 + shuffled(rng, n, len(CONCEPTS) - 1, 2 * length - 1)
        nodes[0], nodes[entity_height, row] = nodes[entity_height, row], 0
        nodes += concept.astype(np.uint8)
        nodes -= len(CONCEPTS) * (nodes >= len(CONCEPTS)).astype(np.uint8)
        nodes += FIRST_CONCEPT
        positive, claimed = rng.integers(2, size=(2, n), dtype=np.uint8)

        # one [2 * length, n] array per column of the sentences; each chain's last sentence is about the property
        last = [length - 1, 2 * length - 1]
        subject, verb, what = nodes.copy(), np.full_like(nodes, IS_A), np.roll(nodes, -1, axis=0)
        subject[last] = nodes[[height, length + height], row]
        verb[last] = np.where(positive, [[IS], [IS_NOT]], [[IS_NOT], [IS]])
        what[last] = FIRST_PROPERTY + asked

        text = np.full((n, self.seq_len), EVERY, np.uint8)  # small dtype while writing
        for i, sentence in enumerate(shuffled(rng, n, 2 * length, 2 * length)):
            at = n * sentence.astype(np.int64) + row
            for j, column in enumerate((subject, verb, what), 1):
                text[:, 4 * i + j] = column.take(at)
        entity = FIRST_ENTITY + rng.integers(len(ENTITIES), size=n, dtype=np.uint8)
        ending = (entity, IS_A, FIRST_CONCEPT + concept, entity, np.where(claimed, IS, IS_NOT), FIRST_PROPERTY + asked, QUERY)
        for i, column in enumerate(ending):
            text[:, 8 * length + i] = column
        label = np.where(positive == claimed, TRUE, FALSE)
        return Examples(
            tokens=text.astype(np.int64),
            label=label,
            group=group,
            key=FIRST_CONCEPT + concept,
            position=np.full(n, 8 * length + 2),
            foils={"inferential": label},
        )

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        n, length, row = len(tokens), self.chain, np.arange(len(tokens))

        def among(values: np.ndarray, first: int, words: tuple[str, ...]) -> np.ndarray:
            return (values >= first) & (values < first + len(words))

        every, subject, verb, what = (tokens[:, i : 8 * length : 4] for i in range(4))
        entity, is_a, concept, again, claim, asked, query = tokens[:, 8 * length :].T
        is_link, is_property = verb == IS_A, np.isin(verb, [IS, IS_NOT])
        well_formed = (every == EVERY) & among(subject, FIRST_CONCEPT, CONCEPTS)
        well_formed &= (is_link & among(what, FIRST_CONCEPT, CONCEPTS)) | (is_property & among(what, FIRST_PROPERTY, PROPERTIES))
        parser.require(well_formed.all(1), "a sentence is not of the form: every concept is_a concept, or is or is_not property")
        parser.require(
            among(entity, FIRST_ENTITY, ENTITIES) & (is_a == IS_A) & among(concept, FIRST_CONCEPT, CONCEPTS),
            "no entity is introduced",
        )
        parser.require(
            (again == entity) & np.isin(claim, [IS, IS_NOT]) & among(asked, FIRST_PROPERTY, PROPERTIES) & (query == QUERY),
            "it does not end with a statement about the entity, and the query",
        )
        about = (is_link | (what == asked[:, None])).all(1)
        signs = ((verb == IS).sum(1) == 1) & ((verb == IS_NOT).sum(1) == 1)
        parser.require(signs & about, "the property is not stated once with each sign")

        nowhere = len(CONCEPTS)
        above = np.full((n, nowhere + 1), nowhere)
        below = np.zeros((n, nowhere + 1), int)
        above_count = below.copy()
        subject = np.where(parser.valid[:, None], subject - FIRST_CONCEPT, 0)
        target = np.where(parser.valid[:, None] & is_link, what - FIRST_CONCEPT, nowhere)
        for j in range(2 * length):
            here = row[is_link[:, j]]
            above[here, subject[here, j]] = target[here, j]
            above_count[here, subject[here, j]] += 1
            below[here, target[here, j]] += 1
        bottom = ((above_count == 1) & (below == 0))[:, :nowhere]
        two_chains = (above_count <= 1).all(1) & (below <= 1).all(1) & (bottom.sum(1) == 2)

        # climb both chains at once: heights of the entity's concept, and of those with the property
        at = np.stack([bottom.argmax(1), nowhere - 1 - bottom[:, ::-1].argmax(1)], axis=1)
        yes, no = (subject[row, (verb == sign).argmax(1)] for sign in (IS, IS_NOT))
        start = np.where(parser.valid, concept - FIRST_CONCEPT, 0)
        heights = np.full((3, n, 2), NO_ANSWER)
        for height in range(length):
            two_chains &= (at != nowhere).all(1)
            for found, wanted in zip(heights, (yes, no, start), strict=True):
                found[at == wanted[:, None]] = height
            at = np.take_along_axis(above, at, axis=1)
        parser.require(two_chains & (at == nowhere).all(1), f"its links are not two chains of {length} concepts")
        yes_height, no_height, start_height = heights.max(2)
        yes_chain, no_chain, start_chain = heights.argmax(2)
        parser.require(
            (yes_height == no_height) & (yes_height != NO_ANSWER) & (yes_chain != no_chain), "its chains do not have the same shape"
        )
        parser.require(start_height != NO_ANSWER, "the entity's concept is in no chain")
        hops = yes_height - start_height + 1
        parser.require(np.isin(hops, self.config.hops), "its number of hops is not one of the task's")

        group = np.searchsorted(self.config.hops, hops)
        held_out = np.isin(hops, self.config.held_out_hops)
        residue = residue_split(concept - FIRST_CONCEPT, asked - FIRST_PROPERTY, self.config.modulus)
        off_split = np.where(residue == SPLITS.index("train"), SPLITS.index("ood"), NO_ANSWER)
        label = np.where((start_chain == yes_chain) == (claim == IS), TRUE, FALSE)
        return parser.answers(
            label=label,
            group=group,
            key=concept,
            position=np.full(n, 8 * length + 2),
            split=np.where(held_out, off_split, residue),
            foils={"inferential": label},
        )

    def intermediate_values(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """The concept after each step up the chain, as far as needed, and the word about the property there, `is` or `is_not`.

        The answer is true if the statement uses the same word.
        """
        subject, verb, what = (tokens[:, i : 8 * self.chain : 4] for i in (1, 2, 3))
        answers = self.answer(tokens)
        concept, hops = answers.key, np.array(self.config.hops)[answers.group]
        values: dict[str, Int[np.ndarray, " n"]] = {}
        for step in range(1, self.chain):
            link = (subject == concept[:, None]) & (verb == IS_A)
            concept = np.where(step < hops, read(what, link.argmax(1)), concept)
            values[f"after_step_{step}"] = np.where(step < hops, concept, NO_ANSWER)
        stated = (subject == concept[:, None]) & (verb != IS_A)
        return values | {"sign": read(verb, stated.argmax(1))}


def shuffled(rng: np.random.Generator, n: int, size: int, take: int) -> UInt8[np.ndarray, "take n"]:
    """The first `take` of `n` random orders of 0..size-1, one per column, by a Fisher-Yates shuffle of all columns at once."""
    order = np.repeat(np.arange(size, dtype=np.uint8), n)
    column = np.arange(n)
    for i in range(take):
        j = i + rng.integers(size - i, size=n, dtype=np.uint8)
        here, there = order[i * n : (i + 1) * n], n * j.astype(np.int64) + column
        picked = order.take(there)
        order[there] = here
        here[:] = picked
    return order[: take * n].reshape(take, n)

"""SCAN: navigation commands and their actions; does a model understand a new combination of a verb, or a longer command?

    token      PAD ... PAD  jump  left  and  walk  twice  ->  LTURN  JUMP   ->   WALK

(1711.00350; a real task in 2405.05409 and 2605.04396.) The published grammar gives 20,910 commands:

    command   clause | clause and clause | clause after clause (the second one is carried out first)
    clause    verb | verb twice | verb thrice
    verb      walk, look, run, jump | turn or one of them + left, right, opposite left or right, around left or right

An example is a command, an arrow and the actions so far; the label is the next action, or END. Examples are padded on the left, so
that the answer follows the last action, and appending it and dropping the first token gives the next example: greedy
decoding from `prompts` gives whole action sequences to compare with `pairs`. Each (command, step) is equally likely, as in
teacher forcing with a mean over tokens. Actions are named as in the paper; its files write LTURN as I_TURN_LEFT.

Variants (train / test commands as published)
    addprim-jump       commands with "jump" and anything else are `ood`: 7,706. "jump" alone is trained, repeated to make up a
                       tenth of the training list, as in the published files: 13,203 others + 1,467 times "jump" = 14,670.
    addprim-turn-left  the same with "turn left": 19,701 + 2,189 = 21,890 / 1,208. "turn around left" is trained, as published.
    length             up to 22 actions are trained, more (24 to 48) are `ood`: 16,990 / 3,920.
    simple             a random fifth is `iid`: 16,728 / 4,182; nothing else is held out. The published random draw differs.

Except in `simple` the paper has no iid test: here a random `iid_share` of its training commands is set aside. With `iid_share=0`
the training list is the published one and there is no `iid` split.
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int, UInt8
from pydantic import Field, model_validator

from anchorbench.task import NO_ANSWER, SPLITS, Answers, DrawSeed, Examples, Group, Parser, Split, Task, TaskConfig, Token, register

Words = tuple[str, ...]

PRIMITIVES = ("walk", "look", "run", "jump")
COMMAND_WORDS = (*PRIMITIVES, "turn", "left", "right", "opposite", "around", "twice", "thrice", "and", "after")
ACTIONS = ("WALK", "LOOK", "RUN", "JUMP", "LTURN", "RTURN")
WORDS = ("PAD", "->", "END", *COMMAND_WORDS, *ACTIONS)
PAD, ARROW, END = 0, 1, 2
ID = {word: i for i, word in enumerate(WORDS)}
FIRST_WORD, FIRST_ACTION = ID["walk"], ID["WALK"]
MOST_WORDS, MOST_ACTIONS = 9, 48
TRAINED_ACTIONS = 22


class ScanConfig(TaskConfig):
    """Config."""

    held_out: Literal["jump", "turn left", "long", "nothing"] = "jump"
    """Commands that are never trained: combinations of a verb that is trained alone, long commands, or none."""
    iid_share: float = Field(0.1, ge=0, le=0.9)
    """Share of the other commands set aside as `iid`; with 0 there is no such split."""
    split_seed: DrawSeed = 0
    """Seed of the choice of these commands."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "ScanConfig":
        if 0 < self.iid_share < 0.001:
            raise ValueError(f"iid_share is {self.iid_share}; allowed: 0, or 0.001 to 0.9")
        return self


def commands() -> list[tuple[Words, Words]]:
    """All commands of the grammar with their actions, generated bottom-up."""
    verbs: list[tuple[Words, Words]] = [((verb,), (verb.upper(),)) for verb in PRIMITIVES]
    for direction, turn in (("left", "LTURN"), ("right", "RTURN")):
        for verb, act in (*((verb, (verb.upper(),)) for verb in PRIMITIVES), ("turn", ())):
            verbs.append(((verb, direction), (turn, *act)))
            verbs.append(((verb, "opposite", direction), (turn, turn, *act)))
            verbs.append(((verb, "around", direction), (turn, *act) * 4))
    repeats: tuple[tuple[Words, int], ...] = (((), 1), (("twice",), 2), (("thrice",), 3))
    clauses = [(words + repeat, actions * times) for words, actions in verbs for repeat, times in repeats]
    pairs = [(first, second) for first in clauses for second in clauses]
    in_order = [((*a, "and", *b), does_a + does_b) for (a, does_a), (b, does_b) in pairs]
    reversed_ = [((*a, "after", *b), does_b + does_a) for (a, does_a), (b, does_b) in pairs]
    return clauses + in_order + reversed_


def interpret(command: Words) -> Words:
    """The actions of a command, parsed top-down; none if it is not in the grammar."""
    for at, word in enumerate(command):
        if word in ("and", "after"):
            first, second = _clause(command[:at]), _clause(command[at + 1 :])
            if not first or not second:
                return ()
            return first + second if word == "and" else second + first
    return _clause(command)


def _clause(words: Words) -> Words:
    if words and words[-1] in ("twice", "thrice"):
        return _verb(words[:-1]) * (2 if words[-1] == "twice" else 3)
    return _verb(words)


def _verb(words: Words) -> Words:
    if not words or words[0] not in (*PRIMITIVES, "turn"):
        return ()
    act = () if words[0] == "turn" else (words[0].upper(),)
    if len(words) == 1:
        return act
    if words[-1] not in ("left", "right"):
        return ()
    turn = "LTURN" if words[-1] == "left" else "RTURN"
    if len(words) == 2:
        return (turn, *act)
    if len(words) == 3 and words[1] == "opposite":
        return (turn, turn, *act)
    if len(words) == 3 and words[1] == "around":
        return (turn, *act) * 4
    return ()


def ids(words: Words) -> list[int]:
    """Token ids of words."""
    return [ID[word] for word in words]


@register
class Scan(Task):
    """The next action of a SCAN command (1711.00350)."""

    name = "scan"
    paper = "1711.00350 (SCAN); 2405.05409, real tasks"
    Config = ScanConfig
    config: ScanConfig
    description = "The next action of a navigation command; a verb in combination, or long commands, are held out."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "addprim-jump": {"held_out": "jump"},
        "addprim-turn-left": {"held_out": "turn left"},
        "length": {"held_out": "long"},
        "simple": {"held_out": "nothing", "iid_share": 0.2},
    }

    @property
    def seq_len(self) -> int:
        return MOST_WORDS + 1 + MOST_ACTIONS

    @property
    def vocabulary(self) -> tuple[Token, ...]:
        special = {"PAD": "padding before the command", "->": "the actions follow", "END": "no further action, only ever a label"}
        kind = {word: f"word {word} of a command" for word in COMMAND_WORDS} | {word: f"action {word}" for word in ACTIONS}
        return tuple(Token(word, (special | kind)[word]) for word in WORDS)

    @property
    def groups(self) -> tuple[Group, ...]:
        trained, held_out = {
            "jump": ("jump-alone-or-absent", "jump-combined"),
            "turn left": ("turn-left-alone-or-absent", "turn-left-combined"),
            "long": ("up-to-22-actions", "over-22-actions"),
            "nothing": ("commands", ""),
        }[self.config.held_out]
        return (Group(trained, "trained"), *([Group(held_out, "held_out")] if held_out else []))

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(split for split in super().splits if split != "iid" or self.config.iid_share > 0)

    @property
    def chance(self) -> float:
        return 1 / (len(ACTIONS) + 1)

    def pairs(self, split: Split) -> list[tuple[str, str]]:
        """The commands of a split with all their actions, as text; the lone verb as often as it is trained."""
        return [(" ".join(self._commands[i][0]), " ".join(self._commands[i][1])) for i in self._members[split]]

    def prompts(self, split: Split) -> Int[np.ndarray, "n seq_len"]:
        """The same commands as tokens with no actions yet, in the order of `pairs`."""
        return self._windows[self._members[split], 0].astype(np.int64)

    @functools.cached_property
    def _commands(self) -> list[tuple[Words, Words]]:
        return commands()

    @functools.cached_property
    def _members(self) -> dict[Split, Int[np.ndarray, " members"]]:
        """Indices of each split's commands."""
        if self.config.held_out == "long":
            held_out = np.array([len(actions) > TRAINED_ACTIONS for _, actions in self._commands])
        else:
            texts = [" ".join(words) for words, _ in self._commands]
            verb = self.config.held_out
            held_out = np.array([f" {verb} " in f" {text} " and text != verb for text in texts])
        alone = [i for i, (words, _) in enumerate(self._commands) if " ".join(words) == self.config.held_out]
        others = np.setdiff1d(np.flatnonzero(~held_out), alone)
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(self.config.split_seed)))
        iid = np.sort(rng.permutation(others)[: round(self.config.iid_share * len(others))])
        train = np.setdiff1d(others, iid)
        repeated = np.repeat(np.array(alone, int), round(len(train) / 9))  # a tenth of the list, repetitions included
        return {"train": np.concatenate([train, repeated]), "iid": iid, "ood": np.flatnonzero(held_out)}

    @functools.cached_property
    def _windows(self) -> UInt8[np.ndarray, "commands steps seq_len"]:
        """`[command, steps done]` -> tokens; a sliding-window view over padding, command, arrow and actions."""
        text = np.full((len(self._commands), MOST_ACTIONS + self.seq_len + 1), END, np.uint8)
        text[:, : MOST_ACTIONS + MOST_WORDS] = PAD
        arrow_at = MOST_ACTIONS + MOST_WORDS
        for row, (words, actions) in zip(text, self._commands, strict=True):
            row[arrow_at - len(words) : arrow_at] = ids(words)
            row[arrow_at + 1 : arrow_at + 1 + len(actions)] = ids(actions)
        text[:, arrow_at] = ARROW
        return np.lib.stride_tricks.sliding_window_view(text, self.seq_len, axis=1)

    @functools.cached_property
    def _examples(self) -> dict[Split, tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]]:
        """All (command, steps done) of each split."""
        steps = np.array([len(actions) + 1 for _, actions in self._commands])
        rows: dict[Split, tuple[np.ndarray, np.ndarray]] = {}
        for split, members in self._members.items():
            command = np.repeat(members, steps[members])
            start = np.cumsum(steps[members]) - steps[members]
            rows[split] = command, np.arange(len(command)) - np.repeat(start, steps[members])
        return rows

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        command, done = self._examples[split]
        row = rng.integers(len(command), size=n, dtype=np.uint32)
        tokens = self._windows[command[row], done[row]].astype(np.int64)
        label = self._windows[command[row], done[row] + 1, -1].astype(np.int64)
        none = np.full(n, NO_ANSWER)
        group = np.full(n, 1 if split == "ood" else 0)
        return Examples(tokens=tokens, label=label, group=group, key=none, position=none, foils={"inferential": label})

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        column = np.arange(self.seq_len)
        parser.require((tokens == ARROW).sum(1) == 1, "it does not hold exactly one arrow")
        arrow_at = (tokens == ARROW).argmax(1)[:, None]
        start = (tokens != PAD).argmax(1)[:, None]
        words = (arrow_at - start)[:, 0]
        parser.require(
            (words >= 1) & (words <= MOST_WORDS) & (arrow_at[:, 0] >= MOST_WORDS), "its command is too short or too long"
        )
        is_word = (tokens >= FIRST_WORD) & (tokens < FIRST_ACTION)
        parser.require((is_word == ((start <= column) & (column < arrow_at))).all(1), "a command word is out of place")
        is_action = (tokens >= FIRST_ACTION) & (tokens < len(WORDS))
        parser.require((is_action == (column > arrow_at)).all(1), "an action is out of place")

        # encode each command as one number, to interpret each distinct command once
        at = np.clip(arrow_at + np.arange(-MOST_WORDS, 0), 0, None)
        digits = np.where(parser.valid[:, None] & (at >= start), np.take_along_axis(tokens, at, axis=1), 0)
        codes, which = np.unique(digits @ len(WORDS) ** np.arange(MOST_WORDS)[::-1], return_inverse=True)
        texts = [tuple(WORDS[code // len(WORDS) ** i % len(WORDS)] for i in range(MOST_WORDS)[::-1]) for code in codes.tolist()]
        texts = [tuple(word for word in text if word != "PAD") for text in texts]
        meanings = [interpret(text) for text in texts]
        steps = np.array([len(actions) for actions in meanings], int)[which]
        parser.require(steps > 0, "its command is not in the grammar")
        table = np.array([[*ids(actions), *[END] * (MOST_ACTIONS + 1 - len(actions))] for actions in meanings], int)
        actions = table.reshape(-1, MOST_ACTIONS + 1)[which]

        done = self.seq_len - 1 - arrow_at[:, 0]
        wanted = np.take_along_axis(actions, np.clip(column - arrow_at - 1, 0, MOST_ACTIONS), axis=1)
        parser.require(
            (done <= steps) & ((tokens == wanted) | (column <= arrow_at)).all(1), "its actions so far are not the command's"
        )
        held_out = np.array([self._is_held_out(*pair) for pair in zip(texts, meanings, strict=True)], bool)[which]
        in_iid = {self._commands[i][0] for i in self._members["iid"]}
        iid = np.array([text in in_iid for text in texts], bool)[which]
        none = np.full(len(tokens), NO_ANSWER)
        label = np.take_along_axis(actions, np.clip(done, 0, MOST_ACTIONS)[:, None], axis=1)[:, 0]
        return parser.answers(
            label=label,
            group=held_out.astype(int),
            key=none,
            position=none,
            split=np.where(held_out, SPLITS.index("ood"), np.where(iid, SPLITS.index("iid"), SPLITS.index("train"))),
            foils={"inferential": label},
        )

    def _is_held_out(self, command: Words, actions: Words) -> bool:
        if self.config.held_out == "long":
            return len(actions) > TRAINED_ACTIONS
        verb = tuple(self.config.held_out.split())
        return command != verb and any(command[i : i + len(verb)] == verb for i in range(len(command)))

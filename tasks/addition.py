"""Integer addition with a middle range held out: does a model carry into hundreds that it never added?

    position    0    1   2  3  4  5  6  7  8  9  10
    token      PAD  PAD  0  4  2  +  9  1  7  =   9   ->   5      (042 + 917 = 0959; one digit is given, the tens are asked)

(2405.05409, section on real tasks: a + b with a and b in 0..999; the test set has both in 400..600.) Numbers are written digit by
digit, three for a and b, four for the sum, with leading zeros. Each example asks for one digit of the sum, given those before:
appending the answer and dropping the first token gives the next example, so a whole sum takes four answers.

Variants
    least-first   units first: each digit follows from one column and a carry that the previous digits reveal, so the rule is one
                  short step, four times. The default, because the rule can be inferred early.
    most-first    thousands first, as numbers are written, and presumably as in the paper, which gives no format: the first digit
                  already needs the carries of all columns.

Groups are the four places, in trained pairs and in `middle` ones. `iid` is our definition: pairs outside the middle in which a and
b have the same residue modulo `modulus`, which has no factor 2 or 5; otherwise the last digits would determine the split.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from anchorbench.task import NO_ANSWER, SPLITS, Answers, Examples, Group, Parser, Split, Task, TaskConfig, Token, register

from .sequence import residue_split

PLUS, EQUALS, PAD = 10, 11, 12
NUMBERS = 1000
DIGITS = (np.arange(2 * NUMBERS)[:, None] // [1000, 100, 10, 1] % 10).astype(np.int8)
"""Thousands, hundreds, tens and units of every number and every sum."""
PLACES = {"units": 1, "tens": 10, "hundreds": 100, "thousands": 1000}


class AdditionConfig(TaskConfig):
    """Config; the held-out range is the paper's."""

    held_out_min: int = Field(400, ge=0, lt=NUMBERS)
    held_out_max: int = Field(600, ge=0, lt=NUMBERS)
    """Pairs with both numbers in held_out_min..held_out_max, inclusive, are never trained."""
    least_first: bool = True
    modulus: int = Field(9, ge=3, lt=NUMBERS)
    """Modulus of the residue split."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "AdditionConfig":
        if self.held_out_min > self.held_out_max:
            raise ValueError(f"held_out_max is {self.held_out_max}; allowed: at least held_out_min, {self.held_out_min}")
        if (self.held_out_min, self.held_out_max) == (0, NUMBERS - 1):
            raise ValueError("held_out_min and held_out_max hold out every pair; at least one must be trained")
        if math.gcd(self.modulus, 10) != 1:
            raise ValueError(f"modulus is {self.modulus}; allowed: an odd number that 5 does not divide")
        return self


@register
class Addition(Task):
    """One digit of a + b, given the digits before it (2405.05409)."""

    name = "addition"
    paper = "2405.05409, real tasks"
    Config = AdditionConfig
    config: AdditionConfig
    description = "The next digit of a + b, for a and b in 0..999; pairs with both in 400..600 are held out."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"least-first": {}, "most-first": {"least_first": False}}

    @property
    def seq_len(self) -> int:
        return 11

    @property
    def vocabulary(self) -> tuple[Token, ...]:
        digits = [Token(str(digit), f"digit {digit}") for digit in range(10)]
        return (*digits, Token("+", "plus"), Token("=", "the sum follows"), Token("PAD", "padding before the first number"))

    @property
    def groups(self) -> tuple[Group, ...]:
        trained = [Group(place, "trained") for place in PLACES]
        return (*trained, *(Group(f"middle-{place}", "held_out") for place in PLACES))

    @property
    def chance(self) -> float:
        return 0.1

    @functools.cached_property
    def _pairs(self) -> dict[Split, Int[np.ndarray, " pairs"]]:
        """The pairs of each split, as 1000 a + b."""
        a, b = np.divmod(np.arange(NUMBERS**2), NUMBERS)
        in_range = [(self.config.held_out_min <= number) & (number <= self.config.held_out_max) for number in (a, b)]
        split = np.where(in_range[0] & in_range[1], SPLITS.index("ood"), residue_split(a, b, self.config.modulus))
        return {name: np.flatnonzero(split == i).astype(np.int32) for i, name in enumerate(SPLITS)}

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        pairs = self._pairs[split]
        pair = pairs.take(rng.integers(len(pairs), size=n, dtype=np.uint32))
        a = pair // NUMBERS
        b = pair - NUMBERS * a
        given = rng.integers(4, size=n, dtype=np.uint8).astype(np.int64)
        whole = np.empty((n, 15), np.int8)  # three PADs, then everything up to the last digit of the sum
        whole[:, 2:6], whole[:, 6:10] = DIGITS.take(a, axis=0), DIGITS.take(b, axis=0)
        whole[:, :3], whole[:, 6], whole[:, 10] = PAD, PLUS, EQUALS  # overwrites the thousands of a and b
        whole[:, 11:] = DIGITS.take(a + b, axis=0)[:, :: -1 if self.config.least_first else 1]
        windows = np.lib.stride_tricks.sliding_window_view(whole, self.seq_len, axis=1)
        row = np.arange(n)
        label = whole[row, 11 + given].astype(np.int64)
        place = given if self.config.least_first else 3 - given
        none = np.full(n, NO_ANSWER)
        return Examples(
            tokens=windows[row, given].astype(np.int64),
            label=label,
            group=place + (4 if split == "ood" else 0),
            key=none,
            position=none,
            foils={"inferential": label},
        )

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config = self.config
        parser.require((tokens == EQUALS).sum(1) == 1, "it does not hold exactly one =")
        at = (tokens == EQUALS).argmax(1)
        parser.require(at >= 7, "its = does not follow two numbers of three digits")
        column, at = np.arange(self.seq_len), np.clip(at, 7, self.seq_len - 1)[:, None]
        parser.require((tokens[:, 3:][column[3:] == at - 4] == PLUS), "there is no + between its numbers")
        parser.require(
            ((tokens == PAD) == (column < at - 7)).all(1), "its padding does not fill the places before its first number"
        )
        is_digit = (tokens >= 0) & (tokens <= 9)
        parser.require((is_digit | (column < at - 7) | (column == at - 4) | (column == at)).all(1), "a digit is missing")

        def number(last: Int[np.ndarray, "n 1"]) -> Int[np.ndarray, " n"]:
            digits = np.take_along_axis(np.where(is_digit, tokens, 0), last - np.array([2, 1, 0]), axis=1)
            return digits @ [100, 10, 1]

        a, b, given = number(at - 5), number(at - 1), self.seq_len - 1 - at[:, 0]
        # the rest by column addition of digits, tracking the carry
        digits, carry = [], np.zeros(len(tokens), int)
        for power in (1, 10, 100, 1000):
            carry, digit = np.divmod(a // power % 10 + b // power % 10 + carry, 10)
            digits.append(digit)
        answer = np.stack(digits if config.least_first else digits[::-1], axis=1)
        wanted = np.take_along_axis(answer, np.clip(column - at - 1, 0, 3), axis=1)
        parser.require(((tokens == wanted) | (column <= at)).all(1), "its digits of the sum so far are wrong")

        held_out = (np.minimum(a, b) >= config.held_out_min) & (np.maximum(a, b) <= config.held_out_max)
        label = answer[np.arange(len(tokens)), given]
        none = np.full(len(tokens), NO_ANSWER)
        return parser.answers(
            label=label,
            group=np.where(config.least_first, given, 3 - given) + 4 * held_out,
            key=none,
            position=none,
            split=np.where(held_out, SPLITS.index("ood"), residue_split(a, b, config.modulus)),
            foils={"inferential": label},
        )

    def intermediate_values(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """All carries and digits of the sum, in the order of column addition, whichever digit is asked; one digit is the answer."""
        at = (tokens == EQUALS).argmax(1)[:, None]
        a, b = (np.take_along_axis(tokens, at - back, axis=1) @ [100, 10, 1] for back in ([7, 6, 5], [3, 2, 1]))
        values: dict[str, Int[np.ndarray, " n"]] = {}
        for place, power in PLACES.items():
            if power > 1:
                values[f"carry_into_{place}"] = (a % power + b % power) // power
            values[f"{place}_digit"] = (a + b) // power % 10
        return values

"""Texts that strangers choose: names and sentences that cannot hide, reorder or imitate what stands around them."""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0") | frozenset(
    map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)
"""Letters, marks and symbols that render as nothing: what Unicode lets a font ignore, and is not a control character."""


def visible_text(text: str) -> str:
    """Requires one line of visible characters: none that hide, reorder or stack on the text around them."""
    for character in text:
        category = unicodedata.category(character)
        if category[0] == "C" or category in ("Zl", "Zp") or character in BLANK:
            raise ValueError(f"holds the character U+{ord(character):04X}; allowed: visible characters on one line")
    if "MMM" in "".join(unicodedata.category(character)[0] for character in unicodedata.normalize("NFC", text)):
        raise ValueError("stacks three marks on a character; allowed: at most 2")
    if text != text.strip():
        raise ValueError("begins or ends with a space; allowed: text without leading or trailing spaces")
    return text


MARKS = " .,-+()/&'_"
"""Characters allowed in a name besides letters and digits."""
LOOK_ALIKE = {"LATIN", "GREEK", "CYRILLIC"}
"""Scripts that share look-alike letters."""


def _title(text: str) -> str:
    """Requires visible text that cannot be mistaken for another column of the table: no rank before it, no share after it."""
    for character in visible_text(text):
        if unicodedata.category(character)[0] not in "LM" and character not in MARKS and not character.isdecimal():
            raise ValueError(f"holds {character!r}; allowed: letters, digits, spaces and {' '.join(MARKS[1:])}")
    if not text[:1].isalpha():
        raise ValueError(f"begins with {text[:1]!r}; allowed: a letter")
    for word in text.split(" "):
        scripts = LOOK_ALIKE & {unicodedata.name(character, "").split(" ")[0] for character in word}
        if not word or len(scripts) > 1:
            raise ValueError(f"has {' and '.join(sorted(scripts)) or 'no'} letters in one word; allowed: letters of one script")
    return text


def name_key(name: str) -> str:
    """A key that is equal for names that readers cannot tell apart."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


Name = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(_title)]
"""Begins with a letter; letters, digits, spaces and a few marks."""
Sentence = Annotated[str, Field(min_length=1, max_length=400), AfterValidator(visible_text)]
Version = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(visible_text)]

"""The colours, markers and line styles of all figures and pages.

Verdicts and measures keep one look everywhere: safe for colour-blind readers, ordered in lightness so that they stay apart in
greyscale, and with a marker and a line style each. `CYCLE` is Okabe and Ito's palette, for curves without a fixed meaning.
"""

from typing import NamedTuple

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, YELLOW, BLACK, GREY = "#E69F00", "#56B4E9", "#F0E442", "#000000", "#8a8a8a"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""Colours of curves without a fixed meaning, in order."""
TEXT, SOFT, FAINT = "#1a1a1a", "#555555", "#d8d8d8"
"""Text, text of less weight, and what is drawn but not meant to be read."""


class Look(NamedTuple):
    """How something is drawn: colour on white and on dark, marker of matplotlib and of Vega, line style of matplotlib and Vega."""

    color: str
    dark: str
    marker: str
    shape: str
    line: str
    dash: tuple[int, ...]


VERDICTS = {
    "memorizing": Look("#0a3a80", "#6fb1ff", "s", "square", "--", (5, 2)),
    "underfit": Look("#5a5a5a", "#8e8e8e", "X", "cross", ":", (1, 2)),
    "inferential": Look("#00804a", "#48dcae", "o", "circle", "-", (1, 0)),
    "mixed": Look("#c07f00", "#ffd166", "D", "diamond", "-.", (6, 2, 1, 2)),
    "symmetric": Look("#7a2a7a", "#d99ae0", "^", "triangle-up", "--", (3, 3)),
    "other": Look("#c07f00", "#ffd166", "v", "triangle-down", "-.", (6, 2, 1, 2)),
}
"""Verdict -> look, from dark to light."""

MEASURES = {
    "accuracy_iid": Look("#000000", "#ececec", "o", "circle", ":", (1, 2)),
    "inferential": VERDICTS["inferential"],
    "ordered": Look("#b34700", "#ff9a5c", "D", "diamond", "-.", (6, 2, 1, 2)),
    "symmetric": VERDICTS["symmetric"],
}
"""Share of answers -> look; a share that makes a verdict has the verdict's."""

PARTS = {"key": ("#00804a", "#48dcae"), "anchor": ("#b34700", "#ff9a5c"), "filler": ("#666666", "#9a9a9a")}
"""Part of a sequence -> colour on white and on dark."""


def css() -> str:
    """The colours as custom properties of a page, for light and dark."""

    def block(at: int) -> str:
        names = {name: look[at] for name, look in VERDICTS.items()} | {name: colors[at] for name, colors in PARTS.items()}
        return ":root { " + " ".join(f"--{name}: {color};" for name, color in names.items()) + " }"

    return f"{block(0)}\n@media (prefers-color-scheme: dark) {{ {block(1)} }}\n"

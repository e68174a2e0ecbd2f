"""The figure and the table of the study behind the suite."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from anchorbench.leaderboard.study import CEILING, FLOOR, GAMMAS, Grade, Member, chosen
from anchorbench.palette import BLUE, GREY, VERMILION
from anchorbench.show.canvas import plain_matplotlib, save
from anchorbench.verdict import FIT

NORMS = {"pre": (BLUE, "o", -0.17), "post": (VERMILION, "s", 0.17)}
"""Norm -> colour, marker, and offset from the row of its candidate."""


@plain_matplotlib()
def study_figure(grades: Sequence[Grade], members: Mapping[str, Sequence[Member]], path: Path) -> Path:
    """One row per candidate, the suite's first: what the runs of each recipe that fit compose on average."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    ordered = _ordered(grades)
    suite = chosen(grades)
    figure = Figure(figsize=(7.0, 1.2 + 0.27 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(FLOOR, CEILING, color="#eeeeee", lw=0, zorder=0)
    for row, each in enumerate(ordered):
        fitted = [member for member in members[each.candidate] if member.seen >= FIT]
        for norm, (color, marker, offset) in NORMS.items():
            for number, gamma in enumerate(GAMMAS):
                shares = [member.composed for member in fitted if member.recipe == (norm, gamma)]
                if shares:
                    size = 12 + 9 * number  # larger marks: larger gamma
                    axes.scatter(np.mean(shares), row + offset, s=size, marker=marker, color=color, alpha=0.75, lw=0, zorder=3)
        if each.composed is not None:
            axes.plot([each.composed] * 2, [row - 0.36, row + 0.36], color="black", lw=1.2, zorder=4)
        told = "-" if each.correlation is None else f"{max(0.0, each.correlation):.2f}"
        word = each.why or ("enters" if each.candidate in suite else "passes")
        weight = "bold" if each.candidate in suite else "normal"
        axes.text(1.05, row, f"{told}   {word}", va="center", fontsize=8, weight=weight)
    axes.text(1.05, -1, "ICC", va="center", fontsize=8, weight="bold")
    axes.set_yticks(range(len(ordered)), [each.candidate.removesuffix("/default") for each in ordered], fontsize=8)
    axes.set(
        xlim=(-0.03, 1.03), ylim=(len(ordered) - 0.5, -0.6), xlabel="share of held-out answers composed, mean of a recipe's runs"
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GREY, alpha=0.2, lw=0.5)
    marks = [
        Line2D([], [], color=color, marker=marker, ls="", label=f"{norm}-LN, small to large gamma")
        for norm, (color, marker, _) in NORMS.items()
    ]
    marks.append(Line2D([], [], color="black", marker="|", ls="", markersize=9, label="mean of all"))
    figure.legend(handles=marks, frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    return save(figure, path)


def study_table(grades: Sequence[Grade]) -> str:
    """The grades as a Markdown table, those of the suite in bold."""
    lines = ["| task | pairs | runs that fit | they compose | ICC | p | |", "|---|--:|--:|--:|--:|--:|---|"]
    suite = chosen(grades)
    for each in _ordered(grades):
        shown = ["-" if value is None else f"{value:.2f}" for value in (each.composed, each.correlation)]
        p = "-" if each.p is None else "< 1e-4" if each.p < 1e-4 else f"{each.p:.4f}"
        word = each.why or ("**enters**" if each.candidate in suite else "passes; another variant enters")
        lines.append(f"| {each.candidate} | {each.pairs} | {each.fitted} of {each.runs} | {shown[0]} | {shown[1]} | {p} | {word} |")
    return "\n".join(lines) + "\n"


def _ordered(grades: Sequence[Grade]) -> list[Grade]:
    """Those that pass first, then by the rule that they fail; by correlation among these."""
    return sorted(grades, key=lambda each: (not each.enters, each.why, -(each.correlation or 0)))

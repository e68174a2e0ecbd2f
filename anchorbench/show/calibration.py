"""The calibration figure of the forecast: forecast against composed share, one mark per model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anchorbench.inspect.foreign import KINDS as ARCHITECTURES
from anchorbench.inspect.validation import CRADLE, WITHOUT_RULE, sweeps
from anchorbench.palette import BLACK, BLUE, GREEN, ORANGE, VERMILION
from anchorbench.show.canvas import plain_matplotlib, save

KINDS: Mapping[str, tuple[str, str]] = {
    "pre-LN: width, depth, heads, optimizer, ...": (BLUE, "o"),
    "post-LN": (VERMILION, "s"),
    "other tasks": (GREEN, "^"),
    "other architectures": (ORANGE, "D"),
    "no rule to infer": (BLACK, "x"),
}
"""Kind -> colour and marker."""


@plain_matplotlib()
def calibration_figure(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draws the graded holdouts of docs/validation.json, with 90% intervals; those that the widths were fitted on are left out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 5.0), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#888888", lw=0.8, zorder=1)
    graded = [row for row in rows if row["fits"] and row["forecast"] is not None and row["holdout"] not in CRADLE]
    for kind, (color, marker) in KINDS.items():
        chosen = [row for row in graded if kind_of(row["holdout"]) == kind]
        if not chosen:
            continue
        composed, forecast, low, high = (
            np.array([row[name] for row in chosen], float) for name in ("composed", "forecast", "low", "high")
        )
        axes.errorbar(
            forecast,
            composed,
            xerr=[forecast - low, high - forecast],
            fmt="none",
            ecolor=color,
            elinewidth=0.7,
            alpha=0.3,
            zorder=2,
        )
        edge: dict[str, Any] = {} if marker == "x" else {"edgecolor": "white", "linewidth": 0.5}
        axes.scatter(forecast, composed, s=26, marker=marker, color=color, zorder=3, label=f"{kind} ({len(chosen)})", **edge)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="forecast from trained sequences, 90% interval")
    axes.set(ylabel="share of held-out answers composed", aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8.5, loc="outside upper center", ncols=2)
    return save(figure, path)


def kind_of(holdout: str) -> str:
    """Which of `KINDS` a holdout belongs to."""
    pre, post, task, architecture, no_rule = KINDS
    if holdout in WITHOUT_RULE:
        return no_rule
    if holdout in ARCHITECTURES:
        return architecture
    base = sweeps()[holdout].base
    if base.task != "composite":
        return task
    return post if base.model.norm == "post" else pre

"""The phase figure: what held-out answers are, against the initialization rate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anchorbench.palette import MEASURES, SOFT, TEXT, VERDICTS, Look
from anchorbench.show.canvas import plain_matplotlib, save
from anchorbench.sweeps.run_folder import Run
from anchorbench.sweeps.summary import Condition, conditions

WIDTHS = {1: 3.4, 2: 6.9}
"""Columns of a paper -> width of a figure in inches."""
FONT = 8.0
NO_MAJORITY = "seeds differ"
"""Label of a region where no verdict holds for a majority of seeds."""
STRIP = 1.05, 1.13
"""Lower and upper end of the strip that names the phases, where 1 is the highest share."""
LETTER = 0.62
"""Width of a letter, as a share of the font's size."""
NO_PHASE = Look("#e4e4e4", "#3a3d41", "", "", "-", (1, 0))


@plain_matplotlib()
def phase_figure(runs: Sequence[Run], path: Path, *, columns: int = 2) -> Path:
    """Held-out and iid accuracy against gamma: one dot per seed; line: mean; band: 95% interval over seeds; strip: most frequent
    verdict. One panel per combination of the other axes, as wide as `columns` (1 or 2) of a paper. The file is PDF, SVG or PNG,
    by its suffix.
    """
    from matplotlib.figure import Figure

    grouped = conditions(runs)
    panels = list(dict.fromkeys(condition.others for condition in grouped))
    across = min(len(panels), columns)
    rows = -(-len(panels) // across)
    figure = Figure(figsize=(WIDTHS[columns], 1.0 + 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, across, squeeze=False, sharey=True).flatten()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes, panels, strict=False):
        _phase_panel(axis, [each for each in grouped if each.others == panel], WIDTHS[columns] / across - 0.5)
        if panel:
            axis.set_title(panel, fontsize=FONT + 0.5, color=TEXT)
    for axis in axes[::across]:
        axis.set_ylabel("share of answers", fontsize=FONT, color=TEXT)
    result = runs[0].result
    seeds = len({(run.recipe.seed, *run.recipe.seeds) for run in runs})
    plural = "s" if seeds > 1 else ""
    title = f"{result.task}, {result.variant}: {seeds} seed{plural}, {runs[0].recipe.steps} steps"
    figure.suptitle(title, fontsize=FONT + 1, color=TEXT)
    note = (
        "dots: seeds; line, band: mean and 95% interval over seeds" + ("; " if columns == 2 else "\n") + "strip: majority verdict"
    )
    legend = figure.legend(
        *axes[0].get_legend_handles_labels(),
        frameon=False,
        fontsize=FONT - 0.5,
        loc="outside lower center",
        ncols=columns,
        title=note,
    )
    legend.get_title().set(fontsize=FONT - 0.5, color=SOFT)
    return save(figure, path, dpi=300 if columns == 1 else 200)


class Phase(NamedTuple):
    """A range of gamma with one label in the strip."""

    label: str
    verdict: str | None
    """None where seeds differ."""
    left: float
    right: float


def _phases(grouped: Sequence[Condition], edges: Sequence[float]) -> list[Phase]:
    """The phases from left to right: neighbours with the same label are one."""
    found: list[Phase] = []
    for condition, left, right in zip(grouped, edges[:-1], edges[1:], strict=True):
        if condition.verdicts:
            most, count = condition.verdicts.most_common(1)[0]
            verdict = most if count * 2 > condition.verdicts.total() else None
            label = NO_MAJORITY if verdict is None else verdict
            start = found.pop().left if found and found[-1].label == label and found[-1].right == left else left
            found.append(Phase(label, verdict, start, right))
    return found


def _phase_panel(axis: Any, grouped: list[Condition], width: float, colors: Mapping[str, str] | None = None) -> None:
    """Draws the conditions, which differ in gamma alone, on an axis that is `width` inches wide."""
    from matplotlib.patches import Rectangle

    gammas = np.array([condition.gamma for condition in grouped])
    middles = (gammas[1:] + gammas[:-1]) / 2
    margin = np.diff(gammas).min() / 2 if len(gammas) > 1 else 0.05
    edges = np.concatenate([[gammas[0] - margin], middles, [gammas[-1] + margin]])
    for phase in _phases(grouped, edges.tolist()):
        look = NO_PHASE if phase.verdict is None else VERDICTS.get(phase.verdict, NO_PHASE)
        low, high = STRIP
        axis.add_patch(Rectangle((phase.left, low), phase.right - phase.left, high - low, color=look.color, lw=0))
        axis.axvline(phase.left, ymax=0.86, color="#bbbbbb", lw=0.5, ls=":", zorder=0)
        place = (phase.left + phase.right) / 2, (low + high) / 2 - 0.003
        inches = (phase.right - phase.left) / (edges[-1] - edges[0]) * width
        on = TEXT if look is NO_PHASE or look is VERDICTS["mixed"] else "white"
        size = min(FONT - 0.5, 72 * inches / (LETTER * len(phase.label)) - 0.5)
        if size >= 5:
            axis.text(*place, phase.label, fontsize=size, ha="center", va="center", color=on)
        elif look.marker:
            axis.plot(*place, marker=look.marker, ms=4, color=on, zorder=5)
    measures = _measures(grouped)
    jitter = margin * 0.16
    for number, (name, label) in enumerate(measures.items()):
        means = [mean for condition in grouped if (mean := condition.mean(name)) is not None]
        if len(means) < len(grouped):
            continue
        look = MEASURES[name]
        color = (colors or {}).get(name, look.color)
        hollow = "white" if name == "accuracy_iid" else color
        style = {"color": color, "marker": look.marker, "markerfacecolor": hollow, "ms": 4}
        axis.plot(gammas, [mean.value for mean in means], lw=1.5, ls=look.line, zorder=3, label=label, **style)
        axis.fill_between(gammas, [mean.low for mean in means], [mean.high for mean in means], color=color, alpha=0.14, lw=0)
        for condition in grouped:
            values = [run.row()[name] for run in condition.runs]
            spread = condition.gamma + jitter * (np.arange(len(values)) - (len(values) - 1) / 2) / max(1, len(values) - 1)
            offset = jitter * (number - 1)
            axis.scatter(spread + offset, values, s=9, marker=look.marker, facecolor=hollow, edgecolor=color, lw=0.5, zorder=4)
    chance = grouped[0].runs[0].recipe.load_task().chance
    axis.axhline(chance, color=SOFT, lw=0.8, ls=(0, (1, 3)), zorder=1, label=f"chance, {chance:.2g}")
    axis.set(xlim=(edges[0], edges[-1]), ylim=(-0.03, STRIP[1]))
    more = " (initial weights shrink to the right)" if width > 3 else ""
    axis.set_xlabel(rf"initialization rate $\gamma${more}", fontsize=FONT, color=TEXT)
    axis.set_xticks(gammas, [f"{gamma:g}" for gamma in gammas], fontsize=FONT - 0.5, rotation=90 if len(gammas) > 4 * width else 0)
    axis.set_yticks(np.linspace(0, 1, 6), [f"{share:.1f}" for share in np.linspace(0, 1, 6)], fontsize=FONT - 0.5)
    axis.tick_params(colors=TEXT, width=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _measures(grouped: Sequence[Condition]) -> dict[str, str]:
    """Measures to draw -> their names in the legend."""
    composes = any(run.result.composes for condition in grouped for run in condition.runs)
    mirror = "the exception's mirror"
    found = {"accuracy_iid": "trained pairs, unseen key and position (iid)"}
    found["inferential"] = "held out, composed" if composes else f"{mirror}, composed"
    if composes:
        found["ordered"] = f"{mirror}, composed"
    return found | {"symmetric": f"{mirror}, answered as the exception"}


def plot_phase(runs: Sequence[Run], ax: Any = None, palette: Mapping[str, str] | None = None) -> Any:
    """Draws held-out and iid accuracy against gamma on `ax` (a matplotlib Axes, the current one if None), and returns it.

        runs = anchorbench.sweep(task="composite", gamma=[0.5, 0.7], seeds=4)
        anchorbench.plot_phase(runs, palette={"inferential": "black"})

    One dot per seed; line: mean; band: 95% interval over seeds; strip: majority verdict. `palette` maps measures (accuracy_iid,
    inferential, ordered, symmetric) to colours other than ours. Raises ValueError with one sentence for an unknown measure, or if
    the runs differ in anything but gamma and seeds.
    """
    if unknown := [name for name in palette or {} if name not in MEASURES]:
        raise ValueError(f"palette has {unknown[0]!r}; allowed: {', '.join(MEASURES)}")
    grouped = conditions(runs)
    panels = list(dict.fromkeys(condition.others for condition in grouped))
    if len(panels) > 1:
        raise ValueError(f"the runs differ in more than gamma and seeds: {'; '.join(panels)}; allowed: one of these at a time")
    axes = current_axes(ax)
    _phase_panel(axes, grouped, axes.get_window_extent().width / axes.figure.dpi, palette)
    axes.set_ylabel("share of answers")
    axes.legend(frameon=False, fontsize=FONT)
    return axes


def current_axes(ax: Any) -> Any:
    """`ax`, or the current Axes of pyplot."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.gca()

"""Figures: phase diagram over gamma, and attention flow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from anchorbench import palette
from anchorbench.inspect.open_model import open_model
from anchorbench.probes.attention_flow import attention, central, links
from anchorbench.show.canvas import plain_matplotlib, save
from anchorbench.sweeps.run_folder import Run
from anchorbench.sweeps.summary import Condition, conditions
from anchorbench.task import SPLITS, Task

COLORS = {
    "iid": palette.BLUE,
    "inferential": palette.VERMILION,
    "symmetric": palette.PURPLE,
    "ordered": palette.GREEN,
    "key": palette.GREEN,
    "anchor": palette.VERMILION,
    "filler": "#999999",
}
SHADES = {
    "underfit": "#bbbbbb",
    "memorizing": palette.SKY,
    "mixed": "#ffffff",
    "inferential": palette.YELLOW,
    "symmetric": palette.PURPLE,
    "other": "#ffffff",
}
POOR_FIT, NO_MAJORITY = "poor fit", "seeds differ"
"""Labels of shaded regions: `underfit` under the papers' name, and regions where no verdict holds for a majority of seeds."""


@plain_matplotlib()
def phase_figure(runs: list[Run], path: Path) -> Path:
    """Held-out and iid accuracy against gamma: one dot per seed; line: mean; band: 95% interval over seeds; shade: most frequent
    verdict. One panel per combination of the other axes. The file is PDF, SVG or PNG, by its suffix.
    """
    from matplotlib.figure import Figure

    grouped = conditions(runs)
    panels = list(dict.fromkeys(condition.others for condition in grouped))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(0.6 + 6.2 * columns, 0.5 + 3.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes, panels, strict=False):
        _phase_panel(axis, [condition for condition in grouped if condition.others == panel])
        if panel:
            axis.set_title(panel, fontsize=11, pad=14)
    axes[0].set_ylabel("share of answers")
    result = runs[0].result
    seeds = len({(run.recipe.seed, *run.recipe.seeds) for run in runs})
    plural = "s" if seeds > 1 else ""
    figure.suptitle(f"{result.task}, {result.variant}: {seeds} seed{plural}, {runs[0].recipe.steps} steps", fontsize=12)
    handles, labels = axes[0].get_legend_handles_labels()
    note = "dots: seeds; line and band: mean and 95% interval over seeds; shade: majority verdict"
    figure.legend(handles, labels, frameon=False, fontsize=8.5, loc="outside lower center", ncols=2, title=note, title_fontsize=8)
    return save(figure, path)


def _phase_panel(axis: Any, grouped: list[Condition]) -> None:
    gammas = np.array([condition.gamma for condition in grouped])
    middles = (gammas[1:] + gammas[:-1]) / 2
    margin = np.diff(gammas).min() / 2 if len(gammas) > 1 else 0.05
    edges = np.concatenate([[gammas[0] - margin], middles, [gammas[-1] + margin]])
    phases: list[tuple[str, float, float]] = []
    for condition, left, right in zip(grouped, edges[:-1], edges[1:], strict=True):
        if not condition.verdicts:
            continue
        most, count = condition.verdicts.most_common(1)[0]
        agreed = count * 2 > condition.verdicts.total()
        axis.axvspan(left, right, color=SHADES[most if agreed else "mixed"], alpha=0.28, lw=0)
        label = NO_MAJORITY if not agreed else POOR_FIT if most == "underfit" else most
        start = phases.pop()[1] if phases and phases[-1][0] == label else left
        phases.append((label, start, right))
    for number, (label, left, right) in enumerate(phases):
        height = 1.13 if number % 2 else 1.08  # labels of adjacent phases never overlap, however narrow the phases
        axis.text((left + right) / 2, height, label, fontsize=8.5, ha="center", va="center", color="#444444")
        if number:
            axis.axvline(left, color="#888888", lw=0.6, ls=":")
    curves = [("accuracy_iid", COLORS["iid"], "o", "trained pairs, unseen key and position (iid)")]
    composes = any(run.result.composes for condition in grouped for run in condition.runs)
    mirror = "the exception's mirror"
    curves.append(("inferential", COLORS["inferential"], "s", "held out, composed" if composes else f"{mirror}, composed"))
    if composes:
        curves.append(("ordered", COLORS["ordered"], "D", f"{mirror}, composed"))
    curves.append(("symmetric", COLORS["symmetric"], "^", f"{mirror}, answered as the exception"))
    jitter = margin * 0.16
    for number, (field, color, marker, label) in enumerate(curves):
        means = [mean for condition in grouped if (mean := condition.mean(field)) is not None]
        if len(means) < len(grouped):
            continue
        axis.plot(gammas, [mean.value for mean in means], color=color, lw=1.8, zorder=3, label=label)
        axis.fill_between(
            gammas, [mean.low for mean in means], [mean.high for mean in means], color=color, alpha=0.16, lw=0, zorder=2
        )
        for condition in grouped:
            values = [run.row()[field] for run in condition.runs]
            spread = condition.gamma + jitter * (np.arange(len(values)) - (len(values) - 1) / 2) / max(1, len(values) - 1)
            offset = jitter * (number - 1)
            axis.scatter(spread + offset, values, s=20, marker=marker, color=color, edgecolor="white", lw=0.5, zorder=4)
    axis.set(xlim=(edges[0], edges[-1]), ylim=(-0.03, 1.18), xlabel=r"initialization rate $\gamma$   (weights shrink to the right)")
    axis.set_xticks(gammas)
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.spines[["top", "right"]].set_visible(False)


@plain_matplotlib()
def attention_flow_figure(runs: list[Run], path: Path) -> Path:
    """Where attention moves information in each run's model on a held-out sequence; line width is attention, one panel per run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * max(1, len(runs)), 4.6), layout="constrained")
    axes = figure.subplots(1, max(1, len(runs)), squeeze=False)[0]
    tasks = [run.recipe.load_task() for run in runs]
    task, split = tasks[0], "ood" if "ood" in tasks[0].splits else "iid"
    tokens = task.sample(split, 200, seed=0).tokens
    # A group held out in one run may be trained in another (conflict-control): use a sequence that no run has seen.
    unseen = np.all([other.answer(tokens).split == SPLITS.index(split) for other in tasks], axis=0)
    tokens = tokens[unseen] if unseen.any() else tokens
    tokens = central(task, tokens)
    for axis, run in zip(axes, runs, strict=True):
        flow_panel(axis, attention(open_model(run), tokens), task, tokens[0])
        share, init = run.result.inferential, run.recipe.init
        title = f"{run.result.verdict or 'member'}: gamma {init.gamma:g}, {run.recipe.model.norm}-LN, seed {run.recipe.seed}"
        axis.set_title(title + ("" if share is None else f", composes {share:.0%}"), fontsize=10.5)
    note = "width: attention on one sequence, averaged over heads; colour: what is read; pale: cannot reach the answer"
    figure.supxlabel(note, fontsize=8.5, color="#444444")
    return save(figure, path)


def plot_phase(runs: Sequence[Run], ax: Any = None) -> Any:
    """Draws held-out and iid accuracy against gamma on `ax` (a matplotlib Axes, the current one if None), and returns it.

        runs = anchorbench.sweep(task="composite", gamma=[0.5, 0.7], seeds=4)
        anchorbench.plot_phase(runs)

    One dot per seed; line: mean; band: 95% interval over seeds; shade: majority verdict. Raises ValueError with one sentence if the
    runs differ in anything but gamma and seeds.
    """
    grouped = conditions(runs)
    panels = list(dict.fromkeys(condition.others for condition in grouped))
    if len(panels) > 1:
        raise ValueError(f"the runs differ in more than gamma and seeds: {'; '.join(panels)}; allowed: one of these at a time")
    axes = _axes(ax)
    _phase_panel(axes, grouped)
    axes.set_ylabel("share of answers")
    axes.legend(frameon=False, fontsize=8)
    return axes


def plot_flow(run: Run, ax: Any = None, tokens: Int[np.ndarray, " seq"] | None = None) -> Any:
    """Draws where attention moves information in a run's model on `ax` (a matplotlib Axes, the current one if None); returns it.

    `tokens` is the sequence (default: a held-out one). Width: attention, averaged over heads; pale: what cannot reach the answer.
    """
    task = run.recipe.load_task()
    split = "ood" if "ood" in task.splits else "iid"
    shown = central(task, task.sample(split, 200, seed=0).tokens)[0] if tokens is None else tokens
    axes = _axes(ax)
    flow_panel(axes, attention(open_model(run), shown[None]), task, shown)
    return axes


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.gca()


def flow_panel(axis: Any, patterns: list[np.ndarray], task: Task, tokens: np.ndarray) -> None:
    """Draws one model's attention in each layer (`[1, 1, query, key]`) on one sequence: positions on x, layers on y.

    Only paths to the last position of the last layer are in full colour: the others cannot reach the answer.
    """
    marks = {name: int(at[0]) for name, at in task.token_positions(tokens[None]).items()}
    color = dict.fromkeys(range(task.seq_len), COLORS["filler"])
    for name, at in marks.items():
        color[at] = COLORS["key"] if name == "key" else COLORS["anchor"]
    words = task.text(tokens[None])[0].split()
    for link in links([pattern[0, 0] for pattern in patterns]):
        axis.plot(
            [link.source, link.reader],
            [link.layer + 0.13, link.layer + 0.87],
            lw=6 * link.weight,
            color=color[link.source] if link.reaches else "#dddddd",
            alpha=0.25 + 0.75 * link.weight if link.reaches else 0.7,
            solid_capstyle="round",
            zorder=3 if link.reaches else 1,
        )
    for layer in range(len(patterns) + 1):
        for position, word in enumerate(words):
            face = color[position] if layer == 0 else "#f4f4f4"
            axis.scatter(position, layer, s=430, color=face, edgecolor=color[position], lw=1.2, zorder=5)
            if layer == 0:
                axis.text(position, layer, word, ha="center", va="center", fontsize=9, color="white", zorder=6, weight="bold")
    axis.text(task.seq_len - 1, len(patterns), "?", ha="center", va="center", fontsize=11, zorder=6, weight="bold")
    for name, at in marks.items():
        axis.text(at, -0.32, name.replace(" ", "\n"), ha="center", va="top", fontsize=8.5, color=color[at])
    axis.set_yticks(range(len(patterns) + 1), ["tokens", *(f"after layer {n}" for n in range(1, len(patterns) + 1))])
    axis.set(xlim=(-0.6, task.seq_len - 0.4), ylim=(-0.75, len(patterns) + 0.3), xticks=[])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)

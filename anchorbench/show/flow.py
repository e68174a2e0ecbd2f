"""The attention figure: where attention moves information in two runs, and whether that tells them apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from anchorbench.inspect.open_model import OpenModel, open_model
from anchorbench.palette import PARTS, SOFT, TEXT, VERDICTS
from anchorbench.probes import Score, patching
from anchorbench.probes.attention_flow import FAINT, attention, central, links
from anchorbench.probes.reading import read
from anchorbench.show.canvas import plain_matplotlib, save
from anchorbench.show.circuits import APART, difference, flow_of
from anchorbench.show.figures import FONT, WIDTHS, current_axes
from anchorbench.show.scores import meaning
from anchorbench.sweeps.run_folder import Run
from anchorbench.task import SPLITS, Task

SAMPLED = 2000
"""Held-out sequences among which those with the layout of the one shown are looked for."""
MOST_HEADS = 4
"""Heads up to which they are drawn apart."""
THICKEST = 5.0
"""Line width, in points, of an attention of 1."""
Patterns = list[Float[np.ndarray, "query key"]]


@plain_matplotlib()
def attention_flow_figure(runs: Sequence[Run], path: Path, *, columns: int = 2) -> Path:
    """Where attention moves information in each run's model, one panel per run and, up to MOST_HEADS, head; with what each answers.

    Attention is averaged over held-out sequences of one layout, of which one is shown. Where it does not tell two runs apart, the
    figure says so and shows where patching changes their answers beside it. The file is PDF, SVG or PNG, by its suffix.
    """
    from matplotlib.figure import Figure

    tokens = _sequences(runs)
    opened = [open_model(run) for run in runs]
    heads = [_heads(each, tokens) for each in opened]
    most_heads = max(len(each) for each in heads)
    scores, sentence = _compared(runs)
    across = len(runs) if columns == 2 else 1
    down = -(-len(runs) // across)
    height = (1.15 + 1.25 * most_heads) * down + 0.5 + (1.1 + 0.18 * len(next(iter(scores), {})) if scores else 0)
    figure = Figure(figsize=(WIDTHS[columns], height), layout="constrained")
    ratios = [height - 1.6, 1.6] if scores else [1]
    parts = figure.subfigures(len(ratios), 1, height_ratios=ratios, squeeze=False)[:, 0]
    grids = parts[0].subfigures(down, across, squeeze=False).flatten()
    for part, run, model, patterns in zip(grids, runs, opened, heads, strict=True):
        task = run.recipe.load_task()
        part.suptitle(_title(run, task, model, tokens[0]), fontsize=FONT, color=TEXT)
        for number, axis in enumerate(part.subplots(most_heads, 1, squeeze=False)[:, 0]):
            if number < len(patterns):
                mean: Patterns = [np.mean([head[layer] for head in patterns], axis=0) for layer in range(len(patterns[0]))]
                flow_panel(axis, patterns[number], task, tokens[0], mean)
                if len(patterns) > 1:
                    axis.set_title(f"head {number + 1}", fontsize=FONT - 0.5, color=SOFT, loc="left")
            else:
                axis.set_visible(False)
    if scores:
        _patching_panel(parts[1], runs, scores)
    averaged = "averaged over heads and" if runs and runs[0].recipe.model.n_head > MOST_HEADS else "averaged over"
    note = f"{averaged} {len(tokens)} held-out sequences of this layout; colour: what is read; pale: cannot reach the answer"
    figure.suptitle(sentence, fontsize=FONT + 0.5, color=TEXT, wrap=True)
    _width_scale(figure, note if columns == 2 else note.replace("; colour", "\ncolour"))
    return save(figure, path, dpi=300 if columns == 1 else 200)


def _sequences(runs: Sequence[Run]) -> Int[np.ndarray, "n seq"]:
    """Held-out sequences that no run has seen, all with key and anchors at the same positions; the first is the one shown."""
    tasks = [run.recipe.load_task() for run in runs]
    task, split = tasks[0], "ood" if "ood" in tasks[0].splits else "iid"
    tokens = task.sample(split, SAMPLED, seed=0).tokens
    # A group held out in one run may be trained in another (conflict-control).
    unseen = np.all([other.answer(tokens).split == SPLITS.index(split) for other in tasks], axis=0)
    tokens = tokens[unseen] if unseen.any() else tokens
    [shown] = central(task, tokens)
    places = np.stack(list(task.token_positions(tokens).values()), 1)
    alike = (places == np.stack(list(task.token_positions(shown[None]).values()), 1)).all(1)
    others = tokens[alike]
    return np.concatenate([shown[None], others[(others != shown).any(1)]])


def _heads(opened: OpenModel, tokens: Int[np.ndarray, "n seq"]) -> list[Patterns]:
    """Per head its attention in each layer, averaged over sequences; one average over heads if there are more than MOST_HEADS."""
    found = [pattern[0].mean(0) for pattern in read(opened, tokens, lambda a: a.patterns)]  # per layer [head, query, key]
    count = max(len(layer) for layer in found)
    if count > MOST_HEADS:
        return [[layer.mean(0) for layer in found]]
    return [[layer[min(head, len(layer) - 1)] for layer in found] for head in range(count)]


def _title(run: Run, task: Task, opened: OpenModel, tokens: Int[np.ndarray, " seq"]) -> str:
    """Verdict, condition, and what the run answers to the sequence shown."""
    share, init = run.result.inferential, run.recipe.init
    composed = "" if share is None else f", composes {share:.0%}"
    said = int(opened.answers(tokens[None])[0, 0])
    right = int(task.answer(tokens[None]).label[0])
    words = [token.word for token in task.vocabulary]
    answer = words[said] if said < len(words) else str(said)
    told = f"answers {answer}, which is right" if said == right else f"answers {answer}; right is {words[right]}"
    where = f"gamma {init.gamma:g}, {run.recipe.model.norm}-LN, seed {run.recipe.seed}"
    return f"{run.result.verdict or 'no verdict'}: {where}{composed}\n{told}"


def _compared(runs: Sequence[Run]) -> tuple[list[dict[str, Score]], str]:
    """The scores of patching for each of two runs that attention does not tell apart, if they have any; and what to say."""
    if len(runs) != 2:
        return [], ""
    flows = [flow_of(run) for run in runs]
    name, size = difference(*flows)
    if size >= APART and flows[0] is not None and flows[1] is not None:
        told = meaning("attention_flow", name)
        words = _layer(name if told is None else f"{told.sentence}.{name.partition('.')[2]}".rstrip("."))
        return [], f"{words}: {flows[0].scores[name]:.2f} against {flows[1].scores[name]:.2f}"
    try:
        scores = [patching(run, run.recipe.load_task()).scores() for run in runs]
    except ValueError:
        return [], "Attention does not tell these runs apart"
    shared = [name for name in scores[0] if name in scores[1]]
    apart = max(abs(scores[0][name].value - scores[1][name].value) for name in shared)
    verb = "patching does" if apart >= APART else "nor does patching"
    picked = [{name: each[name] for name in shared} for each in scores]
    return picked, f"Attention does not tell these runs apart (scores differ by at most {size:.2f}); {verb}"


def _layer(score: str) -> str:
    """A score's name with its layer in words, counted from 1 as in the figure."""
    name, dot, layer = score.partition(".")
    return f"{name}, layer {int(layer) + 1}" if dot and layer.isdigit() else score


def _patching_panel(figure: Any, runs: Sequence[Run], scores: Sequence[dict[str, Score]]) -> None:
    """Shares of answers that follow a patch, one row per patch; the runs have their verdicts' looks."""
    axis = figure.subplots()
    names = list(scores[0])
    rows = np.arange(len(names))[::-1]
    for number, (run, found) in enumerate(zip(runs, scores, strict=True)):
        look = VERDICTS.get(run.result.verdict or "", VERDICTS["other"])
        at = rows + 0.12 - 0.24 * number
        for row, score in zip(at, found.values(), strict=True):
            axis.plot([score.low, score.high], [row, row], color=look.color, lw=1.5, ls="-")
        values = [score.value for score in found.values()]
        face = "white" if number else look.color  # runs may have the same verdict
        name = f"{run.result.verdict}, seed {run.recipe.seed}"
        axis.scatter(values, at, s=18, marker=look.marker, facecolor=face, edgecolor=look.color, zorder=3, label=name)
    axis.set_yticks(rows, [_layer(name.replace("_", " ")) for name in names], fontsize=FONT - 0.5)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(names) - 0.4))
    axis.set_xlabel("patching: share of answers that follow the patched state, 95% interval", fontsize=FONT, color=TEXT)
    axis.tick_params(axis="x", labelsize=FONT - 0.5)
    axis.grid(axis="x", color="#e6e6e6", lw=0.6)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.legend(frameon=False, fontsize=FONT - 0.5, loc="upper right", bbox_to_anchor=(1, 1.22), ncols=2)


def _width_scale(figure: Any, note: str) -> None:
    """A legend of line widths below the figure."""
    from matplotlib.lines import Line2D

    shares = (0.1, 0.5, 1.0)
    lines = [Line2D([], [], lw=THICKEST * share, color=SOFT, solid_capstyle="butt") for share in shares]
    labels = [f"attention {share:g}" for share in shares]
    legend = figure.legend(lines, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=FONT - 0.5, title=note)
    legend.get_title().set(fontsize=FONT - 0.5, color=SOFT)


def plot_flow(run: Run, ax: Any = None, tokens: Int[np.ndarray, " seq"] | None = None) -> Any:
    """Draws where attention moves information in a run's model on `ax` (a matplotlib Axes, the current one if None); returns it.

    `tokens` is the sequence (default: a held-out one). Width: attention, averaged over heads; pale: what cannot reach the answer.
    """
    task = run.recipe.load_task()
    split = "ood" if "ood" in task.splits else "iid"
    shown = central(task, task.sample(split, 200, seed=0).tokens)[0] if tokens is None else tokens
    axes = current_axes(ax)
    flow_panel(axes, [pattern[0, 0] for pattern in attention(open_model(run), shown[None])], task, shown)
    return axes


def flow_panel(
    axis: Any, patterns: Patterns, task: Task, tokens: Int[np.ndarray, " seq"], over_heads: Patterns | None = None
) -> None:
    """Draws attention in each layer (`[query, key]`) on one sequence: positions on x, layers on y.

    Only paths to the last position of the last layer are in full colour: the others cannot reach the answer. For a single head,
    what reaches it follows from the attention `over_heads`.
    """
    marks = {name: int(at[0]) for name, at in task.token_positions(tokens[None]).items()}
    part = dict.fromkeys(range(task.seq_len), "filler")
    for name, at in marks.items():
        part[at] = "key" if name == "key" else "anchor"
    color = {at: PARTS[name][0] for at, name in part.items()}
    words = task.text(tokens[None])[0].split()
    reaches = {(link.layer, link.reader): link.reaches for link in links(over_heads or patterns)}
    for layer, pattern in enumerate(patterns):
        for reader, source in zip(*np.tril_indices(len(pattern)), strict=True):
            weight = float(pattern[reader, source])
            if weight >= FAINT:
                reached = reaches.get((layer, int(reader)), False)
                axis.plot(
                    [source, reader],
                    [layer + 0.13, layer + 0.87],
                    lw=THICKEST * weight,
                    color=color[int(source)] if reached else "#dddddd",
                    alpha=0.25 + 0.75 * weight if reached else 0.7,
                    solid_capstyle="round",
                    zorder=3 if reached else 1,
                )
    shapes = {"key": "s", "anchor": "D", "filler": "o"}
    for layer in range(len(patterns) + 1):
        for position, word in enumerate(words):
            face = color[position] if layer == 0 else "#f4f4f4"
            size = 190 if part[position] != "anchor" else 150
            axis.scatter(
                position, layer, s=size, marker=shapes[part[position]], color=face, edgecolor=color[position], lw=1, zorder=5
            )
            if layer == 0:
                axis.text(position, layer, word, ha="center", va="center", fontsize=6.5, color="white", zorder=6, weight="bold")
    axis.text(task.seq_len - 1, len(patterns), "?", ha="center", va="center", fontsize=9, zorder=6, weight="bold")
    for name, at in marks.items():
        side = {"first anchor": "right", "second anchor": "left"}.get(name, "center")  # neighbours, whose names would overlap
        place = at + {"right": 0.3, "left": -0.3}.get(side, 0)
        axis.text(place, -0.32, name.replace(" ", "\n"), ha=side, va="top", fontsize=FONT - 1.8, color=color[at])
    ticks = ["tokens", *(f"after layer {n}" for n in range(1, len(patterns) + 1))]
    axis.set_yticks(range(len(patterns) + 1), ticks, fontsize=FONT - 1)
    axis.set(xlim=(-0.6, task.seq_len - 0.4), ylim=(-0.85, len(patterns) + 0.3), xticks=[])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)

"""Attention flow: where do the anchor positions and the last position attend to, layer by layer? (2405.05409, section 4.1)

In the papers' inferential circuit, layer 1 moves the key to each anchor and layer 2 moves both anchors to the last position; in
their symmetric circuit, layer 1 merges both anchors at the last position and layer 2 fetches the key. With one anchor, layer 1
shifts - the later of key and anchor reads the other - and layer 2 broadcasts what was moved there (2401.08309, mechanism).

It does not show how a model answers: two-layer pre-LN models move the key to the anchors whether they compose or memorize,
and attention to a position does not prove that its content is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from anchorbench.inspect.open_model import OpenModel, open_one
from anchorbench.task import Task

from .reading import read, trained_examples
from .score import Score, mean_scores

LAST = "last position"
FAINT = 0.03
"""Attention weights below this are not drawn."""
DOES_NOT_SHOW = "Attention to a position does not prove that its content is used, nor that the model composes."


@dataclass(frozen=True)
class AttentionFlow:
    """Mean share of attention, `[layer, reader, source]`, with the half-width of its 95% interval over sequences, and the same
    measure on an untrained model with the same config (`control`).

    Scores, with layers counted from 0: `key_to_anchors`, how much the anchors attend to the key in layer 0; for each layer
    `anchors_to_last` and `key_to_last`, how much the last position attends to them; with one anchor, `shift` in layer 0 and
    `broadcast` in the last layer.
    """

    readers: tuple[str, ...]
    sources: tuple[str, ...]
    share: Float[np.ndarray, "layer reader source"]
    half_width: Float[np.ndarray, "layer reader source"]
    control: Float[np.ndarray, "layer reader source"]
    table: dict[str, Score]
    does_not_show: str = DOES_NOT_SHOW
    size: ClassVar[tuple[float, float]] = (7.4, 2.6)

    def scores(self) -> dict[str, Score]:
        return self.table

    def draw(self, figure: Any) -> None:
        """One heat map per layer: which reader attends where, with the untrained model's share in brackets."""
        panels = figure.subplots(1, len(self.share), squeeze=False, sharey=True)[0]
        for layer, axes in enumerate(panels):
            axes.imshow(self.share[layer], cmap="Blues", vmin=0, vmax=1, aspect="auto")
            for (reader, source), share in np.ndenumerate(self.share[layer]):
                words = f"{share:.2f}\n({self.control[layer, reader, source]:.2f})"
                axes.text(source, reader, words, ha="center", va="center", fontsize=7.5, color="white" if share > 0.6 else "black")
            axes.set_xticks(range(len(self.sources)), [source.replace(" ", "\n") for source in self.sources], fontsize=8)
            axes.set_yticks(range(len(self.readers)), self.readers, fontsize=8)
            axes.set(title=f"layer {layer + 1}", xlabel="reads from")
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        panels[0].set_ylabel("reader")
        figure.colorbar(panels[0].images[0], ax=panels, label="share of attention\n(in brackets: untrained)")


def attention_flow(model: object, task: Task, n: int = 500, seed: int = 0) -> AttentionFlow:
    """Attention of anchors and last position to key, anchors and filler, on `n` seen-group sequences at unseen positions.

    `model` is anything that `anchorbench.classify` accepts. Where reader and source coincide, the share is the position's
    attention to itself; a last position that is an anchor counts as that anchor. Heads are averaged. Raises ValueError for fewer
    than two sequences, for a task without a key, and as `classify` does.
    """
    if n < 2:
        raise ValueError(f"n is {n}; allowed: at least 2 sequences, so that there is an interval")
    opened, task = open_one(model, task)
    tokens = trained_examples(task, n, seed).tokens
    marks = task.token_positions(tokens)
    if (marks["key"] < 0).any():
        raise ValueError(f"probe attention_flow needs a task with a key; {task.name} has none")
    readers = {name: at for name, at in marks.items() if name != "key"} | {LAST: np.full(n, task.seq_len - 1)}
    found, control = (attention(which, tokens) for which in (opened, opened.untrained(seed)))
    share, untrained = flow(found, readers, marks), flow(control, readers, marks)
    return AttentionFlow(
        tuple(readers),
        (*marks, "filler"),
        share=share[0].mean(0),
        half_width=1.96 * share[0].std(0, ddof=1) / np.sqrt(n),
        control=untrained[0].mean(0),
        table=mean_scores(summary(found, marks), summary(control, marks)),
    )


def attention(opened: OpenModel, tokens: Int[np.ndarray, "n seq"]) -> list[Float[np.ndarray, "members n query key"]]:
    """Attention pattern of each layer, averaged over heads."""
    return read(opened, tokens, lambda a: [pattern.mean(2) for pattern in a.patterns])


def flow(
    patterns: list[Float[np.ndarray, "members n query key"]],
    readers: Mapping[str, Int[np.ndarray, " n"]],
    sources: Mapping[str, Int[np.ndarray, " n"]],
) -> Float[np.ndarray, "members n layer reader source"]:
    """Share of attention from each reader's position to each source's, followed by the share to all other positions."""
    members, n = patterns[0].shape[:2]
    rows = np.arange(n)
    shares = np.empty((members, n, len(patterns), len(readers), len(sources) + 1))
    for layer, pattern in enumerate(patterns):
        for reader, at in enumerate(readers.values()):
            given = pattern[:, rows, at]  # [members, n, seq]
            named = [given[:, rows, source] for source in sources.values()]
            shares[:, :, layer, reader] = np.stack([*named, 1 - np.sum(named, axis=0)], axis=-1)
    return shares


class Link(NamedTuple):
    """Attention from a reader's position to a source's, in one sequence."""

    layer: int
    reader: int
    source: int
    weight: float
    reaches: bool
    """Whether the moved information can reach the last position of the last layer, where the answer is read off."""


def links(patterns: Sequence[Float[np.ndarray, "query key"]]) -> list[Link]:
    """The links to draw for one sequence's attention, averaged over heads: all that are not FAINT, last layer first."""
    seq = len(patterns[0])
    useful = np.zeros(seq)
    useful[-1] = 1.0  # how much of each position's residual stream can reach the answer
    found: list[Link] = []
    for layer in reversed(range(len(patterns))):
        for reader, source in zip(*np.tril_indices(seq), strict=True):
            if (weight := float(patterns[layer][reader, source])) >= FAINT:
                found.append(Link(layer, int(reader), int(source), weight, bool(useful[reader] > 0.05)))
        useful = np.maximum(useful, patterns[layer].T @ useful)
    return found


def central(task: Task, tokens: Int[np.ndarray, "n seq"]) -> Int[np.ndarray, "1 seq"]:
    """The sequence to draw: the one with key and anchors nearest the middle, so that filler is on both sides."""
    middle = np.abs(task.token_positions(tokens)["key"] - (task.seq_len - 4) / 2).argmin()
    return tokens[middle : middle + 1]


def summary(
    patterns: list[Float[np.ndarray, "members n query key"]], marks: Mapping[str, Int[np.ndarray, " n"]]
) -> dict[str, Float[np.ndarray, "members n"]]:
    """The per-sequence values whose means are the scores of AttentionFlow."""
    n, seq = patterns[0].shape[1:3]
    rows, key = np.arange(n), marks["key"]
    anchors = [at for name, at in marks.items() if "anchor" in name]
    last = [pattern[:, :, seq - 1] for pattern in patterns]
    named: dict[str, np.ndarray] = {f"key_to_last.{layer}": given[:, rows, key] for layer, given in enumerate(last)}
    if anchors:
        named["key_to_anchors"] = np.mean([patterns[0][:, rows, at, key] for at in anchors], axis=0)
    for layer, given in enumerate(last if anchors else []):
        named[f"anchors_to_last.{layer}"] = np.sum([given[:, rows, at] for at in anchors], axis=0)
    if len(anchors) == 1:
        earlier, later = np.sort([key, anchors[0]], axis=0)
        named |= {"shift": patterns[0][:, rows, later, earlier], "broadcast": last[-1][:, rows, later]}
    return named

"""Anchor value: does the first anchor's position carry g(key, a1), the key after the first anchor? (2405.05409, section 4.1)

The papers compare the rows of the second layer's value matrix at the first anchor's position: in their inferential solution these
are similar where g is equal, whichever key and anchor produced it, so that sorted by g the cosines form blocks. A position sees
only earlier ones, so the second anchor is irrelevant: we use the one that is trained with the most first anchors, and
g is equal where the answers with it are. As in `fused_vector`, the mean of each base sequence is subtracted first.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from anchorbench.inspect.open_model import OpenModel, open_one
from anchorbench.task import Task

from .pair_grid import (
    FIRST,
    Grid,
    by_difference,
    centred,
    cosines,
    draw_by_difference,
    equal_against_unequal,
    require_pairs,
    trained_keys_and_pairs,
    write_grid,
)
from .reading import read, trained_examples
from .score import Score, mean_scores

PROBE = "anchor_value"
BLOCKS = 6
"""Number of values of g in the heat map."""


@dataclass(frozen=True)
class AnchorValue:
    """Mean cosines of value vectors at the first anchor with 95% intervals over base sequences; the control is an untrained model.

    `equal_g`, `unequal_g` and their difference, across different keys and different first anchors.
    """

    table: dict[str, Score]
    by_difference: Float[np.ndarray, " difference"]
    """Mean cosine by difference of g, 0 to FARTHEST, across different anchors; NaN for differences that do not occur."""
    by_difference_control: Float[np.ndarray, " difference"]
    blocks: Float[np.ndarray, "cell cell"]
    """Mean cosines for neighbouring values of g, each produced by every first anchor in turn."""
    block_keys: Int[np.ndarray, " cell"]
    block_anchors: Int[np.ndarray, " cell"]
    does_not_show: str = (
        "It does not show that layer 1 reads the vector; and vectors that merely follow the number line are also alike for equal g."
    )
    size: ClassVar[tuple[float, float]] = (7.4, 3.4)

    def scores(self) -> dict[str, Score]:
        return self.table

    def draw(self, figure: Any) -> None:
        """Similarity by difference of g, and the equal-output blocks."""
        from matplotlib.patches import Rectangle

        curve, heat = figure.subplots(1, 2)
        draw_by_difference(curve, self.by_difference, self.by_difference_control)
        curve.set(xlabel="difference of g(key, first anchor)", title="value vector at the first anchor")
        cells = len(self.blocks)
        each = len(np.unique(self.block_anchors))
        image = heat.imshow(self.blocks, cmap="RdBu_r", vmin=-1, vmax=1)
        for start in range(0, cells, max(each, 1)):
            heat.add_patch(Rectangle((start - 0.5, start - 0.5), each, each, fill=False, lw=0.9))
        labels = [f"{key}, a{anchor}" for key, anchor in zip(self.block_keys, self.block_anchors, strict=True)]
        heat.set_yticks(range(cells), labels, fontsize=6)
        heat.set(xticks=[], xlabel="the same cells", title="boxes: equal g")
        heat.tick_params(length=0)
        figure.colorbar(image, ax=heat, shrink=0.8, label="mean cosine")


def anchor_value(model: object, task: Task, n: int = 16, seed: int = 0) -> AnchorValue:
    """Similarity of value vectors at the first anchor over `n` base sequences, each with every key and first anchor.

    The vector is resid_post of layer 0 times the value matrix of layer 1 (skipping the LayerNorm between the two), or resid_post
    itself in a one-layer model. `model` is anything that `anchorbench.classify` accepts. Raises ValueError as `classify`
    does, for a task without two anchors or whose key comes after them, and for fewer than two base sequences.
    """
    if n < 2:
        raise ValueError(f"n is {n}; allowed: at least 2 base sequences, so that there is an interval")
    opened, task = open_one(model, task)
    require_pairs(PROBE, task)
    bases = trained_examples(task, n, seed)
    marks = task.token_positions(bases.tokens)
    if (marks["key"] > marks[FIRST]).any():
        raise ValueError(f"probe {PROBE} needs a task whose key comes before its anchors; in {task.name} it comes after them")
    keys, pairs = trained_keys_and_pairs(task, seed)
    second = np.bincount(pairs[:, 1]).argmax()
    if (pairs[:, 1] == second).sum() < 2:
        raise ValueError(f"probe {PROBE} needs a task that trains two first anchors with one second anchor; {task.name} does not")
    grid = write_grid(PROBE, task, bases, np.tile(keys, (n, 1)), pairs[pairs[:, 1] == second])
    found, control = (values_at_first_anchor(which, grid) for which in (opened, opened.untrained(seed)))
    cells = _neighbours(grid)
    key, anchor = np.divmod(cells, len(grid.pairs))
    return AnchorValue(
        table=mean_scores(similarities(found, grid), similarities(control, grid)),
        by_difference=by_difference(found, grid)[0],
        by_difference_control=by_difference(control, grid)[0],
        blocks=cosines(centred(found)[0].reshape(n, -1, found.shape[-1])[:, cells]).mean(0),
        block_keys=keys[key],
        block_anchors=grid.pairs[anchor, 0],
    )


def values_at_first_anchor(opened: OpenModel, grid: Grid) -> Float[np.ndarray, "members base key anchor d"]:
    """The value vectors of all members."""
    at = np.repeat(grid.first_anchor, grid.label[0].size)
    [stream] = read(opened, grid.flat, lambda a: [a.resid_post[0]])
    stream = stream[:, np.arange(len(at)), at]
    if opened.n_layer > 1:
        stream = stream @ opened.weight("value.1").cpu().numpy()
    return stream.reshape(len(stream), *grid.label.shape, -1)


def similarities(codes: Float[np.ndarray, "members base key anchor d"], grid: Grid) -> dict[str, Float[np.ndarray, "members base"]]:
    """The mean cosines defined in AnchorValue, one value per base; NaN where a base has no two such sequences."""
    equal, unequal = equal_against_unequal(codes, grid)
    return {"equal_g": equal, "unequal_g": unequal, "equal_minus_unequal": equal - unequal}


def _neighbours(grid: Grid) -> Int[np.ndarray, " cell"]:
    """The cells (key, anchor) of BLOCKS neighbouring values of g, from the middle of those every anchor produces, by g."""
    answer = grid.label[0].ravel()
    values, count = np.unique(answer, return_counts=True)
    by_all = values[count == len(grid.pairs)]
    middle = max(0, (len(by_all) - BLOCKS) // 2)
    return np.concatenate([np.flatnonzero(answer == value) for value in by_all[middle : middle + BLOCKS]] or [np.arange(0)])

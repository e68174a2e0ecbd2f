"""Fused vector: does the last position carry the composed value, whatever produced it? (2405.05409, 4.1; 2501.08537, figure 4)

The papers read resid_mid of the last layer at the last position: in their inferential solution two sequences with the
same composed value have nearly the same vector, whatever their keys and anchors; in their symmetric one a pair and its
mirror do. Here both are tested on trained pairs with the same filler and positions. A mirrored pair also has the same value, so
equal values are compared only across different keys and different pairs. The papers take cosines of the raw vectors; here,
the mean of each base sequence is subtracted first, since its large common component would bring every cosine near 1.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from anchorbench.inspect.open_model import OpenModel, open_one
from anchorbench.palette import CYCLE
from anchorbench.task import Task

from .pair_grid import (
    SECOND,
    SURVEY,
    Grid,
    by_difference,
    centred,
    cosines,
    draw_by_difference,
    equal_against_unequal,
    mean_where,
    mirrors,
    require_pairs,
    trained_keys_and_pairs,
    write_grid,
)
from .reading import read, trained_examples
from .score import Score, jackknife_scores, mean_scores

PROBE = "fused_vector"
KEYS = 12
"""Neighbouring keys per base sequence; 2405.05409 uses eleven, 30 to 40."""
MOST_BASES = 1000
SHOWN = 200
"""Approximate number of points in the PCA and t-SNE views; t-SNE takes a second."""


@dataclass(frozen=True)
class FusedVector:
    """Mean cosines of last-position vectors with 95% intervals over base sequences; the control is an untrained model.

    `equal_value`, `unequal_value` and their difference: different keys, different pairs. `mirrored`, `other_pairs` and their
    difference: same key. `mirror_distance`: distance between mirrored pairs' codes after attention of layer 0, relative to
    the distance between other pairs at the same key.
    """

    table: dict[str, Score]
    by_difference: Float[np.ndarray, " difference"]
    """Mean cosine by difference of composed values, 0 to FARTHEST; NaN for differences that do not occur in the task."""
    by_difference_control: Float[np.ndarray, " difference"]
    codes: Float[np.ndarray, "point d"]
    """Codes of pairs: resid_mid of layer 0 at the last position, minus the mean over pairs with the same base and key."""
    pair_of: Int[np.ndarray, "point 2"]
    does_not_show: str = (
        "Similar vectors for equal values do not prove that unseen pairs compose; even an untrained model merges mirrored pairs."
    )
    size: ClassVar[tuple[float, float]] = (9.6, 3.3)

    def scores(self) -> dict[str, Score]:
        return self.table

    def draw(self, figure: Any) -> None:
        """Draws similarity by difference of value, and two views of the pair codes after attention of layer 0."""
        curve, pca, tsne = figure.subplots(1, 3)
        draw_by_difference(curve, self.by_difference, self.by_difference_control)
        curve.set(xlabel="difference of composed values", title="last position, last attention")
        _draw_pairs(pca, principal_components(self.codes)[:, :2], self.pair_of)
        pca.set(title="pair codes, first attention: PCA", xlabel="PC 1", ylabel="PC 2")
        _draw_pairs(tsne, _tsne(self.codes), self.pair_of)
        tsne.set(title="the same: t-SNE", xticks=[], yticks=[])
        handles, labels = pca.get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=7,
            frameon=False,
            fontsize=8,
            title="colour: unordered pair; triangles: mirrored order; grey: doubled pairs",
            title_fontsize=8,
        )


def fused_vector(model: object, task: Task, n: int = 16, seed: int = 0) -> FusedVector:
    """Similarity of last-position vectors over `n` base sequences, each with twelve neighbouring keys and every trained pair.

    `model` is anything that `anchorbench.classify` accepts. Trained exceptions are left out, since their answers are not composed.
    Raises ValueError as `classify` does, and for a task without two anchors or an n outside 2 to 1000.
    """
    if not 2 <= n <= MOST_BASES:
        raise ValueError(f"n is {n}; allowed: 2 to {MOST_BASES} base sequences")
    opened, task = open_one(model, task)
    grid = _grid(task, n, seed)

    def last_vectors(which: Any) -> list[np.ndarray]:
        """resid_mid of the first and the last layer, `[members, base, key, pair, d]`."""
        seen = read(which, grid.flat, lambda a: [a.resid_mid[0][:, :, -1], a.resid_mid[-1][:, :, -1]])
        return [x.reshape(len(x), *grid.label.shape, -1) for x in seen]

    first, last = last_vectors(opened)
    first_control, last_control = last_vectors(opened.untrained(seed))
    table = mean_scores(similarities(last, grid), similarities(last_control, grid))
    untrained_distance = {"mirror_distance": float(mirror_distance(first_control, grid)[0])}
    mirrored, others = (distance[0] for distance in pair_distances(first, grid))
    if others.sum() > 0:
        table |= jackknife_scores(
            lambda kept: {"mirror_distance": float(mirrored[kept].sum() / others[kept].sum())}, n, untrained_distance
        )
    from_mean = (first - first.mean(3, keepdims=True))[0, : max(2, SHOWN // len(grid.pairs)), 0]
    return FusedVector(
        table=table,
        by_difference=by_difference(last, grid)[0],
        by_difference_control=by_difference(last_control, grid)[0],
        codes=from_mean.reshape(-1, from_mean.shape[-1]),
        pair_of=np.tile(grid.pairs, (len(from_mean), 1)),
    )


def mean_similarities(opened: OpenModel, task: Task, n: int, seed: int) -> dict[str, Float[np.ndarray, " members"]]:
    """The mean cosines defined in FusedVector, for every member of a stack, over `n` base sequences."""
    grid = _grid(task, n, seed)
    [last] = read(opened, grid.flat, lambda a: [a.resid_mid[-1][:, :, -1]])
    found = similarities(last.reshape(len(last), *grid.label.shape, -1), grid)
    return {name: values.mean(1) for name, values in found.items()}


def _grid(task: Task, n: int, seed: int) -> Grid:
    """Base sequences, each with its own neighbouring keys and every trained pair. Raises ValueError as `fused_vector` does."""
    require_pairs(PROBE, task)
    known, pairs = trained_keys_and_pairs(task, seed)
    width = min(KEYS, len(known))
    start = np.random.default_rng(seed).integers(len(known) - width + 1, size=n)
    bases = trained_examples(task, SURVEY, seed)
    inside = task.token_positions(bases.tokens)[SECOND] < task.seq_len - 1
    bases = (bases[inside] if inside.any() else bases)[:n]  # an anchor at the last position is a different case
    return write_grid(PROBE, task, bases, known[start[:, None] + np.arange(width)], pairs)


def similarities(codes: Float[np.ndarray, "members base key pair d"], grid: Grid) -> dict[str, Float[np.ndarray, "members base"]]:
    """The mean cosines defined in FusedVector, one value per base; NaN where a base has no two such sequences."""
    equal, unequal = equal_against_unequal(codes, grid)
    at_one_key = cosines(centred(codes))
    mirror, others = mirrors(grid.pairs)
    mirrored, other_pairs = (mean_where(at_one_key, mask).mean(-1) for mask in (mirror, others))
    return {
        "equal_value": equal,
        "unequal_value": unequal,
        "equal_minus_unequal": equal - unequal,
        "mirrored": mirrored,
        "other_pairs": other_pairs,
        "mirrored_minus_others": mirrored - other_pairs,
    }


def pair_distances(
    codes: Float[np.ndarray, "members base key pair d"], grid: Grid
) -> tuple[Float[np.ndarray, "members base"], Float[np.ndarray, "members base"]]:
    """Mean distance at the same key between the codes of mirrored pairs, and of other pairs."""
    distance = np.linalg.norm(codes[..., :, None, :] - codes[..., None, :, :], axis=-1)
    mirrored, others = (mean_where(distance, mask).mean(-1) for mask in mirrors(grid.pairs))
    return mirrored, others


def mirror_distance(codes: Float[np.ndarray, "members base key pair d"], grid: Grid) -> Float[np.ndarray, " members"]:
    """Ratio of the two `pair_distances`; NaN without mirrored pairs, or if all codes are equal."""
    mirrored, others = (distance.mean(-1) for distance in pair_distances(codes, grid))
    return np.divide(mirrored, others, out=np.full(len(codes), np.nan), where=others > 0)


def principal_components(x: Float[np.ndarray, "point d"]) -> Float[np.ndarray, "point component"]:
    """The points projected on their principal axes, in order of decreasing variance."""
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return u * s


def _tsne(x: Float[np.ndarray, "point d"]) -> Float[np.ndarray, "point 2"]:
    from sklearn.manifold import TSNE

    return TSNE(perplexity=min(12, len(x) // 4), init="pca", random_state=5).fit_transform(x)


def _draw_pairs(axes: Any, at: Float[np.ndarray, "point 2"], pair_of: Int[np.ndarray, "point 2"]) -> None:
    unordered = [pair for pair in np.unique(np.sort(pair_of, 1), axis=0).tolist() if pair[0] != pair[1]]
    doubled = pair_of[:, 0] == pair_of[:, 1]
    axes.scatter(*at[doubled].T, s=9, color="#bdbdbd", lw=0, zorder=1)
    for (a, b), color in zip(unordered, CYCLE, strict=False):
        for order, marker in (((a, b), "o"), ((b, a), "^")):
            rows = (pair_of == order).all(1)
            label = f"({a},{b})" if marker == "o" else None
            axes.scatter(*at[rows].T, s=16, marker=marker, color=color, alpha=0.85, lw=0, zorder=2, label=label)
    for a, b in {tuple(pair) for pair in pair_of[doubled].tolist()}:
        x, y = at[(pair_of == (a, b)).all(1)].mean(0)
        axes.annotate(f"({a},{b})", (x, y), (0, 6), textcoords="offset points", fontsize=7, color="#555555", ha="center", zorder=3)
    axes.spines[["top", "right"]].set_visible(False)

"""Sequences that differ only in key and anchors, and how similar a model's vectors are where the answer is equal."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from anchorbench.task import SPLITS, Examples, Task

from .reading import trained_examples
from .score import COLORS

SURVEY = 4000
"""Examples drawn to find out which keys and anchor pairs are trained."""
MOST_PAIRS = 20
"""Maximum number of trained pairs used per task."""
FARTHEST = 12
"""Largest value difference in a similarity curve."""
FIRST, SECOND = "first anchor", "second anchor"


def require_pairs(probe: str, task: Task) -> None:
    """Raises ValueError unless the task has two anchors."""
    marks = task.token_positions(trained_examples(task, 1, 0).tokens)
    if FIRST not in marks or SECOND not in marks:
        raise ValueError(f"probe {probe} needs a task whose sequences hold a key and two anchors; those of {task.name} do not")


def trained_keys_and_pairs(task: Task, seed: int) -> tuple[Int[np.ndarray, " keys"], Int[np.ndarray, "pair 2"]]:
    """The keys, and the ordered anchor pairs trained with the rule; of many, MOST_PAIRS are sampled together with their mirrors."""
    examples = task.sample("train", SURVEY, seed)  # other splits may lack keys
    with_rule = np.array([group.role == "trained" for group in task.groups])[examples.group]
    marks = task.token_positions(examples.tokens)
    anchors = np.stack([examples.tokens[np.arange(SURVEY), marks[name]] for name in (FIRST, SECOND)], 1)
    pairs = np.unique(anchors[with_rule], axis=0)
    unordered, member = np.unique(np.sort(pairs, 1), axis=0, return_inverse=True)
    rank = np.random.default_rng(seed).permutation(len(unordered))[member]
    return np.unique(examples.key), pairs[np.bincount(rank).cumsum()[rank] <= MOST_PAIRS]


@dataclass(frozen=True)
class Grid:
    """Sequences that differ only in key and anchors: `base` fillers and positions, each with its own keys and every pair."""

    pairs: Int[np.ndarray, "pair 2"]
    keys: Int[np.ndarray, "base key"]
    tokens: Int[np.ndarray, "base key pair seq"]
    label: Int[np.ndarray, "base key pair"]
    first_anchor: Int[np.ndarray, " base"]
    """Position of the first anchor."""

    @property
    def flat(self) -> Int[np.ndarray, "n seq"]:
        return self.tokens.reshape(-1, self.tokens.shape[-1])


def write_grid(
    probe: str, task: Task, bases: Examples, keys: Int[np.ndarray, "base key"], pairs: Int[np.ndarray, "pair 2"]
) -> Grid:
    """Writes keys and pairs into the sequences `bases`. Raises ValueError if the task does not train each pair with each key."""
    marks = task.token_positions(bases.tokens)
    n, per_base = keys.shape
    tokens = np.tile(bases.tokens[:, None, None], (1, per_base, len(pairs), 1))
    for base in range(n):
        tokens[base, :, :, marks["key"][base]] = keys[base][:, None]
        for anchor, name in enumerate((FIRST, SECOND)):
            tokens[base, :, :, marks[name][base]] = pairs[:, anchor]
    found = task.answer(tokens.reshape(-1, tokens.shape[-1]))
    if not found.valid.all() or (found.split == SPLITS.index("ood")).any():
        raise ValueError(f"probe {probe} needs a task whose trained pairs take every key; those of {task.name} do not")
    return Grid(pairs, keys, tokens, found.label.reshape(tokens.shape[:3]), marks[FIRST])


def centred(codes: Float[np.ndarray, "members base key pair d"]) -> Float[np.ndarray, "members base key pair d"]:
    """The vectors minus their base's mean."""
    return codes - codes.mean((2, 3), keepdims=True)


def cosines(x: Float[np.ndarray, "*batch n d"]) -> Float[np.ndarray, "*batch n n"]:
    """Pairwise cosines of `n` vectors; 0 for zero vectors."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    unit = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    return unit @ np.swapaxes(unit, -1, -2)


def mean_where(values: Float[np.ndarray, "*batch n n"], mask: np.ndarray) -> np.ndarray:
    """Mean of each matrix over the entries of `mask`, which broadcasts; NaN if the mask is empty."""
    total, count = np.einsum("...ij,...ij->...", values, mask.astype(values.dtype)), mask.sum((-2, -1))
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def equal_against_unequal(
    codes: Float[np.ndarray, "members base key pair d"], grid: Grid
) -> tuple[Float[np.ndarray, "members base"], Float[np.ndarray, "members base"]]:
    """Mean cosine of vectors with equal answers, and with unequal ones; keys and anchors differ, so they share nothing else.

    The mean of each base, which captures filler and positions, is subtracted first.
    """
    cosine, answer, other = _across(codes, grid)
    equal = answer[..., :, None] == answer[..., None, :]
    return mean_where(cosine, other & equal), mean_where(cosine, other & ~equal)


def by_difference(codes: Float[np.ndarray, "members base key pair d"], grid: Grid) -> Float[np.ndarray, "members difference"]:
    """The same by difference of the answers, 0 to FARTHEST; NaN for differences that do not occur."""
    cosine, answer, other = _across(codes, grid)
    apart = np.abs(answer[..., :, None] - answer[..., None, :])
    curve = np.full((len(codes), FARTHEST + 1), np.nan)
    for difference in range(FARTHEST + 1):
        mask = other & (apart == difference)
        if mask.any():
            curve[:, difference] = cosine[:, mask].mean(-1)
    return curve


def _across(codes: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For the cells (key, pair) of a base: cosines, answers, and a mask of those that differ in both key and unordered pair."""
    members, bases, keys, pairs, d = codes.shape
    _, others = mirrors(grid.pairs)
    other = (~np.eye(keys, dtype=bool))[:, None, :, None] & others[None, :, None, :]
    other = np.broadcast_to(other.reshape(keys * pairs, -1), (bases, keys * pairs, keys * pairs))
    return cosines(centred(codes).reshape(members, bases, keys * pairs, d)), grid.label.reshape(bases, -1), other


def mirrors(pairs: Int[np.ndarray, "pair 2"]) -> tuple[np.ndarray, np.ndarray]:
    """`[pair, pair]` masks: pairs that mirror each other, and pairs with different anchors."""
    reversed_ = (pairs[:, None] == pairs[None, :, ::-1]).all(-1)
    same = (pairs[:, None] == pairs[None]).all(-1)
    return reversed_ & ~same, ~reversed_ & ~same


def draw_by_difference(axes: Any, trained: Float[np.ndarray, " difference"], control: Float[np.ndarray, " difference"]) -> None:
    """Draws similarity against the difference of the answers, for a model and its untrained counterpart."""
    axes.axhline(0, color="#cccccc", lw=0.8, zorder=0)
    axes.plot(control, "D--", color=COLORS["control"], ms=3.5, lw=1.2, markerfacecolor="white", label="untrained")
    axes.plot(trained, "o-", color=COLORS["trained"], ms=4, lw=1.6, label="this model")
    axes.set(ylabel="mean cosine", xticks=range(0, FARTHEST + 1, 3), ylim=(-1.05, 1.05))
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)

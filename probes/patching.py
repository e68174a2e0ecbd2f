"""Patching: which positions carry the answer between two layers? Replaces their residual stream with that of another sequence.

Both circuits of 2405.05409 (section 4.1) predict the outcome. In the inferential one the key is moved to each anchor and the two
anchors carry all that the last position needs; in the symmetric one the pair is merged at the last position, and the key is read
from its own position. On trained pairs only, with two sequences that differ in key or pair or both:

    anchors_carry   resid_post of both anchors from a sequence with another key and another pair: the answer is that sequence's
    parts_carry     the same, with the first anchor's from (a1, b) and the second's from (c, a2), which never met
    key_at_anchors  resid_post of both anchors from a sequence with another key
    key_at_key      resid_post of the key from that sequence
    pair_at_last    resid_post of the last position from a sequence with another pair

Each is the share of answers that follow the patch, after every layer but the last (interchange interventions: 2106.02997). In a
task with a trained exception, `exception_in_order` measures how far its answer depends on the order of its anchors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from anchorbench.inspect.open_model import OpenModel, Site, open_one
from anchorbench.task import SPLITS, Task
from anchorbench.verdict import Share

from .pair_grid import FIRST, SECOND, SURVEY, require_pairs, trained_keys_and_pairs
from .reading import trained_examples
from .score import COLORS, Score, draw_scores, mean_scores

PROBE = "patching"
PATCHES = ("anchors_carry", "parts_carry", "key_at_anchors", "key_at_key", "pair_at_last")


@dataclass(frozen=True)
class Swaps:
    """Trained sequences with the same filler and positions: unchanged, and with another key, another pair, or both.

    `apart` holds two more sequences with the target's key, one per anchor, in which only this anchor is the target's.
    """

    tokens: dict[str, Int[np.ndarray, "n seq"]]
    """Keys: `base`, `other_key`, `other_pair`, `other_both`."""
    label: dict[str, Int[np.ndarray, " n"]]
    """Labels of these sequences."""
    apart: tuple[Int[np.ndarray, "n seq"], Int[np.ndarray, "n seq"]]
    key: Int[np.ndarray, " n"]
    anchors: Int[np.ndarray, "n 2"]
    """Positions of key (`key`) and anchors."""
    fillers: Int[np.ndarray, "n 2"]
    """Two random filler positions other than the last: the control."""

    @property
    def base(self) -> Int[np.ndarray, "n seq"]:
        return self.tokens["base"]


def write_swaps(task: Task, n: int, seed: int) -> Swaps:
    """Generates `n` sequences and their counterparts.

    Raises ValueError for a task without two anchors before the last position, or one that does not train its pairs with every key.
    """
    require_pairs(PROBE, task)
    rng = np.random.default_rng(seed)
    keys, pairs = trained_keys_and_pairs(task, seed)
    examples = trained_examples(task, max(SURVEY, 4 * n), seed)
    marks = task.token_positions(examples.tokens)
    trained = {tuple(pair) for pair in pairs.tolist()}
    rows = np.arange(len(examples))
    asked = np.stack([examples.tokens[rows, marks[name]] for name in (FIRST, SECOND)], 1)
    usable = (marks[SECOND] < task.seq_len - 1) & (task.seq_len >= 6) & [tuple(pair) in trained for pair in asked.tolist()]
    if usable.sum() < n:
        raise ValueError(f"probe {PROBE} needs a task with two anchors and filler before its last position; {task.name} has none")
    chosen = np.flatnonzero(usable)[:n]
    base, rows = examples.tokens[chosen], rows[:n]
    key_at, anchors_at = marks["key"][chosen], np.stack([marks[name][chosen] for name in (FIRST, SECOND)], 1)

    def write(key: np.ndarray | None, pair: np.ndarray | None) -> np.ndarray:
        tokens = base.copy()
        if key is not None:
            tokens[rows, key_at] = key
        if pair is not None:
            tokens[rows[:, None], anchors_at] = pair
        return tokens

    def labels(tokens: np.ndarray) -> np.ndarray:
        found = task.answer(tokens)
        if not found.valid.all() or (found.split == SPLITS.index("ood")).any():
            raise ValueError(f"probe {PROBE} needs a task whose trained pairs take every key; those of {task.name} do not")
        return found.label

    def other(differs: np.ndarray, values: np.ndarray) -> np.ndarray:
        """For each sequence one of `values` at random, among those that `differs [n, values]` allows."""
        if not differs.any(1).all():
            raise ValueError(f"probe {PROBE} needs a task with more trained pairs than {task.name} has")
        return values[(differs * rng.random(differs.shape)).argmax(1)]

    label = labels(base)
    by_pair = np.stack([labels(write(None, np.broadcast_to(candidate, (n, 2)))) for candidate in pairs], 1)
    pair_index = other(by_pair != label[:, None], np.arange(len(pairs)))
    new_pair = pairs[pair_index]
    new_key = other(keys != base[rows, key_at][:, None], keys)
    for _ in range(100):  # both changed: the answers must differ, or following the patch could not be detected
        clash = labels(write(new_key, new_pair)) == label
        clash |= labels(write(new_key, None)) == label
        if not clash.any():
            break
        new_key[clash] = rng.choice(keys, int(clash.sum()))
    else:
        raise ValueError(f"probe {PROBE} needs a task with more answers than {task.name} has")
    apart = [
        write(
            new_key, other((pairs[:, side] == new_pair[:, side, None]) & (pairs[:, 1 - side] != new_pair[:, 1 - side, None]), pairs)
        )
        for side in (0, 1)
    ]
    tokens = {"base": base, "other_key": write(new_key, None), "other_pair": write(None, new_pair)}
    tokens["other_both"] = write(new_key, new_pair)
    taken = np.concatenate([key_at[:, None], anchors_at, np.full((n, 1), task.seq_len - 1)], 1)
    free = ~(np.arange(task.seq_len)[None, :, None] == taken[:, None]).any(-1)
    fillers = np.where(free, rng.random(free.shape), 1).argsort(axis=1)[:, :2]
    return Swaps(
        tokens=tokens,
        apart=(apart[0], apart[1]),
        label={name: labels(sequences) for name, sequences in tokens.items()},
        key=key_at,
        anchors=anchors_at,
        fillers=fillers,
    )


Patch = tuple[Int[np.ndarray, " n"], list[Tensor]]
"""Positions at which resid_post is replaced, one per sequence, and the residual streams of all layers to take it from."""


def answers_after(
    opened: OpenModel, tokens: Int[np.ndarray, "n seq"], layer: int, patches: Sequence[Patch], noise: int | None = None
) -> Int[np.ndarray, "members n"]:
    """Answers to `tokens` with the patches applied after `layer`; given a seed `noise`, with random directions of the same norm."""
    rows = torch.arange(len(tokens), device="cpu")
    generator = None if noise is None else torch.Generator("cpu").manual_seed(noise)

    def edit(x: Tensor) -> Tensor:
        x = x.clone()
        for at, source in patches:
            where = torch.from_numpy(at)
            new = source[layer][:, rows, where]
            if generator is not None:
                direction = torch.randn(new.shape, generator=generator)
                new = direction * (new.norm(dim=-1, keepdim=True) / direction.norm(dim=-1, keepdim=True))
            x[:, rows, where] = new
        return x

    return opened.run(torch.from_numpy(tokens), {Site(layer, "resid_post"): edit}).answers.cpu().numpy()


def streams(opened: OpenModel, tokens: Int[np.ndarray, "n seq"]) -> list[Tensor]:
    """resid_post of each layer, as a source of patches."""
    return opened.run(torch.from_numpy(tokens)).resid_post


def followed(
    opened: OpenModel, swaps: Swaps, *, at_filler: bool = False, noise: int | None = None
) -> dict[str, Bool[np.ndarray, "members layer n"]]:
    """Whether each answer follows the patch, for every patch after every layer but the last.

    Controls: `at_filler` patches the same number of filler positions instead; `noise` is the seed of random directions.
    """
    both, other_key, other_pair = (streams(opened, swaps.tokens[name]) for name in ("other_both", "other_key", "other_pair"))
    parts = [streams(opened, tokens) for tokens in swaps.apart]
    one, two = swaps.fillers.T if at_filler else swaps.anchors.T
    key, last = (one, two) if at_filler else (swaps.key, np.full_like(swaps.key, swaps.base.shape[1] - 1))
    plans: dict[str, tuple[str, list[Patch]]] = {
        "anchors_carry": ("other_both", [(one, both), (two, both)]),
        "parts_carry": ("other_both", [(one, parts[0]), (two, parts[1])]),
        "key_at_anchors": ("other_key", [(one, other_key), (two, other_key)]),
        "key_at_key": ("other_key", [(key, other_key)]),
        "pair_at_last": ("other_pair", [(last, other_pair)]),
    }
    return {
        name: np.stack(
            [
                answers_after(opened, swaps.base, layer, patches, noise) == swaps.label[target]
                for layer in range(opened.n_layer - 1)
            ],
            1,
        )
        for name, (target, patches) in plans.items()
    }


def exception_in_order(
    opened: OpenModel, task: Task, swaps: Swaps, seed: int, *, at_filler: bool = False
) -> Float[np.ndarray, "members layer asked"] | None:
    """How far a trained exception (a1, a2) depends on what the second anchor knows of the first; None if the task has none.

    Only one anchor's residual stream is taken from the exception, the other from a pair that shares that anchor. A sequence counts
    1 if patching the second anchor's stream gives the exception's answer, minus 1 if patching the first's does. A sum of two parts,
    which ignores order, gives 0. The control, `at_filler`, patches filler positions instead.
    """
    pair = exception_pair(task, seed)
    if pair is None:
        return None
    _, pairs = trained_keys_and_pairs(task, seed)
    first = pairs[(pairs[:, 0] == pair[0]) & (pairs[:, 1] != pair[1])][0]
    second = pairs[(pairs[:, 1] == pair[1]) & (pairs[:, 0] != pair[0])][0]
    rows = np.arange(len(swaps.base))[:, None]

    def write(anchors: np.ndarray) -> np.ndarray:
        tokens = swaps.base.copy()
        tokens[rows, swaps.anchors] = anchors
        return tokens

    whole = write(pair)
    label = task.answer(whole).label
    seen, seen_first, seen_second = (streams(opened, tokens) for tokens in (whole, write(first), write(second)))
    one, two = swaps.fillers.T if at_filler else swaps.anchors.T
    asked = label != swaps.label["base"]

    def follows(layer: int, patches: Sequence[Patch]) -> np.ndarray:
        return (answers_after(opened, swaps.base, layer, patches) == label)[:, asked].astype(float)

    layers = range(opened.n_layer - 1)
    return np.stack(
        [follows(i, [(one, seen_first), (two, seen)]) - follows(i, [(one, seen), (two, seen_second)]) for i in layers], 1
    )


def exception_pair(task: Task, seed: int) -> Int[np.ndarray, " 2"] | None:
    """The anchors of the task's trained exception; None unless it has exactly one."""
    numbers = [number for number, group in enumerate(task.groups) if group.role == "exception"]
    if len(numbers) != 1:
        return None
    examples = trained_examples(task, SURVEY, seed)
    row = np.flatnonzero(examples.group == numbers[0])[:1]
    marks = task.token_positions(examples.tokens[row])
    return np.concatenate([examples.tokens[row, marks[name]] for name in (FIRST, SECOND)])


@dataclass(frozen=True)
class Patching:
    """Share of answers that follow each patch after each layer, `name.layer`, with 95% Wilson intervals.

    The control is the larger of two: the same patch at random filler positions, and in random directions of the same norm. With
    a trained exception also `exception_in_order.layer`, a mean difference with its t-interval; its control is at filler positions.
    """

    table: dict[str, Score]
    does_not_show: str = (
        "That the anchors carry the answer does not show how the rest of the model reads it: a lookup table over what they carry"
        " would follow the patch as well."
    )
    size: ClassVar[tuple[float, float]] = (5.6, 2.8)

    def scores(self) -> dict[str, Score]:
        return self.table

    def draw(self, figure: Any) -> None:
        """One row per patch: the share that follows, its interval and its control."""
        axes = figure.subplots()
        draw_scores(axes, self.table)
        axes.axvline(0, color=COLORS["control"], lw=0.6, zorder=0)
        least = min(score.low for score in self.table.values())
        axes.set(xlim=(min(least, 0) - 0.03, 1.03), xlabel="share of answers that follow the patch")
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.45, 1.18), ncols=2)


def patching(model: object, task: Task, n: int = 300, seed: int = 0) -> Patching:
    """Share of answers that follow each patch of the residual stream, over `n` trained sequences.

    `model` is anything that `anchorbench.classify` accepts. Raises ValueError as it does, for a one-layer model, and for a
    task without two anchors before the last position.
    """
    if n < 2:
        raise ValueError(f"n is {n}; allowed: at least 2 sequences, so that there is an interval")
    opened, task = open_one(model, task)
    if opened.n_layer < 2:
        raise ValueError(f"probe {PROBE} needs a model of two layers or more; this has {opened.n_layer}")
    swaps = write_swaps(task, n, seed)
    shares = followed(opened, swaps)
    controls = [followed(opened, swaps, at_filler=True), followed(opened, swaps, noise=seed)]
    table: dict[str, Score] = {}
    for name in PATCHES:
        for layer in range(opened.n_layer - 1):
            control = max(float(found[name][0, layer].mean()) for found in controls)
            share = Share(int(shares[name][0, layer].sum()), n)
            table[f"{name}.{layer}"] = Score(share.value, *share.interval, control)
    in_order, control = (exception_in_order(opened, task, swaps, seed, at_filler=filler) for filler in (False, True))
    if in_order is not None and control is not None:
        names = [f"exception_in_order.{layer}" for layer in range(opened.n_layer - 1)]
        found, untouched = (dict(zip(names, np.moveaxis(each, 1, 0), strict=True)) for each in (in_order, control))
        table |= mean_scores(found, untouched)
    return Patching(table)


def carried(shares: Mapping[str, Shaped[np.ndarray, "members layer n"]]) -> dict[str, Float[np.ndarray, " members"]]:
    """Each patch's mean after the layer where it is largest, since in a deep model the circuit may sit anywhere."""
    return {name: found.mean(2).max(1) for name, found in shares.items()}

"""Embedding order: does the embedding of the keys carry the number line? (2405.05409, section 4.3; 2501.08537, figure 5)

Models that infer the rule order the keys along few axes, with arithmetic steps: keys that differ by the difference of two anchors
are similar, since they lead to the same answers. The value of a key is its token id.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from anchorbench.inspect.open_model import open_one
from anchorbench.task import NO_ANSWER, Task

from .pair_grid import FIRST, SECOND, cosines
from .score import COLORS, Score, jackknife_scores

FOLDS = 4
"""Cross-validation folds: every fourth key is left out in turn."""
RIDGE = 1.0
"""Ridge penalty, in units of the mean squared norm of a key's centred embedding."""
SHUFFLES = 20
LIMITS = {"ridge_r2": (-np.inf, 1.0), "first_axis_order": (0.0, 1.0), "arithmetic_steps": (-2.0, 2.0)}
"""Ranges of the scores."""
FARTHEST = 20
"""Largest key difference in the similarity curve."""
SURVEY = 4000
"""Examples drawn to find out which keys and anchors occur."""


def ridge_r2(x: Float[np.ndarray, "key d"], value: Int[np.ndarray, " key"], fold: Int[np.ndarray, " key"]) -> float:
    """R2 of `value` predicted from `x` by ridge regression on the other folds; 0 is the score of predicting their mean."""
    error = total = 0.0
    for left_out in range(FOLDS):
        fit, test = fold != left_out, fold == left_out
        centre, mean = x[fit].mean(0), value[fit].mean()
        inside = x[fit] - centre
        gram = inside @ inside.T
        penalty = RIDGE * np.trace(gram) / len(gram)
        weights = np.linalg.solve(gram + (penalty or 1.0) * np.eye(len(gram)), value[fit] - mean)
        guess = mean + (x[test] - centre) @ inside.T @ weights
        error += float(np.square(value[test] - guess).sum())
        total += float(np.square(value[test] - mean).sum())
    return 1 - error / total


def first_axis_order(x: Float[np.ndarray, "key d"], value: Int[np.ndarray, " key"]) -> float:
    """Absolute rank correlation of the first principal component with `value`; 0 if all embeddings are equal."""
    centred = x - x.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    along = centred @ axes[0]
    from scipy import stats

    return abs(float(np.corrcoef(stats.rankdata(along), stats.rankdata(value))[0, 1])) if np.ptp(along) > 0 else 0.0


def similarity_by_difference(x: Float[np.ndarray, "key d"], value: Int[np.ndarray, " key"]) -> Float[np.ndarray, " difference"]:
    """Mean cosine of the centred embeddings of keys that differ by 1 to FARTHEST; NaN for differences that do not occur."""
    cosine = cosines(x - x.mean(0))
    apart = np.abs(value[:, None] - value[None])
    return np.array([cosine[apart == d].mean() if (apart == d).any() else np.nan for d in range(1, FARTHEST + 1)])


def arithmetic_steps(similarity: Float[np.ndarray, " difference"], steps: Int[np.ndarray, " step"]) -> float:
    """How much more similar keys are that differ by one of `steps` than by another difference up to the largest of them, plus one.

    Both are measured relative to a parabola fitted to the whole range, so that a smooth number line scores zero.
    """
    stretch = np.arange(1, min(int(steps.max()) + 1, FARTHEST) + 1)
    shown = similarity[stretch - 1]
    rest = shown - np.polyval(np.polyfit(stretch, shown, 2), stretch)
    at_step = np.isin(stretch, steps)
    return float(rest[at_step].mean() - rest[~at_step].mean())


def variances(x: Float[np.ndarray, "key d"]) -> Float[np.ndarray, " axis"]:
    """Eigenvalues of the covariance, in descending order."""
    return np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2 / len(x)


def dimensions(x: Float[np.ndarray, "key d"]) -> float:
    """Participation ratio of the variances: the number of axes that the keys spread over."""
    variance = variances(x)
    return float(variance.sum() ** 2 / np.square(variance).sum()) if variance[0] > 0 else 0.0


def mean_similarity(x: Float[np.ndarray, "token d"]) -> float:
    """Mean cosine of distinct tokens."""
    return float(cosines(x)[~np.eye(len(x), dtype=bool)].mean())


@dataclass(frozen=True)
class EmbeddingOrder:
    """Scores of the key embeddings with 95% jackknife intervals over keys (for `anchor_similarity`, over anchors).

    `ridge_r2`, `first_axis_order` and `arithmetic_steps` (in tasks whose anchors add) have shuffled values as control;
    `dimensions` and `anchor_similarity` (from three anchors on) have an untrained model as control.
    """

    table: dict[str, Score]
    values: Int[np.ndarray, " key"]
    axes: Float[np.ndarray, "key 2"]
    """The keys projected on the first two principal axes."""
    explained: Float[np.ndarray, " axis"]
    """Fraction of variance along each principal axis."""
    explained_control: Float[np.ndarray, " axis"]
    similarity: Float[np.ndarray, " difference"]
    """Mean cosine of keys that differ by 1, 2, ..."""
    similarity_control: Float[np.ndarray, " difference"]
    """The same with shuffled values."""
    steps: Int[np.ndarray, " step"]
    """Differences of two anchors, where anchors add."""
    anchors: Int[np.ndarray, " anchor"]
    anchor_cosine: Float[np.ndarray, "anchor anchor"]
    does_not_show: str = "An ordered embedding does not prove that the model computes with the order."
    size: ClassVar[tuple[float, float]] = (7.4, 5.4)

    def scores(self) -> dict[str, Score]:
        return self.table

    def draw(self, figure: Any) -> None:
        """Draws the keys along two axes, variances, similarity by difference, and the anchors."""
        (plane, scree), (curve, anchors) = figure.subplots(2, 2)
        dots = plane.scatter(*self.axes.T, c=self.values, cmap="viridis", s=18, lw=0, zorder=2)
        plane.plot(*self.axes.T, color="#bbbbbb", lw=0.6, zorder=1)
        plane.set(
            xlabel=f"PC 1 ({self.explained[0]:.0%})", ylabel=f"PC 2 ({self.explained[1]:.0%})", title="embeddings of the keys"
        )
        figure.colorbar(dots, ax=plane, label="value of the key")
        rank = np.arange(1, len(self.explained) + 1)
        scree.plot(rank, self.explained_control[: len(rank)], "--", color=COLORS["control"], lw=1.4, label="untrained")
        scree.plot(rank, self.explained, color=COLORS["trained"], lw=1.6, label="this model")
        scree.set(xlabel="principal axis", ylabel="share of variance", title="eigenvalues", ylim=(0, None))
        scree.legend(frameon=False, fontsize=8)
        difference = np.arange(1, FARTHEST + 1)
        curve.axhline(0, color="#cccccc", lw=0.8, zorder=0)
        curve.plot(difference, self.similarity_control, "D--", color=COLORS["control"], ms=3, lw=1.2, label="values shuffled")
        curve.plot(difference, self.similarity, "o-", color=COLORS["trained"], ms=4, lw=1.6, label="this model")
        steps = self.steps[self.steps <= FARTHEST]
        if len(steps):
            curve.plot(
                steps, self.similarity[steps - 1], "o", color=COLORS["anchor"], ms=6.5, label="difference of two anchors", zorder=4
            )
        curve.set(xlabel="difference of two keys", ylabel="mean cosine", title="arithmetic steps", xticks=range(0, FARTHEST + 1, 4))
        curve.legend(frameon=False, fontsize=8, loc="upper right")
        bottom, top = curve.get_ylim()
        curve.set_ylim(bottom, top + 0.5 * (top - bottom))  # room for the legend
        image = anchors.imshow(self.anchor_cosine, cmap="RdBu_r", vmin=-1, vmax=1)
        names = [f"a{anchor}" for anchor in self.anchors]
        anchors.set_xticks(range(len(names)), names)
        anchors.set_yticks(range(len(names)), names)
        anchors.set(title="embeddings of the anchors")
        figure.colorbar(image, ax=anchors, label="cosine")
        for axes in (plane, scree, curve):
            axes.spines[["top", "right"]].set_visible(False)


def embedding_order(model: object, task: Task, seed: int = 0) -> EmbeddingOrder:
    """The order of the key embeddings, and the similarity of the anchor embeddings.

    `model` is anything that `anchorbench.classify` accepts. Raises ValueError as `classify` does, and for a task without keys.
    """
    opened, task = open_one(model, task)
    examples = task.sample("train", SURVEY, seed)  # other splits may lack keys
    if (examples.key == NO_ANSWER).any():
        raise ValueError(f"probe embedding_order needs a task with a key; {task.name} has none")
    keys = np.unique(examples.key)
    if len(keys) < 2 * FOLDS:
        raise ValueError(f"probe embedding_order needs a task with at least {2 * FOLDS} keys; {task.name} has {len(keys)}")
    marks = task.token_positions(examples.tokens)
    standing = [examples.tokens[np.arange(SURVEY), at] for name, at in marks.items() if "anchor" in name]
    anchors = np.unique(np.concatenate(standing)) if standing else np.arange(0)
    steps = _anchor_differences(task, seed) if {FIRST, SECOND} <= marks.keys() else np.arange(0)
    embedding, untrained = (which.weight("embedding")[0].cpu().numpy() for which in (opened, opened.untrained(seed)))
    x = embedding[keys]

    fold = np.arange(len(keys)) % FOLDS

    def ordered(kept: np.ndarray, values: np.ndarray) -> dict[str, float]:
        x, values = embedding[keys[kept]], values[kept]
        named = {"ridge_r2": ridge_r2(x, values, fold[kept]), "first_axis_order": first_axis_order(x, values)}
        return named | ({"arithmetic_steps": arithmetic_steps(similarity_by_difference(x, values), steps)} if len(steps) else {})

    rng = np.random.default_rng(seed)
    orders = [rng.permutation(keys) for _ in range(SHUFFLES)]
    shuffled = [ordered(np.arange(len(keys)), order) for order in orders]
    control = {name: float(np.mean([one[name] for one in shuffled])) for name in shuffled[0]}
    found = jackknife_scores(lambda kept: ordered(kept, keys), len(keys), control)
    table = {name: score.within(*LIMITS[name]) for name, score in found.items()} | jackknife_scores(
        lambda kept: {"dimensions": dimensions(x[kept])}, len(keys), {"dimensions": dimensions(untrained[keys])}
    )
    if len(anchors) > 2:
        among = {"anchor_similarity": mean_similarity(untrained[anchors])}
        found = jackknife_scores(lambda kept: {"anchor_similarity": mean_similarity(embedding[anchors[kept]])}, len(anchors), among)
        table |= {name: score.within(-1.0, 1.0) for name, score in found.items()}
    centred = x - x.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    return EmbeddingOrder(
        table=table,
        values=keys,
        axes=centred @ axes[:2].T,
        explained=variances(x) / variances(x).sum(),
        explained_control=variances(untrained[keys]) / variances(untrained[keys]).sum(),
        similarity=similarity_by_difference(x, keys),
        similarity_control=np.mean([similarity_by_difference(x, order) for order in orders], axis=0),
        steps=steps,
        anchors=anchors,
        anchor_cosine=cosines(embedding[anchors]),
    )


def _anchor_differences(task: Task, seed: int) -> Int[np.ndarray, " step"]:
    """Differences between the answers of two trained pairs that share an anchor; empty if anchors do not add."""
    examples = task.sample("train", SURVEY, seed)
    marks = task.token_positions(examples.tokens)
    offsets: dict[tuple[int, int], set[int]] = {}
    for row in np.flatnonzero(np.array([group.role == "trained" for group in task.groups])[examples.group]):
        tokens = examples.tokens[row]
        pair = int(tokens[marks[FIRST][row]]), int(tokens[marks[SECOND][row]])
        offsets.setdefault(pair, set()).add(int(examples.label[row] - examples.key[row]))
    if any(len(seen) > 1 for seen in offsets.values()):
        return np.arange(0)
    added = {pair: seen.pop() for pair, seen in offsets.items()}
    apart = {abs(added[p] - added[q]) for p in added for q in added if p[0] == q[0] or p[1] == q[1]} - {0}
    return np.array(sorted(apart), dtype=np.int64)

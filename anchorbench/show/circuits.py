"""Attention of many runs, averaged over sequences, and the two runs whose circuits differ most."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from anchorbench.inspect.open_model import open_model
from anchorbench.probes.attention_flow import LAST, attention, flow, summary
from anchorbench.sweeps.run_folder import Run

SEQUENCES = 200
"""Sequences over which attention is averaged."""
APART = 0.3
"""Difference of an attention score from which on attention tells two runs apart."""
CANDIDATES = 24
"""Runs of either verdict among which the pair is looked for."""
DECIDED = ("memorizing", "symmetric")


@dataclass(frozen=True)
class Flow:
    """A run's attention from readers to sources, averaged over heads and sequences, and its scores (see `attention_flow`)."""

    readers: tuple[str, ...]
    sources: tuple[str, ...]
    share: Float[np.ndarray, "layer reader source"]
    scores: dict[str, float]


def flow_of(run: Run) -> Flow | None:
    """The run's attention on held-out sequences; None if its task has no key, or its model cannot be opened."""
    try:
        task = run.recipe.load_task()
        tokens: Int[np.ndarray, "n seq"] = task.sample("ood" if "ood" in task.splits else "iid", SEQUENCES, seed=0).tokens
        marks = task.token_positions(tokens)
        if (marks["key"] < 0).any():
            return None
        patterns = attention(open_model(run), tokens)
    except ValueError:
        return None
    readers = {name: at for name, at in marks.items() if name != "key"} | {LAST: np.full(len(tokens), task.seq_len - 1)}
    share = flow(patterns, readers, marks)[0].mean(0)
    scores = {name: float(np.mean(values)) for name, values in summary(patterns, marks).items()}
    return Flow(tuple(readers), (*marks, "filler"), share, scores)


def difference(a: Flow | None, b: Flow | None) -> tuple[str, float]:
    """The attention score in which two runs differ most, and by how much; no score and 0 if there is none."""
    shared = [] if a is None or b is None else [(name, abs(a.scores[name] - b.scores[name])) for name in a.scores.keys() & b.scores]
    return max(sorted(shared), key=lambda each: each[1], default=("", 0.0))


def most_different(runs: Sequence[Run], known: dict[str, Flow | None] | None = None) -> list[Run]:
    """The two runs whose attention differs most, of those that fit: an inferential one and one that memorizes, if there are such.

    Equal differences are settled by the shares of held-out answers that compose. One run if only one fits, none if none does.
    `known` holds flows by run id, and is added to.
    """
    flows = known if known is not None else {}
    fit = [run for run in runs if run.result.verdict not in (None, "underfit") and run.result.inferential is not None]
    fit.sort(key=lambda run: (-(run.result.inferential or 0.0), -run.result.accuracy_iid.value))
    sides = [run for run in fit if run.result.verdict == "inferential"], [run for run in fit if run.result.verdict in DECIDED]
    if not all(sides):
        sides = fit[: (len(fit) + 1) // 2], fit[(len(fit) + 1) // 2 :]
    first, second = sides[0][:CANDIDATES], sides[1][-CANDIDATES:]
    if not second:
        return first[:1]
    for run in (*first, *second):
        if run.result.run_id not in flows:
            flows[run.result.run_id] = flow_of(run)

    def apart(pair: tuple[Run, Run]) -> tuple[float, float]:
        a, b = pair
        _, size = difference(flows[a.result.run_id], flows[b.result.run_id])
        return round(size, 3), (a.result.inferential or 0.0) - (b.result.inferential or 0.0)

    return list(max(itertools.product(first, second), key=apart))

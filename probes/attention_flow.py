"""Attention flow: from where do the anchor positions and the last position read, layer by layer? (2405.05409, section 4.1)

In the papers' inferential circuit, layer 1 moves the key to each anchor and layer 2 moves both anchors to the last position; in
their symmetric circuit, layer 1 merges both anchors at the last position and layer 2 fetches the key.

It does not show how a model answers: pre-LN members of two layers move the key to the anchors whether they compose or memorize,
and attention to a position does not prove that what stands there is used.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from anchorbench.hub import open_model
from anchorbench.task import Task

DOES_NOT_SHOW = "Attention to a position does not prove that what stands there is used, nor that the model composes."


@dataclass(frozen=True)
class AttentionFlow:
    """Mean share of attention, `[layer, reader, source]`, with the half-width of its 95% interval over sequences, and the same
    measure on an untrained model of the same shape (`control`).
    """

    readers: tuple[str, ...]
    sources: tuple[str, ...]
    share: Float[np.ndarray, "layer reader source"]
    half_width: Float[np.ndarray, "layer reader source"]
    control: Float[np.ndarray, "layer reader source"]
    does_not_show: str = DOES_NOT_SHOW


def attention_flow(model: object, task: Task, n: int = 500, seed: int = 0) -> AttentionFlow:
    """Attention of anchors and last position to key, anchors and filler, on `n` seen-group sequences at unseen positions.

    `model` is anything that `anchorbench.classify` takes. Where reader and source coincide, the share is the position's
    attention to itself; a last position that is an anchor counts as that anchor. Heads are averaged. Raises ValueError for fewer
    than two sequences, and as `classify` does.
    """
    if n < 2:
        raise ValueError(f"n is {n}; allowed: at least 2 sequences, so that there is an interval")
    opened = open_model(model)
    tokens = task.sample("iid", n, seed).tokens
    marks = task.landmarks(tokens)
    last = np.full(n, task.seq_len - 1)
    readers = {name: at for name, at in marks.items() if name != "key"} | {"last position": last}

    def measure(patterns: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(n)
        per_sequence = np.empty((n, len(patterns), len(readers), len(marks) + 1))
        for layer, pattern in enumerate(patterns):
            for reader, at in enumerate(readers.values()):
                attention = pattern.mean(1)[rows, at]  # [n, seq]
                shares = [attention[rows, source] for source in marks.values()]
                per_sequence[:, layer, reader] = np.stack([*shares, 1 - sum(shares)], axis=-1)
        return per_sequence.mean(0), 1.96 * per_sequence.std(0, ddof=1) / np.sqrt(n)

    share, half_width = measure(opened.attention(tokens))
    control, _ = measure(opened.untrained(seed).attention(tokens))
    return AttentionFlow(tuple(readers), (*marks, "filler"), share, half_width, control)

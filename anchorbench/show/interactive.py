"""The attention of every head on one sequence, to explore in a browser: drawn by CircuitsVis, the extra `interactive`."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from anchorbench.files import write_atomically
from anchorbench.inspect.open_model import open_one
from anchorbench.probes.attention_flow import central
from anchorbench.probes.reading import read
from anchorbench.task import Task

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Attention of every head</title></head>
<body style="font-family: sans-serif">
<p>Attention of every head on one held-out sequence; rows read, columns are read.</p>
{body}</body></html>
"""


def circuitsvis() -> Any:
    """CircuitsVis' module of attention. Raises ValueError with one sentence if it is not installed."""
    try:
        return import_module("circuitsvis.attention")
    except ImportError as error:
        raise ValueError(f"CircuitsVis cannot be used ({error}); allowed: after pip install 'anchorbench[interactive]'") from None


def interactive_attention(model: object, task: Task, path: Path) -> Path:
    """Writes a page, which needs no network, with the attention of every head of a model on a held-out sequence of the task.

    `model` is anything that `anchorbench.classify` accepts. Raises ValueError as `classify` and `circuitsvis` do.
    """
    opened, task = open_one(model, task)
    tokens = central(task, task.sample("ood" if "ood" in task.splits else "iid", 200, seed=0).tokens)
    layers = [pattern[0, 0] for pattern in read(opened, tokens, lambda a: a.patterns)]  # per layer [head, query, key]
    names = [f"layer {layer}, head {head}" for layer, pattern in enumerate(layers, 1) for head in range(1, len(pattern) + 1)]
    drawn = circuitsvis().attention_heads(
        attention=np.concatenate(layers),
        tokens=task.text(tokens)[0].split(),
        attention_head_names=names,
        min_value=0,
        max_value=1,
        mask_upper_tri=True,
    )
    write_atomically(path, PAGE.format(body=drawn.local_src).encode())
    return path

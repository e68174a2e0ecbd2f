"""Copied beside the tests by test_contributing.py, where the task and the probe of its examples are installed."""

import pytest
import torch
from conftest import random_gpt
from probe_results import require_figure, require_result

from anchorbench import load_task
from anchorbench.inspect.open_model import open_model
from anchorbench.probes import probes, run_probe


def test_the_probe() -> None:
    model, task = open_model(random_gpt(n_head=2, d_model=16, d_head=8, d_ff=32)), load_task("successor")
    result = run_probe("attention_on_key", model, task)
    require_result(result)
    require_figure(result.size, result.draw)
    found, examples = probes["attention_on_key"](model, task, n=20).scores(), task.sample("iid", 20, 0)
    patterns = [model.run(torch.from_numpy(tokens[None])).patterns for tokens in examples.tokens]
    for layer in range(model.n_layer):
        shares = [float(pattern[layer][0, 0, :, -1, at].mean()) for pattern, at in zip(patterns, examples.position, strict=True)]
        assert found[f"layer_{layer}"].value == pytest.approx(sum(shares) / 20, abs=1e-6)
    with pytest.raises(ValueError, match="needs a task with a key; count-anchor has none"):
        run_probe("attention_on_key", model, load_task("count-anchor"))

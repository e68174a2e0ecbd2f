"""The page of CircuitsVis: every head's attention as it is, in a page that asks the network for nothing."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, Cli
from pages import Watched

from anchorbench.inspect.open_model import open_model
from anchorbench.probes.attention_flow import attention, central
from anchorbench.show.interactive import interactive_attention
from anchorbench.sweeps.run_folder import Run
from anchorbench.sweeps.runner import Sweep, SweepFolder, run_sweep

SMALL = TINY.override({"model.n_head": 2, "steps": 2, "optimizer.warmup": 1})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    sweep = Sweep(SMALL, {"seed": (0,)})
    return run_sweep(sweep, SweepFolder(tmp_path_factory.mktemp("interactive"), sweep))[0]


def test_the_page_holds_the_attention_of_every_head(run: Run, tmp_path: Path) -> None:
    """Averaged over heads it is what the attention figure draws."""
    task = run.recipe.load_task()
    text = interactive_attention(run, task, tmp_path / "a.html").read_text()
    (shown,) = re.findall(r'"attention": (\[\[\[.*?\]\]\])', text)
    layers, heads = run.recipe.model.n_layer, 2
    found = np.array(json.loads(shown)).reshape(layers, heads, task.seq_len, task.seq_len)
    tokens = central(task, task.sample("ood", 200, seed=0).tokens)
    for layer, expected in zip(found, attention(open_model(run), tokens), strict=True):
        assert layer.mean(0) == pytest.approx(expected[0, 0], abs=1e-6)
    assert json.dumps(task.text(tokens)[0].split()) in text
    assert all(f"layer {layer}, head {head}" in text for layer in range(1, layers + 1) for head in (1, 2))


def test_it_is_drawn_without_the_network(run: Run, browser: Any, tmp_path: Path) -> None:
    watched = Watched(browser, interactive_attention(run, run.recipe.load_task(), tmp_path / "a.html"))
    assert watched.tab.get_by_text("layer 1, head 2").first.is_visible()
    assert watched.is_quiet(), (watched.said, watched.requests)
    watched.context.close()


def test_the_command_writes_it_or_says_what_is_missing(run: Run, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("classify", run.path, "--interactive", tmp_path / "a.html")
    assert (done.code, (tmp_path / "a.html").exists()) == (0, True)
    assert "allowed: a file that ends in .html" in cli("classify", run.path, "--interactive", tmp_path / "a.pdf").err
    monkeypatch.setitem(sys.modules, "circuitsvis.attention", None)
    missing = cli("classify", run.path, "--interactive", tmp_path / "b.html")
    assert missing.code == 2
    assert "allowed: after pip install 'anchorbench[interactive]'" in missing.err
    assert not (tmp_path / "b.html").exists()

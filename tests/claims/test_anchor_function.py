"""Claims of 2401.08309: what they read off models, against the same worked out by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from anchorbench.claim import claims
from anchorbench.claims import condensation_small_init, identity_ablation, multi_anchor_masked, statistical_calibrated
from anchorbench.claims.anchor_function import epochs, in_the_paper, small
from anchorbench.claims.arms import train_sweep
from anchorbench.inspect.open_model import open_one
from anchorbench.recipe import parse_recipe
from anchorbench.sweeps.run_folder import Run
from anchorbench.sweeps.runner import Sweep

NARROW = {"model.d_model": 8, "model.d_head": 8, "model.d_ff": 8, "optimizer.warmup": 0, "steps": 3, "data_size": 20}


@pytest.fixture(scope="module")
def statistical(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    recipe = parse_recipe(small("statistical")).override(NARROW)
    return train_sweep(Sweep(recipe, {"seed": (0, 1)}), tmp_path_factory.mktemp("runs"))


def test_probabilities_are_those_of_the_key_and_its_successor(statistical: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistical_calibrated, "ASKED", 20)
    run = statistical[1]
    task = run.recipe.load_task()
    opened, _ = open_one(run, task)
    asked = task.sample("iid", statistical_calibrated.ASKED, 1)
    found = np.zeros(2)
    for tokens in asked.tokens:
        logits = opened.run(torch.from_numpy(tokens[None])).logits[0, 0].tolist()
        key = tokens[list(tokens).index(3) + 1]
        total = sum(np.exp(logit) for logit in logits)
        found += [np.exp(logits[key]) / total, np.exp(logits[key + 1]) / total]
    assert statistical_calibrated.read_probabilities(run) == pytest.approx(found / len(asked), rel=1e-5)


def test_directions_of_neurons_by_hand(statistical: list[Run]) -> None:
    for run, found in zip(statistical, condensation_small_init.directions(statistical, "ff_in.0"), strict=True):
        neurons = run.weights()["blocks.0.ff_in.weight"].double().T
        cosines = [torch.cosine_similarity(one, other, dim=0).item() for one in neurons for other in neurons]
        assert found == pytest.approx(len(neurons) ** 2 / sum(cosine**2 for cosine in cosines))


def test_attention_is_read_at_the_anchor_and_at_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_ablation, "ASKED", 20)
    (run,) = train_sweep(Sweep(parse_recipe(small("identity")).override(NARROW), {"seed": (3,)}), tmp_path)
    task = run.recipe.load_task()
    tokens = task.sample("iid", identity_ablation.ASKED, 3).tokens
    opened, _ = open_one(run, task)
    first, last = [], []
    for row in tokens:
        anchor = list(row).index(3)
        if anchor + 1 < len(row) - 1:
            patterns = opened.run(torch.from_numpy(row[None])).patterns
            first.append(patterns[0][0, 0, 0, anchor + 1, anchor].item())
            last.append(patterns[-1][0, 0, 0, -1, anchor + 1].item())
    assert identity_ablation.attention(run) == pytest.approx((np.mean(first), np.mean(last)), rel=1e-4)


def test_off_by_one_is_the_other_anchor() -> None:
    run: Any = SimpleNamespace(result=SimpleNamespace(deviations={1: 3, -1: 5, 0: 1, 7: 1}))
    assert multi_anchor_masked.by_other_anchor(run) == 0.8


def test_epochs_are_passes_over_the_data() -> None:
    fields = epochs(1000, 4000)
    assert fields == {"data_size": 1000, "steps": 80_000, "optimizer.warmup": 8_000}
    recipe = parse_recipe(in_the_paper("identity")).override(fields)
    assert recipe.steps * recipe.batch == 4000 * 1000
    assert recipe.optimizer.lr * recipe.optimizer.start == pytest.approx(2e-5)


def test_arms_of_many_anchors_are_the_papers() -> None:
    settings: Any = claims["multi-anchor-masked"].scales["paper"]
    ten = settings.recipe(multi_anchor_masked.label(10, 8)).load_task()
    assert ten.fingerprint == settings.recipe(multi_anchor_masked.label(10)).load_task().fingerprint
    assert ten.config.offsets == {anchor: anchor for anchor in range(1, 11)}

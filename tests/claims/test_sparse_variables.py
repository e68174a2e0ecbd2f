"""Sparse variables: when a sample determines a function, and the models by loops and torch's own layers."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from claim_runs import require_findings, run

from anchorbench.claim import CANNOT, claims
from anchorbench.claims import sparse_variables


def test_a_sample_determines_the_function_if_no_other_set_fits() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for m in (4, 8, 12, 16, 24):
        for _ in range(20):
            sample = sparse_variables.draw(rng, np.array([1, 4, 6]), 8, m)
            fitting = [s for s in itertools.combinations(range(8), 3) if (sample.bits[:, s].all(1) == sample.label).all()]
            seen.add(len(fitting) == 1)
            assert sparse_variables.determined(sample, 3) == (len(fitting) == 1)
    assert seen == {True, False}


def test_labels_are_balanced() -> None:
    sample = sparse_variables.draw(np.random.default_rng(0), np.array([0, 5, 9]), 16, 20_000)
    assert sample.label.mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(sample.bits.mean(0), 0.5 ** (1 / 3), atol=0.02)


def small(**changed: Any) -> Any:
    settings = claims["sparse-variables"].scales["laptop"]
    return type(settings).model_validate(settings.model_dump() | {"width": 8, "heads": 2, "hidden": 5} | changed)


def stacked(*weights: sparse_variables.Weights) -> sparse_variables.Weights:
    return {name: torch.stack([each[name] for each in weights]) for name in weights[0]}


def test_the_models_are_those_that_are_described() -> None:
    """By a loop over strings, heads and positions, and by torch's own layers."""
    generator, settings = torch.Generator().manual_seed(0), small()
    w = sparse_variables.new_transformer(generator, 6, settings)
    bits = (torch.rand(3, 6, generator=generator) < 0.5).float()
    expected = []
    for string in bits:
        tokens = torch.stack([w["bit"][int(bit), 0] + w["position"][0, at] for at, bit in enumerate(string)])
        gathered = []
        for head in (slice(0, 4), slice(4, 8)):
            scores = (tokens @ w["key"])[:, head] @ w["query"][head] / 2
            gathered.append(scores.softmax(0) @ (tokens @ w["value"])[:, head])
        hidden = (torch.cat(gathered) @ w["out"] @ w["in"] + w["in_bias"][0]).relu()
        expected.append(hidden @ w["read"][:, 0] + w["read_bias"][0])
    found = sparse_variables.transformer(stacked(w, w), torch.stack([bits, bits]), 2)
    torch.testing.assert_close(found, torch.stack(expected).expand(2, 3))


def test_seeds_do_not_mix() -> None:
    settings = small(steps=20)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    samples = [sparse_variables.draw(rng, np.array([0, 1, 2]), 6, 10) for _ in range(2)]
    weights = [sparse_variables.new_transformer(generator, 6, settings) for _ in range(2)]

    def trained(chosen: Sequence[int]) -> sparse_variables.Weights:
        w = stacked(*[{name: part.clone() for name, part in weights[k].items()} for k in chosen])
        of = [samples[k] for k in chosen]
        sparse_variables.learn(w, lambda w, x: sparse_variables.transformer(w, x, 2), of, of, settings)
        return w

    together, alone = trained([0, 1]), trained([1])
    for name, part in together.items():
        torch.testing.assert_close(part[1], alone[name][0])
        assert not torch.equal(part[1], weights[1][name])


def test_slope() -> None:
    assert sparse_variables.slope(np.array([0.0, 1, 2]), np.array([1.0, 3, 5])) == pytest.approx(2)


def test_sparse_variables() -> None:
    found = run(
        "sparse-variables", seeds=2, bits=[4, 8], samples=[8, 32, 128], steps=100, width=16, hidden=16, relevant=2, held_out=200
    )
    require_findings("sparse-variables", found)
    assert found.measures["unlearned"].value <= 0.25
    unlearned = run("sparse-variables", seeds=2, bits=[4, 8], samples=[8, 11], width=4, heads=1, hidden=2, steps=1, held_out=200)
    assert unlearned.measures["unlearned"].value == 1
    assert claims["sparse-variables"].judge(unlearned.measures) == CANNOT

"""Dropout's regularization: its identities over all masks, and its measures by hand and by slow oracles."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from claim_runs import require_findings, run
from torch import Tensor

from anchorbench.claim import CANNOT, claims
from anchorbench.claims import dropout_regularization


def dropout_settings(**changed: Any) -> Any:
    settings = claims["dropout-regularization"].scales["laptop"]
    little = {"seeds": 2, "inputs": 2, "examples": 3, "width": 3, "steps": 20, "looks": 2}
    return type(settings).model_validate(settings.model_dump() | little | changed)


def doubled(settings: Any) -> tuple[dropout_regularization.Data, Tensor]:
    """Data and initial weights in double precision."""
    data, theta = dropout_regularization.draw(settings)
    return dropout_regularization.Data(*(part.double() for part in data)), theta.double()


def test_dropout_raises_the_mean_loss_by_r1() -> None:
    """Over all masks that there are, each as likely as any other; the loss by a loop over neurons."""
    data, theta = doubled(dropout_settings(scale=1.0, examples=2))
    masks = torch.tensor(list(itertools.product([0.0, 2.0], repeat=6)), dtype=torch.float64).view(-1, 1, 2, 3)
    losses = torch.stack([dropout_regularization.loss(theta, data, mask) for mask in masks])
    raised = losses.mean(0) - dropout_regularization.loss(theta, data)
    torch.testing.assert_close(raised, dropout_regularization.added(theta, data, 0.5))
    w, bias, out = theta[0, :6].view(2, 3), theta[0, 6:9], theta[0, 9:]
    expected = 0.0
    for inputs, label in zip(data.x[0, :, :2], data.y[0], strict=True):
        answer = sum(out[j] * torch.tanh(inputs[0] * w[0, j] + inputs[1] * w[1, j] + bias[j]) for j in range(3))
        expected += float((answer - label) ** 2) / 4
    assert dropout_regularization.loss(theta, data)[0].item() == pytest.approx(expected)
    drawn = torch.stack([masks() for masks in [dropout_regularization.Masks(dropout_settings(), "test")] for _ in range(200)])
    assert set(drawn.unique().tolist()) == {0.0, 2.0}
    assert drawn.mean().item() == pytest.approx(1, abs=0.1)


def test_directions_have_no_sign_and_faint_neurons_no_direction() -> None:
    """Input weights with bias (1, 0), (-2, 0.1), (0, 3) and (5, 5), the last with almost no output."""
    theta = torch.tensor([1.0, -2.0, 0.0, 5.0, 0.0, 0.1, 3.0, 5.0, 1.0, 1.0, 1.0, 1e-3])
    assert dropout_regularization.directions(theta, 2) == 2
    theta[-1] = 1.0
    assert dropout_regularization.directions(theta, 2) == 3


def test_slices_rise_as_the_hessian_says() -> None:
    settings = dropout_settings(examples=20)
    data, theta = doubled(settings)
    of = dropout_regularization.Data(data.x[0], dropout_regularization.forward(theta[0], data)[0][0].sum(-1) * 0)
    theta[0, -3:] *= 1e-3  # near the minimum of labels that are zero
    curvature = dropout_regularization.hessian(theta[0], of).diagonal()
    small = 0.1**2 / 2 * sum(theta[0, part].square().sum() * curvature[part].mean() for part in (slice(9), slice(9, None)))
    rises = dropout_regularization.rises(theta[0], of, 1000, seed=0)
    near = dropout_regularization.SLICE.index(0.1)
    assert (rises[near] + rises[-near - 1]) / 2 == pytest.approx(float(small), rel=0.1)
    assert abs(rises[len(rises) // 2]) < 1e-9 * rises[near]  # of no step, up to rounding


def test_alignment_is_compared_with_rotations() -> None:
    rng = np.random.default_rng(0)
    d, draws = 5, 4000
    root = rng.standard_normal((d, d)) * [3, 1, 1, 0.3, 0.1]
    curvature = root @ np.diag([2, 1, 1, 0.5, -0.1]) @ root.T
    noise = rng.standard_normal((draws, d)) @ root.T
    covariance = np.cov(noise.T)
    norms = np.linalg.norm(curvature) * np.linalg.norm(covariance)
    found, bound = dropout_regularization.alignment(torch.from_numpy(curvature), torch.from_numpy(noise - noise.mean(0)))
    assert found == pytest.approx(np.trace(curvature @ covariance) / norms, rel=0.01)
    turns = np.linalg.qr(rng.standard_normal((20_000, d, d)))
    turns = turns.Q * np.sign(np.diagonal(turns.R, axis1=1, axis2=2))[:, None]
    rotated = np.einsum("ij,rjk,kl,ril->r", curvature, turns, covariance, turns) / norms
    assert bound == pytest.approx(rotated.mean() + 1.96 * rotated.std(), rel=0.02)


def test_dropout_seeds_do_not_mix() -> None:
    two, three = dropout_settings(), dropout_settings(seeds=3)
    for arm in dropout_regularization.ARMS:
        nets = [
            dropout_regularization.train(start, data, arm, settings)
            for settings in (two, three)
            for data, start in [dropout_regularization.draw(settings)]
        ]
        assert len(nets[0]) == 3
        torch.testing.assert_close(nets[0][-1], nets[1][-1][:2])
        assert not torch.equal(nets[0][-1], nets[0][0])


def test_nets_stop_at_the_loss_of_comparison() -> None:
    settings = dropout_settings(matched=0.02, most=3000)
    data, theta = dropout_regularization.draw(settings)
    there, steps = dropout_regularization.descend(theta, data, settings)
    assert 0 < steps < 3000
    losses = dropout_regularization.loss(there, data)
    assert ((losses <= 0.02) & (losses > 0.015)).all(), "the seeds stop at different steps"
    assert torch.equal(dropout_regularization.descend(there, data, settings)[0], there)


def test_dropout_regularization() -> None:
    small = {"seeds": 2, "inputs": 4, "width": 16, "steps": 60, "looks": 1, "most": 10}
    found = run("dropout-regularization", **small, masks=200, gradients=100, slices=10)
    require_findings("dropout-regularization", found)
    assert abs(found.measures["identity"].value) < 0.2
    assert found.measures["alignment"].value > 0.5
    assert found.measures["directions"].value > 10
    assert found.measures["unmatched"].value >= 0.5
    assert claims["dropout-regularization"].judge(found.measures) == CANNOT

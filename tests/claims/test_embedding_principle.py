"""The embedding principle: points that are critical, splits by hand, and eigenvalues that are counted."""

import pytest
import torch
from claim_runs import require_findings, run

from anchorbench.claim import CANNOT, claims
from anchorbench.claims import embedding_principle, one_hidden_layer

GROUND = embedding_principle.Ground(inputs=2, neurons=3, examples=20)


def test_drawn_points_are_critical() -> None:
    net, data = point = embedding_principle.drawn(GROUND, 0)
    expected = torch.func.jacrev(lambda w: one_hidden_layer.outputs(one_hidden_layer.shaped(w, net), data.x))(
        one_hidden_layer.flat(net)
    )
    torch.testing.assert_close(one_hidden_layer.jacobian(net, data.x), expected)
    assert one_hidden_layer.flat(one_hidden_layer.gradient(*point)).abs().max() < 1e-14
    assert (one_hidden_layer.outputs(net, data.x) - data.y).std() > 0.3


def test_trained_points_are_minima() -> None:
    found = [embedding_principle.trained(embedding_principle.Ground(inputs=1, neurons=1, examples=10), 2, 5, k) for k in range(2)]
    points = [point for point in found if point is not None]
    assert points
    for point in points:
        assert one_hidden_layer.flat(one_hidden_layer.gradient(*point)).abs().max() < 1e-11
        assert embedding_principle.inertia(one_hidden_layer.hessian(*point)) == (0, 0, 4)


def test_a_split_neuron_by_hand() -> None:
    """The neuron 3 tanh(2x + 1) - 1 gives a quarter to its copy: outputs stay, and finite differences give the gradient."""
    net = {
        "ff_in.weight": torch.tensor([[[2.0]]], dtype=torch.float64),
        "ff_in.bias": torch.tensor([[1.0]], dtype=torch.float64),
        "ff_out.weight": torch.tensor([[[3.0]]], dtype=torch.float64),
        "ff_out.bias": torch.tensor([[-1.0]], dtype=torch.float64),
    }
    x = torch.tensor([[0.3], [-0.8], [0.1]], dtype=torch.float64)
    point = embedding_principle.Point(net, one_hidden_layer.Data(x, torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)))
    wide = embedding_principle.split(point, 2, 0.25)
    assert wide.net["ff_out.weight"].flatten().tolist() == [2.25, 0.75]
    for embedded in (wide, embedding_principle.null(point, 0.7)):
        torch.testing.assert_close(one_hidden_layer.outputs(embedded.net, x), 3 * (2 * x[:, 0] + 1).tanh() - 1)
        loss, at = one_hidden_layer.loss_of(embedded.net, point.data), one_hidden_layer.flat(embedded.net)
        steps = 1e-6 * torch.eye(len(at), dtype=torch.float64)
        slopes = torch.stack([(loss(at + step) - loss(at - step)) / 2e-6 for step in steps])
        torch.testing.assert_close(one_hidden_layer.flat(embedded.gradient), slopes, rtol=1e-6, atol=1e-9)
    assert embedding_principle.apart(wide.gradient, embedding_principle.split(point, 2, 0.75).gradient) > 0.01


def test_eigenvalues_are_counted() -> None:
    matrix = torch.diag(torch.tensor([-2.0, 1e-14, 0.0, 1.0, 1e-6], dtype=torch.float64))
    assert embedding_principle.inertia(matrix) == (1, 2, 2)
    assert embedding_principle.gap(matrix) == pytest.approx(8)


def test_embedding_principle() -> None:
    settings = claims["embedding-principle"].scales["laptop"].model_dump()
    recipe = settings["recipe"] | {"steps": 3, "batch": 8}
    ground = {"inputs": 1, "neurons": 1, "examples": 10}
    found = run("embedding-principle", seeds=3, trained=ground, teacher=2, alphas=[0.5, -1.0], widths=[2], recipe=recipe, models=2)
    require_findings("embedding-principle", found)
    assert found.measures["kept"].value == found.measures["exact"].value == 1
    assert max(found.measures[name].value for name in ("critical", "gradient", "gradient_gpt")) < -12
    assert found.measures["gap"].value > 3
    assert claims["embedding-principle"].judge(found.measures) == CANNOT, "too few points"

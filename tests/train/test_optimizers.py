"""What sets optimizers and schedules apart, on problems whose answer is known."""

import math
from pathlib import Path

import pytest
import torch
from conftest import TINY, Cli, patch_training, require_one_sentence
from torch import Tensor

from anchorbench.parts import optimizers, schedules
from anchorbench.recipe import Recipe
from anchorbench.sweeps.run_folder import read_run
from anchorbench.train.memory import memory_of_member
from anchorbench.train.optimizers.adamw import AdamW
from anchorbench.train.optimizers.grafted_sgd import MOST, read_rates, write_rates
from anchorbench.train.optimizers.muon import orthogonalized
from anchorbench.train.optimizers.sgd import SGD
from anchorbench.train.schedules.chebyshev import fractal_order
from anchorbench.train.seams import Layout
from anchorbench.train.stack import Stack

ONE = Layout(("x",), (torch.Size((1,)),), (1,))


def descend(kind: str, gradients: list[float], rate: float, **fields: object) -> float:
    """Where a weight in [-1, 1] ends that starts at 0."""
    optimizer = optimizers[kind]([optimizers[kind].Config(**fields)], ONE, x := torch.zeros(1, 1, dtype=torch.float64))
    for t, g in enumerate(gradients, 1):
        optimizer.step(x, torch.full_like(x, g), x, torch.tensor([[rate]], dtype=torch.float64), t)
        x.clamp_(-1, 1)
    return float(x)


def test_adashift_goes_where_adam_is_misled() -> None:
    """Reddi et al. (ICLR 2018): a rare large gradient outweighs the others, so that the best weight is -1."""
    gradients = [1010.0 if t % 101 == 1 else -10.0 for t in range(1, 6001)]
    assert descend("adamw", gradients, 0.01, beta2=0.99) > 0.9
    assert descend("adashift", gradients, 0.01, beta2=0.99) < -0.9


def test_adashift_waits_for_a_second_moment() -> None:
    """A weight first moves when its first gradient has left the window, then by a step of the usual size."""
    gradients = [0.0] * 500 + [2.0] * 4
    assert descend("adashift", gradients[:503], 0.1, window=3, phi="identity") == 0
    assert descend("adashift", gradients, 0.1, window=3, phi="identity") == pytest.approx(-0.1)


def test_muon_makes_singular_values_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((8, 20), (20, 8), (12, 12)):
        u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
        found = torch.linalg.svdvals(orthogonalized((u * torch.linspace(0.1, 1, u.shape[1])) @ v, 5))
        assert (found > 0.5).all()
        assert (found < 1.5).all()


def test_muon_leaves_embeddings_and_vectors_to_adam() -> None:
    """One step of either; of a hidden matrix the length does not depend on the gradient's."""
    layout = Stack([TINY]).layout
    assert {name.rpartition(".")[2] for name in layout.hidden} == {"weight"}
    assert len(layout.hidden) == 6 * TINY.model.n_layer
    gradient = torch.randn(1, sum(layout.sizes), generator=torch.Generator().manual_seed(0))
    steps: dict[str, list[Tensor]] = {}
    for kind in ("adamw", "muon"):
        into = torch.zeros_like(gradient)
        part = optimizers[kind]([optimizers[kind].Config()], layout, into)
        part.step(into, gradient, torch.zeros_like(into), torch.tensor([[0.01]], dtype=torch.float64), 1)
        steps[kind] = layout.views(into)
    for name, adam, muon in zip(layout.names, steps["adamw"], steps["muon"], strict=True):
        assert torch.equal(adam, muon) == (name not in layout.hidden)
        if name in layout.hidden:  # AdamW's usual step, not its first
            assert 0.2 * 0.01 * 0.5 < float(muon.square().mean().sqrt()) < 0.2 * 0.01 * 1.5


@pytest.mark.parametrize("by", ["tensor", "global"])
def test_an_optimizer_grafted_onto_itself_is_itself(by: str) -> None:
    layout = Layout(("a", "b"), (torch.Size((2, 3)), torch.Size((4,))), (6, 4))
    config = optimizers["grafting"].Config(magnitude=AdamW.Config(), direction=AdamW.Config(), by=by)
    found, expected = (torch.ones(1, 10, dtype=torch.float64) for _ in range(2))
    pair = (optimizers["grafting"]([config], layout, found), AdamW([AdamW.Config()], layout, expected))
    generator = torch.Generator().manual_seed(0)
    for t in range(1, 30):
        gradient = torch.randn(1, 10, dtype=torch.float64, generator=generator)
        for part, weights in zip(pair, (found, expected), strict=True):
            part.step(weights, gradient, weights, torch.tensor([[0.1]], dtype=torch.float64), t)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_rates_go_from_grafting_to_sgd(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_training(monkeypatch, EVALUATION_SIZE=16, FINAL_SIZE=32)
    (tmp_path / "graft.yaml").write_text("optimizer: {kind: grafting, measure: 3}\nsteps: 6\n")
    done = cli("sweep", "run", tmp_path / "graft.yaml", "--keep-steps", "2,4", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    [folder] = (tmp_path / "out/runs").iterdir()
    file = tmp_path / "rates.json"
    done = cli("rates", folder, file, "--step", "4")
    assert done.code == 0, done.err
    assert "each the median over 3 steps" in " ".join(done.out.split())
    rates, run = read_rates(file), read_run(folder)
    assert (rates.run_id, rates.steps) == (run.result.run_id, 3)
    ratios = run.state(4)["optimizer.ratio.token_embedding"]
    assert dict(rates.rates)["token_embedding"] == pytest.approx(sorted(ratios.tolist())[1])
    assert write_rates(file, "other", run.state(2), 2).steps == 2

    (tmp_path / "sgd.yaml").write_text(f"optimizer: {{kind: grafted-sgd, rates: {file}}}\n")
    done = cli("sweep", "plan", tmp_path / "sgd.yaml", "--out", tmp_path / "plan")
    assert done.code == 0, done.err
    recipe = TINY.override({"optimizer.kind": "grafted-sgd", "optimizer.rates": str(file)})
    file.unlink()
    assert Recipe.model_validate_json(recipe.model_dump_json()).run_id == recipe.run_id, "the recipe holds the rates"
    assert recipe.optimizer.model_dump()["rates"] == write_rates(file, "other", run.state(2), 2).rates

    for arguments, said in (
        (("rates", folder, tmp_path / "rates.txt", "--step", "4"), "a file that ends in .json"),
        (("rates", folder, file, "--step", "3"), "the run kept these intermediate steps: 2, 4"),
        (("rates", tmp_path, file, "--step", "4"), "is incomplete"),
    ):
        refused = cli(*arguments)
        assert refused.code == 2
        require_one_sentence(refused.err)
        assert said in refused.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "holds no rates"),
        ('{"run_id": "a", "steps": 1, "rates": []}', "rates is []"),
        ('{"run_id": "a", "steps": 1, "rates": [["x", -1]]}', "rates.0.1 is -1"),
        ('{"run_id": "a", "steps": 1, "rates": [["x", NaN]]}', "NaN is not a JSON number"),
        ('{"run_id": "a", "steps": 1, "rates": [["x", 1]], "more": 1}', "unknown field 'more'"),
    ],
)
def test_a_file_of_rates_is_checked(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "rates.json").write_text(content)
    with pytest.raises(ValueError, match=r"rates\.json") as refusal:
        read_rates(tmp_path / "rates.json")
    assert said in str(refusal.value)
    with pytest.raises(ValueError, match=r"^optimizer\.rates: "):
        TINY.override({"optimizer.kind": "grafted-sgd", "optimizer.rates": str(tmp_path / "rates.json")})


def test_rates_have_bounds(tmp_path: Path) -> None:
    state = {"optimizer.ratio.x": torch.tensor([1.0, 1e9, 1e9]), "optimizer.magnitude.exp_avg": torch.ones(3)}
    assert write_rates(tmp_path / "rates.json", "a", state, 3).rates == [("x", MOST)]
    for wrong, said in (
        ({}, "run a kept no ratios; allowed: runs of the optimizer grafting, with measure"),
        ({"optimizer.ratio.x": torch.tensor([1.0, math.nan])}, "not finite"),
    ):
        with pytest.raises(ValueError, match=said):
            write_rates(tmp_path / "rates.json", "a", wrong, 2)


def test_rates_of_another_model_are_refused_before_training() -> None:
    recipe = TINY.override({"optimizer.kind": "grafted-sgd", "optimizer.rates": [["blocks.7.query.weight", 2.0]]})
    said = r"^optimizer\.rates names 'blocks\.7\.query\.weight'; allowed: tensors of the model, such as 'token_embedding'$"
    with pytest.raises(ValueError, match=said):
        memory_of_member(recipe)


def test_sgd_without_rates_is_sgd() -> None:
    weights = [torch.ones(1, 1), torch.ones(1, 1)]
    for kind, row in (("sgd", weights[0]), ("grafted-sgd", weights[1])):
        part = optimizers[kind]([optimizers[kind].Config()], ONE, row)
        assert isinstance(part, SGD)
        for t in range(1, 5):
            part.step(row, torch.full((1, 1), 0.3), row, torch.tensor([[0.1]], dtype=torch.float64), t)
    torch.testing.assert_close(*weights)


def test_chebyshev_steps_are_as_good_as_theory_says() -> None:
    """2103.01338: after T steps no curvature between m and M has more left than 1 / cosh(T acosh((M + m) / (M - m)))."""
    assert fractal_order(8) == (1, 8, 4, 5, 2, 7, 3, 6)
    curvatures = torch.linspace(0.01, 1, 1001, dtype=torch.float64)
    bound = 1 / math.cosh(64 * math.acosh(1.01 / 0.99))
    most = {}
    for order in ("fractal", "falling"):
        schedule = schedules["chebyshev"](schedules["chebyshev"].Config(cycle=64, kappa=100.0, order=order))
        left = torch.ones_like(curvatures)
        for step in range(1, 65):
            left = left * (1 - schedule.factor(step, 64, 0.0) * curvatures)
            most[order] = max(most.get(order, 0.0), float(left.abs().max()))
        assert float(left.abs().max()) == pytest.approx(bound, rel=1e-3)
    assert most["fractal"] < 1000
    assert most["falling"] > 1e20


def test_area_of_k_decay_by_hand() -> None:
    """In the limit a polynomial of power 1 has the mean k / (k + 1): a line of the same area starts at twice that."""
    config = schedules["matched"].Config.model_validate({"shape": "linear", "of": {"kind": "k-decay", "k": 3.0}})
    assert schedules["matched"](config).factor(1, 10_000, 0.0) == pytest.approx(2 * 3 / 4, rel=1e-3)
    config = schedules["matched"].Config.model_validate({"of": {"kind": "k-decay", "k": 3.0}})
    assert schedules["matched"](config).factor(7, 10_000, 0.0) == pytest.approx(3 / 4, rel=1e-3)
    config = schedules["matched"].Config.model_validate({"of": {"kind": "matched", "of": "piecewise"}})
    assert schedules["matched"](config).factor(1, 10, 0.5) == 1

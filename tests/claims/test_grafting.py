"""Grafting: all arms have Adam's rate and schedule."""

from claim_runs import require_findings, run, short

from anchorbench.claim import claims
from anchorbench.claims import grafting
from anchorbench.recipe import parse_recipe


def test_all_arms_of_grafting_have_adams_rate_and_schedule() -> None:
    base = parse_recipe(claims["grafting"].scales["paper"].model_dump()["recipe"])
    sgd = grafting.with_optimizer(base, {"kind": "sgd"})
    common = ("lr", "weight_decay", "warmup", "schedule", "end", "clip")
    assert sgd.optimizer.kind == "sgd"
    assert [getattr(sgd.optimizer, name) for name in common] == [getattr(base.optimizer, name) for name in common]
    assert sgd.override({"optimizer": base.optimizer}) == base


def test_grafting() -> None:
    found = run("grafting", seeds=2, measured=3, grid=[0.1], looks=2, **short("grafting", recipe=4))
    require_findings("grafting", found)
    assert found.passes == 4 * 2 * 7
    assert found.measures["spread"].value > 0.5
    assert 1 < found.measures["one_rate"].value / 3e-3 < 1000

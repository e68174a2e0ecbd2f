"""The study of ways of training: its statistics by hand, and that no part is left out."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, Cli
from scipy import stats

from anchorbench import ways
from anchorbench.parts import estimators, growths, models, noises, optimizers, penalties, schedules
from anchorbench.ways import ARMS, COMPARISONS, GAMMAS, compare, holm, matched, recipe_of, table

LEFT_OUT = {
    "grafted-sgd": "its rates are measured in another run; the claim grafting is about it",
    "matched": "is a control",
    "piecewise": "is a schedule written out",
    "shifted-values": "is for sequences in which one token points to the next; the claim identity-ablation is about it",
}


def usual(arm: str) -> Any:
    rates = ARMS[arm].rates
    return recipe_of(arm, rates[0] if not isinstance(rates, str) else 1e-3)


def test_every_part_is_compared_with_a_control() -> None:
    compared = [usual(part) for part, _ in COMPARISONS] + [usual(control) for _, control in COMPARISONS]
    found = {
        kind
        for recipe in compared
        for kind in (
            recipe.optimizer.kind, recipe.optimizer.schedule.kind, recipe.estimator.kind, recipe.noise.kind, recipe.model.kind,
            *(part.kind for part in (*recipe.penalties, *recipe.growth)),
        )
    }  # fmt: skip
    registered = {kind for each in (optimizers, schedules, estimators, noises, penalties, models, growths) for kind in each.all}
    assert registered - found - LEFT_OUT.keys() <= {"linear"}  # the shape of three controls
    assert {name for pair in COMPARISONS for name in pair} == ARMS.keys()


def test_holm_by_hand() -> None:
    """Sorted: .01 x 4, .02 x 3, .04 x 2, .9; the third is not below the second."""
    assert holm([0.04, 0.01, 0.9, 0.02]) == pytest.approx([0.08, 0.04, 0.9, 0.06])
    assert holm([0.03, 0.029]) == pytest.approx([0.058, 0.058])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def points(*pairs: tuple[float | None, float]) -> list[dict[str, Any]]:
    return [{"loss": loss, "inferential": share} for loss, share in pairs]


def test_shares_at_matched_loss_by_hand() -> None:
    """The first ends at a loss of .01; the second passes it halfway between .1 and .001, as logarithms go."""
    one = points((1.0, 0.0), (0.01, 0.4))
    other = points((1.0, 0.1), (0.1, 0.2), (0.001, 0.8))
    assert matched(one, other) == (0.4, pytest.approx(0.5))
    assert matched(other, one) == (pytest.approx(0.5), 0.4)
    assert matched(points((0.5, 0.3)), other) == (0.3, pytest.approx(0.1 + 0.1 * 0.30103))  # log10 2
    assert matched(points((None, 0.3)), other) is None


def runs(shares: list[list[float]], losses: float | None = 0.1) -> list[Any]:
    """One per gamma and seed."""
    return [
        SimpleNamespace(
            result=SimpleNamespace(inferential=share, verdict="mixed" if share else "underfit"),
            trajectory=lambda share=share: points((1.0, 0.0), (losses, share)),
        )
        for of_gamma in shares
        for share in of_gamma
    ]


def test_an_effect_by_hand() -> None:
    """By seed .3, .2 and .1 on average over gammas: the mean .2, its standard error .1 / sqrt 3, and t = 3.46 with two degrees."""
    control = [[0.0, 0.5, 0.5]] * len(GAMMAS)
    part = [[0.3, 0.7, 0.6], [0.6, 0.9, 0.7], [0.0, 0.5, 0.5]]
    effect = compare("adamw", "lion", {"adamw": runs(part), "lion": runs(control)}, {"adamw": 1.0, "lion": 2.0})
    assert effect.effect.value == pytest.approx(0.2)
    assert effect.effect.high - effect.effect.value == pytest.approx(4.302653 * 0.1 / 3**0.5)
    assert effect.p == pytest.approx(0.0741799, rel=1e-4)
    assert effect.rates == (1.0, 2.0)
    assert effect.fit == pytest.approx((8 / 9, 6 / 9))
    assert [measure.value for measure in effect.by_gamma.values()] == pytest.approx([0.2, 0.4, 0.0])
    assert effect.matched is not None
    assert effect.matched.value == pytest.approx(0.2)


def test_p_over_pairs_is_of_the_means_of_seeds_that_hold_out_the_same_pair() -> None:
    """Twelve seeds, of which the second six repeat the first: p as of six."""
    control = [[0.0] * 12] * len(GAMMAS)
    gains = [0.1, 0.3, 0.2, 0.5, 0.0, 0.4] * 2
    found = compare("a", "b", {"a": runs([gains] * len(GAMMAS)), "b": runs(control)}, {"a": 1.0, "b": 1.0})
    assert found.p_pairs == pytest.approx(2 * stats.t.sf(3.2733, 5), rel=1e-3)  # t = .25 / (.18708 / sqrt 6)
    assert found.p < 0.001


def test_equal_arms_have_no_effect_and_diverged_ones_no_match() -> None:
    same = [[0.2, 0.3]] * len(GAMMAS)
    effect = compare("adamw", "sgd", {"adamw": runs(same, None), "sgd": runs(same)}, {"adamw": 1.0, "sgd": 1.0})
    assert (effect.effect.value, effect.p, effect.matched) == (0.0, 1.0, None)


def test_the_table_says_what_is_shown_and_what_is_not() -> None:
    measure = ways.Measure(value=0.3, low=0.2, high=0.4, n=12)
    near = ways.Measure(value=0.05, low=-0.1, high=0.2, n=12)
    common: dict[str, Any] = {"rates": (0.004, 0.002), "fit": (1, 0.5), "composed": (0.7, 0.4), "by_gamma": {"0.5": measure}}
    effects = [
        ways.Effect(part="muon", control="adamw", effect=measure, p=1e-6, p_holm=1e-4, p_pairs=0.02, matched=near, **common),
        ways.Effect(part="lion", control="adamw", effect=near, p=0.5, p_holm=1, p_pairs=0.9, matched=None, **common),
    ]
    text = table(ways.Study(base=dict(ways.BASE), gammas=[0.5], seeds=12, effects=effects, machine={}))
    assert (
        "| **muon** | adamw | **+0.30 (+0.20 to +0.40)** | < 0.001 | 0.040 | +0.05 (-0.10 to +0.20) | 0.70 / 0.40 | 1.00 / 0.50 |"
        in text
    )
    assert (
        "- muon composes more than adamw: +0.30 (+0.20 to +0.40), n = 12 seeds; at matched training loss that is not shown" in text
    )
    assert "by that, muon (against adamw) would be shown." in text
    assert "Nothing is shown, at this scale and with these seeds, of lion (against adamw)." in text


def test_the_command_trains_what_is_missing_and_writes_the_table(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {**ways.BASE, "model": {"d_model": 8, "d_head": 4, "d_ff": 16}, "batch": 16, "steps": 60, "data_size": 500}
    monkeypatch.setattr(ways, "BASE", small)
    monkeypatch.setattr(ways, "SEEDS", 2)
    monkeypatch.setattr(ways, "TUNING_SEEDS", (1000,))
    monkeypatch.setattr(ways, "ARMS", {name: ARMS[name] for name in ("adamw", "k-decay", "linear of k-decay's area")})
    monkeypatch.setattr(ways, "COMPARISONS", [("k-decay", "linear of k-decay's area"), ("k-decay", "adamw")])
    (tmp_path / "docs").mkdir()
    for _ in range(2):
        shown = cli("ways", tmp_path / "runs", "--out", tmp_path / "docs")
        assert (shown.code, shown.err) == (0, "")
        assert "3 of 3: linear of k-decay's area, learning rate" in shown.out
        monkeypatch.setattr("anchorbench.sweeps.runner._train", lambda *_, **__: pytest.fail("trained again"))
    found = ways.Study.model_validate_json((tmp_path / "docs" / "ways.json").read_text())
    assert [effect.part for effect in found.effects] == ["k-decay", "k-decay"]
    rates = found.effects[0].rates
    assert rates[0] == rates[1]
    assert rates[0] in ways.ADAM
    assert (tmp_path / "docs" / "ways.md").read_text() == table(found)


def test_the_committed_table_is_that_of_the_committed_study() -> None:
    """It is of the arms, seeds and rules as they are now, and what it calls corrected follows from its own p-values."""
    found = ways.Study.model_validate_json((ROOT / "docs" / "ways.json").read_text())
    assert (ROOT / "docs" / "ways.md").read_text() == table(found)
    assert found.base == json.loads(json.dumps(ways.BASE))
    assert (tuple(found.gammas), found.seeds) == (GAMMAS, ways.SEEDS)
    assert [(effect.part, effect.control) for effect in found.effects] == list(COMPARISONS)
    assert [effect.p_holm for effect in found.effects] == pytest.approx(holm([effect.p for effect in found.effects]))

"""The study behind the suite: its statistics, its rules, and that finished candidates are not trained again."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from trainings import TINY

from anchorbench.leaderboard import study
from anchorbench.leaderboard.study import CANDIDATES, Grade, Member, chosen, grade, intraclass, sweep_of
from anchorbench.sweeps.grid import Sweep


def members(composed: dict[float, list[float]], seen: float = 1.0) -> list[Member]:
    return [Member("pre", gamma, seed, seen, share) for gamma, shares in composed.items() for seed, share in enumerate(shares)]


def test_intraclass_correlation_by_hand() -> None:
    """Groups (1, 3) and (5, 7): mean squares 16 between and 2 within, so (16 - 2) / (16 + 2)."""
    correlation, p = intraclass([[1, 3], [5, 7]])
    assert correlation == pytest.approx(14 / 18)
    assert p == pytest.approx(stats.f_oneway([1, 3], [5, 7]).pvalue)


def test_intraclass_correlation_finds_the_share_of_variance_between_groups() -> None:
    rng = np.random.default_rng(0)
    groups = [list(rng.normal(mean, 1, rng.integers(2, 6))) for mean in rng.normal(0, 2, 400)]
    correlation, p = intraclass(groups)
    assert correlation == pytest.approx(0.8, abs=0.03)
    assert p == pytest.approx(stats.f_oneway(*groups).pvalue, abs=1e-12)


@pytest.mark.parametrize("groups", [[], [[1.0, 2.0]], [[1.0], [2.0]], [[1.0, 1.0], [1.0]]])
def test_no_correlation_without_groups_or_variance(groups: list[list[float]]) -> None:
    assert intraclass(groups) == (None, None)


@pytest.mark.parametrize(
    ("composed", "seen", "why"),
    [
        ({0.4: [0.1, 0.2, 0.1, 0.2], 0.6: [0.8, 0.9, 0.9, 0.8]}, 1.0, ""),
        ({0.4: [0.1, 0.2, 0.1, 0.2], 0.6: [0.8, 0.9, 0.9, 0.8]}, 0.89, "too few runs fit"),
        ({0.4: [0.0, 0.0, 0.0, 0.1], 0.6: [0.1, 0.2, 0.1, 0.1]}, 1.0, "floor"),
        ({0.4: [0.9, 0.9, 0.9, 0.91], 0.6: [1.0, 1.0, 1.0, 0.99]}, 1.0, "ceiling"),
        ({0.4: [0.1, 0.9, 0.1, 0.9], 0.6: [0.1, 0.9, 0.1, 0.9]}, 1.0, "recipes do not differ"),
        ({0.4: [0.5, 0.5, 0.5, 0.5], 0.6: [0.5, 0.5, 0.5, 0.5]}, 1.0, "recipes do not differ"),
    ],
)
def test_the_rule_that_a_candidate_fails(composed: dict[float, list[float]], seen: float, why: str) -> None:
    found = grade("a/b", members(composed, seen), 20)
    assert (found.why, found.enters) == (why, not why)


def test_one_variant_of_a_task_enters() -> None:
    def of(candidate: str, correlation: float, enters: bool = True) -> Grade:
        return Grade(candidate, 40, 40, 0.5, correlation, 0.0, enters, "")

    grades = [of("a/x", 0.3), of("a/y", 0.6), of("a/z", 0.9, enters=False), of("b/x", 0.4)]
    assert chosen(grades) == ["a/y", "b/x"]


def test_all_candidates_make_40_runs_of_the_same_seeds_and_tasks_for_every_recipe() -> None:
    assert len(CANDIDATES) >= 20
    for candidate in CANDIDATES:
        runs = sweep_of(candidate).runs()
        assert len(runs) == 40
        of_seed = {seed: {run.load_task().fingerprint for run in runs if run.seed == seed} for seed in study.SEEDS}
        assert all(len(tasks) == 1 for tasks in of_seed.values()), candidate


def test_a_finished_candidate_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    def tiny(candidate: str) -> Sweep:
        trained.append(candidate)
        return Sweep(TINY.override({"steps": 2, "optimizer.warmup": 1}), {"init.gamma": (0.4, 0.6)})

    monkeypatch.setattr(study, "sweep_of", tiny)
    names, file = ("composite/heldout-both", "composite/heldout-pairs"), tmp_path / "study.json"
    study.study(tmp_path / "out", file, lambda line: None, names[:1])
    found = study.study(tmp_path / "out", file, lambda line: None, names)
    assert trained == list(names)
    assert [each.candidate for each in found.grades] == list(names)
    assert study.read_study(file) == found
    assert found.suite == []


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "study.json"
    file.write_text('{"grades": [], "suite": [], "members": {"a/b": [{"norm": 3}]}}')
    with pytest.raises(ValueError, match=r"^\S+study.json: "):
        study.study(tmp_path / "out", file, lambda line: None, ())

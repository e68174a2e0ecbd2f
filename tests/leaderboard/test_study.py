"""The study behind the suite: its statistics, its rules, and that finished candidates are not trained again."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from trainings import TINY

from anchorbench.leaderboard import study
from anchorbench.leaderboard.study import CANDIDATES, Grade, Member, chosen, grade, intraclass, pairs_of, sweep_of
from anchorbench.sweeps.grid import Sweep


def members(composed: dict[float, list[float]], seen: float = 1.0) -> list[Member]:
    return [Member("pre", gamma, seed, seen, share) for gamma, shares in composed.items() for seed, share in enumerate(shares)]


def test_intraclass_correlation_by_hand() -> None:
    """Rows (9, 2, 5, 8), (6, 1, 3, 2), (8, 4, 6, 8), (7, 1, 2, 6), (10, 5, 6, 9), (6, 2, 4, 7): the table of Shrout and Fleiss
    (1979), whose ICC(3,1) is .71, with mean squares 11.24 between rows and 1.02 left over."""
    table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    values = [(row, column, float(value)) for row, line in enumerate(table) for column, value in enumerate(line)]
    correlation, p = intraclass(values)
    assert correlation == pytest.approx(0.7148, abs=1e-4)
    assert p == pytest.approx(stats.f.sf(11.242 / 1.019, 5, 15), rel=1e-2)


def test_what_a_seed_adds_to_all_recipes_is_not_noise_and_gaps_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    recipes, seeds = rng.normal(0, 2, 200), rng.normal(0, 5, 6)
    values = [(r, s, a + b + rng.normal()) for r, a in enumerate(recipes) for s, b in enumerate(seeds) if rng.random() < 0.8]
    assert intraclass(values)[0] == pytest.approx(0.8, abs=0.04)
    shifted = [(r, s, value + 100 * s) for r, s, value in values]
    assert intraclass(shifted) == pytest.approx(intraclass(values))


@pytest.mark.parametrize(
    "values", [[], [(0, 0, 1.0), (0, 1, 2.0)], [(0, 0, 1.0), (1, 1, 2.0)], [(0, 0, 1.0), (0, 1, 1.0), (1, 0, 1.0), (1, 1, 1.0)]]
)
def test_no_correlation_without_recipes_or_variance(values: list[tuple[int, int, float]]) -> None:
    assert intraclass(values) == (None, None)


@pytest.mark.parametrize(
    ("composed", "seen", "why"),
    [
        ({0.4: [0.1, 0.2, 0.1, 0.2], 0.6: [0.8, 0.9, 0.9, 0.8]}, 1.0, ""),
        ({0.4: [0.1, 0.2, 0.1, 0.2], 0.6: [0.8, 0.9, 0.9, 0.8]}, 0.89, "too few runs fit"),
        ({0.4: [0.0, 0.0, 0.0, 0.1], 0.6: [0.1, 0.2, 0.1, 0.1]}, 1.0, "floor"),
        ({0.4: [0.9, 0.9, 0.9, 0.91], 0.6: [1.0, 1.0, 1.0, 0.99]}, 1.0, "ceiling"),
        ({0.4: [0.1, 0.9, 0.1, 0.9], 0.6: [0.9, 0.1, 0.9, 0.1]}, 1.0, "recipes are not shown to differ"),
        ({0.4: [0.5, 0.5, 0.5, 0.5], 0.6: [0.5, 0.5, 0.5, 0.5]}, 1.0, "recipes are not shown to differ"),
    ],
)
def test_the_rule_that_a_candidate_fails(composed: dict[float, list[float]], seen: float, why: str) -> None:
    found = grade("a/b", members(composed, seen), 20)
    assert (found.why, found.enters) == (why, not why)


def test_of_a_task_the_variant_with_most_pairs_enters() -> None:
    def of(candidate: str, pairs: int, correlation: float, enters: bool = True) -> Grade:
        return Grade(candidate, pairs, 40, 40, 0.5, correlation, 0.0, enters, "")

    grades = [of("a/u", 1, 0.8), of("a/x", 6, 0.3), of("a/y", 6, 0.6), of("a/z", 6, 0.9, enters=False), of("b/x", 1, 0.4)]
    assert chosen(grades) == ["a/y", "b/x"]


def test_pairs_held_out_in_turn() -> None:
    names = ("composite/heldout-pairs", "composite/heldout-both", "composite/conflict-control")
    assert [pairs_of(name) for name in names] == [6, 1, 5]


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

"""The figure and the table of the study behind the suite."""

from pathlib import Path

from anchorbench.leaderboard.study import Member, grade
from anchorbench.leaderboard.study_figure import study_figure, study_table

MEMBERS = {
    "composite/heldout-pairs": [Member("pre", gamma, seed, 1.0, gamma) for gamma in (0.4, 0.7) for seed in range(2)],
    "full-symmetry/default": [Member("post", 0.4, seed, 0.5, 0.0) for seed in range(2)],
}
GRADES = [grade(name, members, 2) for name, members in MEMBERS.items()]


def test_the_table_says_which_rule_each_candidate_fails() -> None:
    assert study_table(GRADES).splitlines()[2:] == [
        "| composite/heldout-pairs | 1 | 4 of 4 | 0.55 | 1.00 | < 1e-4 | **enters** |",
        "| full-symmetry/default | 1 | 0 of 2 | - | - | - | too few runs fit |",
    ]


def test_the_figure_names_every_candidate_and_its_rule(tmp_path: Path) -> None:
    drawn = study_figure(GRADES, MEMBERS, tmp_path / "study.svg").read_text()
    for text in ("composite/heldout-pairs", "full-symmetry", "enters", "too few runs fit", "1.00", "mean of all"):
        assert text in drawn
    assert drawn.count('<g id="PathCollection') == 2  # one mark per recipe with a run that fits

"""The figure and the table of the study behind the suite."""

from collections import Counter
from pathlib import Path
from statistics import fmean

from conftest import ROOT

from anchorbench.leaderboard.study import CANDIDATES, Member, grade, pairs_of, read_study, task_of
from anchorbench.leaderboard.study_figure import study_figure, study_table
from anchorbench.leaderboard.suite import LAPTOP_SUITE
from anchorbench.verdict import FIT

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


def test_the_table_of_the_docs_and_the_suite_are_those_of_the_study() -> None:
    found = read_study(ROOT / "docs" / "suite-study.json")
    assert [each.candidate for each in found.grades] == list(CANDIDATES)
    assert all(len(members) == 40 for members in found.members.values())
    assert [grade(name, found.members[name], len(CANDIDATES), pairs_of(name)) for name in CANDIDATES] == found.grades
    page = (ROOT / "docs" / "suite.md").read_text()
    assert study_table(found.grades) in page
    whys = Counter(each.why for each in found.grades)
    words = " ".join(page.split())
    assert f"{whys['ceiling']} are at the ceiling and {whys['floor']} at the floor" in words
    assert f"{whys['too few runs fit']} are fitted by too few runs" in words
    assert f"on {whys['recipes are not shown to differ']} recipes are not shown to differ" in words

    def composed(name: str, norm: str) -> float:
        return fmean(member.composed for member in found.members[name] if member.norm == norm and member.seen >= FIT)

    assert composed("composite/heldout-pairs", "post") < composed("composite/heldout-pairs", "pre")
    assert composed("ten-anchors/intervals", "post") > composed("ten-anchors/intervals", "pre")
    assert sorted(task_of(name) for name in found.suite) == [(task.task, task.variant) for task in LAPTOP_SUITE]
    for task in LAPTOP_SUITE:
        assert f"| {task.name} | " in page.partition("## The suite")[2]
        assert task.pairs == pairs_of(next(name for name in found.suite if task_of(name) == (task.task, task.variant)))


def test_the_figure_names_every_candidate_and_its_rule(tmp_path: Path) -> None:
    drawn = study_figure(GRADES, MEMBERS, tmp_path / "study.svg").read_text()
    for text in ("composite/heldout-pairs", "full-symmetry", "enters", "too few runs fit", "1.00", "mean of all"):
        assert text in drawn
    assert drawn.count('<g id="PathCollection') == 2  # one mark per recipe with a run that fits

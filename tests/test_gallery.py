"""The catalogue: every task is listed and explained, the marks stand under the right words, and tasks/README.md is up to date."""

import io
import re

import numpy as np
import pytest
from conftest import ROOT, Cli, require_one_sentence
from rich.console import Console

from anchorbench import Examples, list_tasks, load_task
from anchorbench.catalogue import _sequence, drawn_examples, explanation, facts, find_tasks, fitted, groups, link, listing

TASKS = list_tasks()
every_task = pytest.mark.parametrize(("name", "variant"), TASKS, ids=[f"{name}-{variant}" for name, variant in TASKS])


def example(name: str, variant: str, tokens: list[int], label: int, foils: dict[str, int], target: np.ndarray | None = None):
    one = np.array([0])
    return load_task(name, variant), Examples(
        tokens=np.array([tokens]),
        label=one + label,
        group=one,
        key=one,
        position=one,
        foils={foil: one + answer for foil, answer in foils.items()},
        target=target,
    )


def printed(width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(listing())
    return console.file.getvalue()


def test_there_are_enough_tasks():
    assert len(TASKS) >= 35
    assert len(set(TASKS)) == len(TASKS)


def test_the_readme_of_the_tasks_is_what_is_generated(cli: Cli):
    written = (ROOT / "tasks" / "README.md").read_text()
    assert written == cli("tasks", "--markdown").out, "regenerate it: anchorbench tasks --markdown > tasks/README.md"


def test_the_listing_names_every_task_and_variant():
    text = printed(width=250)
    for name, variant in TASKS:
        task = load_task(name, variant)
        assert re.search(rf"^ ?{re.escape(name)} ", text, re.MULTILINE)
        assert variant in text or len(task.variants) == 1
        assert task.description in text
    assert f"{len(dict(TASKS))} tasks, {len(TASKS)} with their variants" in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_listing_fits_the_terminal(width):
    lines = printed(width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)


@every_task
def test_drawn_examples_are_examples(name, variant):
    """What is shown, read back by eye: the words are an example of the split that is named, and the answer is its label."""
    task = load_task(name, variant)
    ids = {token.word: i for i, token in enumerate(task.vocabulary)}
    title, *blocks = "\n".join(drawn_examples(task)).split("\n\n")
    assert variant in title
    assert len(blocks) == 3
    splits = []
    for block in blocks:
        head, *lines = block.splitlines()
        split, group = head.strip().split(", ", 1)
        splits.append(split)
        sequence = " ".join(line[4:] for line in lines if not re.fullmatch(r"[ k\d]*", line) or re.search(r"\d\d", line))
        words, answer = re.fullmatch(r"(.*?)   ->  (\S+).*", sequence).groups()
        tokens = [ids[word] for word in words.split() if word != "..."]
        tokens = [tokens[0]] * (task.seq_len - len(tokens)) + tokens
        answers = task.answer(np.array([tokens])).require_valid()
        assert task.splits.index(split) >= 0
        assert task.groups[answers.group[0]].name == group
        if answers.target is None:
            assert ids[answer] == answers.label[0]
        else:
            assert answers.target[0, ids[answer]] > 0
    assert set(splits) == set(task.splits)


def test_marks_stand_under_their_words():
    task, examples = example("composite", "conflict", [70, 60, 4, 3, 51, 52, 53, 54, 55], 50, {"inferential": 50, "symmetric": 54})
    assert _sequence(task, examples, {1: "k", 2: "1", 3: "2"}) == [
        "70 60 a4 a3 51 52 53 54 55   ->  50   (symmetric: 54)",
        "    k  1  2",
    ]


def test_padding_is_shown_once():
    tokens = [0] * 55 + [3, 1, 16]  # PAD ... PAD walk -> WALK; then END
    task, examples = example("scan", "simple", tokens, 2, {"inferential": 2})
    assert _sequence(task, examples, {}) == ["... PAD walk -> WALK   ->  END"]


def test_long_sequences_are_wrapped_with_their_marks():
    tokens = [1] * 9 + [0] * 23 + [2]
    task, examples = example("sparse-boolean", "and", [*[0, 1] * 16, 2], 0, {})
    lines = _sequence(task, examples, {0: "k", 31: "1"})
    assert len(tokens) == task.seq_len
    assert lines[0].startswith("0 1 0 1")
    assert lines[1] == "k" + 61 * " " + "1"
    long = [141, 170, 114, 0] * 4 + [101] * 6
    task, examples = example("inverse-matching", "default", [*long, *[114, 170, 141, 0, 101, 102, 103]][:29], 5, {})
    lines = _sequence(task, examples, {28: "k"})
    assert len(lines) == 3
    assert max(map(len, lines)) <= 76
    assert lines[1].split()[-1] == "5"
    assert lines[2].index("k") == lines[1].index("103") + 2


def test_competing_answers_that_are_too_long_for_the_line_stand_below():
    target = np.zeros((1, 120))
    target[0, 40:44] = 0.25
    task, examples = example("distance-weighted", "default", [40, 41, 42, 43, 3, 40, 41, 42, 43], 40, {}, target)
    assert _sequence(task, examples, {4: "1"}) == [
        "40 41 42 43 a3 40 41 42 43   ->  40",
        "             1",
        "  (P(40) = 0.25, P(41) = 0.25, P(42) = 0.25, ...)",
    ]


def test_texts_are_fitted_to_the_terminal():
    text = """One sentence that is
of two lines.

Variants
    first    is short
    second   is longer
             than it should be
Alone.

    token  1 2 3   ->   4
           k"""
    assert fitted(text, 80) == text
    assert fitted(text, 26).splitlines() == [
        *("One sentence that is", "of two lines.", "", "Variants", "    first    is short"),
        *("    second   is longer", "             than it", "             should be"),
        *("Alone.", "", "    token  1 2 3   ->   4", "           k"),
    ]
    assert fitted(text, 16).splitlines()[:3] == ["One sentence", "that is of two", "lines."]


@pytest.mark.parametrize("name", ["all", *sorted(dict(TASKS))])
def test_an_explanation_fits_the_terminal(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = explanation(name)
    assert max(map(len, text.splitlines())) <= 80
    assert text.split() == explanation(name, width=1_000).split()
    for task in find_tasks(name):
        assert task.fingerprint in text


def test_the_distribution_of_a_random_answer_is_shown():
    target = np.zeros((1, 120))
    target[0, [40, 41]] = 0.8, 0.2
    task, examples = example("statistical", "default", [50, 3, 40, 51, 52, 53, 54, 55, 56], 41, {}, target)
    assert _sequence(task, examples, {2: "k"}) == [
        "50 a3 40 51 52 53 54 55 56   ->  41   (P(40) = 0.8, P(41) = 0.2)",
        "       k",
    ]


def test_groups_are_counted_by_role():
    assert groups(load_task("composite", "conflict")) == (
        "14 trained: (1,1), (1,2), ..., (4,4); 1 exception: (3,4); 1 mirror: (4,3)"
    )
    assert groups(load_task("two-anchors", "odd-even")) == "2 trained: 3, 4; 2 held out: 3-unseen-keys, 4-unseen-keys"


def test_facts_of_composite():
    paper, table, kinds, words = facts(find_tasks("composite"))
    assert paper == "Paper    2405.05409, section 3; 2501.08537, phase diagram (both pairs held out)\nVersion  1"
    assert re.search(r"^  conflict +759,375 +84,375 +50,625 +9 +120 +0.0125 +[0-9a-f]{16}$", table, re.MULTILINE)
    assert [line.split()[0] for line in kinds.splitlines()] == [
        "Groups",
        "heldout-both",
        "conflict",
        "conflict-control",
        "heldout-pairs",
        "no-rule",
        "other-rule",
    ]
    assert re.search(r"^ +a2  anchor 2: adds \+1", words, re.MULTILINE)
    assert re.search(r"^ +116  more, which are numbers$", words, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(dict(TASKS)))
def test_an_explanation_draws_the_sequence_and_has_all_variants(name):
    text = explanation(name, width=140)
    assert load_task(name).paper in text
    for task in find_tasks(name):
        assert re.search(rf"^  {re.escape(task.variant)} .*{task.fingerprint}$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 140


def test_names_stand_for_tasks():
    assert len(find_tasks("all")) == len(TASKS)
    assert [task.variant for task in find_tasks("composite")] == [*load_task("composite").variants]
    (task,) = find_tasks("composite-conflict")
    assert (task.name, task.variant) == ("composite", "conflict")


def test_no_name_is_ambiguous():
    names = [*dict(TASKS), *(f"{name}-{variant}" for name, variant in TASKS), "all"]
    assert len(set(names)) == len(names)


def test_arxiv_numbers_become_links():
    assert link("2405.05409v1, section 3") == "[2405.05409v1](https://arxiv.org/abs/2405.05409v1), section 3"


def test_command(cli: Cli):
    listed = cli("tasks")
    assert listed.code == 0
    assert "working-memory-retro-cue" in listed.out
    assert cli("tasks", "composite").out == explanation("composite") + "\n"


def test_an_unknown_task_is_one_sentence(cli: Cli):
    outcome = cli("tasks", "compsite")
    assert outcome.code == 2
    assert "did you mean 'composite'" in outcome.err
    require_one_sentence(outcome.err)

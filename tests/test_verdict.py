"""Verdicts from counts worked by hand, and from members whose way of answering is written down."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from anchorbench import Task, list_tasks, load_task
from anchorbench.task import NO_ANSWER
from anchorbench.train.trajectory import Verdict
from anchorbench.verdict import Behaviour, EvalSet, Share

N = 200


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval from its formula."""
    z, p = 1.959963984540054, hits / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_is_wilsons(counts: tuple[int, int]) -> None:
    hits, n = counts
    assert Share(hits, n).value == hits / n
    assert Share(hits, n).interval == pytest.approx(wilson(hits, n), abs=1e-12)


def test_interval_worked_by_hand() -> None:
    # nothing of 100: from 0 to z^2 / (100 + z^2) = 3.84146 / 103.84146
    assert Share(0, 100).interval == pytest.approx((0, 0.0369935), abs=1e-7)
    # half of 100: 1/2 -+ 1.959964 / (2 sqrt(103.84146)) = 1/2 -+ 0.0961690
    assert Share(50, 100).interval == pytest.approx((0.4038310, 0.5961690), abs=1e-6)


def behaviour(
    seen: int = 1000,
    composes: int | None = None,
    ordered: int | None = None,
    symmetric: int | None = None,
    commutes: int | None = None,
) -> Behaviour:
    """Counts of 1000 each."""

    def share(hits: int | None) -> Share | None:
        return None if hits is None else Share(hits, 1000)

    return Behaviour(
        accuracy_train=Share(1000, 1000),
        accuracy_seen=Share(seen, 1000),
        accuracy_iid=Share(0, 1000),  # no gate
        composes=share(composes),
        ordered=share(ordered),
        symmetric=share(symmetric),
        commutes=share(commutes),
        groups={},
        deviations={},
    )


# Wilson's interval of k of n excludes p if k is farther than z sqrt(n p (1 - p)) from n p: here 1.96 sqrt(187.5) = 26.84
# from 750 and from 250.
@pytest.mark.parametrize(
    ("counts", "composition", "phase"),
    [
        ({"composes": 777}, "inferential", "3"),
        ({"composes": 776}, "mixed", None),
        ({"composes": 224}, "mixed", None),
        ({"composes": 223, "commutes": 500}, "memorizing", "2a"),
        ({"composes": 223, "commutes": 501}, "memorizing", "2b"),
        ({"composes": 0}, "memorizing", "2a"),
        ({"composes": 777, "seen": 900}, "inferential", "3"),
        ({"composes": 777, "seen": 899}, "underfit", "1"),
        ({"composes": 0, "seen": 899}, "underfit", "1"),
        ({}, None, None),
    ],
)
def test_composition(counts: dict[str, int], composition: str | None, phase: str | None) -> None:
    found = behaviour(**counts)
    assert (found.composition, found.phase, found.verdict, found.exception) == (composition, phase, composition, None)


@pytest.mark.parametrize(
    ("counts", "exception", "verdict"),
    [
        ({"ordered": 777, "symmetric": 0}, "ordered", "inferential"),
        ({"ordered": 776, "symmetric": 0}, "other", "other"),
        ({"ordered": 0, "symmetric": 777}, "symmetric", "symmetric"),
        ({"ordered": 0, "symmetric": 776}, "other", "other"),
        ({"ordered": 500, "symmetric": 500}, "other", "other"),
        ({"ordered": 0, "symmetric": 0}, "other", "other"),
        ({"ordered": 1000, "symmetric": 0, "seen": 899}, "underfit", "underfit"),
        ({"ordered": 1000, "symmetric": 0, "seen": 900}, "ordered", "inferential"),
    ],
)
def test_exception(counts: dict[str, int], exception: str, verdict: str) -> None:
    found = behaviour(**counts)
    assert (found.exception, found.verdict, found.composition, found.phase) == (exception, verdict, None, None)


def test_the_two_questions_are_apart() -> None:
    found = behaviour(composes=1000, ordered=0, symmetric=1000)
    assert (found.composition, found.exception, found.verdict, found.inferential) == (
        "inferential",
        "symmetric",
        "inferential",
        1.0,
    )
    found = behaviour(composes=0, ordered=1000, symmetric=0)
    assert (found.composition, found.exception, found.verdict, found.inferential) == ("memorizing", "ordered", "memorizing", 0.0)
    assert behaviour(ordered=250, symmetric=0).inferential == 0.25
    assert behaviour().inferential is None


# Members whose way of answering is known: tokens -> answers.
Answerer = Callable[[Task, np.ndarray], np.ndarray]


def composer(task: Task, tokens: np.ndarray) -> np.ndarray:
    """As trained on seen groups, by composing on the others."""
    return task.answer(tokens).label


def memorizer(task: Task, tokens: np.ndarray) -> np.ndarray:
    """As trained on seen groups; key + 31 on both orders of an unseen pair."""
    seen = task.answer(tokens)
    return np.where(held_out(task, tokens), seen.key + 31, seen.label)


def ordered_memorizer(task: Task, tokens: np.ndarray) -> np.ndarray:
    """As trained on seen groups; key + 30 + first anchor on unseen pairs."""
    seen = task.answer(tokens)
    first = np.array([int(group.name[1]) for group in task.groups])[seen.group]
    return np.where(held_out(task, tokens), seen.key + 30 + first, seen.label)


def symmetric_composer(task: Task, tokens: np.ndarray) -> np.ndarray:
    """Composes, but gives the mirror of a trained exception the exception's answer."""
    seen = task.answer(tokens)
    return np.where(seen.foils["symmetric"] == NO_ANSWER, seen.label, seen.foils["symmetric"])


def symmetric_memorizer(task: Task, tokens: np.ndarray) -> np.ndarray:
    """The same, but answers ordinary unseen pairs as the memorizer does."""
    seen = task.answer(tokens)
    return np.where(seen.foils["symmetric"] == NO_ANSWER, memorizer(task, tokens), seen.foils["symmetric"])


def constant(task: Task, tokens: np.ndarray) -> np.ndarray:
    return np.full(len(tokens), 50)


def held_out(task: Task, tokens: np.ndarray) -> np.ndarray:
    roles = np.array([group.role for group in task.groups])[task.answer(tokens).group]
    return np.isin(roles, ["held_out", "mirror"])


ASKED = ("composes", "ordered", "symmetric", "commutes")


@pytest.mark.parametrize(
    ("variant", "answerer", "shares", "composition", "exception", "verdict", "phase"),
    [
        ("heldout-both", composer, (1, None, None, 1), "inferential", None, "inferential", "3"),
        ("heldout-both", memorizer, (0, None, None, 1), "memorizing", None, "memorizing", "2b"),
        ("heldout-both", ordered_memorizer, (0, None, None, 0), "memorizing", None, "memorizing", "2a"),
        ("heldout-both", constant, (None, None, None, 1), "underfit", None, "underfit", "1"),
        ("conflict", composer, (None, 1, 0, 0), None, "ordered", "inferential", None),
        ("conflict", symmetric_composer, (None, 0, 1, 1), None, "symmetric", "symmetric", None),
        ("conflict", memorizer, (None, 0, 0, 0), None, "other", "other", None),
        ("conflict", constant, (None, None, None, 1), None, "underfit", "underfit", None),
        ("conflict-control", composer, (1, 1, 0, 1), "inferential", "ordered", "inferential", "3"),
        ("conflict-control", symmetric_composer, (1, 0, 1, 1), "inferential", "symmetric", "inferential", "3"),
        ("conflict-control", symmetric_memorizer, (0, 0, 1, 1), "memorizing", "symmetric", "memorizing", "2b"),
        ("conflict-control", ordered_memorizer, (0, 0, 0, 0), "memorizing", "other", "memorizing", "2a"),
        ("conflict-control", constant, (None, None, None, 1), "underfit", "underfit", "underfit", "1"),
    ],
)
@pytest.mark.parametrize("seed", [0, 3])
def test_known_members(
    variant: str,
    answerer: Answerer,
    shares: tuple[float | None, ...],
    composition: str | None,
    exception: str | None,
    verdict: str,
    phase: str | None,
    seed: int,
) -> None:
    task = load_task("composite", variant).for_seed(seed)
    eval_set = EvalSet.of(task, N, seed)
    found = eval_set.behaviour(answerer(task, eval_set.tokens))
    assert (found.composition, found.exception, found.verdict, found.phase) == (composition, exception, verdict, phase)
    ood = eval_set.examples["ood"]
    mirror = int((ood.foils["symmetric"] != NO_ANSWER).sum())
    rows = {"composes": N - mirror, "ordered": mirror, "symmetric": mirror, "commutes": N - mirror or mirror}
    for asked, value in zip(ASKED, shares, strict=True):
        share = getattr(found, asked)
        if answerer is constant and asked != "commutes":
            assert share is None or share.value < 0.1
        elif value is None:
            assert share is None
        else:
            assert share == Share(int(value * rows[asked]), rows[asked])
    if answerer is not constant:
        assert found.accuracy_train == found.accuracy_seen == found.accuracy_iid == Share(N, N)
    assert sum(found.deviations.values()) == N


def test_deviations_are_from_the_composed_answer() -> None:
    """(3,4) and (4,3) compose to key - 10: key + 31 is off by 41, key + 30 + first anchor by 43 and 44."""
    task = load_task("composite", "heldout-both")
    eval_set = EvalSet.of(task, N, 0)
    first_is_3 = int((eval_set.examples["ood"].group == 2 * 4 + 3).sum())
    assert eval_set.behaviour(composer(task, eval_set.tokens)).deviations == {0: N}
    assert eval_set.behaviour(memorizer(task, eval_set.tokens)).deviations == {41: N}
    assert eval_set.behaviour(ordered_memorizer(task, eval_set.tokens)).deviations == {43: first_is_3, 44: N - first_is_3}


def test_the_exceptions_answer_deviates_by_four() -> None:
    task = load_task("composite", "conflict")
    eval_set = EvalSet.of(task, N, 0)
    assert eval_set.behaviour(symmetric_composer(task, eval_set.tokens)).deviations == {4: N}


def test_accuracy_by_group() -> None:
    task = load_task("composite", "conflict-control").for_seed(1)
    eval_set = EvalSet.of(task, 2000, 0)
    groups = eval_set.behaviour(symmetric_memorizer(task, eval_set.tokens)).groups
    assert groups.keys() == {f"({a},{b})" for a in range(1, 5) for b in range(1, 5)}
    unseen = {"(4,3)", "(1,3)", "(3,1)"}
    assert {name for name, share in groups.items() if share.value == 0} == unseen
    assert {name for name, share in groups.items() if share.value == 1} == groups.keys() - unseen
    assert sum(groups[name].n for name in unseen) == sum(groups[name].n for name in groups.keys() - unseen) == 2000


@pytest.mark.parametrize(
    ("seed", "pair"), [(0, (1, 2)), (1, (1, 3)), (2, (2, 4)), (3, (1, 4)), (4, (2, 3)), (5, (1, 2)), (12, (2, 4))]
)
def test_the_control_pair_rotates_over_seeds(seed: int, pair: tuple[int, int]) -> None:
    task = load_task("composite", "conflict-control").for_seed(seed)
    roles = {group.name: group.role for group in task.groups}
    a, b = pair
    expected = {f"({a},{b})": "held_out", f"({b},{a})": "held_out", "(3,4)": "exception", "(4,3)": "mirror"}
    assert {name: role for name, role in roles.items() if role != "trained"} == expected
    ood = EvalSet.of(task, 300, seed).examples["ood"]
    assert {task.groups[group].name for group in ood.group} == {"(4,3)", f"({a},{b})", f"({b},{a})"}


def test_every_pair_is_held_out_in_turn() -> None:
    turns = [
        {group.name for group in load_task("composite", "heldout-pairs").for_seed(s).groups if group.role != "trained"}
        for s in range(7)
    ]
    pairs = [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4), (1, 2)]
    assert turns == [{f"({a},{b})", f"({b},{a})"} for a, b in pairs]


@pytest.mark.parametrize("variant", ["heldout-both", "conflict"])
def test_other_variants_do_not_rotate(variant: str) -> None:
    task = load_task("composite", variant)
    assert task.for_seed(3) is task


def test_head_is_the_beginning_of_every_split() -> None:
    task = load_task("composite", "heldout-both")
    eval_set = EvalSet.of(task, N, 0)
    head = eval_set.head(30)
    assert head.mirrored is not None
    assert eval_set.mirrored is not None
    rows = np.concatenate([eval_set.tokens[at : at + 30] for at in range(0, 4 * N, N)])
    assert np.array_equal(head.tokens, rows)
    assert head.behaviour(memorizer(task, head.tokens)).composes == Share(0, 30)


def test_mirrored_sequences_swap_the_anchors() -> None:
    task = load_task("composite", "heldout-both")
    eval_set = EvalSet.of(task, N, 0)
    assert eval_set.mirrored is not None
    swapped, ood = task.answer(eval_set.mirrored), eval_set.examples["ood"]
    names = [group.name for group in task.groups]
    assert {(names[a], names[b]) for a, b in zip(ood.group, swapped.group, strict=True)} == {("(3,4)", "(4,3)"), ("(4,3)", "(3,4)")}
    assert np.array_equal(swapped.key, ood.key)


def test_given_training_examples_are_used() -> None:
    task = load_task("composite", "heldout-both")
    train = task.sample("train", 70, 9)
    eval_set = EvalSet.of(task, 50, 0, train=train)
    assert np.array_equal(eval_set.tokens[:50], train.tokens[:50])
    answers = composer(task, eval_set.tokens)
    assert np.array_equal(eval_set.tokens[150:200], task.sample("train", 50, 0).tokens)  # fresh ones, after the three splits
    answers[:5] += 1
    answers[150:157] += 1
    found = eval_set.behaviour(answers)
    assert (found.accuracy_train, found.accuracy_seen, found.accuracy_iid) == (Share(45, 50), Share(43, 50), Share(50, 50))
    assert found.composes == Share(50, 50)
    assert found.fit is False
    assert eval_set.head(20).behaviour(composer(task, eval_set.head(20).tokens)).accuracy_seen == Share(20, 20)


def test_equal_held_out_inputs_count_once() -> None:
    """random-permutations has 304 held-out inputs, of which 1000 draws hold each three or four times."""
    task = load_task("random-permutations")
    eval_set = EvalSet.of(task, 1000, 0)
    ood = eval_set.examples["ood"]
    answers = composer(task, eval_set.tokens)
    wrong = (eval_set.tokens == ood.tokens[0]).all(1)
    assert wrong.sum() > 1
    answers[wrong] = NO_ANSWER
    found = eval_set.behaviour(answers)
    assert found.composes == Share(303, 304)
    assert sum(found.deviations.values()) == sum(share.n for share in found.groups.values()) == 304


def test_a_task_with_nothing_held_out_has_no_verdict() -> None:
    task = load_task("identity")
    eval_set = EvalSet.of(task, N, 0)
    found = eval_set.behaviour(task.answer(eval_set.tokens).label)
    assert found.accuracy_iid == Share(N, N)
    assert (found.verdict, found.composition, found.exception, found.phase, found.inferential) == (None,) * 5
    assert found.deviations == {}


def test_a_task_that_trains_every_key_and_position_is_fit_on_its_training_examples() -> None:
    task = load_task("random-permutations")
    assert task.splits == ("train", "ood")
    eval_set = EvalSet.of(task, 100, 0)
    answers = task.answer(eval_set.tokens).label
    for wrong, fit in ((10, True), (11, False)):
        answers[:wrong] = NO_ANSWER
        found = eval_set.behaviour(answers)
        assert found.accuracy_iid == found.accuracy_train == Share(100 - wrong, 100)
        assert found.fit == fit


@pytest.mark.parametrize(("name", "variant"), list_tasks())
def test_the_right_answers_are_inferential_in_every_task(name: str, variant: str) -> None:
    task = load_task(name, variant)
    eval_set = EvalSet.of(task, 20, 0)
    labels = [examples.label for examples in eval_set.examples.values()]
    mirrored = [] if eval_set.mirrored is None else [np.zeros(len(eval_set.mirrored), int)]
    found = eval_set.behaviour(np.concatenate([*labels, *mirrored]))
    assert found.fit
    assert found.inferential == (1.0 if "ood" in task.splits else None)


def test_an_empty_set_has_no_behaviour() -> None:
    eval_set = EvalSet.of(load_task("composite"), 0, 0)
    with pytest.raises(ValueError, match=r"^the evaluation set is empty; allowed: at least one example per split$"):
        eval_set.behaviour(np.zeros(0, int))


def test_earlier_results_say_unfit() -> None:
    """Verdicts that were recorded under the former name are read under today's; no other word changes."""
    reader = TypeAdapter(Verdict)
    assert [reader.validate_python(word) for word in ("unfit", "underfit", "mixed", None)] == [
        "underfit",
        "underfit",
        "mixed",
        None,
    ]

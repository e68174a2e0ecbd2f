"""Intermediate values: each task's against a slow oracle that reads one sequence at a time, and what holds for all of them."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest

from anchorbench import list_tasks, load_task
from anchorbench.task import NO_ANSWER

TASKS = list_tasks()
ROWS = 100


class Steps(NamedTuple):
    """What an oracle works out of one sequence."""

    values: dict[str, int]
    """Without the values that the sequence does not have."""
    answer: int | None
    """What the rule makes of them; None if there is no rule."""


def two_anchors_in_turn(key: int, first: int, second: int, apply: Callable[[int, int], int]) -> Steps:
    halfway = apply(first, key)
    answer = apply(second, halfway)
    names = ("key", "first_anchor", "after_first_anchor", "second_anchor", "after_second_anchor")
    return Steps(dict(zip(names, (key, first, halfway, second, answer), strict=True)), answer)


def composite(task: Any, row: list[int]) -> Steps:
    offsets = {"composite": {1: 5, 2: 1, 3: -2, 4: -8}, "nine-anchors": {a: a - 5 for a in range(1, 10)}}
    offsets["data-complexity"] = offsets["composition-minus-8"] = offsets["composite"]
    offsets["composition"] = {1: 5, 2: 1, 3: -2, 4: -5}
    adds = offsets[task.name + "-minus-8" * task.variant.endswith("minus-8")]
    at = next(i for i, token in enumerate(row) if token in adds)
    key = row[at + 2] if task.variant.startswith("anchors-first") else row[at - 1]
    return two_anchors_in_turn(key, row[at], row[at + 1], lambda anchor, value: value + adds[anchor])


def near_synonym(_: Any, row: list[int]) -> Steps:
    at = next(i for i, token in enumerate(row) if token < 10)
    adds = {1: 5, 2: 1, 3: -2, 4: -8, 9: -2}
    return two_anchors_in_turn(row[at + 2], row[at], row[at + 1], lambda anchor, value: value + adds[anchor])


def memory_reasoning(_: Any, row: list[int]) -> Steps:
    first = next(token for token in row if token <= 20)
    at = row.index(first)
    key, second = row[at - 1], row[at + 1]
    if first > 10:
        return two_anchors_in_turn(key, first, second, lambda anchor, value: value + anchor)
    return Steps({"key": key, "first_anchor": first, "second_anchor": second}, None)


def full_symmetry(_: Any, row: list[int]) -> Steps:
    at = next(i for i, token in enumerate(row) if token < 5)
    key, first, second = row[at - 1 : at + 2]
    in_first = {first, second} in ({0, 1}, {0, 2}, {1, 4}, {2, 3}, {3, 4})
    adds = [2, 5, 1, -2, -8] if in_first else [-9, 6, -7, 3, 5]
    values = {"key": key, "first_anchor": first, "second_anchor": second, "rule_set": 1 if in_first else 2}
    return Steps(values, key + adds[first] + adds[second])


def random_permutations(task: Any, row: list[int]) -> Steps:
    return two_anchors_in_turn(*row, lambda anchor, value: int(task.permutations[anchor - 16][value]))


def one_anchor(task: Any, row: list[int]) -> Steps:
    at = next(i for i, token in enumerate(row) if token <= 10)
    anchor, key = row[at], row[at + 1]
    if task.name == "ten-anchors":
        offset = anchor if task.variant == "intervals" else [-4, 3, -5, -2, 1, 4, -3, -1, 2, 5][anchor - 1]
    else:
        alike = task.variant in ("identities", "odd-even", "intervals-identities", "overlap-identities")
        offset = 0 if alike else anchor - 3
    return Steps({"key": key, "anchor": anchor, "after_anchor": key + offset}, key + offset)


def variable_composition(_: Any, row: list[int]) -> Steps:
    key = value = row[row.index(9) + 1]
    values = {"key": key}
    for token in row:
        if token in (1, 2, 3, 4):
            value += {1: 1, 2: 3, 3: -2, 4: -3}[token]
            values[f"after_operation_{len(values)}"] = value
    return Steps(values, value)


def chain_search(task: Any, row: list[int]) -> Steps:
    *edges, node = row[:-1] if task.variant == "order" else row
    following = dict(zip(edges[::2], edges[1::2], strict=True))
    values = {}
    for hop in range(row[-1] if task.variant == "order" else 2):
        node = following[node]
        values[f"after_hop_{hop + 1}"] = node
    return Steps(values, node)


def ontology(_: Any, row: list[int]) -> Steps:
    sentences, concept, claim = [row[i + 1 : i + 4] for i in range(0, len(row) - 7, 4)], row[-5], row[-3]
    links = {subject: what for subject, verb, what in sentences if verb == 3}
    signs = {subject: verb for subject, verb, _ in sentences if verb != 3}
    values: dict[str, int] = {}
    while concept not in signs:
        concept = links[concept]
        values[f"after_step_{len(values) + 1}"] = concept
    values["sign"] = signs[concept]
    return Steps(values, int(signs[concept] == claim))


def addition(task: Any, row: list[int]) -> Steps:
    at = row.index(11)
    a, b, values, carry = row[at - 7 : at - 4][::-1], row[at - 3 : at][::-1], {}, 0
    places = ["units", "tens", "hundreds", "thousands"]
    for i, place in enumerate(places):
        if i:
            values[f"carry_into_{place}"] = carry
        column = carry + (a[i] + b[i] if i < 3 else 0)
        values[f"{place}_digit"], carry = column % 10, column // 10
    given = len(row) - 1 - at
    asked = places[given] if task.variant == "least-first" else places[3 - given]
    return Steps(values, values[f"{asked}_digit"])


def sparse_boolean(task: Any, row: list[int]) -> Steps:
    bits = [row[at] for at in task.coordinates]
    ones = bits.count(1)
    answer = {"and": all(bits), "or": any(bits), "parity": ones % 2 == 1, "majority": ones > 1.5}[task.variant]
    return Steps({"relevant_ones": ones}, int(answer))


def two_key_mean(_: Any, row: list[int]) -> Steps:
    first, second = row[row.index(3) + 1 : row.index(3) + 3]
    return Steps({"first_key": first, "second_key": second, "sum": first + second}, (first + second) // 2)


def working_memory(_: Any, row: list[int]) -> Steps:
    *text, operation, memory = row
    stored = {1: text[text.index(1) - 1], 2: text[text.index(2) - 1]}
    answer = stored[memory] + {3: 5, 4: 1, 5: -2, 6: -8}[operation]
    return Steps({"stored_1": stored[1], "stored_2": stored[2], "key": stored[memory], "after_operation": answer}, answer)


def two_prompts(_: Any, row: list[int]) -> Steps:
    first, second = (at for at, token in enumerate(row) if token <= 4)
    return two_anchors_in_turn(row[first - 1], row[first], row[second], lambda anchor, value: value + [0, 1, 0, -2][anchor - 1])


ORACLES: dict[str, Callable[[Any, list[int]], Steps]] = {
    "addition": addition,
    "chain-search": chain_search,
    "composite": composite,
    "composition": composite,
    "data-complexity": composite,
    "full-symmetry": full_symmetry,
    "memory-reasoning": memory_reasoning,
    "near-synonym": near_synonym,
    "nine-anchors": composite,
    "ontology": ontology,
    "random-permutations": random_permutations,
    "sparse-boolean": sparse_boolean,
    "ten-anchors": one_anchor,
    "two-anchors": one_anchor,
    "two-key-mean": two_key_mean,
    "variable-composition": variable_composition,
    "working-memory-retro-cue": working_memory,
    "working-memory-two-prompts": two_prompts,
}
TRACED = [(name, variant) for name, variant in TASKS if name in ORACLES]


def each(tasks: Iterable[tuple[str, str]]) -> pytest.MarkDecorator:
    tasks = sorted(tasks)
    return pytest.mark.parametrize(("name", "variant"), tasks, ids=[f"{name}-{variant}" for name, variant in tasks])


def damaged(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """`tokens [n, seq_len]` with one replaced, two swapped, rotated, and random ones: `[5 n, seq_len]`; some are still examples."""
    rng, row, (n, seq_len) = np.random.default_rng(0), np.arange(len(tokens)), tokens.shape
    replaced, swapped, extreme = tokens.copy(), tokens.copy(), tokens.copy()
    at, other = rng.integers(seq_len, size=(2, n))
    replaced[row, at] = rng.integers(-2, vocab_size + 2, n)
    swapped[row, at], swapped[row, other] = tokens[row, other], tokens[row, at]
    extreme[row, at] = rng.choice([-(2**63), 2**63 - 1], n)
    random = rng.integers(vocab_size, size=tokens.shape)
    return np.concatenate([replaced, swapped, extreme, random, np.roll(tokens, 1, axis=1)])


@each(TRACED)
def test_the_trace_is_the_oracles_and_leads_to_the_label(name, variant):
    task = load_task(name, variant)
    real = np.concatenate([task.sample(split, ROWS, 0).tokens for split in task.splits])
    tokens = np.concatenate([real, damaged(real[-ROWS:], task.vocab_size)])
    answers = task.answer(tokens)
    assert answers.valid[: len(real)].all()
    assert not answers.valid.all()

    tokens.setflags(write=False)
    trace = task.trace(tokens)
    for value, values in trace.items():
        assert value.isidentifier()
        assert values.shape == (len(tokens),)
        assert values.dtype == np.int64
        assert (values[~answers.valid] == NO_ANSWER).all()
    is_exception = [group.role == "exception" for group in task.groups]
    control = task.config.model_dump().get("trained_as", "sum") != "sum"  # trains something else than it asks
    for i in np.flatnonzero(answers.valid).tolist():
        expected = ORACLES[name](task, tokens[i].tolist())
        found = {value: int(values[i]) for value, values in trace.items() if values[i] != NO_ANSWER}
        assert list(found.items()) == list(expected.values.items())  # in the order in which they are computed, too
        if not control or task.groups[answers.group[i]].role != "trained":
            assert (expected.answer == answers.label[i]) != is_exception[answers.group[i]]

    refused = task.trace(tokens[~answers.valid])
    assert list(refused) == list(trace)
    assert all((values == NO_ANSWER).all() for values in refused.values())


@each(set(TASKS) - set(TRACED))
def test_all_other_tasks_name_no_values(name, variant):
    """A task that names some needs an oracle above."""
    task = load_task(name, variant)
    assert task.trace(np.zeros((3, task.seq_len), int)) == {}


def test_a_trained_exception_is_traced_by_the_rule():
    """(3,4) is trained as x-6 in `conflict`: the label says so, the trace says x-2-8."""
    tokens = np.array([[70, 60, 3, 4, 51, 52, 53, 54, 55]])
    assert load_task("composite", "conflict").answer(tokens).label == 54
    trace = {name: values.tolist() for name, values in load_task("composite", "conflict").trace(tokens).items()}
    wanted = {"key": [60], "first_anchor": [3], "after_first_anchor": [58], "second_anchor": [4], "after_second_anchor": [50]}
    assert trace == wanted


def test_no_value_is_taken_for_a_missing_one_where_labels_come_close_to_zero():
    task = load_task("composite", key_min=16, key_max=40)
    examples = task.sample("train", 2_000, 0)
    assert examples.label.min() == 0
    for values in task.trace(examples.tokens).values():
        assert values.min() >= 0


def test_another_shape_is_refused_as_by_answer():
    with pytest.raises(ValueError, match="integers of shape"):
        load_task("composite", "conflict").trace(np.zeros((2, 8), int))

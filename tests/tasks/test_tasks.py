"""What every registered task must satisfy, whichever it is; the hand-worked cases are in golden.py."""

import functools
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from golden import GOLDEN, INVALID, Golden, Invalid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from anchorbench import Answers, Examples, Task, list_tasks, load_task
from anchorbench.task import NO_ANSWER, SPLITS, Parser
from anchorbench.tasks.sequence import KeyConfig, KeyTask

TASKS = list_tasks()
KEY_TASKS = [(name, variant) for name, variant in TASKS if isinstance(load_task(name, variant).config, KeyConfig)]
FIELDS = ("label", "group", "key", "position")
STRICT = 1e-6
"""Level of each chi-square: of some thousand tests, none should fail by chance."""

NOT_UNIFORM: dict[tuple[str, str], str] = {
    ("distance-weighted", "filler"): "whether another token is the most probable one depends on its value",
    ("near-synonym", "group"): "the paper's shares: see its weights, and their own test",
    ("nearest-value-classification", "cell"): "a value in the middle of the keys is more often the nearest one",
    ("nearest-value-classification", "filler"): "the other values are farther away than the nearest one",
    ("reading-comprehension-lookup", "cell"): "the first fact cannot stand late, nor the last one early",
    ("working-memory-retro-cue", "cell"): "pairs of neighbours fit a little more often at the very ends",
}
"""(task, field) -> why the field is not uniform; fields are cell (key and position together), group and filler."""

ANCHOR_OFFSETS = st.dictionaries(st.integers(0, 15), st.integers(-10, 10), max_size=12)
EXTRA_CONFIG: dict[str, st.SearchStrategy[dict[str, object]]] = {
    "composition": st.fixed_dictionaries(
        {"key_first": st.booleans(), "held_out": st.sampled_from([(), ((3, 4),), ((1, 1), (2, 3))])}
    ),
    "distance-weighted": st.fixed_dictionaries({"anchor": st.integers(0, 20)}),
    "near-synonym": st.fixed_dictionaries(
        {"augmentation": st.sampled_from(["synonym", "doubled", "nothing", "none"]), "ratio": st.integers(0, 1001)}
    ),
    "nearest-value-classification": st.fixed_dictionaries(
        {"held_out": st.lists(st.tuples(st.sampled_from(["below", "above"]), st.integers(0, 5)), max_size=5)}
    ),
    "reading-comprehension-lookup": st.fixed_dictionaries(
        {"facts": st.integers(1, 6), "held_out": st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=5)}
    ),
    "recitation": st.fixed_dictionaries({"gap": st.integers(0, 6), "anchor": st.integers(0, 20)}),
    "statistical": st.fixed_dictionaries({"anchor": st.integers(0, 20), "probability": st.sampled_from([0, 0.3, 0.5, 1, 1.5])}),
    "working-memory-retro-cue": st.fixed_dictionaries(
        {
            "offsets": st.dictionaries(st.integers(0, 9), st.integers(-10, 10), max_size=5),
            "held_out": st.lists(st.tuples(st.integers(0, 3), st.integers(2, 7)), max_size=3),
        }
    ),
    "anchor-length": st.fixed_dictionaries({"anchor": st.lists(st.integers(0, 20), max_size=5)}),
    "identity": st.fixed_dictionaries(
        {
            "anchor": st.one_of(st.none(), st.integers(0, 20)),
            "distance": st.integers(-5, 5),
            "cyclic": st.booleans(),
            "residue_of": st.sampled_from(["start", "key"]),
            "start": st.one_of(st.none(), st.integers(0, 9)),
        }
    ),
    "middle-word": st.fixed_dictionaries({"gaps": st.lists(st.integers(0, 9), max_size=3), "first": st.integers(0, 5)}),
    "ten-anchors": st.fixed_dictionaries({"offsets": ANCHOR_OFFSETS, "unseen_intervals": st.booleans()}),
    "two-anchors": st.fixed_dictionaries(
        {
            "offsets": ANCHOR_OFFSETS,
            "trained_keys": st.dictionaries(
                st.integers(0, 5),
                st.one_of(st.sampled_from(["odd", "even"]), st.tuples(st.integers(10, 99), st.integers(20, 120))),
                max_size=3,
            ),
        }
    ),
    "two-key-mean": st.fixed_dictionaries({"anchor": st.integers(0, 20)}),
}
"""Task -> further configuration fields to try, besides the key range, length and modulus of every KeyConfig."""

every_task = pytest.mark.parametrize(("name", "variant"), TASKS, ids=[f"{name}-{variant}" for name, variant in TASKS])
every_key_task = pytest.mark.parametrize(("name", "variant"), KEY_TASKS, ids=[f"{name}-{variant}" for name, variant in KEY_TASKS])
quick = settings(max_examples=5, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@functools.cache
def get(name: str, variant: str) -> Task:
    return load_task(name, variant)


@functools.cache
def large(name: str, variant: str, split: str) -> Examples:
    return get(name, variant).sample(split, 20_000, 7)


def rows(tokens: np.ndarray) -> np.ndarray:
    """Each row of `tokens [n, seq_len]` as one comparable item, `[n]`."""
    return np.ascontiguousarray(tokens).view([("", tokens.dtype)] * tokens.shape[1])[:, 0]


def row_bytes(tokens: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in tokens]


def digest(examples: Examples) -> str:
    arrays = [examples.tokens, *(getattr(examples, field) for field in FIELDS), *examples.foils.values()]
    arrays += [] if examples.target is None else [examples.target]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def check_reads_back(task: Task, examples: Examples, split: str) -> None:
    """`examples` are well-formed and `answer` says of them what the generator says."""
    n = len(examples)
    assert examples.tokens.shape == (n, task.seq_len)
    for array in (examples.tokens, *(getattr(examples, field) for field in FIELDS), *examples.foils.values()):
        assert array.dtype == np.int64
        assert len(array) == n
    if n:
        assert 0 <= examples.tokens.min() <= examples.tokens.max() < task.vocab_size
        assert 0 <= examples.label.min() <= examples.label.max() < task.vocab_size
        assert 0 <= examples.group.min() <= examples.group.max() < len(task.groups)
    answers = task.answer(examples.tokens).require_valid()
    assert answers.valid.all()
    fields = FIELDS if examples.target is None else FIELDS[1:]
    for field in fields:
        np.testing.assert_array_equal(getattr(answers, field), getattr(examples, field), err_msg=field)
    np.testing.assert_array_equal(answers.split, SPLITS.index(split), err_msg="split")
    assert answers.foils.keys() == examples.foils.keys()
    for foil, values in examples.foils.items():
        np.testing.assert_array_equal(answers.foils[foil], values, err_msg=foil)
    assert (examples.target is None) == (answers.target is None)
    if examples.target is not None and answers.target is not None:
        assert examples.target.shape == (n, task.vocab_size)
        np.testing.assert_allclose(answers.target, examples.target)
        np.testing.assert_allclose(examples.target.sum(1), 1)
        assert (examples.target[np.arange(n), examples.label] > 0).all()
        assert (np.take_along_axis(answers.target, answers.label[:, None], 1)[:, 0] == answers.target.max(1)).all()


def assert_uniform(values: np.ndarray) -> None:
    """Chi-square of the values that occur, if they are few enough for it to say something."""
    counts = np.unique(values, return_counts=True)[1]
    if len(counts) > 1 and counts.mean() >= 2:
        assert chisquare(counts).pvalue > STRICT, f"not uniform: {dict(zip(*np.unique(values, return_counts=True), strict=True))}"


# ------------------------------------------------------------------------------------------------ examples and answers


@every_task
@quick
@given(seed=st.integers(0, 2**63 - 1), n=st.integers(0, 300))
def test_examples_read_back(name, variant, seed, n):
    task = get(name, variant)
    for split in task.splits:
        check_reads_back(task, task.sample(split, n, seed), split)


@every_key_task
@settings(quick, max_examples=10)
@given(data=st.data())
def test_other_configurations_read_back_or_are_refused_in_one_sentence(name, variant, data):
    low = data.draw(st.integers(0, 60), "key_min")
    high = low + data.draw(st.integers(-1, 300), "keys")
    config = {
        "key_min": low,
        "key_max": high,
        "seq_len": data.draw(st.integers(2, 40), "seq_len"),
        "modulus": data.draw(st.integers(1, 30), "modulus"),
        "vocab_size": high + data.draw(st.integers(0, 60), "room"),
        "filler_max": high + data.draw(st.integers(-1, 20), "filler"),
        **data.draw(EXTRA_CONFIG.get(name, st.just({})), "config"),
    }
    changed = data.draw(st.sets(st.sampled_from(sorted(config))), "changed")
    try:
        task = load_task(name, variant, **{field: config[field] for field in changed})
    except ValueError as error:
        assert_one_sentence(error)
        return
    for split in task.splits:
        check_reads_back(task, task.sample(split, 100, 5), split)


@every_task
def test_splits_are_disjoint(name, variant):
    task = get(name, variant)
    seen = [set(row_bytes(large(name, variant, split).tokens)) for split in task.splits]
    assert len(set().union(*seen)) == sum(map(len, seen))


@every_task
def test_groups_of_the_splits(name, variant):
    task = get(name, variant)
    held_out = {i for i, group in enumerate(task.groups) if group.role in ("held_out", "mirror")}
    for split in task.splits:
        wanted = held_out if split == "ood" else set(range(len(task.groups))) - held_out
        assert set(large(name, variant, split).group.tolist()) == wanted, split
    assert len({group.name for group in task.groups}) == len(task.groups)


@every_task
def test_foils_differ_where_they_must(name, variant):
    task = get(name, variant)
    for split in task.splits:
        examples = large(name, variant, split)
        role = np.array([group.role for group in task.groups])[examples.group]
        mirror, unseen = role == "mirror", np.isin(role, ["held_out", "mirror"])
        if unseen.any():
            np.testing.assert_array_equal(examples.label[unseen], examples.foils["inferential"][unseen])
        if mirror.any():
            assert (examples.foils["symmetric"][mirror] != NO_ANSWER).all()
            assert (examples.foils["symmetric"] != examples.foils["inferential"])[mirror].all()
        symmetric = examples.foils.get("symmetric", np.full(len(examples), NO_ANSWER))
        assert (symmetric[~mirror] == NO_ANSWER).all(), "a symmetric answer where no mirrored exception is trained"
        shortcut = examples.foils.get("shortcut", np.full(len(examples), NO_ANSWER))
        assert (shortcut != examples.label).all(), "a shortcut that gives the right answer is no foil"
        for values in examples.foils.values():
            assert ((values == NO_ANSWER) | ((values >= 0) & (values < task.vocab_size))).all()


@every_task
def test_vocabulary_and_facts(name, variant):
    task = get(name, variant)
    words = [token.word for token in task.vocabulary]
    assert len(set(words)) == len(words) == task.vocab_size
    assert all(word and not any(letter.isspace() for letter in word) for word in words)
    assert all(token.meaning.strip() for token in task.vocabulary)
    assert 0 < task.chance < 1
    assert set(task.splits) <= set(task.sizes)
    assert task.name == name
    assert task.variant == variant
    assert task.description.strip() and task.paper.strip() and "\n" not in task.description
    tokens = large(name, variant, "train").tokens[:3]
    assert [[words.index(word) for word in text.split(" ")] for text in task.text(tokens)] == tokens.tolist()


@every_task
def test_mirror_is_its_own_inverse(name, variant):
    task = get(name, variant)
    for split in task.splits:
        tokens = large(name, variant, split).tokens[:500]
        mirrored = task.mirror(tokens)
        if mirrored is not None:
            np.testing.assert_array_equal(task.mirror(mirrored), tokens)


@every_task
def test_landmarks_stand_in_the_sequence(name, variant):
    task = get(name, variant)
    for split in task.splits:
        examples = large(name, variant, split)[:200]
        found = task.token_positions(examples.tokens)
        np.testing.assert_array_equal(found["key"], examples.position)
        for landmark, positions in found.items():
            assert positions.shape == (200,), landmark
            assert ((positions >= NO_ANSWER) & (positions < task.seq_len)).all(), landmark


@every_task
def test_for_seed_gives_a_task_of_the_same_shape(name, variant):
    task = get(name, variant)
    for seed in (0, 1, 12):
        other = task.for_seed(seed)
        assert (other.name, other.variant, other.seq_len, other.vocab_size) == (name, variant, task.seq_len, task.vocab_size)
        assert other.fingerprint == task.for_seed(seed).fingerprint
        for split in other.splits if other is not task else ():
            check_reads_back(other, other.sample(split, 50, seed), split)


def test_fingerprints_differ():
    fingerprints = {get(name, variant).fingerprint for name, variant in TASKS}
    assert len(fingerprints) == len(TASKS)


# ------------------------------------------------------------------------------------------------ randomness


@every_task
@settings(quick, max_examples=2)
@given(seed=st.integers(0, 2**63 - 1))
def test_same_seed_same_bytes(name, variant, seed):
    task, again = get(name, variant), load_task(name, variant)
    for split in task.splits:
        assert digest(task.sample(split, 40, seed)) == digest(again.sample(split, 40, seed))


DIGESTS = """
import json
from test_tasks import TASKS, digest, get
print(json.dumps([digest(get(*task).sample(split, 200, 3)) for task in TASKS for split in get(*task).splits]))
"""


def test_same_seed_same_bytes_in_another_process():
    here = [digest(get(*task).sample(split, 200, 3)) for task in TASKS for split in get(*task).splits]
    for hash_seed in ("1", "2")[: 1 + (os.environ.get("PYTHONHASHSEED") == "1")]:
        assert json.loads(run_python(DIGESTS, Path(__file__).parent, hash_seed=hash_seed)) == here


@every_task
def test_adjacent_seeds_share_no_more_than_far_ones(name, variant):
    task = get(name, variant)
    for split in task.splits:
        base, near, far = (rows(task.sample(split, 2_000, seed).tokens) for seed in (42, 43, 1042))
        assert_like_chance(np.isin(near, base).sum(), np.isin(far, base).sum())
        assert_like_chance((near == base).sum(), (far == base).sum())


@every_task
def test_batches_are_fresh(name, variant):
    task = get(name, variant)
    for split in task.splits:
        sampled = rows(task.sample(split, 1_000, 42).tokens)
        far = rows(task.sample(split, 1_000, 1042).tokens)
        stream = task.iter_batches(split, 1_000, 42)
        first, second = rows(next(stream).tokens), rows(next(stream).tokens)
        for a, b in ((first, second), (first, sampled), (second, sampled)):
            assert_like_chance(np.isin(a, b).sum(), np.isin(far, sampled).sum())
            assert_like_chance((a == b).sum(), (far == sampled).sum())
    assert digest(next(task.iter_batches("train", 50, 9))) == digest(next(task.iter_batches("train", 50, 9)))


def assert_like_chance(count: int, chance: int) -> None:
    """Two counts of the same rare (or common) event in as many trials differ by less than six standard deviations."""
    assert abs(int(count) - int(chance)) <= 6 * np.sqrt(int(count) + int(chance) + 1), f"{count} shared rows, by chance {chance}"


@every_task
def test_key_and_position_are_uniform(name, variant):
    if (name, "cell") in NOT_UNIFORM:
        pytest.skip(NOT_UNIFORM[name, "cell"])
    for split in get(name, variant).splits:
        examples = get(name, variant).sample(split, 100_000, 7)
        for group in np.unique(examples.group):
            here = examples.group == group
            assert_uniform(examples.key[here] * 10_000 + examples.position[here])


@every_task
def test_groups_are_uniform(name, variant):
    if (name, "group") in NOT_UNIFORM:
        pytest.skip(NOT_UNIFORM[name, "group"])
    for split in get(name, variant).splits:
        assert_uniform(large(name, variant, split).group)


@every_key_task
def test_filler_is_uniform(name, variant):
    """Filler is what can be replaced by any other key without any part of the answer changing."""
    if (name, "filler") in NOT_UNIFORM:
        pytest.skip(NOT_UNIFORM[name, "filler"])
    task = get(name, variant)
    assert isinstance(task, KeyTask)
    keys, rng = task.config.keys, np.random.default_rng(0)
    for split in task.splits:
        tokens = large(name, variant, split).tokens[:4_000]
        before, found = task.answer(tokens), 0
        for column in range(task.seq_len):
            is_filler = np.isin(tokens[:, column], keys)
            for _ in range(2):
                changed = tokens.copy()
                shift = rng.integers(1, len(keys), len(tokens))
                changed[:, column] = keys[(changed[:, column] - keys[0] + shift) % len(keys)]
                after = task.answer(changed)
                is_filler &= after.valid
                for field in (*FIELDS, "split"):
                    is_filler &= getattr(after, field) == getattr(before, field)
            assert_uniform(tokens[is_filler, column])
            found += is_filler.sum()
            if is_filler.sum() > 30 * len(keys):  # a value that is never drawn goes unnoticed by chi-square
                assert len(np.unique(tokens[is_filler, column])) == len(keys)
        assert found or task.seq_len < 5


@every_key_task
def test_every_key_and_position_that_reads_as_a_split_is_drawn(name, variant):
    """Rotated rows that `answer` takes for a split have no key or position that the generator never draws for it."""
    task = get(name, variant)
    for i, split in enumerate(SPLITS):
        if split not in task.splits:
            continue
        examples = large(name, variant, split)
        for shift in range(1, task.seq_len):
            answers = task.answer(np.roll(examples.tokens[:4_000], shift, axis=1))
            here = answers.split == i
            assert set(answers.position[here].tolist()) <= set(examples.position.tolist())
            assert set(answers.key[here].tolist()) <= set(examples.key.tolist())
            assert set(answers.group[here].tolist()) <= set(examples.group.tolist())


# ------------------------------------------------------------------------------------------------ garbage and wrong values


def check_answers(task: Task, answers: Answers, n: int) -> None:
    """Invalid rows carry a sentence and no answer; valid ones an answer of the vocabulary."""
    assert answers.valid.shape == (n,)
    assert set(answers.problems) == set(np.flatnonzero(~answers.valid).tolist())
    for problem in answers.problems.values():
        assert problem.strip() and "\n" not in problem
    for values in (*(getattr(answers, field) for field in FIELDS), answers.split, *answers.foils.values()):
        assert values.dtype == np.int64
        assert (values[~answers.valid] == NO_ANSWER).all()
    assert ((answers.label[answers.valid] >= 0) & (answers.label[answers.valid] < task.vocab_size)).all()
    assert ((answers.group[answers.valid] >= 0) & (answers.group[answers.valid] < len(task.groups))).all()
    assert ((answers.split >= NO_ANSWER) & (answers.split < len(SPLITS))).all()


@every_task
@settings(quick, max_examples=2)
@given(seed=st.integers(0, 2**32 - 1))
def test_garbage_is_marked_and_never_raises(name, variant, seed):
    task, rng = get(name, variant), np.random.default_rng(seed)
    limits = np.iinfo(np.int64)
    shape = (100, task.seq_len)
    real = large(name, variant, "train").tokens[:100]
    damaged = np.where(rng.random(shape) < 1 / task.seq_len, rng.integers(-5, task.vocab_size + 5, shape), real)
    extreme = np.where(rng.random(shape) < 1 / task.seq_len, rng.choice([limits.min, limits.max, -1], shape), real)
    for tokens in (
        rng.integers(limits.min, limits.max, shape, endpoint=True),
        rng.integers(-3, task.vocab_size + 3, shape),
        rng.integers(0, min(20, task.vocab_size), shape),
        rng.permuted(real, axis=1),
        np.repeat(rng.integers(0, task.vocab_size, (100, 1)), task.seq_len, axis=1),
        damaged,
        extreme,
        real[:0],
    ):
        tokens.setflags(write=False)
        answers = task.answer(tokens)
        check_answers(task, answers, len(tokens))
        outside = ((tokens < 0) | (tokens >= task.vocab_size)).any(1)
        assert not answers.valid[outside].any(), "a row with an id outside the vocabulary"


@every_task
def test_each_row_is_answered_alone(name, variant):
    task = get(name, variant)
    tokens = np.concatenate([large(name, variant, split).tokens[:50] for split in task.splits])
    tokens = np.concatenate([tokens, np.random.default_rng(0).permuted(tokens, axis=1)])
    together, order = task.answer(tokens), np.random.default_rng(1).permutation(len(tokens))
    apart = task.answer(tokens[order][:60].astype(np.int32))
    for field in ("valid", *FIELDS, "split"):
        np.testing.assert_array_equal(getattr(apart, field), getattr(together, field)[order][:60])


@pytest.fixture
def unchecked():
    """Runs without the type checks of the tests, as users do: what do wrong values say then?"""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def assert_one_sentence(error: BaseException) -> None:
    message = str(error)
    assert message.strip() and "\n" not in message
    assert len(message) < 1_000


@every_task
@pytest.mark.usefixtures("unchecked")
def test_wrong_values_are_one_sentence(name, variant):
    task = get(name, variant)
    for arguments in (
        *(("test", 1, 0), ("", 1, 0), (None, 1, 0)),
        *(("train", -1, 0), ("train", 1.5, 0), ("train", True, 0), ("train", "3", 0), ("train", None, 0)),
        *(("train", 1, -1), ("train", 1, 0.5), ("train", 1, False), ("train", 1, None)),
        *((split, 1, 0) for split in SPLITS if split not in task.splits),
    ):
        for method in (task.sample, lambda *a: next(task.iter_batches(*a))):
            with pytest.raises(ValueError) as caught:
                method(*arguments)
            assert_one_sentence(caught.value)
    for tokens in (
        np.zeros((2, task.seq_len + 1), int),
        np.zeros(task.seq_len, int),
        np.zeros((2, task.seq_len)),
        np.zeros((2, task.seq_len), bool),
        [["a"] * task.seq_len],
    ):
        with pytest.raises(ValueError) as caught:
            task.answer(tokens)
        assert_one_sentence(caught.value)
    with pytest.raises(ValueError, match="no_such_field") as caught:
        load_task(name, variant, no_such_field=1)
    assert_one_sentence(caught.value)


WRONG_CONFIGS = [
    *({"key_min": 99, "key_max": 20}, {"key_min": -1}, {"key_max": 10**6}, {"key_min": "many"}),
    *({"seq_len": 0}, {"seq_len": 1}, {"seq_len": 10**6}, {"seq_len": 9.5}),
    *({"modulus": 0}, {"modulus": -3}, {"modulus": None}),
    *({"vocab_size": 50}, {"vocab_size": 10**9}),
]


@every_key_task
@pytest.mark.parametrize("config", WRONG_CONFIGS, ids=str)
def test_impossible_configurations_are_refused(name, variant, config):
    with pytest.raises(ValueError) as caught:
        load_task(name, variant, **config)
    assert_one_sentence(caught.value)


def test_unknown_names():
    with pytest.raises(ValueError, match="did you mean 'identity'") as caught:
        load_task("identitty")
    assert_one_sentence(caught.value)
    with pytest.raises(ValueError, match="did you mean 'conflict'") as caught:
        load_task("composite", "conflicts")
    assert_one_sentence(caught.value)


# ------------------------------------------------------------------------------------------------ the table of golden cases


@pytest.mark.parametrize("case", GOLDEN, ids=[f"{case.task}-{case.variant}-{case.split}-{i}" for i, case in enumerate(GOLDEN)])
def test_golden(case: Golden):
    task = load_task(case.task, case.variant, **case.config)
    answers = task.answer(np.array([case.tokens])).require_valid()
    assert answers.label[0] == case.label
    assert task.groups[answers.group[0]].name == case.group
    assert answers.key[0] == case.key
    assert answers.position[0] == case.position
    assert answers.split[0] == (NO_ANSWER if case.split is None else SPLITS.index(case.split))
    assert {foil: values[0] for foil, values in answers.foils.items() if values[0] != NO_ANSWER} == case.foils


@pytest.mark.parametrize("case", INVALID, ids=[f"{case.task}-{case.variant}-{i}" for i, case in enumerate(INVALID)])
def test_golden_invalid(case: Invalid):
    answers = load_task(case.task, case.variant).answer(np.array([case.tokens]))
    assert not answers.valid[0]
    assert case.reason in answers.problems[0]
    with pytest.raises(ValueError, match="row 0 is not an example of the task"):
        answers.require_valid()


def test_every_task_has_golden_cases():
    for name, _ in TASKS:
        assert sum(case.task == name for case in GOLDEN) >= 2, name
        assert any(case.task == name for case in INVALID), name


# ------------------------------------------------------------------------------------------------ tasks of other packages

OTHER_PACKAGE = '''
"""A package that knows anchorbench and that anchorbench does not know."""

import numpy as np

from anchorbench.task import Examples, Group, Task, TaskConfig, Token, register


class EchoConfig(TaskConfig):
    length: int = 4


@register
class Echo(Task):
    """The last token."""

    name = "echo"
    paper = "none"
    Config = EchoConfig
    description = "The last token."
    seq_len = property(lambda self: self.config.length)
    vocabulary = property(lambda self: tuple(Token(str(i), f"number {i}") for i in range(10)))
    groups = property(lambda self: (Group("echo", "trained"),))
    chance = 0.1

    def generate(self, rng, split, n):
        tokens = 2 * rng.integers(5, size=(n, self.seq_len)) + (split == "iid")
        none = np.full(n, -1)
        return Examples(tokens=tokens, label=tokens[:, -1], group=none + 1, key=tokens[:, -1], position=none + self.seq_len)

    def parse(self, tokens, parser):
        iid = tokens[:, -1] % 2
        none = np.full(len(tokens), -1)
        parser.require(((tokens >= 0) & (tokens < 10) & (tokens % 2 == iid[:, None])).all(1), "it mixes odd and even")
        return parser.answers(label=tokens[:, -1], group=none + 1, key=tokens[:, -1], position=none + self.seq_len, split=iid)
'''

FIND_ECHO = """
import sys, anchorbench
assert "echo_tasks" not in sys.modules
assert ("echo", "default") in anchorbench.list_tasks()
task = anchorbench.load_task("echo", length=6)
examples = task.sample("iid", 20, 1)
answers = task.answer(examples.tokens).require_valid()
assert (answers.label == examples.label).all() and (answers.split == 1).all()
print("found", task.seq_len)
"""


def test_a_task_of_another_package_is_found_through_its_entry_point(tmp_path):
    (tmp_path / "echo_tasks.py").write_text(OTHER_PACKAGE)
    info = tmp_path / "echo_tasks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-tasks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[anchorbench.tasks]\necho = echo_tasks:Echo\n")
    assert run_python(FIND_ECHO, tmp_path).strip() == "found 6"


def run_python(code: str, *folders: Path, hash_seed: str = "1") -> str:
    """What `code` prints in a fresh interpreter that also imports from `folders`."""
    root = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, [*folders, root, *filter(None, [os.environ.get("PYTHONPATH")])]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_parser_keeps_the_first_problem_of_a_row():
    parser = Parser(3)
    parser.require(np.array([True, False, True]), "one")
    parser.require(np.array([True, False, False]), "two")
    assert parser.problems == {1: "one", 2: "two"}
    assert parser.valid.tolist() == [True, False, False]

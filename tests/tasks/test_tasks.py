"""What every registered task must satisfy, whichever it is; the hand-worked cases are in golden.py and invalid.py."""

import numpy as np
import pytest
from every_task import TASKS, assert_one_sentence, check_reads_back, every_key_task, every_task, get, large, quick, row_bytes
from golden import GOLDEN, Golden
from hypothesis import given, settings
from hypothesis import strategies as st
from invalid import INVALID, Invalid
from processes import said_by

from anchorbench import load_task
from anchorbench.task import NO_ANSWER, SPLITS, Parser

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
    "working-memory-two-prompts": st.fixed_dictionaries(
        {"offsets": ANCHOR_OFFSETS, "held_out": st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=3)}
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


def test_a_task_of_another_package_is_found_through_its_entry_point(tmp_path):
    info = tmp_path / "echo_tasks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-tasks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[anchorbench.tasks]\necho = echo_tasks:Echo\n")
    assert said_by("find_echo", tmp_path).strip() == "found 6"


def test_parser_keeps_the_first_problem_of_a_row():
    parser = Parser(3)
    parser.require(np.array([True, False, True]), "one")
    parser.require(np.array([True, False, False]), "two")
    assert parser.problems == {1: "one", 2: "two"}
    assert parser.valid.tolist() == [True, False, False]

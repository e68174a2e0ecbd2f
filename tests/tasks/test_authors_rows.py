"""Rows written one by one, as the papers' generators write them, are read by `answer`; a slow second reading agrees."""

import random

import numpy as np
import pytest

from anchorbench import load_task
from anchorbench.task import NO_ANSWER, SPLITS

ROWS = 500


def identity_row(draw: random.Random, of_key: bool, split: str) -> tuple[list[int], int, int]:
    """2401.08309: filler 20..100; the residue of the key, less the anchor's position or its own, is 0 modulo 8 in the test set."""
    tokens = [draw.randint(20, 100) for _ in range(9)]
    at = draw.randint(0, 7)
    own = at + 1 if of_key else at
    base = draw.choice([value for value in range(20, 100) if (value % 8 == 0) == (split == "iid")])
    tokens[at], tokens[at + 1] = 3, base + own
    return tokens, base + own, at + 1


@pytest.mark.parametrize("variant", ["default", "key-position"])
@pytest.mark.parametrize("split", ["train", "iid"])
def test_identity_as_the_authors_write_it(variant: str, split: str) -> None:
    draw = random.Random(0)  # noqa: S311
    rows = [identity_row(draw, variant == "key-position", split) for _ in range(ROWS)]
    tokens, keys, positions = (np.array(column) for column in zip(*rows, strict=True))
    assert tokens.max() > 100
    read = load_task("identity", variant, key_max=107).answer(tokens).require_valid()
    np.testing.assert_array_equal(read.label, keys)
    np.testing.assert_array_equal(read.position, positions)
    assert (read.split == SPLITS.index(split)).all()
    # with filler_max the keys stay those of the paper's text, 20..99
    of_text = load_task("identity", variant, filler_max=107).answer(tokens)
    np.testing.assert_array_equal(of_text.valid, keys <= 99)
    np.testing.assert_array_equal(of_text.label[keys <= 99], keys[keys <= 99])
    assert (of_text.split[keys <= 99] == SPLITS.index(split)).all()


@pytest.mark.parametrize("filler_max", [None, 99, 100, 107])
def test_filler_is_drawn_up_to_filler_max_and_no_further(filler_max: int | None) -> None:
    task = load_task("composition", filler_max=filler_max)
    examples = task.sample("train", 5000, 0)
    assert examples.tokens.max() == (99 if filler_max is None else filler_max)
    assert examples.key.max() == 99
    assert task.answer(examples.tokens).valid.all()
    assert load_task("composition").answer(examples.tokens).valid.tolist() == (examples.tokens <= 99).all(1).tolist()


def follow(tokens: list[int], hops: int) -> int | None:
    """The node `hops` after the query, by a dictionary."""
    edges = dict(zip(tokens[0:-1:2], tokens[1:-1:2], strict=True))
    node: int | None = tokens[-1]
    for _ in range(hops):
        node = edges.get(node) if node is not None else None
    return node


def test_any_node_of_two_chains_that_has_two_more_hops_is_asked_about_and_no_other() -> None:
    task = load_task("chain-search", "two-any")
    examples = task.sample("train", ROWS, 0)
    assert [follow(row, 2) for row in examples.tokens.tolist()] == examples.label.tolist()
    edges = examples.tokens[:, :-1]
    starts = ~(edges[:, 1::2] == examples.key[:, None]).any(1)
    assert 0.4 < starts.mean() < 0.6  # of the four nodes of a chain, the first and the second
    for column in range(12):  # any other query
        asked = np.concatenate([edges, edges[:, column : column + 1]], axis=1)
        read = task.answer(asked)
        followed = [follow(row, 2) for row in asked.tolist()]
        assert read.label.tolist() == [NO_ANSWER if label is None else label for label in followed]


def test_integers_are_asked_for_strictly() -> None:
    """Whole floats become integers where YAML is read (test_files), nowhere else."""
    for wrong in (True, 9.0, 9.5, "9", float("nan")):
        with pytest.raises(ValueError, match="task identity: modulus is"):
            load_task("identity", modulus=wrong)

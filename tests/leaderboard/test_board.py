"""The board: entries of one training, disputes, reproductions and flags, whatever files are called."""

import functools
import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from hostile import FIRST, RUNS

from anchorbench.leaderboard.board import Line, agree
from anchorbench.leaderboard.check import validate_entry
from anchorbench.leaderboard.entry import Entry, digest_of
from anchorbench.leaderboard.registration import register
from anchorbench.leaderboard.suite import SEEDS
from anchorbench.leaderboard.verify import Reproduction, fresh_seeds, nonce_of, read_reproduction
from anchorbench.verdict import Share


def lines_of(*entries: Entry, reproductions: Any = ()) -> list[Line]:
    return hostile.board_of(*entries, reproductions=reproductions).tracks["laptop"]


def reproduced(by: str, *, inferential: int, members: int = RUNS) -> Reproduction:
    """A reproduction of the honest entry's recipe that nobody trained, in which so many members of each task compose."""
    recipe = hostile.honest_entry().recipe
    seeds = zip(recipe.suite, fresh_seeds(recipe, nonce_of(recipe, by), members), strict=True)
    row_of = functools.partial(hostile.honest_row, recipe, inferential=inferential)
    chosen = [row_of(task, number, seed) for task, of_task in seeds for number, seed in enumerate(of_task)]
    content = {"by": by, "recipe": recipe, "rows": chosen, "environment": None, "git": None}
    found = Reproduction.model_validate({**content, "digest": "0" * 64})
    return found.model_copy(update={"digest": digest_of(found.model_dump(mode="json"))})


def elsewhere(entry: Entry, **fields: str) -> Entry:
    """The entry as if it had been trained on another kind of machine."""
    environment = hostile.ENVIRONMENT.model_copy(update={"capability": "AVX512", **fields})
    content = json.loads(entry.model_copy(update={"environment": environment}).to_json())
    return validate_entry(hostile.sealed(content))


def test_a_fabricated_copy_does_not_displace_the_genuine_entry() -> None:
    """Whatever their order: both are named, neither has a rank."""
    genuine, copy, other = (
        hostile.honest_entry("Genuine", inferential=3),
        hostile.honest_entry("AAA", inferential=SEEDS),
        hostile.honest_entry("Other", inferential=2, data_size=50_000),
    )
    for order in itertools.permutations([genuine, copy, other]):
        found = lines_of(*order)
        assert [line.name for line in found if line.rank] == ["Other"]
        disputed = {line.name: line.disputes for line in found if not line.rank}
        assert set(disputed) == {"Genuine", "AAA"}
        assert disputed["Genuine"] == [f"AAA ({copy.digest[:8]}) trains alike and has other rows"]


def test_one_more_answer_on_the_same_machine_is_a_dispute() -> None:
    """Counts are equal where bits are; elsewhere a few answers differ."""
    genuine = hostile.honest_entry("Genuine", authors=["A"])
    content = json.loads(hostile.honest_entry("Second", authors=["B"], description="Again.").to_json())
    content["rows"][2]["accuracy_iid"][0] -= 1
    second = validate_entry(hostile.sealed(content))
    assert not agree(genuine, second)
    assert len(lines_of(genuine, second)) == 2
    other = elsewhere(second)
    assert agree(genuine, other)
    (line,) = lines_of(genuine, other)
    assert sorted(line.names) == ["Genuine", "Second"]
    assert (len(line.rows), len(line.independent), line.rank) == (RUNS, 1, 1)


def test_an_entry_of_the_same_author_or_with_the_same_rows_is_not_independent() -> None:
    genuine = hostile.honest_entry("Genuine", authors=["A"])
    assert lines_of(genuine, elsewhere(hostile.honest_entry("Copy", authors=["B"])))[0].independent == []
    content = json.loads(elsewhere(hostile.honest_entry("Again", authors=["\uff21"])).to_json())
    content["rows"][0]["seconds"] += 1
    assert lines_of(genuine, validate_entry(hostile.sealed(content)))[0].independent == []


def test_reproductions_pool_and_are_counted() -> None:
    genuine = hostile.honest_entry(authors=["Author"])
    found = [
        reproduced("B", inferential=3),
        reproduced("C", inferential=4),
        reproduced("c", inferential=3),
    ]
    (line,) = lines_of(genuine, reproductions=[*found, reproduced("Author", inferential=3)])
    assert line.independent in (["B", "C"], ["B", "c"])  # one name in two spellings
    assert len(line.rows) == 3 * RUNS
    task = line.statistics.tasks[0]
    assert task.inferential in (Share(3 + 3 + 4, 3 * SEEDS), Share(3 + 3 + 3, 3 * SEEDS))
    alone = lines_of(genuine)[0].statistics.score
    assert line.statistics.score.high - line.statistics.score.low < 0.8 * (alone.high - alone.low)


def test_a_reproduction_that_contradicts_is_named() -> None:
    (line,) = lines_of(hostile.honest_entry(inferential=SEEDS), reproductions=[reproduced("B", inferential=0)])
    assert (line.rank, line.independent) == (None, [])
    assert line.disputes == ["a reproduction by B scores 10%"]


def test_a_reproduction_settles_a_dispute() -> None:
    genuine, copy = hostile.honest_entry("Genuine", inferential=2), hostile.honest_entry("AAA", inferential=SEEDS)
    board = hostile.board_of(copy, genuine, reproductions=[reproduced("B", inferential=2)])
    (line,) = board.tracks["laptop"]
    assert (line.name, line.rank, line.independent) == ("Genuine", 1, ["B"])
    assert board.left_out == [f"the entry 'AAA' ({copy.digest[:8]}) is refuted by the reproduction of 'B'"]


def test_equal_names_of_different_trainings_are_told_apart() -> None:
    """Neither is left out, and readers can tell which is which."""
    first, second = hostile.honest_entry("Same"), hostile.honest_entry("\uff33ame", data_size=50_000)
    names = sorted(line.name for line in lines_of(first, second))
    assert names == sorted([f"Same ({first.digest[:8]})", f"\uff33ame ({second.digest[:8]})"])


def test_rows_above_those_of_all_others_are_flagged() -> None:
    """Eight recipes with one shape of model; the last composes where no other does."""
    modest = [hostile.honest_entry(f"Modest {k}", inferential=0, data_size=50_000 + 1000 * k) for k in range(7)]
    bold = hostile.honest_entry("Bold", inferential=2, data_size=60_000)
    found = {line.name: line.flags for line in lines_of(*modest, bold)}
    assert [len(found[f"Modest {k}"]) for k in range(7)] == [0] * 7
    flags = found["Bold"]
    assert len(flags) == 2 * len(bold.suite)
    assert flags[0] == f"{FIRST}, seed {bold.rows[0].seed}: composed share 1.00; {7 * SEEDS} others 0.10 to 0.10"
    other = hostile.honest_entry("Other", inferential=2, data_size=60_000, model={"d_ff": 128})
    assert not any(line.flags for line in lines_of(*modest, other))


def test_the_order_of_files_changes_nothing() -> None:
    entries = [hostile.honest_entry(f"E {k}", inferential=k, data_size=50_000 + 1000 * k) for k in range(4)]
    entries += [hostile.honest_entry("Again", inferential=SEEDS, data_size=50_000)]
    shown = {
        tuple((line.name, line.rank, tuple(line.disputes)) for line in lines_of(*order))
        for order in (entries, entries[::-1], np.random.default_rng(0).permutation(np.array(entries, object)).tolist())
    }
    assert len(shown) == 1


def test_the_registered_name_comes_first(tmp_path: Path) -> None:
    """Whoever enters another's registration does not rename it."""
    registered = register(hostile.honest_entry("Mine").recipe, "dice", datetime(2026, 12, 1, tzinfo=UTC))
    (tmp_path / "registrations").mkdir()
    (tmp_path / "registrations" / "mine.yaml").write_bytes(registered.to_yaml())
    board = hostile.board_of(hostile.honest_entry("Yours"), folder=tmp_path)
    assert board.tracks["laptop"][0].name == "Mine = Yours"


# --- Reproductions as files


def _reseeded(content: dict[str, Any]) -> None:
    content["rows"][0]["seed"] += 1


def _twice(content: dict[str, Any]) -> None:
    content["rows"].insert(1, content["rows"][0])


def _better(content: dict[str, Any]) -> None:
    content["rows"][SEEDS - 1]["verdict"] = "inferential"


HOSTILE = {
    "chosen seeds": (_reseeded, "recipe and name give"),
    "another's runs": (lambda content: content.update(by="C"), "recipe and name give"),
    "the best runs": (lambda content: content["rows"].pop(), "recipe and name give"),
    "one run twice": (_twice, "recipe and name give"),
    "a better verdict": (_better, f"row {SEEDS - 1} has verdict 'inferential'; its shares give"),
    "no runs": (lambda content: content.update(rows=[]), "rows"),
    "a number for a name": (lambda content: content.update(by="1. place"), "begins with '1'"),
    "an invisible name": (lambda content: content.update(by="B\u200b"), "U+200B"),
    "a nonce": (lambda content: content.update(nonce="0" * 16), "unknown field 'nonce'"),
    "statistics": (lambda content: content.update(statistics={"score": 1}), "unknown field 'statistics'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_reproduction_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    edit, reason = HOSTILE[name]
    content = json.loads(reproduced("B", inferential=3).to_json())
    edit(content)
    (tmp_path / "a.json").write_bytes(hostile.sealed(content))
    with pytest.raises(ValueError, match=r"a\.json: ") as refused:
        read_reproduction(tmp_path / "a.json")
    assert reason in str(refused.value)


def test_a_changed_reproduction_has_another_digest(tmp_path: Path) -> None:
    found = reproduced("B", inferential=3)
    (tmp_path / "a.json").write_bytes(found.to_json())
    assert read_reproduction(tmp_path / "a.json") == found
    (tmp_path / "a.json").write_bytes(found.to_json().replace(b'"by": "B"', b'"by": "C"'))
    with pytest.raises(ValueError, match="the digest is"):
        read_reproduction(tmp_path / "a.json")
    (tmp_path / "part.json").write_bytes(reproduced("B", inferential=3, members=13).to_json())
    assert len(read_reproduction(tmp_path / "part.json").rows) == 13

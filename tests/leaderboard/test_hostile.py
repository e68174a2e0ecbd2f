"""Generated hostile files: what stops each of them, or the plain statement that only retraining can.

A third are consistent fabrications: valid entries with seeds, digests and verdicts that follow, whose rows nobody trained. The
genuine entry stands for what retraining gives; nothing is trained here.
"""

import copy
import functools
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from math import comb
from typing import Any

import hostile
import numpy as np
import pytest
import yaml
from conftest import ROOT
from hostile import BEACON, ENVIRONMENT, RUNS, judged, sealed

from anchorbench.leaderboard.board import agree
from anchorbench.leaderboard.check import MAX_SENTENCE, validate_entry
from anchorbench.leaderboard.entry import Entry, Row
from anchorbench.leaderboard.names import name_key
from anchorbench.leaderboard.registration import Beacon, Registration, read_registration, register, require_later
from anchorbench.leaderboard.statistics import statistics_of
from anchorbench.leaderboard.submission import SubmittedRecipe, canonical
from anchorbench.leaderboard.suite import SEEDS
from anchorbench.leaderboard.verify import COMPARED, LIE, Verification, counted
from anchorbench.verdict import Share

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


@functools.cache
def genuine() -> Entry:
    return hostile.honest_entry("Genuine", inferential=3)


@functools.cache
def genuine_content() -> dict[str, Any]:
    return json.loads(genuine().to_json())


# --- Consistent fabrications

Edit = Callable[[list[Row], np.random.Generator], list[Row]]


def composing(row: Row, share: float) -> Row:
    """The row with another share of held-out answers that compose."""
    n = row.composes.n
    return row.model_copy(update={"composes": Share(round(min(1.0, max(0.0, share)) * n), n)})


def share_of(row: Row) -> float:
    return row.composes.value


def raised(count: int, *, spread: bool) -> Edit:
    """So many failed runs replaced by good ones, spread over tasks or task by task."""

    def edit(rows: list[Row], rng: np.random.Generator) -> list[Row]:
        failed = [i for i, row in enumerate(rows) if share_of(row) < 0.9]
        failed.sort(key=(lambda i: (i % SEEDS, i)) if spread else (lambda i: i))
        return [composing(row, 1.0) if i in failed[:count] else row for i, row in enumerate(rows)]

    return edit


def shifted(by: float) -> Edit:
    return lambda rows, rng: [composing(row, share_of(row) + by) for row in rows]


def of_task(task: int, share: float) -> Edit:
    return lambda rows, rng: [composing(row, share) if i // SEEDS == task else row for i, row in enumerate(rows)]


def of_member(member: int, share: float) -> Edit:
    return lambda rows, rng: [composing(row, share) if i % SEEDS == member else row for i, row in enumerate(rows)]


def drawn_around(share: float) -> Edit:
    """All rows invented, with the noise that counts of answers have."""

    def edit(rows: list[Row], rng: np.random.Generator) -> list[Row]:
        return [composing(row, rng.binomial(row.composes.n, share) / row.composes.n) for row in rows]

    return edit


def permuted(task: int) -> Edit:
    """True rows under the wrong seeds: the score is true, too."""

    def edit(rows: list[Row], rng: np.random.Generator) -> list[Row]:
        shares = [share_of(row) for row in rows[SEEDS * task : SEEDS * (task + 1)]][::-1]
        return [composing(row, shares[i % SEEDS]) if i // SEEDS == task else row for i, row in enumerate(rows)]

    return edit


def fitted(task: int) -> Edit:
    """Underfit runs of a task that are said to fit."""
    return lambda rows, rng: [
        row.model_copy(update={"accuracy_train": Share(row.accuracy_train.n, row.accuracy_train.n)}) if i // SEEDS == task else row
        for i, row in enumerate(rows)
    ]


def seen(share: float) -> Edit:
    """Another accuracy on unseen data of trained groups."""

    def edit(rows: list[Row], rng: np.random.Generator) -> list[Row]:
        n = [row.accuracy_iid.n for row in rows]
        return [row.model_copy(update={"accuracy_iid": Share(round(share * k), k)}) for row, k in zip(rows, n, strict=True)]

    return edit


def settled(step: int) -> Edit:
    return lambda rows, rng: [row.model_copy(update={"settled": step}) for row in rows]


def on_drawn(count: int, share: float) -> Edit:
    """The first drawn tasks composed in this share: the suite's rows are true."""
    return lambda rows, rng: [composing(row, share) if 0 <= i - RUNS < count else row for i, row in enumerate(rows)]


def timed(factor: float) -> Edit:
    return lambda rows, rng: [row.model_copy(update={"seconds": row.seconds * factor}) for row in rows]


def unchanged(rows: list[Row], rng: np.random.Generator) -> list[Row]:
    return rows


TASKS = len(genuine().suite)
FABRICATIONS: dict[str, tuple[Edit, dict[str, Any]]] = {
    **{
        f"{n} failed runs replaced, {s}": (raised(n, spread=s == "spread"), {})
        for n in (1, 2, 4, 6, 8, 11)
        for s in ("spread", "a task")
    },
    **{f"every share {by:+.2f}": (shifted(by), {}) for by in (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)},
    **{f"task {t} all composed": (of_task(t, 1.0), {}) for t in range(TASKS)},
    **{f"task {t} at {share}": (of_task(t, share), {}) for t in range(TASKS) for share in (0.8, 0.9)},
    **{f"member {m} composes everywhere": (of_member(m, 1.0), {}) for m in range(3, SEEDS)},
    **{f"all rows around {share}": (drawn_around(share), {}) for share in (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)},
    **{f"task {t} under the wrong seeds": (permuted(t), {}) for t in range(TASKS)},
    **{f"task {t} fits": (fitted(t), {}) for t in range(TASKS)},
    **{f"{n} drawn tasks composed": (on_drawn(n, 1.0), {}) for n in (4, 5, 6, 8)},
    **{f"{n} drawn tasks not composed": (on_drawn(n, 0.0), {}) for n in (1, 2, 4, 8)},
    **{f"every share {by:+.2f}, to make another look bad": (shifted(by), {}) for by in (-0.05, -0.15, -0.3, -0.6)},
    **{f"seen groups are right in {share:.0%}": (seen(share), {}) for share in (0.0, 0.5, 0.9, 0.95)},
    **{f"settled at step {step}": (settled(step), {}) for step in (1, 10, 100)},
    **{f"all times x {factor}": (timed(factor), {}) for factor in (0.01, 0.5, 2.0)},
    **{f"another {field}": (unchanged, {field: "other"}) for field in ("cpu", "capability", "gradient", "torch")},
    **{
        f"{n} failed runs replaced, on another {field}": (raised(n, spread=True), {field: "other"})
        for n in (2, 6, 11)
        for field in ("capability", "gradient")
    },
    **{f"every share {by:+.2f}, on another machine": (shifted(by), {"cpu": "other"}) for by in (0.02, 0.1, 0.2)},
}


@functools.cache
def fabricated(name: str) -> Entry:
    """The genuine entry's registration and seeds, with rows that nobody trained."""
    edit, environment = FABRICATIONS[name]
    rows = edit(every_row(genuine()), np.random.default_rng(0))
    dumped = [judged(row).model_dump(mode="json") for row in rows]
    content = copy.deepcopy(genuine_content())
    content["rows"], content["drawn"] = dumped[:RUNS], dumped[RUNS:]
    content["flows"] = []
    content["environment"] |= environment
    return validate_entry(sealed(content))


def every_row(entry: Entry) -> list[Row]:
    """The suite's rows, then those of drawn tasks."""
    return [*entry.rows, *entry.drawn]


def changed_rows(entry: Entry) -> list[int]:
    pairs = zip(every_row(entry), every_row(genuine()), strict=True)
    return [i for i, (a, b) in enumerate(pairs) if counted(a) != counted(b)]


def found_by_default(entry: Entry) -> float:
    """Probability that `verify` draws a changed row: COMPARED of each task, and of the drawn ones."""
    drawn = sum(row >= RUNS for row in changed_rows(entry))
    missed = comb(len(entry.drawn) - drawn, COMPARED) / comb(len(entry.drawn), COMPARED)
    for task in range(len(entry.suite)):
        lies = sum(row // SEEDS == task for row in changed_rows(entry) if row < RUNS)
        missed *= comb(SEEDS - lies, COMPARED) / comb(SEEDS, COMPARED)
    return 1 - missed


def lie_of(entry: Entry) -> float:
    scores = [statistics_of(each.recipe, each.rows).score.value for each in (entry, genuine())]
    return scores[0] - scores[1]


def what_stops(entry: Entry) -> str:
    if not changed_rows(entry):
        return "nothing: times and machine are only reported"
    done = Verification(entry, genuine().rows, genuine().drawn, False, ENVIRONMENT)
    if done.exact:
        return "retraining: rows must be equal"
    return "nothing: too small for the test on another machine" if done.stands else "retraining: the sign-flip test"


@pytest.mark.parametrize("name", FABRICATIONS)
def test_a_consistent_fabrication_is_valid_until_somebody_retrains(name: str) -> None:
    """`fabricated` validates it. Beside the genuine entry it displaces nothing; retraining all runs finds what can be found."""
    lie = fabricated(name)
    stops, done = what_stops(lie), Verification(lie, genuine().rows, genuine().drawn, False, ENVIRONMENT)
    if stops.startswith("retraining"):
        assert not done.stands
    board = hostile.board_of(lie, genuine())
    if agree(lie, genuine()):
        (line,) = board.tracks["laptop"]
        assert line.independent == []
        assert stops.startswith("nothing")
    else:
        assert [line.rank for line in board.tracks["laptop"]] == [None, None]
    if done.exact and lie_of(lie) >= LIE:
        assert found_by_default(lie) > 0.9
    if not done.exact and lie_of(lie) >= LIE:
        assert not done.stands


def test_what_stops_the_fabrications() -> None:
    """As leaderboard/README.md states it."""
    stops = Counter(what_stops(fabricated(name)) for name in FABRICATIONS)
    said = " ".join((ROOT / "leaderboard" / "README.md").read_text().split())
    assert len(FABRICATIONS) * 2 >= sum(map(len, OTHERS.values()))
    equal, test = stops["retraining: rows must be equal"], stops["retraining: the sign-flip test"]
    small, reported = (
        stops["nothing: too small for the test on another machine"],
        stops["nothing: times and machine are only reported"],
    )
    assert f"Of {stops.total()} consistent fabrications in the tests" in said
    assert f"{equal} are found by any retrained row that was invented" in said
    assert f"{test} by the test" in said
    assert f"{small} are too small" in said
    assert f"{reported} change only times or machine" in said
    by_default = [found_by_default(fabricated(name)) for name in FABRICATIONS if changed_rows(fabricated(name))]
    assert np.mean(by_default) > 0.7


# --- Registrations that train alike, written by hand

BASES: dict[str, dict[str, Any]] = {
    "gamma": {"init": {"gamma": 0.7}, "optimizer": {"weight_decay": 0.0}},
    "post-LN": {"model": {"norm": "post"}, "optimizer": {"lr": 0.003, "weight_decay": 0.0}},
    "SGD": {"optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}},
}
ALIKE: dict[str, dict[str, Any]] = {
    "lr, ninth digit": {"optimizer.lr": 1.00000001},
    "lr, fifth digit": {"optimizer.lr": 1.0001},
    "decay_until": {"optimizer.decay_until": 601},
    "decay_from": {"optimizer.decay_from": 7},
    "coupled decay": {"optimizer.decay": "coupled"},
    "decay without embeddings": {"optimizer.decay_embeddings": False},
    "qk": {"init.qk": None},
    "vo": {"init.vo": None},
    "mlp": {"init.mlp": None},
    "embedding": {"init.embedding": None},
    "a bias that is not there": {"init.unembed_bias": "uniform"},
    "an L1 penalty of 0": {"penalties": [{"kind": "l1", "strength": 0.0}]},
    "dropout of 0": {"noise": {"kind": "dropout", "embedding": 0.0, "residual": 0.0}},
    "SVRG of 0": {"estimator": {"kind": "svrg", "alpha": 0.0}},
    "one more example": {"data_size": 100_001},
    "gamma, sixth digit": {"init.gamma": 1.00001},
}


def alike(base: str, edit: str) -> dict[str, Any]:
    """The base's registration with a field written that changes nothing."""
    recipe = SubmittedRecipe.model_validate({"name": "A", "description": "B", "steps": 600, **BASES[base]})
    content = yaml.safe_load(register(recipe, "dice", NOON).to_yaml())
    full = recipe.model_dump(mode="json")
    for path, value in ALIKE[edit].items():
        section, _, field = path.partition(".")
        if not field:
            content["recipe"][section] = value
            continue
        now = full[section][field] if value is None or isinstance(value, float) else None
        new = full["init"]["gamma"] if value is None else value * now if now is not None else value
        content["recipe"].setdefault(section, {})[field] = new
    return content


# --- Names that hide or imitate

INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u180e\u200b\u200c\u200d\u200e\u200f"
    "\u202a\u202d\u202e\u2060\u2063\u2066\u2800\u3164\ufeff\uffa0\ufff9\U000e0041"
)
NAMES = {
    f"U+{ord(c):04X} {where}": name for c in INVISIBLE for where, name in (("inside", f"gam{c}ma 0.8"), ("after", f"gamma 0.8{c}"))
}
SAME = {
    "capitals": "GAMMA 0.8",
    "full width": "\uff47\uff41\uff4d\uff4d\uff41 0.8",
    "mathematical": "\U0001d420amma 0.8",
    "full-width digit": "gamma \uff10.8",
    "full-width point": "gamma 0\uff0e8",
    "small capitals": "Gamma 0.8",
}

# --- Beacons

BEACONS: dict[str, tuple[dict[str, Any], str]] = {
    "another name": ({"name": "other dice"}, "the registration announced 'dice'"),
    "a name in capitals": ({"name": "Dice"}, "the registration announced 'dice'"),
    "an invisible name": ({"name": "dice\u200b"}, "U+200B"),
    "the day before": ({"time": "2026-11-30T12:00Z"}, "allowed: a minute after"),
    "the same minute": ({"time": "2026-12-01T12:00Z"}, "allowed: a minute after"),
    "last year": ({"time": "2025-12-02T12:00Z"}, "allowed: a minute after"),
    "a day without a time": ({"time": "2026-12-02"}, "time"),
    "no time": ({"time": "tomorrow"}, "time"),
    "the 30th of February": ({"time": "2027-02-30T00:00Z"}, "time"),
    "an empty value": ({"value": ""}, "value"),
    "a short value": ({"value": "0" * 15}, "value"),
    "a long value": ({"value": "0" * 129}, "value"),
    "capitals": ({"value": "ABCDEF0123456789"}, "value"),
    "words": ({"value": "correct horse battery"}, "value"),
    "a number": ({"value": 1234567890123456}, "value"),
    "two lines": ({"source": "a\nb"}, "source"),
    "no source": ({"source": ""}, "source"),
    "seeds": ({"seeds": [1, 2, 3]}, "seeds"),
    "an unknown round": ({"name": "drand quicknet, round 5"}, "the registration announced 'dice'"),
}

# --- Fields of an entry with values of the wrong kind

ODD: tuple[Any, ...] = (True, "\u202e", "x" * 5000, [[]], {"a": 1}, -1e300)
FIELDS = ("rows.0.seed", "rows.5.composes", "rows.9.fingerprint", "rows.13.verdict", "rows.17.steps", "rows.20.accuracy_train")
FIELDS += ("recipe.name", "recipe.track", "recipe.steps", "recipe.optimizer", "recipe.penalties", "recipe.noise", "registration")
FIELDS += ("beacon.value", "beacon.name", "beacon.time", "machine.cores", "environment.gradient", "git", "schema_version")
WRONG = {f"{path} is {str(odd)[:12]!r}": (path, odd) for path in FIELDS for odd in ODD}
OTHERS: dict[str, dict[str, Any]] = {
    "alike": {f"{base}: {edit}": None for base in BASES for edit in ALIKE},
    "names": NAMES | SAME,
    "beacons": BEACONS,
}


def test_there_are_enough() -> None:
    """At least 200, a third of them consistent fabrications; the wrong values come on top."""
    others = sum(map(len, OTHERS.values()))
    assert len(FABRICATIONS) + others >= 200
    assert len(FABRICATIONS) >= (len(FABRICATIONS) + others) / 3
    assert len(WRONG) >= 100


def sentence_of(refused: pytest.ExceptionInfo[ValueError]) -> str:
    said = str(refused.value)
    assert "\n" not in said
    assert said.isprintable()
    assert len(said) <= MAX_SENTENCE + 150  # with the file's name
    return said


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("edit", ALIKE)
def test_a_second_registration_of_one_training_is_refused(base: str, edit: str, tmp_path: Any) -> None:
    """As written it is not canonical; made canonical it is the first one, whose digest it has."""
    content = alike(base, edit)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"a\.yaml") as refused:
        read_registration(tmp_path / "a.yaml")
    assert "in canonical form it is" in sentence_of(refused)
    again = register(SubmittedRecipe.model_validate(content["recipe"]), "other dice", NOON)
    assert again.digest == content["digest"]
    assert canonical(again.recipe) == again.recipe


@pytest.mark.parametrize("name", NAMES)
def test_an_invisible_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        SubmittedRecipe.model_validate({"name": NAMES[name], "description": "B"})


@pytest.mark.parametrize("name", SAME)
def test_a_name_that_looks_the_same_is_the_same(name: str) -> None:
    """`register` and the board compare keys: see test_one_training_one_name_one_value_each."""
    assert name_key(SAME[name]) == name_key("gamma 0.8")


@pytest.mark.parametrize("name", BEACONS)
def test_a_beacon_that_could_be_chosen_is_refused(name: str) -> None:
    fields, reason = BEACONS[name]
    registration = Registration.model_validate(yaml.safe_load(register(genuine().recipe, "dice", NOON).to_yaml()))
    with pytest.raises(ValueError, match=r".") as refused:
        require_later(registration, Beacon.model_validate(BEACON.model_dump() | fields))
    assert reason in str(refused.value)


@pytest.mark.parametrize("name", WRONG)
def test_a_value_of_the_wrong_kind_is_refused(name: str) -> None:
    path, odd = WRONG[name]
    content = copy.deepcopy(genuine_content())
    *parents, leaf = [int(part) if part.isdigit() else part for part in path.split(".")]
    inner: Any = content
    for part in parents:
        inner = inner[part]
    inner[leaf] = odd
    with pytest.raises(ValueError, match=r".") as refused:
        validate_entry(sealed(content))
    sentence_of(refused)

"""Register, then reveal: canonical recipes, beacons, and seeds that nobody can choose."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hostile
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorbench.leaderboard.board import require_registered
from anchorbench.leaderboard.registration import (
    Beacon,
    Registration,
    Registry,
    drand_round,
    read_beacon,
    read_registration,
    register,
    require_later,
    seeds_of,
)
from anchorbench.leaderboard.submission import SubmittedRecipe, canonical, training_digest
from anchorbench.leaderboard.suite import SEEDS, TRACKS

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
SUITE = TRACKS["laptop"].suite


def submitted(**fields: object) -> SubmittedRecipe:
    return SubmittedRecipe.model_validate({"name": "A", "description": "B", "steps": 600, **fields})


# --- The canonical form

DEFAULT: dict[str, Any] = {"steps": 600, "precision": "fp32"}
CANONICAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "three digits": ({"optimizer": {"lr": 1.2345e-3}}, {"optimizer": {"lr": 1.23e-3}}),
    "a ninth digit": ({"optimizer": {"lr": 1.00000001e-3}}, {}),
    "steps": ({"steps": 1801}, {"steps": 1800}),
    "examples": ({"data_size": 157_500}, {"data_size": 158_000}),
    "powers of two": ({"model": {"d_ff": 1024}}, {"model": {"d_ff": 1024}}),
    "other widths": ({"model": {"d_ff": 1023}}, {"model": {"d_ff": 1020}}),
    "averages over many steps": ({"optimizer": {"beta2": 0.99991}}, {"optimizer": {"beta2": 0.99991}}),
    "... to three digits": ({"optimizer": {"beta2": 0.9912345}}, {"optimizer": {"beta2": 0.99123}}),
    "minus zero": ({"optimizer": {"start": -0.0}}, {}),
    "decay of nothing": (
        {"optimizer": {"weight_decay": 0, "decay": "coupled", "decay_from": 5, "decay_until": 9, "decay_embeddings": False}},
        {"optimizer": {"weight_decay": 0.0}},
    ),
    "decay that begins after the end": ({"optimizer": {"decay_from": 600}}, {"optimizer": {"weight_decay": 0.0}}),
    "decay until the end": ({"optimizer": {"decay_until": 600}}, {}),
    "decay until the last step but one": ({"optimizer": {"decay_until": 599}}, {"optimizer": {"decay_until": 599}}),
    "a rate that is gamma": ({"init": {"gamma": 0.7, "qk": 0.7}}, {"init": {"gamma": 0.7}}),
    "a rate that is not": ({"init": {"gamma": 0.7, "qk": 0.8}}, {"init": {"gamma": 0.7, "qk": 0.8}}),
    "gamma that no part uses": (
        {"init": {"gamma": 0.9, "qk": 0.7, "vo": 0.7, "mlp": 0.7, "embedding": 0.7}},
        {"init": {"gamma": 0.7}},
    ),
    "a width that is every matrix's own": ({"init": {"fan": "d_model"}, "model": {"d_ff": 64}}, {"model": {"d_ff": 64}}),
    "a bias that does not exist": ({"init": {"unembed_bias": "uniform"}}, {}),
    "layers that are shared all the same": (
        {"model": {"kind": "layer-sharing", "share": "pairs"}},
        {"model": {"kind": "layer-sharing"}},
    ),
    "an end that is not reached": ({"optimizer": {"schedule": "constant", "end": 0.5}}, {"optimizer": {"schedule": "constant"}}),
    "a fall to where it began": ({"optimizer": {"schedule": "linear", "end": 1}}, {"optimizer": {"schedule": "constant"}}),
    "no warm-up, from somewhere": ({"optimizer": {"warmup": 0, "start": 0.5}}, {"optimizer": {"warmup": 0}}),
    "a warm-up that stays": (
        {"optimizer": {"schedule": "constant", "warmup": 99, "start": 1}},
        {"optimizer": {"schedule": "constant", "warmup": 0}},
    ),
    "k-decay of one": ({"optimizer": {"schedule": {"kind": "k-decay", "k": 1}}}, {"optimizer": {"schedule": "linear"}}),
    "k-decay of one, along a cosine": ({"optimizer": {"schedule": {"kind": "k-decay", "k": 1, "base": "cosine"}}}, {}),
    "a speed that the base does not use": (
        {"optimizer": {"schedule": {"kind": "k-decay", "speed": 3}}},
        {"optimizer": {"schedule": "k-decay"}},
    ),
    "Nesterov without momentum": (
        {"optimizer": {"kind": "sgd", "momentum": 0, "nesterov": True}},
        {"optimizer": {"kind": "sgd", "momentum": 0.0}},
    ),
    "rates of one": ({"optimizer": {"kind": "grafted-sgd", "rates": [["a", 1]]}}, {"optimizer": {"kind": "sgd"}}),
    "measured ratios": ({"optimizer": {"kind": "grafting", "measure": 9}}, {"optimizer": {"kind": "grafting"}}),
    "a penalty of strength 0": ({"penalties": [{"kind": "l1", "strength": 0}]}, {}),
    "dropout of rate 0": ({"noise": {"kind": "dropout", "embedding": 0, "residual": 0}}, {}),
    "SVRG without a correction": ({"estimator": {"kind": "svrg", "alpha": 0}}, {}),
    "an activation at tiny weights": (
        {"model": {"activation": "relu"}, "init": {"gamma": 6.0}},
        {"model": {"activation": "relu"}, "init": {"gamma": 6.0}},
    ),
    "heads at tiny weights": (
        {"model": {"n_head": 2, "d_head": 32}, "init": {"gamma": 6.0}},
        {"model": {"n_head": 2, "d_head": 32}, "init": {"gamma": 6.0}},
    ),
    "weights that are zero": ({"init": {"gamma": 90.0, "qk": 80.0}}, {"init": {"gamma": 90.0}}),
    "numbers that are used": (
        {"optimizer": {"eps": 1e-7, "warmup": 100, "clip": 2.0}},
        {"optimizer": {"eps": 1e-7, "warmup": 100, "clip": 2.0}},
    ),
}


@pytest.mark.parametrize("name", CANONICAL)
def test_the_canonical_form_by_hand(name: str) -> None:
    given_fields, expected = CANONICAL[name]
    found = canonical(submitted(**given_fields))
    assert found.training == DEFAULT | expected
    assert canonical(found) == found


def test_parts_keep_what_they_are() -> None:
    """What cannot be told from rates and initial weights stays, rounded."""
    parts = {
        "optimizer": {"kind": "muon", "momentum": 0.9},
        "penalties": [{"kind": "l1", "strength": 0.000123456}],
        "growth": [{"kind": "split", "at": 300, "state": "reset"}],
    }
    assert canonical(submitted(**parts)).training == DEFAULT | {
        "optimizer": {"kind": "muon", "momentum": 0.9},
        "penalties": [{"kind": "l1", "strength": 0.000123}],
        "growth": [{"kind": "split", "at": 300, "state": "reset", "of": "d_ff", "width": 2, "alpha": 0.3}],
    }


def test_a_recipe_that_rounding_breaks_is_refused() -> None:
    with pytest.raises(
        ValueError, match="rounded to 3 digits, the recipe is invalid: warmup is 2050 steps; allowed: at most steps"
    ):
        canonical(submitted(steps=2048, optimizer={"warmup": 2047}))


NUMBERS = st.fixed_dictionaries(
    {
        "lr": st.floats(1e-4, 1e-2),
        "weight_decay": st.sampled_from([0.0, 0.01, 1.0]),
        "decay_until": st.sampled_from([None, 300, 600, 900]),
        "end": st.sampled_from([0.05, 1.0]),
        "schedule": st.sampled_from(["cosine", "linear", "constant"]),
        "warmup": st.sampled_from([0, 1, 200, 600]),
    }
)


@settings(max_examples=12)
@given(NUMBERS)
def test_the_canonical_form_is_its_own(optimizer: dict[str, Any]) -> None:
    found = canonical(submitted(optimizer=optimizer))
    assert canonical(found) == found
    assert found.optimizer.lr == pytest.approx(optimizer["lr"], rel=0.006)


def test_the_digest_is_that_of_the_training() -> None:
    digest = training_digest(submitted())
    assert digest == GOLDEN_DIGEST
    for same in ({"name": "C"}, {"description": "C"}, {"authors": ["C"]}, {"precision": "bf16"}, {"optimizer": {"lr": 1.0004e-3}}):
        assert training_digest(submitted(**same)) == digest
    for other in ({"steps": 610}, {"optimizer": {"lr": 1.01e-3}}, {"init": {"gamma": 0.51}}, {"track": "gpu"}):
        assert training_digest(submitted(**other)) != digest


GOLDEN_DIGEST = "b8e16c8db5355950f07b99a54eaa57c2a3673f762e1c6e84ebb1e14cc28207c0"


# --- Seeds


def test_seeds_follow_from_registration_beacon_task_and_member() -> None:
    value = hostile.BEACON.value
    seeds = {task.name: seeds_of(GOLDEN_DIGEST, value, task) for task in SUITE}
    drawn = hashlib.sha256(f"{GOLDEN_DIGEST} {value} composite/heldout-pairs 3".encode()).digest()  # by hand
    assert seeds["composite/heldout-pairs"][3] == int.from_bytes(drawn[:8], "big") % (2**31 // 6) * 6 + 3
    assert len({seed for each in seeds.values() for seed in each}) == SEEDS * len(SUITE)
    assert not set(seeds_of(GOLDEN_DIGEST, "f" * 64, SUITE[0])) & set(seeds["composite/heldout-pairs"])
    assert not set(seeds_of("0" * 64, value, SUITE[0])) & set(seeds["composite/heldout-pairs"])


@settings(max_examples=50)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 40))
def test_every_recipe_is_asked_the_same_pairs(digest: bytes, pairs: int) -> None:
    seeds = seeds_of(digest.hex(), "0" * 16, SUITE[1]._replace(pairs=pairs))
    assert [seed % pairs for seed in seeds] == [i % pairs for i in range(SEEDS)]
    assert all(0 <= seed < 2**31 for seed in seeds)


# --- Registrations and beacons


def test_the_default_beacon_is_a_round_of_drand_a_day_later() -> None:
    assert drand_round(datetime(2026, 4, 20, tzinfo=UTC)) == 27_946_612
    assert drand_round(datetime(2026, 4, 20, 0, 0, 1, tzinfo=UTC)) == 27_946_613  # the next one, 3 s later
    registration = register(submitted(), None, NOON)
    assert (registration.beacon, registration.time) == (
        f"drand quicknet, round {drand_round(NOON) + 28_800}",
        "2026-12-01T12:00Z",
    )
    value = {"value": "0" * 64, "source": "drand"}
    require_later(registration, Beacon(name=registration.beacon, time="2026-12-02T12:00Z", **value))
    with pytest.raises(
        ValueError, match=r"the beacon is of 2026-12-03T12:00Z; drand quicknet, round \d+ came out at 2026-12-02T12:00Z"
    ):
        require_later(registration, Beacon(name=registration.beacon, time="2026-12-03T12:00Z", **value))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "other dice"}, "the beacon is 'other dice'; the registration announced 'dice'"),
        ({"time": "2026-12-01T12:00Z"}, "of 2026-12-01T12:00Z; allowed: a minute after the registration, 2026-12-01T12:00Z"),
        ({"time": "2026-11-30T23:59Z"}, "allowed: a minute after the registration"),
    ],
)
def test_a_beacon_that_was_known_before_is_refused(fields: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        require_later(register(submitted(), "dice", NOON), hostile.BEACON.model_copy(update=fields))


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_registration_is_read_back(tmp_path: Path) -> None:
    registration = register(submitted(optimizer={"lr": 1.23456e-3}, init={"gamma": 0.7}), "dice", NOON)
    (tmp_path / "a.yaml").write_bytes(registration.to_yaml())
    assert read_registration(tmp_path / "a.yaml") == registration
    assert yaml.safe_load(registration.to_yaml())["recipe"]["optimizer"] == {"lr": 0.00123}


CHANGED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another recipe": (lambda c: c["recipe"].update(steps=700), "the registration is "),
    "a fourth digit": (lambda c: c["recipe"].update(optimizer={"lr": 1.234e-3}), "in canonical form it is"),
    "a field without effect": (lambda c: c["recipe"].update(optimizer={"decay_until": 700}), "in canonical form it is left out"),
    "another digest": (lambda c: c.update(digest="0" * 64), "the registration is 0000000000000000"),
    "no beacon": (lambda c: c.pop("beacon"), "beacon"),
    "no such day": (lambda c: c.update(date="2026-13-01"), "date"),
    "a beacon's value": (lambda c: c.update(value="0" * 64), "unknown field 'value'"),
    "its own seeds": (lambda c: c.update(seeds=[1, 2, 3]), "unknown field 'seeds'"),
    "its own seed": (lambda c: c["recipe"].update(seed=1), "unknown field 'recipe.seed'"),
    "an invisible name": (lambda c: c["recipe"].update(name="A\u200b"), "U+200B"),
    "a recipe out of budget": (lambda c: c["recipe"].update(steps=20_000), "matmul MACs; allowed"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_registration_is_refused(name: str, tmp_path: Path) -> None:
    edit, reason = CHANGED[name]
    content = yaml.safe_load(register(submitted(), "dice", NOON).to_yaml())
    edit(content)
    with pytest.raises(ValueError, match=r".") as refused:
        read_registration(write(tmp_path / "a.yaml", content))
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [[], "text", None, {"value": "0" * 16}, {**hostile.BEACON.model_dump(), "value": "xyz"}])
def test_what_is_no_beacon_is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.yaml"):
        read_beacon(write(tmp_path / "a.yaml", content))


def test_one_training_one_name_one_value_each(tmp_path: Path) -> None:
    """Whoever comes later is refused by name, and the first stays."""
    for day, (name, recipe) in enumerate(
        (
            ("a", submitted()),
            ("b", submitted(name="Another", optimizer={"lr": 1.0001e-3})),
            ("c", submitted(name="\uff21", steps=700)),
            ("d", submitted(name="D", steps=800)),
        )
    ):
        (tmp_path / "registrations").mkdir(exist_ok=True)
        registration = register(recipe, "dice", datetime(2026, 12, 1 + day, tzinfo=UTC))
        (tmp_path / "registrations" / f"{name}.yaml").write_bytes(registration.to_yaml())
    write(tmp_path / "beacons" / "a.yaml", hostile.BEACON.model_dump())
    write(tmp_path / "beacons" / "b.yaml", hostile.BEACON.model_dump() | {"value": "f" * 16})
    found = Registry(tmp_path)
    assert [each.recipe.name for each in found.registrations.values()] == ["A", "D"]
    assert found.beacons == {}
    assert sorted(reason.rpartition("/")[2] for reason in found.refused) == [
        "a.yaml: the beacon 'dice' is recorded with several values",
        "b.yaml: the beacon 'dice' is recorded with several values",
        "b.yaml: trains like 'A', registered 2026-12-01T00:00Z",
        "c.yaml: the name '\uff21' is registered twice",
    ]
    (tmp_path / "beacons" / "b.yaml").unlink()
    assert Registry(tmp_path).beacons == {"dice": hostile.BEACON}


def test_a_file_name_does_not_make_a_registration_the_first(tmp_path: Path) -> None:
    (tmp_path / "registrations").mkdir()
    for name, beacon, day in (("aaa", "loaded dice", 2), ("genuine", "dice", 1)):
        registration = register(submitted(), beacon, datetime(2026, 12, day, tzinfo=UTC))
        (tmp_path / "registrations" / f"{name}.yaml").write_bytes(registration.to_yaml())
    found = Registry(tmp_path)
    assert [each.beacon for each in found.registrations.values()] == ["dice"]
    assert found.refused == [f"{tmp_path / 'registrations' / 'aaa.yaml'}: trains like 'A', registered 2026-12-01T00:00Z"]


def test_an_entry_needs_the_boards_own_registration_and_beacon(tmp_path: Path) -> None:
    entry = hostile.honest_entry()
    registry = Registry(tmp_path)

    def refusal() -> str:
        with pytest.raises(ValueError, match="here: ") as refused:
            require_registered(entry, registry, "here")
        return str(refused.value)

    assert "its registration" in refusal()
    late = register(entry.recipe, "dice", datetime(2026, 12, 3, tzinfo=UTC))
    registry.registrations[late.digest] = late
    assert "its beacon 'dice' is not among the board's" in refusal()
    registry.beacons["dice"] = hostile.BEACON.model_copy(update={"value": "f" * 16})
    assert "its beacon is 0123456789abcdef...; the board has ffffffffffffffff..." in refusal()
    registry.beacons["dice"] = hostile.BEACON
    assert "allowed: a minute after the registration, 2026-12-03T00:00Z" in refusal()
    registry.registrations[late.digest] = late.model_copy(update={"time": "2026-12-01T00:00Z"})
    require_registered(entry, registry, "here")


def test_the_fields_of_a_registration_are_all_there() -> None:
    assert set(json.loads(register(submitted(), None, NOON).model_dump_json())) == set(Registration.model_fields)

"""A run folder is read back whole or refused, whatever happened to its bytes."""

import csv
import errno
import hashlib
import json
import math
import os
import pickle
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import TINY, Cli, bytes_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import anchorbench
from anchorbench.files import MAX_JSON_BYTES, write_atomically
from anchorbench.hub.models import load_member
from anchorbench.machine import this_machine
from anchorbench.sweeps.run_folder import (
    DamagedRunError,
    Reading,
    Result,
    Run,
    load_weights,
    read_run,
    record_forecast,
    write_run,
    write_tables,
)
from anchorbench.train.gradients.choice import gradient_path
from anchorbench.train.loop import train
from anchorbench.train.stack import Member, Stack, digests

FILES = ("recipe.json", "trajectory.jsonl", "weights.safetensors", "result.json", "digests.json")


@pytest.fixture(scope="module")
def member() -> Member:
    return train([TINY.override({"init.gamma": 0.6, "seed": 3})])[0]


@pytest.fixture
def folder(member: Member, tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    write_run(tmp_path / "runs" / "run", member)
    return tmp_path / "runs" / "run"


def refusal(folder: Path) -> str:
    """The one sentence with which the folder is refused."""
    with pytest.raises(DamagedRunError) as refused:
        read_run(folder)
    sentence = str(refused.value)
    assert str(folder) in sentence
    assert "\n" not in sentence
    return sentence


def redigest(folder: Path) -> None:
    """Makes the digests right again, as if another program had written the folder."""
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES[:-1]}
    (folder / "digests.json").write_text(json.dumps(digests))


def test_what_is_written_is_read_back(folder: Path, member: Member) -> None:
    run = read_run(folder)
    assert run.recipe == member.recipe
    assert run.result.run_id == member.recipe.run_id
    assert run.result.task_fingerprint == member.task.fingerprint
    behaviour = member.behaviour
    for name in ("accuracy_train", "accuracy_iid", "composes", "ordered", "symmetric", "commutes", "groups", "deviations"):
        assert getattr(run.result, name) == getattr(behaviour, name)
    assert (run.result.verdict, run.result.phase) == (behaviour.verdict, behaviour.phase)
    assert run.trajectory() == [asdict(point) for point in member.trajectory]
    weights = run.weights()
    assert weights.keys() == member.weights.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in member.weights.items())
    [(step, machine)] = run.result.machines
    assert (step, machine) == (0, this_machine("fp32", gpu=torch.cuda.is_available(), gradient=machine.gradient))
    assert machine.gradient.partition(" ")[0] == gradient_path(member.recipe)
    assert machine.threads == torch.get_num_threads()
    assert run.result.initial == digests(Stack([member.recipe]).named(0))


def test_a_folder_holds_five_readable_files_and_nothing_else(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert [path.name for path in folder.parent.iterdir()] == ["run"]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_writing_again_replaces(folder: Path, member: Member) -> None:
    (folder / "weights.safetensors").write_bytes(b"old")
    (folder / "other.txt").write_bytes(b"old")
    write_run(folder, member)
    assert read_run(folder).recipe == member.recipe
    assert not (folder / "other.txt").exists()


def test_a_diverged_member_is_json_without_nan(tmp_path: Path, member: Member) -> None:
    point = replace(member.trajectory[-1], loss=math.nan)
    write_run(tmp_path / "run", replace(member, trajectory=[point], diverged_at=6))
    run = read_run(tmp_path / "run")
    assert run.trajectory()[0]["loss"] is None
    assert run.row()["diverged_at"] == 6


DAMAGE = {
    "emptied": lambda content: b"",
    "cut to one byte": lambda content: content[:1],
    "cut in half": lambda content: content[: len(content) // 2],
    "last byte lost": lambda content: content[:-2],
    "first byte flipped": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "middle byte flipped": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
    ),
    "zeros": lambda content: bytes(len(content)),
    "garbage": lambda content: b"\xff\xfe{[not json",
    "other json": lambda content: b"[1, 2, 3]\n",
    "json null": lambda content: b"null\n",
    "nested deep": lambda content: b"[" * 100_000,
    "huge number": lambda content: b"9" * 10_000,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused(folder: Path, name: str, damage: str) -> None:
    before = (folder / name).read_bytes()
    (folder / name).write_bytes(DAMAGE[damage](before))
    assert (folder / name).read_bytes() != before
    refusal(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder).endswith(f"is incomplete: {name} is missing")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_place_of_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    refusal(folder)


def test_a_file_in_place_of_the_folder_is_refused(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")
    assert "is not a folder" in refusal(folder)


def test_an_oversized_json_file_is_not_read(folder: Path) -> None:
    with (folder / "result.json").open("ab") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    assert f"allowed: at most {MAX_JSON_BYTES}" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("recipe.json", b'"seed": 3', b'"seed": 4'),
        ("trajectory.jsonl", b'"step": 6', b'"step": 5'),
        ("result.json", b", 1000]", b", 1001]"),
    ],
)
def test_an_altered_value_is_refused(folder: Path, name: str, old: bytes, new: bytes) -> None:
    """Whole, valid and plausible, but not what was written."""
    content = (folder / name).read_bytes()
    assert old in content
    (folder / name).write_bytes(content.replace(old, new, 1))
    assert f"{name} is damaged" in refusal(folder)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_no_flipped_byte_goes_unnoticed(folder: Path, name: str, where: float, flip: int) -> None:
    path = folder / name
    whole = path.read_bytes()
    at = int(where * len(whole))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
    try:
        read_run(folder)
    except DamagedRunError as refused:
        assert "\n" not in str(refused)
    else:  # white space between the digests: the same digests
        assert name == "digests.json"
        assert json.loads(path.read_bytes()) == json.loads(whole)
    finally:
        path.write_bytes(whole)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), content=st.binary(max_size=200))
def test_no_replaced_file_goes_unnoticed(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        refusal(folder)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("recipe.json", {"steps": -1}, "steps is -1"),
        ("recipe.json", {"from_a_later_version": 1}, "from_a_later_version"),
        ("result.json", {"schema_version": 3}, "schema_version"),
        ("result.json", {"accuracy_iid": "high"}, "accuracy_iid"),
        ("result.json", {"seconds": float("nan")}, "NaN is not a JSON number"),
    ],
)
def test_a_whole_file_of_another_version_is_refused(folder: Path, name: str, change: dict[str, object], said: str) -> None:
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | change))
    redigest(folder)
    assert said in refusal(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["model"]["d_model"] = 6
    (folder / "recipe.json").write_text(json.dumps(recipe))
    redigest(folder)
    with pytest.raises(DamagedRunError, match=r"does not fit its recipe: .*size mismatch"):
        load_member(read_run(folder))


def test_missing_and_unknown_weights_are_refused(folder: Path, member: Member) -> None:
    from safetensors.torch import save_file

    weights = dict(member.weights)
    weights["surprise"] = weights.pop("unembedding.weight")
    save_file(weights, folder / "weights.safetensors")
    redigest(folder)
    with pytest.raises(DamagedRunError, match=r"does not fit its recipe: .*unembedding\.weight"):
        load_member(read_run(folder))


class Bomb:
    """Unpickling it would make the folder given by the environment variable."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["BOMB"],)


def test_a_pickle_is_refused_and_not_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOMB", str(folder.parent / "exploded"))
    for content in (pickle.dumps(Bomb()), b"\x80\x04" + pickle.dumps(Bomb())):
        (folder / "weights.safetensors").write_bytes(content)
        with pytest.raises(DamagedRunError, match="not a complete safetensors file"):
            load_weights(folder / "weights.safetensors")
    torch.save(Bomb(), folder / "weights.safetensors")
    redigest(folder)
    with pytest.raises(DamagedRunError, match="not a complete safetensors file"):
        read_run(folder).weights()
    assert not (folder.parent / "exploded").exists()


@pytest.mark.parametrize("share", [0, 0.3, 0.999])
def test_truncated_weights_are_refused(folder: Path, share: float) -> None:
    path = folder / "weights.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DamagedRunError, match="not a complete safetensors file"):
        load_weights(path)


def fail_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """The disk is full when the `call`-th file is flushed."""
    calls = iter(range(1, 100))

    def fsync(handle: int) -> None:
        if next(calls) >= call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fsync)


@pytest.mark.parametrize("call", range(1, len(FILES) + 1))
def test_a_full_disk_leaves_the_old_run_and_nothing_else(
    folder: Path, member: Member, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    before = bytes_of(folder.parent)
    fail_at(monkeypatch, call)
    with pytest.raises(ValueError, match="No space left"):
        write_run(folder, member)
    with pytest.raises(ValueError, match="No space left"):
        write_run(folder.parent / "new", member)
    assert bytes_of(folder.parent) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "file", b"old")
    fail_at(monkeypatch, 1)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", b"new")
    assert bytes_of(tmp_path) == {"file": b"old"}


def test_the_tables_hold_the_same_rows(finished_sweep: Path) -> None:
    rows = [json.loads(line) for line in (finished_sweep / "results.jsonl").read_text().splitlines()]
    with (finished_sweep / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(rows) == len(table) == 4
    assert table == [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    folders = [read_run(finished_sweep / "runs" / row["run_id"]) for row in rows]
    assert rows == [run.row() | run.forecast() for run in folders]
    pd.testing.assert_frame_equal(anchorbench.load_results(finished_sweep), pd.DataFrame(rows))


def test_the_tables_hold_every_field_in_which_recipes_differ(tmp_path: Path, member: Member) -> None:
    recipes = [member.recipe, member.recipe.override({"model.n_head": 1, "order_seed": 3})]
    for number, recipe in enumerate(recipes):
        write_run(tmp_path / str(number), replace(member, recipe=recipe))
    write_tables(tmp_path, [read_run(tmp_path / str(number)) for number in range(2)])
    frame = anchorbench.load_results(tmp_path)
    assert list(frame.columns[-2:]) == ["model.n_head", "order_seed"]
    assert frame["model.n_head"].tolist() == [member.recipe.model.n_head, 1]
    assert frame["accuracy_iid_n"].tolist() == [member.behaviour.accuracy_iid.n] * 2
    assert frame["machine.cpu"].nunique() == 1


def test_what_probes_found_is_in_the_tables(sweep: Path) -> None:
    """The run stays whole, and no other row changes."""
    before = anchorbench.load_results(sweep)
    run = read_run(sweep / "runs" / before.run_id[1])
    found = Reading(forecast="inferential", forecast_share=0.97, forecast_low=0.9, forecast_high=1.0)
    record_forecast(run, found)
    after = anchorbench.load_results(sweep)
    assert after.forecast.isna().tolist() == [True, False, True, True]
    assert {name: after[name][1] for name in found.model_dump()} == found.model_dump()
    names = [name for name in before if not name.startswith("forecast")]
    pd.testing.assert_frame_equal(before[names], after[names])
    write_tables(sweep, [read_run(folder) for folder in sorted((sweep / "runs").iterdir())])  # as the next call does
    assert anchorbench.load_results(sweep).forecast.notna().sum() == 1
    (run.path / "forecast.json").write_text("[")
    assert set(read_run(run.path).forecast().values()) == {None}


def test_classify_keeps_what_it_read(sweep: Path, cli: Cli) -> None:
    run = sorted((sweep / "runs").iterdir())[0]
    assert cli("classify", run).code == 0
    frame = anchorbench.load_results(sweep).set_index("run_id")
    assert frame.forecast[run.name] == "cannot be told"  # not fit
    assert frame.forecast.notna().sum() == 1
    assert read_run(run).forecast()["forecast"] == "cannot be told"


@pytest.mark.parametrize("content", [None, b"{", b"3", b"\xff", b'{"run_id": NaN}'])
def test_a_folder_without_results_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "results.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match="holds no results of a sweep") as refused:
        anchorbench.load_results(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_row_says_what_others_rely_on(run: Run) -> None:
    row = run.row()
    assert {"run_id", "task", "variant", "gamma", "seed", "steps", "seconds"} <= row.keys()
    assert {"accuracy_train", "accuracy_iid", "inferential", "symmetric", "verdict"} <= row.keys()
    result = run.result
    assert row["accuracy_iid"] == result.accuracy_iid.hits / result.accuracy_iid.n
    assert (row["task"], row["variant"], row["steps"]) == ("composite", "heldout-both", TINY.steps)
    assert row["symmetric"] is None  # heldout-both has no exception
    assert row["inferential"] == result.composes.hits / result.composes.n


def test_tables_of_no_runs_are_empty(tmp_path: Path) -> None:
    write_tables(tmp_path, [])
    assert bytes_of(tmp_path) == {"results.csv": b"run_id\r\n", "results.jsonl": b""}


def test_results_of_version_0_1_0_are_judged_by_todays_rule(folder: Path) -> None:
    """They have no accuracy_seen, and their verdicts were gated by accuracy_iid."""
    result = read_run(folder).result
    shares = {"accuracy_train": [95, 100], "accuracy_iid": [10, 100], "composes": [99, 100]}
    old = (
        result.model_dump(mode="json") | shares | {"accuracy_seen": None, "verdict": "unfit", "composition": "unfit", "phase": "1"}
    )
    found = Result.model_validate(old).up_to_date()
    assert (found.verdict, found.composition, found.phase) == ("inferential", "inferential", "3")
    underfit = Result.model_validate(old | {"accuracy_train": [89, 100], "accuracy_iid": [99, 100]}).up_to_date()
    assert (underfit.verdict, underfit.phase) == ("underfit", "1")
    today = Result.model_validate(old | {"accuracy_seen": [1, 100], "verdict": "mixed"})
    assert today.up_to_date() == today

"""Sweeps stored by stack: the runs are those of run folders, a second call reads the index only, and no damage goes unnoticed."""

import errno
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import TINY, Cli, bytes_of, patch_training, require_one_sentence
from damage import DAMAGE as INDEX_DAMAGE
from processes import child, environment
from safetensors.torch import load_file, save_file

import anchorbench
from anchorbench.presets import PRESETS
from anchorbench.show import source
from anchorbench.show.source import gather
from anchorbench.sweeps import folder as folders
from anchorbench.sweeps import store
from anchorbench.sweeps.folder import FinishedRuns, SweepFolder
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.run_folder import DamagedRunError, Reading, Run, load_results, read_run, record_forecast
from anchorbench.sweeps.runner import run_sweep
from anchorbench.sweeps.store import DIGESTS, RUNS, TRAJECTORIES, Store, StoredRun
from anchorbench.train.execution import Execution

SWEEP = Sweep(TINY.override({"variant": "heldout-both"}), {"model.norm": ("pre", "post"), "seed": (0, 1), "order_seed": (None, 5)})
"""Two stacks of four."""
FILES = (RUNS, TRAJECTORIES, "weights.safetensors", DIGESTS)


@pytest.fixture(autouse=True)
def _by_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_FOLDERS", 1)
    patch_training(monkeypatch, EVALUATION_SIZE=32, FINAL_SIZE=60)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sweep in run folders, and stored by stack."""
    root = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch:
        patch_training(patch, EVALUATION_SIZE=32, FINAL_SIZE=60)
        for name, most in (("folders", 1000), ("stacks", 1)):
            patch.setattr(folders, "MAX_FOLDERS", most)
            run_sweep(SWEEP, SweepFolder(root / name, SWEEP))
    return {name: root / name for name in ("folders", "stacks")}


@pytest.fixture
def out(finished: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the stored sweep."""
    return Path(shutil.copytree(finished["stacks"], tmp_path / "out"))


def finish(out: Path, sweep: Sweep = SWEEP) -> list[Run]:
    """All runs; nothing is trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anchorbench.train.loop.train", lambda *_, **__: pytest.fail("a finished run is trained again"))
        return list(run_sweep(sweep, SweepFolder(out, sweep)))


def stacks(out: Path) -> list[Path]:
    return sorted(path for place in (out / "stacks").glob("[0-9a-f][0-9a-f]") for path in place.iterdir())


def parts(out: Path) -> list[Path]:
    return sorted((out / "stacks" / "index").glob("[!.]*.parquet"))


def held(run: Run) -> tuple[dict[str, bytes], list[dict[str, Any]], dict[str, Any]]:
    """All that a run holds, seconds aside."""
    weights = {name: tensor.numpy().tobytes() for name, tensor in run.weights().items()}
    return weights, run.trajectory(), run.result.model_dump(exclude={"seconds"})


def require_the_same(out: Path, plain: Path) -> None:
    for run in run_sweep(SWEEP, SweepFolder(out, SWEEP)):
        assert isinstance(run, StoredRun)
        assert held(run) == held(read_run(plain / "runs" / run.result.run_id))


# What is there


def test_a_stored_run_is_that_of_a_folder(finished: dict[str, Path]) -> None:
    runs = finish(finished["stacks"])
    assert [run.recipe for run in runs] == SWEEP.runs()
    require_the_same(finished["stacks"], finished["folders"])
    assert [sorted(path.name for path in stack.iterdir()) for stack in stacks(finished["stacks"])] == [sorted(FILES)] * 2
    assert list((finished["stacks"] / "runs").iterdir()) == []
    assert len(parts(finished["stacks"])) == 2


def test_the_table_is_that_of_the_folders(finished: dict[str, Path]) -> None:
    """In the order in which stacks ended, instead of the sweep's."""
    stored, expected = load_results(finished["stacks"]), load_results(finished["folders"])
    assert {"order_seed", "norm"} <= set(stored.columns)
    aligned = stored.set_index("run_id").loc[expected.run_id].reset_index()[expected.columns.tolist()]
    pd.testing.assert_frame_equal(aligned.drop(columns="seconds"), expected.drop(columns="seconds"), check_dtype=False)
    assert set(stored.columns) == set(expected.columns)


def test_runs_are_a_sequence(finished: dict[str, Path]) -> None:
    runs = run_sweep(SWEEP, SweepFolder(finished["stacks"], SWEEP))
    assert isinstance(runs, FinishedRuns)
    assert len(runs) == 8
    assert [run.recipe for run in runs[2:4]] == SWEEP.runs()[2:4]
    assert runs[-1].recipe == SWEEP.runs()[-1]
    found = anchorbench.sweep(SWEEP, out=finished["stacks"])
    assert found.frame().run_id.tolist() == [recipe.run_id for recipe in SWEEP.runs()]


def test_a_second_call_reads_the_index_only(finished: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = bytes_of(finished["stacks"])
    monkeypatch.setattr(store, "require_whole", lambda *path: pytest.fail(f"{path} is read"))
    monkeypatch.setattr("anchorbench.train.loop.train", lambda *_, **__: pytest.fail("a finished run is trained again"))
    assert len(run_sweep(SWEEP, SweepFolder(finished["stacks"], SWEEP))) == 8
    assert bytes_of(finished["stacks"]) == before


def test_a_sweep_of_few_runs_finds_those_of_many(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And many find those of few, in their folders."""
    monkeypatch.setattr(folders, "MAX_FOLDERS", 1000)
    few = Sweep(SWEEP.base, {"model.norm": ("pre",), "seed": (0, 1)})
    assert len(finish(out, few)) == 2
    more = Sweep(SWEEP.base, {"model.norm": ("pre",), "seed": (0, 1, 2)})
    run_sweep(more, SweepFolder(out, more))
    assert [path.name for path in (out / "runs").iterdir()] == [more.runs()[2].run_id]
    assert sorted(load_results(out).seed.tolist()) == [0] * 4 + [1] * 4 + [2]
    monkeypatch.setattr(folders, "MAX_FOLDERS", 1)
    assert len(finish(out, more)) == 3


def test_kept_steps(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack that lacks them is trained again; its members' states are those of run folders."""
    how = Execution(keep_steps=[2, 4])
    runs = run_sweep(SWEEP, SweepFolder(out, SWEEP), how=how)
    assert {tuple(run.result.kept_steps) for run in runs} == {(2, 4)}
    assert sorted(path.name for path in stacks(out)[0].iterdir())[2:6] == [
        "state-2.safetensors", "state-4.safetensors", "trajectories.parquet", "weights-2.safetensors"
    ]  # fmt: skip
    monkeypatch.setattr(folders, "MAX_FOLDERS", 1000)
    plain = run_sweep(SWEEP, SweepFolder(out.parent / "plain", SWEEP), how=how)
    for one, other in zip(runs, plain, strict=True):
        for ours, theirs in ((one.weights(2), other.weights(2)), (one.state(4), other.state(4))):
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(ValueError, match="step is 3; the run kept these intermediate steps: 2, 4"):
        runs[0].weights(3)
    assert len(finish(out)) == 8


def test_members_that_settle_early_are_a_stack_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_training(monkeypatch, FIRST_EVALUATION=2)
    settling = {recipe.run_id for recipe in SWEEP.runs() if recipe.seed == 1}
    monkeypatch.setattr(
        "anchorbench.train.stack.Stack.settled", lambda self, member: self.step >= 2 and self.recipes[member].run_id in settling
    )
    runs = run_sweep(SWEEP, SweepFolder(tmp_path, SWEEP))
    assert Counter(run.result.steps_trained == 6 for run in runs) == {True: 4, False: 4}
    assert len(stacks(tmp_path)) == 4
    assert len(finish(tmp_path)) == 8


# Commands on a run


def test_commands_open_a_run_where_its_folder_would_be(out: Path, cli: Cli, tmp_path: Path) -> None:
    run = SWEEP.runs()[3].run_id
    path = out / "runs" / run
    assert cli("check", path).code == 0
    assert cli("classify", path).code == 0
    assert cli("export", path, tmp_path / "exported").code == 0
    frame = load_results(out).set_index("run_id")
    assert frame.forecast[run] == "cannot be told"
    assert frame.forecast.notna().sum() == 1
    assert not path.exists()
    assert len(finish(out)) == 8
    refused = cli("check", out / "runs" / ("0" * 16))
    require_one_sentence(refused.err)
    assert "is incomplete: digests.json is missing" in refused.err


def test_a_forecast_is_found_again(out: Path) -> None:
    run = read_run(out / "runs" / SWEEP.runs()[0].run_id)
    found = Reading(forecast="inferential", forecast_share=0.97, forecast_low=0.9, forecast_high=1.0)
    record_forecast(run, found)
    assert read_run(run.path).forecast() == found.model_dump()


def test_the_commands_of_a_sweep(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "laptop", TINY)
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    path.write_text("precision: fp32\naxes: {init.gamma: [0.5, 0.7], seed: 3}")
    assert "6 of 6 runs in 2 stacks of 3 to 3" in cli("sweep", "plan", path, "--workers", "2", "--out", out).out
    assert cli("sweep", "work", out, "--stack", "0").code == 0
    assert "3 of 6 planned runs are finished; stacks: 1 finished" in cli("sweep", "status", out).out
    assert "6 runs, 3 finished; 1 stack to train" in cli("sweep", "plan", path, "--out", out).out
    trained = cli("sweep", "run", path, "--out", out)
    assert (trained.code, trained.err) == (0, "")
    assert "6 runs, 3 of them finished" in trained.out
    assert "load_results" in trained.out
    assert "6 runs, nothing is trained" in cli("sweep", "run", path, "--out", out).out
    assert "6 of 6 runs are whole" in cli("sweep", "check", out).out
    assert "1 of 1 runs are whole" in cli("sweep", "check", out, "--sample", "1").out
    assert "index: 6 runs" in cli("sweep", "reindex", out).out


# Damage


def redigest(stack: Path) -> None:
    """Makes the digests right again, as if another program had written the stack."""
    digests = {path.name: store._digest(path) for path in stack.iterdir() if path.name != DIGESTS}
    (stack / DIGESTS).write_text(json.dumps(digests))


USES: dict[str, Callable[[Path, str], object]] = {
    RUNS: lambda out, run: read_run(out / "runs" / run),
    DIGESTS: lambda out, run: (held(read_run(out / "runs" / run)), store.require_whole(stacks(out)[0], RUNS)),
    TRAJECTORIES: lambda out, run: read_run(out / "runs" / run).trajectory(),
    "weights.safetensors": lambda out, run: read_run(out / "runs" / run).weights(),
}
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "middle byte flipped": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
    ),
    "other json": lambda content: b"[1, 2, 3]\n",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_by_whoever_uses_it_and_mended(
    out: Path, finished: dict[str, Path], cli: Cli, name: str, damage: str
) -> None:
    [stack, _] = stacks(out)
    run = pq.read_table(stack / RUNS)["run_id"].to_pylist()[0]
    (stack / name).write_bytes(DAMAGE[damage]((stack / name).read_bytes()))
    with pytest.raises(DamagedRunError) as refused:
        USES[name](out, run)
    assert str(stack) in str(refused.value)
    assert "\n" not in str(refused.value)
    checked = cli("sweep", "check", out)
    assert checked.code == 1
    assert "damaged: " in checked.out
    assert "4 of 8 runs are whole" in checked.out
    assert "index: 4 runs" in cli("sweep", "reindex", out).out
    require_the_same(out, finished["folders"])
    assert cli("sweep", "check", out).code == 0


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(out: Path, cli: Cli, name: str) -> None:
    [stack, _] = stacks(out)
    (stack / name).unlink()
    checked = cli("sweep", "check", out)
    assert checked.code == 1
    assert name in checked.out
    assert "4 of 8 runs are whole" in checked.out


def test_a_stack_that_is_gone_is_trained_again(out: Path, finished: dict[str, Path]) -> None:
    shutil.rmtree(stacks(out)[0])
    assert len(load_results(out)) == 4
    require_the_same(out, finished["folders"])
    assert len(load_results(out)) == 8


def other_recipe(stack: Path) -> None:
    table = pq.read_table(stack / RUNS)
    changed = [text.replace('"seed": 1', '"seed": 9') for text in table["recipe"].to_pylist()]
    pq.write_table(table.set_column(1, "recipe", pa.array(changed)), stack / RUNS)


def deep_json(stack: Path) -> None:
    table = pq.read_table(stack / RUNS)
    pq.write_table(table.set_column(2, "result", pa.array(["[" * 100_000] * len(table))), stack / RUNS)


def fewer_columns(stack: Path) -> None:
    pq.write_table(pq.read_table(stack / RUNS).drop_columns("result"), stack / RUNS)


def other_stack(stack: Path) -> None:
    pq.write_table(pq.read_table(stack / RUNS).slice(1), stack / RUNS)


def fewer_members(stack: Path) -> None:
    weights = {name: rows[:1].clone() for name, rows in load_file(stack / "weights.safetensors").items()}
    save_file(weights, stack / "weights.safetensors")


@pytest.mark.parametrize("change", [other_recipe, deep_json, fewer_columns, other_stack], ids=lambda of: of.__name__)
def test_a_whole_stack_that_says_something_else_is_refused(out: Path, cli: Cli, change: Callable[[Path], None]) -> None:
    """As one that somebody wrote: data, of which nothing is believed."""
    [stack, _] = stacks(out)
    change(stack)
    redigest(stack)
    checked = cli("sweep", "check", out)
    assert checked.code == 1
    assert checked.out.startswith(f"damaged: {stack}")
    assert len(checked.out.splitlines()) == 3


def test_weights_of_fewer_members_are_refused(out: Path) -> None:
    [stack, _] = stacks(out)
    run = pq.read_table(stack / RUNS)["run_id"].to_pylist()[-1]
    fewer_members(stack)
    redigest(stack)
    with pytest.raises(DamagedRunError, match="does not hold the weights of its members"):
        read_run(out / "runs" / run).weights()


# The index


@pytest.mark.parametrize("damage", INDEX_DAMAGE, ids=lambda of: of.__name__)
def test_an_index_that_cannot_be_read_is_done_without_and_mended(out: Path, damage: Callable[[Path], None]) -> None:
    for path in parts(out):
        damage(path)
    assert [run.recipe for run in finish(out)] == SWEEP.runs()
    assert len(load_results(out)) == 8


def test_a_full_disk_costs_the_index_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_atomically", full)
        run_sweep(SWEEP, SweepFolder(tmp_path, SWEEP))
    assert parts(tmp_path) == []
    assert len(finish(tmp_path)) == 8
    assert len(parts(tmp_path)) == 2


def test_parts_are_merged_size_by_size(tmp_path: Path, finished: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's row is written again once per size; and a reader loses no row to a merger in the middle of its reading."""
    monkeypatch.setattr(store, "MAX_PARTS", 3)
    [stored, _] = finish(finished["stacks"])[:2]
    place = Store(tmp_path)
    for number in range(14):
        path = tmp_path / "stacks" / f"{number:02x}" / f"{number:02x}{'0' * 14}"
        path.mkdir(parents=True)
        fields = {"run_id": f"{number:016x}"}
        place._add(path.name, [stored.model_copy(update={"result": stored.result.model_copy(update=fields)})])
        place.merge()
    assert [path.name[0] for path in parts(tmp_path)] == ["0", "0", "1", "2"]
    expected = {f"{number:016x}" for number in range(14)}
    assert place.ids() == expected
    real = store._read_part

    def read(path: Path, *options: Any) -> Any:
        monkeypatch.setattr(store, "_read_part", real)
        place._add("0d" + "0" * 14, [stored.model_copy(update={"result": stored.result.model_copy(update={"run_id": "d" * 16})})])
        place.merge()
        return real(path, *options)

    reader = Store(tmp_path)
    monkeypatch.setattr(store, "_read_part", read)
    reader.refresh()
    assert reader.ids() == expected | {"d" * 16}


# Kills and full disks


class Told(NamedTuple):
    root: Path
    told: dict[str, list[tuple[str, int, list[int]]]]


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Told:
    root = tmp_path_factory.mktemp("lives")
    base = TINY.override({"variant": "heldout-both", "steps": 2})
    quick = {"CHECKPOINT_SECONDS": 0.0, "EVALUATION_SIZE": 16, "FINAL_SIZE": 16}
    command = child("killed_stacks", root, json.dumps([base.model_dump(mode="json"), {"seed": (0, 1)}, quick]))
    done = subprocess.run(command, capture_output=True, text=True, env=environment(OMP_NUM_THREADS="1"), timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return Told(root, json.loads(done.stdout))


@pytest.mark.parametrize("strike", ["killed", "refused"])
def test_a_sweep_that_ends_at_any_file_operation_loses_nothing(lives: Told, strike: str) -> None:
    """A stack is there whole or not at all, and the next call ends with the same bits."""
    told = lives.told[strike]
    assert {what for what, _, _ in told} == {"fsync", "rename", "replace", "unlink", "write_bytes", "write_table", "save_file"}
    assert {code for _, code, _ in told} <= {"killed": {-9}, "refused": {0, 3}}[strike]
    assert {tuple(whole) for _, _, whole in told} == {(), (2,)}
    plain = [held(run) for run in finished_runs(lives.root / "plain")]
    for number in range(1, len(told) + 1):
        out = lives.root / f"{strike} {number}"
        assert [held(run) for run in finished_runs(out)] == plain
        assert list((out / "checkpoints").iterdir()) == []


def finished_runs(out: Path) -> list[Run]:
    found = Store(out)
    found.refresh()
    return [read_run(out / "runs" / run_id) for run_id in sorted(found.ids())]


def test_the_page_shows_stored_runs_and_says_where_it_shows_a_sample(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {recipe.run_id for recipe in SWEEP.runs()}
    whole = gather(out)
    assert {run.result.run_id for run in whole.finished} == ids
    assert whole.problems == []
    monkeypatch.setattr(source, "SAMPLE", 3)
    sample = gather(out)
    assert [run.result.run_id for run in sample.finished] == sorted(ids)[:3]
    assert sample.problems == ["3 of 8 runs are shown, chosen by their ids"]

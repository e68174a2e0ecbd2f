"""The index: a second call reads nothing else; whatever happens to it, the runs and tables are those of the run folders."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import RUNS, TINY, patch_training
from damage import DAMAGE

from anchorbench.sweeps import folder as module
from anchorbench.sweeps import index
from anchorbench.sweeps.folder import SweepFolder
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.index import Index
from anchorbench.sweeps.run_folder import DamagedRunError, Run, load_results, read_run
from anchorbench.sweeps.runner import run_sweep
from anchorbench.train.execution import Execution

SWEEP = Sweep(TINY.override({"variant": "heldout-both", "model.norm": "pre"}), {"init.gamma": (0.5, 0.7), "seed": (0, 1)})
"""That of the fixture `sweep`."""


def parts(out: Path) -> list[Path]:
    return sorted((out / "index").glob("[!.]*.parquet"))


def finish(out: Path) -> list[Run]:
    """All runs of the finished sweep; nothing is trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anchorbench.train.loop.train", lambda *_, **__: pytest.fail("a finished run is trained again"))
        return run_sweep(SWEEP, SweepFolder(out, SWEEP))


def test_a_second_call_reads_the_index_only(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [read_run(sweep / "runs" / recipe.run_id) for recipe in SWEEP.runs()]
    table = (sweep / "results.csv").read_bytes()
    before = [path.name for path in parts(sweep)]
    monkeypatch.setattr(module, "read_run", lambda path: pytest.fail(f"{path} is read"))
    monkeypatch.setattr(Run, "weights", lambda self: pytest.fail("weights are read"))
    assert finish(sweep) == expected
    assert (sweep / "results.csv").read_bytes() == table
    assert [path.name for path in parts(sweep)] == before
    one = Sweep(SWEEP.base, {"init.gamma": (0.5,), "seed": (0,)})
    run_sweep(one, SweepFolder(sweep, one))  # the others are in the tables
    assert len(load_results(sweep)) == RUNS


def of_another_version(path: Path) -> None:
    table = pq.read_table(path)
    changed = pa.array([text.replace('"run_id"', '"id_of_run"') for text in table["result"].to_pylist()])
    pq.write_table(table.set_column(3, "result", changed), path)


def of_other_runs(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "run_id", pa.array(table["run_id"].to_pylist()[::-1])), path)


@pytest.mark.parametrize("damage", [*DAMAGE, of_another_version, of_other_runs], ids=lambda of: of.__name__)
def test_an_index_that_cannot_be_read_is_done_without_and_mended(sweep: Path, damage: Callable[[Path], None]) -> None:
    expected = [read_run(sweep / "runs" / recipe.run_id) for recipe in SWEEP.runs()]
    table = (sweep / "results.csv").read_bytes()
    for path in parts(sweep):
        damage(path)
    assert finish(sweep) == expected
    assert (sweep / "results.csv").read_bytes() == table
    found = Index(sweep)
    found.refresh()
    if damage is not of_another_version and damage is not of_other_runs:  # whose entries stay known to be of no use
        assert [found.run(recipe.run_id) for recipe in SWEEP.runs()] == expected


def test_a_full_disk_costs_the_index_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch_training(monkeypatch, FINAL_SIZE=60)
    monkeypatch.setattr(index, "write_atomically", full)
    out = tmp_path / "out"
    runs = run_sweep(SWEEP, SweepFolder(out, SWEEP))
    assert parts(out) == []
    assert finish(out) == runs


def test_a_run_that_is_replaced_is_read_again(sweep: Path) -> None:
    """It is trained again to keep a step, and killed before the new run is in the index."""
    [first, *others] = SWEEP.runs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Index, "add", lambda self, runs: None)
        run_sweep(SWEEP, SweepFolder(sweep, SWEEP), how=Execution(keep_steps=[3]))
    found = Index(sweep)
    found.refresh()
    assert found.run(first.run_id) is None
    assert [run.result.kept_steps for run in finish(sweep)] == [[3]] * RUNS
    found.refresh()
    assert [found.run(recipe.run_id).result.kept_steps for recipe in (first, *others)] == [[3]] * RUNS  # type: ignore[union-attr]


def test_a_run_folder_that_is_gone_is_trained_again(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_training(monkeypatch, FINAL_SIZE=60)
    path = sweep / "runs" / SWEEP.runs()[0].run_id
    before = (path / "weights.safetensors").read_bytes()
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    run_sweep(SWEEP, SweepFolder(sweep, SWEEP))
    assert (path / "weights.safetensors").read_bytes() == before


def test_weights_and_trajectories_are_checked_when_they_are_used(sweep: Path) -> None:
    [run, *_] = finish(sweep)
    for name, use in (("weights.safetensors", run.weights), ("trajectory.jsonl", run.trajectory)):
        content = (run.path / name).read_bytes()
        use()
        (run.path / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        with pytest.raises(DamagedRunError, match=f"{name} is damaged: its digest is not the one recorded"):
            use()
        (run.path / name).unlink()
        with pytest.raises(DamagedRunError, match=f"{name} is missing"):
            use()


def test_parts_are_merged_and_the_last_version_counts(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes add and forget in turn; another reads the parts in any order."""
    runs = finish(sweep)
    rng, here, there = random.Random(0), Index(sweep), Index(sweep)  # noqa: S311 - no secret
    known = dict.fromkeys((run.result.run_id for run in runs), True)
    monkeypatch.setattr(index, "MAX_PARTS", 8)
    for _ in range(20):
        of = rng.choice((here, there))
        of.refresh()
        run = rng.choice(runs)
        known[run.result.run_id] = not known[run.result.run_id]
        of.add([run]) if known[run.result.run_id] else of.forget([run.result.run_id])
    assert len(parts(sweep)) > 8
    for number, path in enumerate(rng.sample(parts(sweep), len(parts(sweep)))):
        path.rename(path.with_name(f"{number}.parquet"))

    def require_known() -> None:
        found: Any = Index(sweep)
        found.refresh()
        assert {run.result.run_id: found.run(run.result.run_id) is not None for run in runs} == known

    require_known()
    Index(sweep).merge()
    assert len(parts(sweep)) == 1
    require_known()
    Index(sweep).merge()
    assert len(parts(sweep)) == 1

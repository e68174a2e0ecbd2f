"""Several processes train one sweep: the same bits as one, whatever becomes of a helper."""

import time
from pathlib import Path

import pytest
import torch
from conftest import TINY

from anchorbench.recipe import Recipe
from anchorbench.sweeps import workers
from anchorbench.sweeps.runner import Sweep, SweepFolder, order_of, run_sweep, stacks
from anchorbench.sweeps.workers import Helpers, one_thread, useful_workers
from anchorbench.train.execution import Execution
from anchorbench.train.memory import memory_of_member

NOISY = TINY.override({"noise": {"kind": "dropout"}, "data_size": 200})
SWEEP = Sweep(NOISY, {"init.gamma": (0.5, 0.7), "seed": (0, 1, 2, 3)})
HOW = Execution(memory=2e9, workers=2)


def weights(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in (out / "runs").glob("*/weights.safetensors")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run_sweep(SWEEP, SweepFolder(out, SWEEP))
    return weights(out)


Told = tuple[list[str], int, bool]


def helper(out: Path, told: list[Told]) -> Helpers:
    """One that trains the whole sweep."""
    SweepFolder(out, SWEEP)
    return Helpers(1, out, order_of(SWEEP, SWEEP.runs(), HOW), lambda ids, step, ended: told.append((ids, step, ended)))


def wait(helpers: Helpers, until: int, events: list[Told]) -> None:
    """Listens to the helpers until so many events have come, or they have ended."""
    deadline = time.monotonic() + 120
    while helpers.busy and len(events) < until and time.monotonic() < deadline:
        helpers.tell()


def test_a_helper_trains_all_that_is_free_and_tells_of_it(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    out, events = tmp_path / "out", list[Told]()
    helpers = helper(out, events)
    wait(helpers, 10_000, events)
    helpers.tell()
    helpers.end()
    assert weights(out) == undisturbed
    finished = [ids for ids, _, ended in events if ended]
    assert [len(ids) for ids in finished] == [4, 4]
    assert {run_id for ids in finished for run_id in ids} == undisturbed.keys()
    runs = run_sweep(SWEEP, SweepFolder(out, SWEEP))
    assert {run.result.machines[-1][1].threads for run in runs} == {1}


def test_a_helper_that_is_killed_is_replaced_by_the_first_process(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    out, events = tmp_path / "out", list[Told]()
    helpers = helper(out, events)
    wait(helpers, 5, events)
    for process in helpers._processes:
        process.kill()
    helpers.end()
    assert weights(out).keys() < undisturbed.keys()
    run_sweep(SWEEP, SweepFolder(out, SWEEP))
    assert weights(out) == undisturbed


def test_a_sweep_with_helpers_ends_with_the_same_bits(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anchorbench.sweeps.runner.useful_workers", lambda missing: 2)
    started: list[Helpers] = []
    monkeypatch.setattr("anchorbench.sweeps.runner.Helpers", lambda *given: started.append(Helpers(*given)) or started[0])
    said: list[str] = []
    runs = run_sweep(SWEEP, SweepFolder(tmp_path / "out", SWEEP), lambda event: said.append(event.message or ""))
    assert [recipe.run_id for recipe in SWEEP.runs()] == [run.result.run_id for run in runs]
    assert weights(tmp_path / "out") == undisturbed
    assert not started[0].busy
    assert list(filter(None, said)) == ["2 processes train, one thread each"]


def test_memory_for_one_is_left_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]) -> None:
    monkeypatch.setattr("anchorbench.sweeps.runner.useful_workers", lambda missing: 2)
    monkeypatch.setattr("anchorbench.sweeps.runner.Helpers", None)  # whoever calls it fails
    run_sweep(SWEEP, SweepFolder(tmp_path / "out", SWEEP), how=Execution(memory=3 * memory_of_member(NOISY)))
    assert weights(tmp_path / "out") == undisturbed


def test_how_many_are_useful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    native, noisy = Recipe().override({"precision": "fp32"}), Recipe().override({"noise": {"kind": "dropout"}})
    monkeypatch.setattr("anchorbench.train.gradients.native.available", lambda: True)
    assert [one_thread(native), one_thread(noisy)] == [False, True]
    large = noisy.override({"model.d_model": 400, "model.d_ff": 1200, "batch": 2048})
    assert not one_thread(large)
    assert useful_workers([noisy] * 20) == 4
    assert useful_workers([noisy] * 3) == 3
    assert useful_workers([noisy, native]) == useful_workers([noisy, large]) == 1
    assert useful_workers([noisy.override({"steps": 20, "optimizer.warmup": 0})] * 3) == 1
    monkeypatch.setattr("anchorbench.train.gradients.native.available", lambda: False)
    assert useful_workers([native] * 20) == 4


@pytest.mark.parametrize(
    ("members", "workers", "sizes"), [(8, 1, [8]), (8, 2, [4, 4]), (5, 4, [2, 3]), (1, 4, [1]), (40, 2, [8] * 5)]
)
def test_few_runs_are_cut_for_all_workers(members: int, workers: int, sizes: list[int]) -> None:
    recipes = [NOISY.override({"seed": seed}) for seed in range(members)]
    assert sorted(len(stack) for stack in stacks(recipes, 1e9, workers)) == sizes


def test_threads_are_as_before_after_training() -> None:
    before = torch.get_num_threads()
    with workers.threads_for(NOISY):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before

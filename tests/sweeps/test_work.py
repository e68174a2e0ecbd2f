"""Plans and their workers: whoever trains a stack, and whatever happens to them, the weights are those of one undisturbed sweep."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Cli, bytes_of, patch_training, require_one_sentence

from anchorbench.presets import PRESETS
from anchorbench.sweeps import folder, runner
from anchorbench.sweeps.failures import FailedStacksError, failures
from anchorbench.sweeps.folder import SweepFolder
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.index import Index
from anchorbench.sweeps.lock import StackLock
from anchorbench.sweeps.plan import Cut, Plan, read_plan, write_plan
from anchorbench.sweeps.run_folder import read_run, write_run
from anchorbench.sweeps.runner import Progress, run_sweep
from anchorbench.sweeps.status import status
from anchorbench.sweeps.work import Worker
from anchorbench.train.execution import Execution
from anchorbench.train.memory import memory_of_member

BASE = TINY.override({"variant": "heldout-both"})
SWEEP = Sweep(BASE, {"model.norm": ("pre", "post"), "seed": (0, 1, 2, 3)})
CUT = Cut(workers=4, memory=2.0**40, device=None, keep_steps=[])
"""Four stacks of two: 0 and 1 are of one structure, 2 and 3 of the other."""
YAML = "precision: fp32\naxes: {model.norm: [pre, post], seed: 4}"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_training(monkeypatch, CHECKPOINT_SECONDS=0.0, EVALUATION_SIZE=32, FINAL_SIZE=60)
    monkeypatch.setitem(PRESETS, "laptop", TINY)
    monkeypatch.setattr(runner, "LOOK_SECONDS", -1.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The weights of an undisturbed sweep, by run id."""
    out = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch_training(patch, EVALUATION_SIZE=32, FINAL_SIZE=60)
        run_sweep(SWEEP, SweepFolder(out, SWEEP))
    return weights_of(out)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with the plan CUT."""
    write_plan(SWEEP, SweepFolder(tmp_path / "out", SWEEP), CUT)
    return tmp_path / "out"


def weights_of(out: Path) -> dict[str, bytes]:
    runs = sorted(path for path in (out / "runs").iterdir() if not path.name.startswith("."))
    return {path.name: (read_run(path).path / "weights.safetensors").read_bytes() for path in runs}


def at_step(step: int, act: Callable[[], None]) -> Callable[[int, Progress], None]:
    """A report that acts once, at a step of the first stack that comes to it."""
    acts = iter([act])
    return lambda number, event: next(acts, lambda: None)() if event.step == step and event.finished is None else None


# The plan


def test_a_plan_is_canonical_and_all_that_a_worker_needs(out: Path) -> None:
    before = (out / "plan.json").read_bytes()
    plan = read_plan(out)
    assert plan.sweep() == SWEEP
    assert [len(stack.runs) for stack in plan.stacks] == [2] * 4
    sweep = plan.sweep()
    recipes = [plan.recipes(number, sweep) for number in range(4)]
    assert "_numbered" not in vars(sweep)  # only those recipes are made
    assert {recipe.run_id for stack in recipes for recipe in stack} == {recipe.run_id for recipe in SWEEP.runs()}
    assert [{recipe.model.norm for recipe in stack} for stack in recipes] in (
        [{"pre"}, {"pre"}, {"post"}, {"post"}],
        [{"post"}, {"post"}, {"pre"}, {"pre"}],
    )
    assert write_plan(SWEEP, SweepFolder(out, SWEEP), CUT) == plan
    assert (out / "plan.json").read_bytes() == before
    (out / "plan.json").unlink()
    write_plan(SWEEP, SweepFolder(out, SWEEP), CUT)
    assert (out / "plan.json").read_bytes() == before


@pytest.mark.parametrize(
    ("workers", "sizes"),
    [(1, [8, 8]), (2, [8, 8]), (3, [4] * 4), (5, [2, 3, 3] * 2), (8, [2] * 8), (16, [1] * 16)],
)
def test_a_plan_is_cut_for_its_workers(tmp_path: Path, workers: int, sizes: list[int]) -> None:
    sweep = Sweep(BASE, {"model.norm": ("pre", "post"), "seed": tuple(range(8))})
    plan = write_plan(sweep, SweepFolder(tmp_path, sweep), CUT.model_copy(update={"workers": workers}))
    assert [len(stack.runs) for stack in plan.stacks] == sizes


def test_a_plan_asks_nothing_of_the_machine_that_makes_it(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For GPUs, from a machine without one: no step is compiled or trained, and TF32 is planned, which cannot be trained here."""
    path = tmp_path / "recipe.yaml"
    path.write_text("precision: tf32\naxes: {seed: 600}")
    for name in ("train.gradients.native.available", "train.gradients.choice.gradient_path", "train.memory.gradient_path"):
        monkeypatch.setattr(f"anchorbench.{name}", lambda *_: pytest.fail("the planner's gradient path is asked for"))
    plan = ("sweep", "plan", path, "--workers", "2", "--device", "cuda", "--out", tmp_path / "out")
    refused = cli(*plan)
    require_one_sentence(refused.err)
    assert "device is cuda, and there is no GPU here to ask for its memory; give --memory" in refused.err
    done = cli(*plan, "--memory", "40")
    assert (done.code, done.err) == (0, "")
    assert "600 of 600 runs in 3 stacks of 200 to 200" in done.out
    assert read_plan(tmp_path / "out").cut == Cut(workers=2, memory=40 * 2.0**30, device="cuda", keep_steps=[])
    failed = cli("sweep", "work", tmp_path / "out", "--stack", "1")
    assert failed.code == 1
    assert "precision is tf32; allowed without a GPU" in failed.err


def test_a_plan_fits_in_the_declared_memory(tmp_path: Path) -> None:
    each = memory_of_member(BASE, native=False)
    cut = Cut(workers=1, memory=3.5 * each, device="cpu", keep_steps=[])
    sweep = Sweep(BASE, {"seed": tuple(range(7))})
    assert [len(stack.runs) for stack in write_plan(sweep, SweepFolder(tmp_path, sweep), cut).stacks] == [2, 2, 3]


def test_a_plan_leaves_out_what_is_finished_and_mends_what_is_damaged(out: Path, weights: dict[str, bytes]) -> None:
    Worker(out).train(0)
    one, other = read_plan(out).stacks[0].runs
    (out / "runs" / one / "weights.safetensors").write_bytes(b"damaged")
    Index(out).clear()
    larger = Sweep(BASE, {**SWEEP.axes, "seed": (0, 1, 2, 3, 4)})
    plan = write_plan(larger, SweepFolder(out, larger), CUT)
    planned = {run for stack in plan.stacks for run in stack.runs}
    assert planned == {recipe.run_id for recipe in larger.runs()} - {other}
    assert Worker(out).train_free().failed == {}
    assert weights.items() <= weights_of(out).items()


def test_a_plan_in_use_is_not_replaced(out: Path) -> None:
    before = (out / "plan.json").read_bytes()
    larger = Sweep(BASE, {**SWEEP.axes, "seed": (0, 1, 2, 3, 4)})
    lock = StackLock.acquire(out / "locks" / "somebody")
    assert lock is not None
    with lock:
        assert write_plan(SWEEP, SweepFolder(out, SWEEP), CUT) == read_plan(out)
        with pytest.raises(ValueError, match="is being trained by another plan; allowed: a new plan when no worker is left"):
            write_plan(larger, SweepFolder(out, larger), CUT)
    assert (out / "plan.json").read_bytes() == before
    write_plan(larger, SweepFolder(out, larger), CUT)
    assert read_plan(out).sweep() == larger


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "plan.json is damaged: stacks is": lambda plan: plan.pop("stacks"),
    "is of a version of anchorbench with other run ids; plan again": lambda plan: plan.update(run_ids=1),
    "stack 0 of the plan has other run ids here": lambda plan: plan["stacks"][0]["numbers"].reverse(),
    "run number 99 does not exist; allowed: less than 8": lambda plan: plan["stacks"][0].update(numbers=[99, 99]),
    "plan.json is damaged: stacks.0.runs.0": lambda plan: plan["stacks"][0].update(runs=["../../x", "y"]),
    "unknown field 'stepz'": lambda plan: plan["base"].update(stepz=3),
}


@pytest.mark.parametrize("sentence", DAMAGES)
def test_a_damaged_plan_is_one_sentence(cli: Cli, out: Path, sentence: str) -> None:
    content = json.loads((out / "plan.json").read_text())
    DAMAGES[sentence](content)
    (out / "plan.json").write_text(json.dumps(content))
    before = bytes_of(out)
    refused = cli("sweep", "work", out, "--stack", "0")
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert sentence in refused.err
    assert bytes_of(out) == before


@pytest.mark.parametrize("command", ["work", "status"])
def test_a_folder_without_a_plan_is_one_sentence(cli: Cli, tmp_path: Path, command: str) -> None:
    refused = cli("sweep", command, tmp_path)
    require_one_sentence(refused.err)
    assert "holds no plan; allowed: the folder of anchorbench sweep plan" in refused.err
    assert list(tmp_path.iterdir()) == []


# Workers


def test_workers_train_what_a_sweep_trains(
    cli: Cli, tmp_path: Path, weights: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stack by its number, another that is taken, a number that does not exist, and then all that are free."""
    monkeypatch.setattr("anchorbench.sweeps.recut.ANSWER_SECONDS", 0.0)  # whoever holds the stack here does not answer
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    path.write_text(YAML)
    planned = cli("sweep", "plan", path, "--workers", "4", "--out", out)
    assert (planned.code, planned.err) == (0, "")
    assert "8 of 8 runs in 4 stacks of 2 to 2" in planned.out
    assert cli("sweep", "work", out, "--stack", "2").code == 0
    assert weights_of(out).items() < weights.items()
    stack = read_plan(out).stacks[1]
    lock = StackLock.acquire(out / "locks" / stack.name, stack.runs)
    assert lock is not None
    with lock:
        taken = cli("sweep", "work", out, "--stack", "1")
        assert (taken.code, taken.err) == (75, "")
        assert taken.out == "stack 1 is being trained by another process\n"
        assert cli("sweep", "work", out).code == 0  # all others
        assert weights.keys() - weights_of(out).keys() == set(stack.runs)
        assert not (out / "results.jsonl").exists()
    beyond = cli("sweep", "work", out, "--stack", "4")
    require_one_sentence(beyond.err)
    assert "stack is 4; allowed: 0 to 3" in beyond.err
    assert cli("sweep", "work", out).code == 0
    assert weights_of(out) == weights
    assert len((out / "results.jsonl").read_text().splitlines()) == 8
    assert cli("sweep", "work", out, "--stack", "0").out == ""
    shown = cli("sweep", "run", path, "--out", out)
    assert "All 8 runs are finished; nothing is trained." in shown.out


def test_a_sweep_trains_by_the_plan_and_shows_its_own(cli: Cli, tmp_path: Path, out: Path, weights: dict[str, bytes]) -> None:
    stacks: list[set[str]] = []
    run_sweep(SWEEP, SweepFolder(out, SWEEP), lambda event: stacks.append({recipe.run_id for recipe in event.recipes}))
    assert {frozenset(stack) for stack in stacks} == {frozenset(stack.runs) for stack in read_plan(out).stacks}
    assert weights_of(out) == weights
    path = tmp_path / "recipe.yaml"
    path.write_text(YAML)
    assert cli("sweep", "run", path, "--out", tmp_path / "new").code == 0
    assert read_plan(tmp_path / "new").sweep() == SWEEP
    assert cli("sweep", "status", tmp_path / "new").out.startswith("8 of 8 planned runs are finished")


def test_the_steps_to_keep_are_the_plans(tmp_path: Path, weights: dict[str, bytes]) -> None:
    write_plan(SWEEP, SweepFolder(tmp_path, SWEEP), CUT.model_copy(update={"keep_steps": [2, 4]}))
    assert sorted(Worker(tmp_path).train_free().finished) == [0, 1, 2, 3]
    assert weights_of(tmp_path) == weights
    assert {tuple(read_run(path).result.kept_steps) for path in (tmp_path / "runs").iterdir()} == {(2, 4)}


def test_a_worker_that_was_taken_over_writes_nothing(out: Path, weights: dict[str, bytes]) -> None:
    """Another attempt begins at the first one's fourth step, ends the stack, and the first one comes back."""
    told: list[Any] = []

    def overtake() -> None:
        told.append(Worker(out, attempt=1).train(0))
        told.append(bytes_of(out))

    fenced = Worker(out, at_step(4, overtake), attempt=0).train(0)
    assert (fenced.taken, fenced.finished, told[0].finished) == ([0], [], [0])
    assert bytes_of(out) == told[1]
    assert weights_of(out).items() < weights.items()
    assert Worker(out).train_free().failed == {}
    assert weights_of(out) == weights


def test_a_worker_that_is_taken_over_while_it_writes_is_fenced_before_the_rename(
    out: Path, weights: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[StackLock] = []
    stack = read_plan(out).stacks[0]

    def slow(folder: Path, member: Any, confirm: Callable[[], None]) -> None:
        def late() -> None:
            if not taken:
                lock = StackLock.acquire(out / "locks" / stack.name, stack.runs, attempt=1)
                assert lock is not None
                taken.append(lock)
            confirm()

        write_run(folder, member, late)

    with monkeypatch.context() as patch:
        patch.setattr(folder, "write_run", slow)
        assert Worker(out, attempt=0).train(0).taken == [0]
    assert weights_of(out) == {}
    assert list((out / "runs").iterdir()) == []
    taken[0].release()
    Worker(out).train_free()
    assert weights_of(out) == weights


def test_a_worker_that_is_asked_to_stop_saves_its_state(
    cli: Cli, out: Path, weights: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a machine is taken away: SIGTERM at step 4, and no checkpoint was due."""
    patch_training(monkeypatch, CHECKPOINT_SECONDS=1e9)
    before = signal.getsignal(signal.SIGTERM)
    real = Worker.train
    steps: list[int] = []

    def train(self: Worker, number: int) -> Any:
        told = self._report

        def report(stack: int, event: Progress) -> None:
            steps.append(event.step)
            if event.step == 4 and len(steps) < 6:
                os.kill(os.getpid(), signal.SIGTERM)
            told(stack, event)

        self._report = report
        return real(self, number)

    monkeypatch.setattr(Worker, "train", train)
    try:
        stopped = cli("sweep", "work", out, "--stack", "0")
        assert (stopped.code, stopped.err) == (143, "")
        assert "the state is saved" in stopped.out
        assert steps == [0, 1, 2, 3, 4]
        assert cli("sweep", "work", out, "--stack", "0").code == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert steps[5:] == [0, 5, 6, 6]  # the start of the stack, two steps, and its end
    assert weights_of(out).items() < weights.items()
    assert len(weights_of(out)) == 2


# Failures


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The disk is full for the runs with the seed 1: two of four stacks."""

    def write(folder: Path, member: Any, confirm: Callable[[], None]) -> None:
        if member.recipe.seed == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        write_run(folder, member, confirm)

    with monkeypatch.context() as patch:
        patch.setattr(folder, "write_run", write)
        yield patch


def test_a_sweep_goes_on_after_a_failure_and_lists_it(cli: Cli, tmp_path: Path, weights: dict[str, bytes], full: Any) -> None:
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    path.write_text(YAML)
    failed = cli("sweep", "run", path, "--out", out)
    assert failed.code == 2
    require_one_sentence(failed.err)
    assert "2 stacks failed, and 2 runs are missing: " in failed.err
    assert failed.out.count("No space left on device") == 2
    assert "pre-LN" in failed.out  # the table of the runs that are there
    assert len(weights_of(out)) == 6
    assert len((out / "results.jsonl").read_text().splitlines()) == 6
    assert len(failures(out)) == 2
    shown = cli("sweep", "status", out)
    assert "6 of 8 planned runs are finished; stacks: 0 finished, 0 running, 2 failed, 0 waiting" in shown.out
    assert "No space left" in shown.out.replace("\n", " ")
    full.undo()
    assert cli("sweep", "run", path, "--out", out).code == 0
    assert weights_of(out) == weights
    assert failures(out) == {}


def test_workers_go_on_after_a_failure(cli: Cli, out: Path, weights: dict[str, bytes], full: Any) -> None:
    failed = cli("sweep", "work", out)
    assert failed.code == 1
    assert failed.err.count("No space left on device") == 2
    assert len(weights_of(out)) == 6
    full.undo()
    assert Worker(out).train_free().failed == {}
    assert weights_of(out) == weights
    assert failures(out) == {}


def test_fail_fast_ends_with_the_first_failure(cli: Cli, out: Path, full: Any) -> None:
    with pytest.raises(OSError, match="No space left"):
        run_sweep(SWEEP, SweepFolder(out, SWEEP), how=Execution(fail_fast=True))
    assert len(weights_of(out)) < 6
    failed = cli("sweep", "work", out, "--fail-fast")
    assert failed.code == 2
    require_one_sentence(failed.err)


def test_memory_that_runs_out_is_a_failure_and_not_a_traceback(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA out of memory.\nTried to allocate 3 GiB")

    monkeypatch.setattr("anchorbench.train.loop.train", train)
    with pytest.raises(FailedStacksError, match=r"^4 stacks failed, and 8 runs are missing: CUDA out of memory\.\\nTried"):
        run_sweep(SWEEP, SweepFolder(out, SWEEP))


# Status


def test_status_tells_what_runs_where(cli: Cli, out: Path, full: Any) -> None:
    plan: Plan = read_plan(out)
    assert status(out).seconds_left is None
    first = next(number for number in range(4) if all(one.seed > 1 for one in plan.recipes(number, SWEEP)))
    second = next(number for number in range(4) if any(one.seed == 1 for one in plan.recipes(number, SWEEP)))
    Worker(out).train(first)
    Worker(out).train(second)
    running, waiting = (number for number in range(4) if number not in (first, second))
    lock = StackLock.acquire(out / "locks" / plan.stacks[running].name, plan.stacks[running].runs)
    assert lock is not None
    with lock:
        found = {stack.number: stack for stack in status(out).stacks}
        assert [found[number].state for number in (first, second, running, waiting)] == ["finished", "failed", "running", "waiting"]
        assert (found[running].machine, found[running].since) == (lock.owner.machine, lock.owner.started)
        assert "No space left" in found[second].reason
        assert found[second].finished == 1
        seconds = [read_run(path).result.seconds for path in (out / "runs").iterdir()]
        assert status(out).seconds_left == pytest.approx(5 * sum(seconds) / len(seconds))
        shown = cli("sweep", "status", out)
    assert (shown.code, shown.err) == (0, "")
    assert "3 of 8 planned runs are finished; stacks: 1 finished, 1 running, 1 failed, 1 waiting" in shown.out
    assert lock.owner.machine in shown.out
    shutil.rmtree(out / "locks")
    assert "1 finished, 0 running, 1 failed, 2 waiting" in cli("sweep", "status", out).out

"""A stack that is cut in two while it is trained: by request only, at any moment, by anyone, and always with the same bits."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, patch_training
from safetensors.torch import save

from anchorbench.sweeps import folder as folders
from anchorbench.sweeps import recut, runner
from anchorbench.sweeps.folder import SweepFolder
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.lock import StackLock
from anchorbench.sweeps.plan import Cut, read_plan, write_plan
from anchorbench.sweeps.recut import ask, asked, cut_in_two, parts
from anchorbench.sweeps.run_folder import read_run
from anchorbench.sweeps.runner import Progress, run_sweep
from anchorbench.sweeps.status import status
from anchorbench.sweeps.work import Worked, Worker
from anchorbench.train.execution import PausedError

SWEEP = Sweep(TINY.override({"variant": "heldout-both", "steps": 8}), {"seed": (0, 1, 2, 3, 4)})
"""One stack of five."""
CUT = Cut(workers=1, memory=2.0**40, device=None, keep_steps=[])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_training(monkeypatch, CHECKPOINT_SECONDS=1e9, EVALUATION_SIZE=32, FINAL_SIZE=60)
    monkeypatch.setattr(runner, "LOOK_SECONDS", -1.0)
    monkeypatch.setattr(recut, "POLL_SECONDS", 0.01)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, str]]:
    """The runs of an undisturbed sweep."""
    out = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch_training(patch, EVALUATION_SIZE=32, FINAL_SIZE=60)
        run_sweep(SWEEP, SweepFolder(out, SWEEP))
    return held(out)


@pytest.fixture(params=[1000, 1], ids=["folders", "by stack"])
def out(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a plan of one stack."""
    monkeypatch.setattr(folders, "MAX_FOLDERS", request.param)
    write_plan(SWEEP, SweepFolder(tmp_path, SWEEP), CUT)
    assert [len(stack.runs) for stack in read_plan(tmp_path).stacks] == [5]
    return tmp_path


def held(out: Path) -> dict[str, tuple[bytes, str]]:
    runs = [read_run(out / "runs" / recipe.run_id) for recipe in SWEEP.runs()]
    return {run.result.run_id: (save(run.weights()), json.dumps(run.trajectory())) for run in runs}


def at_step(step: int, act: Callable[[], object]) -> Callable[[int, Progress], None]:
    """A report that acts once, at a step of the first stack that comes to it."""
    acts = iter([act])
    return lambda number, event: None if event.step != step or event.finished else (next(acts, lambda: None)(), None)[1]


def test_an_idle_worker_takes_half(out: Path, expected: dict[str, Any]) -> None:
    """Two workers on one stack of five: the idle one asks at the fourth step, while the owner waits to hear from it."""
    trained: dict[str, list[list[str]]] = {"owner": [], "idle": []}
    idle: list[Worked] = []
    asks = threading.Event()

    def listen(who: str) -> Callable[[int, Progress], None]:
        def report(number: int, event: Progress) -> None:
            if event.finished is not None:
                trained[who].append([run.result.run_id for run in event.finished])
            if who == "owner" and event.step == 4 and not other.is_alive() and not idle:
                other.start()
                assert asks.wait(30)

        return report

    def work() -> None:
        idle.append(Worker(out, listen("idle")).train_free())

    real = recut.asked

    def tell(lock: Path) -> Path:
        if threading.current_thread() is other and real(lock).exists():
            asks.set()
        return real(lock)

    other = threading.Thread(target=work)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recut, "asked", tell)
        owner = Worker(out, listen("owner")).train_free()
        other.join()
    assert (owner.failed, idle[0].failed) == ({}, {})
    assert held(out) == expected
    # The owner keeps two of five; done with them, it may ask the other for half of its three.
    assert len(trained["owner"][0]) == 2
    assert sorted(run for who in trained.values() for runs in who for run in runs) == sorted(expected)
    assert [stack.state for stack in status(out).stacks] == ["finished"]
    assert list((out / "checkpoints").iterdir()) == []
    assert list((out / "recut").iterdir()) == []
    assert [path.name for path in (out / "locks").iterdir()] == [".guard"]


def test_a_stack_is_cut_at_its_step_and_again(out: Path, expected: dict[str, Any]) -> None:
    """Each half begins where the stack was; nobody takes the others, so that this worker trains them all."""
    begun: list[tuple[int, int]] = []
    names: list[str] = []

    def report(number: int, event: Progress) -> None:
        if event.step and event.finished is None:
            begun.append((len(event.recipes), event.step))
            if event.step in (3, 5) and len(event.recipes) > 1 and len(names) < 2:
                [lock] = (out / "locks").glob("[!.]*")
                asked(lock).touch()
                names.append(lock.name)

    worked = Worker(out, report).train_free()
    assert worked.finished == [0]
    assert held(out) == expected
    cut_again = [(1, 6), (1, 7), (1, 8)] * 2
    assert begun == [(5, 1), (5, 2), (5, 3), (2, 4), (2, 5), *cut_again, *((3, step) for step in range(4, 9))]
    assert list((out / "recut").iterdir()) == []


@pytest.mark.parametrize("moment", ["first half", "second half", "record", "removal"])
def test_a_cut_that_ends_in_the_middle_costs_nothing(
    out: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """As if killed, at each file operation of the cut; then another worker comes."""
    saves = iter(range(10))

    class KilledError(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        if moment in ("first half", "second half"):
            from anchorbench.train import checkpoint

            real = checkpoint.save
            last = {"first half": 1, "second half": 2}[moment]  # the first save is the stack's own
            patch.setattr(checkpoint, "save", lambda *args: kill() if next(saves) == last else real(*args))
        else:
            patch.setattr(recut, {"record": "write_atomically", "removal": "remove"}[moment], kill)
        [stack] = read_plan(out).stacks
        request = asked(out / "locks" / stack.name)
        with pytest.raises(KilledError):
            Worker(out, at_step(3, request.touch)).train(0)
    assert len(list((out / "checkpoints").glob("[!.]*"))) == {"first half": 1, "second half": 2, "record": 3, "removal": 3}[moment]
    assert len(list((out / "recut").glob("[!.]*"))) == (moment == "removal")
    request.unlink(missing_ok=True)
    steps: list[int] = []
    assert Worker(out, lambda number, event: steps.append(event.step)).train_free().failed == {}
    assert held(out) == expected
    assert 1 not in steps  # it goes on from step 3
    assert list((out / "checkpoints").iterdir()) == []


def test_a_full_disk_is_no_cut(out: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recut, "write_atomically", full)
    [stack] = read_plan(out).stacks
    assert Worker(out, at_step(3, asked(out / "locks" / stack.name).touch)).train(0).finished == [0]
    assert held(out) == expected
    assert list((out / "recut").iterdir()) == []


def test_what_is_said_of_a_cut_is_not_believed(out: Path, expected: dict[str, Any]) -> None:
    """Files of other stacks, damaged ones, or repeated runs: the stack is trained as planned."""
    folder, recipes = SweepFolder(out, SWEEP), SWEEP.runs()
    [stack] = read_plan(out).stacks
    (out / "recut").mkdir()
    ids = stack.runs
    for halves in ([ids[:2]], [ids[:2], ids[1:]], [["0" * 16], ids], [[], ids], [3, 4], "x", [ids[:1], ids[:1]]):
        (out / "recut" / f"{stack.name}.json").write_text(json.dumps(halves))
        assert parts(recipes, folder) == [(recipes, folder.checkpoint(recipes))]
    (out / "recut" / f"{stack.name}.json").write_text("[[[")
    assert Worker(out).train_free().finished == [0]
    assert held(out) == expected


def test_a_checkpoint_without_members_that_ended_early_is_resumed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a worker, which knows the planned stack only."""
    patch_training(monkeypatch, CHECKPOINT_SECONDS=0.0, FIRST_EVALUATION=2)
    early = {recipe.run_id for recipe in SWEEP.runs()[:2]}
    monkeypatch.setattr(
        "anchorbench.train.stack.Stack.settled", lambda self, member: self.step == 2 and self.recipes[member].run_id in early
    )

    def stop() -> None:
        raise PausedError

    with pytest.raises(PausedError):
        Worker(out, at_step(5, stop)).train(0)
    steps: list[tuple[int, int]] = []
    Worker(out, lambda number, event: steps.append((len(event.recipes), event.step))).train_free()
    assert [step for step in steps if step[1]] == [(3, 6), (3, 7), (3, 8), (3, 8)]
    assert {run.result.steps_trained for run in run_sweep(SWEEP, SweepFolder(out, SWEEP))} == {2, 8}


def test_nothing_is_asked_of_stacks_of_one_or_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recut, "ANSWER_SECONDS", 0.02)
    assert not ask(tmp_path)
    lone = StackLock.acquire(tmp_path / "locks" / "lone", ["a"])
    assert lone is not None
    with lone:
        assert not ask(tmp_path)
        pair = StackLock.acquire(tmp_path / "locks" / "pair", ["b", "c"])
        assert pair is not None
        with pair:
            asked(pair.path).touch()
            assert not ask(tmp_path)
            assert asked(pair.path).exists()  # the other's
            asked(pair.path).unlink()
            assert not ask(tmp_path)  # nobody answers
            assert not asked(pair.path).exists()


def test_a_checkpoint_of_one_is_not_cut(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, SWEEP)
    assert cut_in_two(SWEEP.runs(), folder, folder.checkpoint(SWEEP.runs())) == []

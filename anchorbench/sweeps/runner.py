"""Trains a sweep stack by stack; finished runs are never retrained."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anchorbench.files import remove
from anchorbench.recipe import Recipe
from anchorbench.sweeps.failures import FailedStacksError, forget, in_words, record
from anchorbench.sweeps.folder import FinishedRuns, SweepFolder, checkpoint_runs
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.lock import StackLock
from anchorbench.sweeps.plan import Cut, read_plan, stacks, write_plan
from anchorbench.sweeps.recut import AskedError, asked, cut_in_two
from anchorbench.sweeps.run_folder import Run
from anchorbench.train.evaluation import Point
from anchorbench.train.execution import Execution
from anchorbench.train.gradients.choice import suits_native
from anchorbench.train.gradients.compiled import announce

POLL_SECONDS = 2.0
"""How often to poll for runs that another process is training."""
LOOK_SECONDS = 1.0
"""How often to look, while training, whether the lock was taken over."""


@dataclass(frozen=True)
class Progress:
    """A progress event: a stack started or advanced one step (`recipes`, `step`), ended (`finished`), or it has a message."""

    recipes: list[Recipe]
    step: int = 0
    finished: list[Run] | None = None
    message: str | None = None
    trajectories: Mapping[str, Sequence[Point]] = field(default_factory=dict[str, Sequence[Point]])
    """Run id -> all its evaluations so far, of the runs that were evaluated in this process."""


@dataclass(frozen=True)
class Trained:
    """What became of a stack."""

    finished: list[Run]
    busy: int = 0
    """How many of its runs another process is training."""
    failure: str | None = None
    worked: bool = False
    """Whether any of it was trained here."""


class FencedError(Exception):
    """Another attempt has taken over the lock of the stack that is being trained."""


class _CutError(Exception):
    """The stack that is being trained was cut in two."""

    def __init__(self, half: list[Recipe]) -> None:
        """`half` is the one to go on with."""
        self.half = half


def run_sweep(
    sweep: Sweep,
    folder: SweepFolder,
    report: Callable[[Progress], None] = lambda progress: None,
    how: Execution | None = None,
) -> Sequence[Run]:
    """Trains the missing runs and returns all runs in the sweep's order; damaged run folders are reported and retrained.

    Runs of a sweep that is stored by stack are trained by its plan, and each one is read when it is asked for. Waits for runs that
    another process is training in the same folder. Raises FailedStacksError if stacks failed, once all others are finished, or, if
    `how` says so, the error of the first stack that fails.
    """
    how = how or Execution()
    if folder.by_stack:
        return _run_by_plan(sweep, folder, report, how)
    recipes = sweep.runs()
    runs, problems = folder.finished(recipes, how.keep_steps)
    done = {run.result.run_id: run for run in runs}
    folder.require_free([recipe.run_id for recipe in recipes if recipe.run_id not in done])
    for problem in problems:
        report(Progress([], message=f"{problem}; it is retrained"))
    warn = warner(report)
    if any(suits_native(recipe) for recipe in recipes if recipe.run_id not in done):
        announce(warn)
    waiting, reasons, failed = 0, list[str](), set[str]()
    while missing := [recipe for recipe in recipes if recipe.run_id not in done and recipe.run_id not in failed]:
        busy = 0
        for stack, checkpoint in _planned(missing, recipes, folder, how):
            trained = train_stack(stack, checkpoint, folder, report, how, warn)
            done |= {run.result.run_id: run for run in trained.finished}
            busy += trained.busy
            if trained.failure is not None:
                reasons.append(trained.failure)
                failed |= {recipe.run_id for recipe in stack}
        if busy:
            if busy != waiting:
                report(Progress([], message=f"waiting for {busy} runs that another process trains"))
            waiting = busy
            time.sleep(POLL_SECONDS)
            runs, _ = folder.finished([recipe for recipe in missing if recipe.run_id not in done], how.keep_steps)
            done |= {run.result.run_id: run for run in runs}
    ordered = [done[recipe.run_id] for recipe in recipes if recipe.run_id in done]
    folder.finish({run.result.run_id for run in ordered}, ordered)
    if len(ordered) < len(recipes):
        raise FailedStacksError(reasons, len(recipes) - len(ordered), ordered)
    return ordered


def _run_by_plan(sweep: Sweep, folder: SweepFolder, report: Callable[[Progress], None], how: Execution) -> Sequence[Run]:
    from anchorbench.sweeps.work import Worker  # which trains stacks as this module does

    ids = list(sweep.numbers())
    done, problems = folder.ids(how.keep_steps)
    if missing := [run_id for run_id in ids if run_id not in done]:
        for problem in problems:
            report(Progress([], message=f"{problem}; it is retrained"))
        if not _is_planned(missing, folder, how):
            write_plan(sweep, folder, Cut(workers=1, memory=how.memory, device=None, keep_steps=list(how.keep_steps)))
        worker = Worker(folder.out, lambda number, progress: report(progress), how, folder=folder)
        worked = worker.train_free()
        while worked.taken:
            time.sleep(POLL_SECONDS)
            worked.taken = worker.train_free(worked).taken
        done, _ = folder.ids(how.keep_steps)
        if missing := [run_id for run_id in ids if run_id not in done]:
            there = FinishedRuns(folder, [run_id for run_id in ids if run_id in done])
            raise FailedStacksError(list(worked.failed.values()), len(missing), there)
    folder.finish(done, [])
    return FinishedRuns(folder, ids)


def _is_planned(missing: Sequence[str], folder: SweepFolder, how: Execution) -> bool:
    """Whether the folder's plan covers these runs, whatever it was cut for: other workers may be at it."""
    with suppress(ValueError):
        plan = read_plan(folder.out)
        return {run_id for stack in plan.stacks for run_id in stack.runs}.issuperset(missing) and (
            list(how.keep_steps) == plan.cut.keep_steps
        )
    return False


def warner(report: Callable[[Progress], None]) -> Callable[[str], None]:
    """Reports each sentence once."""
    said: set[str] = set()

    def warn(sentence: str) -> None:
        if sentence not in said:
            report(Progress([], message=sentence))
        said.add(sentence)

    return warn


def _planned(
    missing: Sequence[Recipe], recipes: Sequence[Recipe], folder: SweepFolder, how: Execution
) -> Iterator[tuple[list[Recipe], Path]]:
    """The stacks to train, each with its checkpoint: first the stacks stored in checkpoints, then those of the folder's plan,
    both unchanged, then the rest.
    """
    known = {recipe.run_id: recipe for recipe in recipes}
    wanted = {recipe.run_id for recipe in missing}
    for path in sorted((folder.out / "checkpoints").glob("*.safetensors")):
        held = checkpoint_runs(path)
        if wanted & set(held) and known.keys() >= set(held):
            wanted -= set(held)
            yield [known[run_id] for run_id in held], path
    with suppress(ValueError):  # there is no plan, or it is damaged or of another version: workers say so
        for planned in read_plan(folder.out).stacks:
            if wanted & set(planned.runs) and known.keys() >= set(planned.runs):
                wanted -= set(planned.runs)
                stack = [known[run_id] for run_id in planned.runs]
                yield stack, folder.checkpoint(stack)
    if wanted:
        for stack in stacks([recipe for recipe in missing if recipe.run_id in wanted], how.memory):
            yield stack, folder.checkpoint(stack)


def train_stack(
    stack: list[Recipe],
    checkpoint: Path,
    folder: SweepFolder,
    report: Callable[[Progress], None],
    how: Execution,
    warn: Callable[[str], None],
    attempt: int | None = None,
) -> Trained:
    """Trains those runs of a stack that are missing and that no other process trains; a failure is recorded in the folder.

    An `attempt` takes over the lock of any lower one.
    """
    name = checkpoint.stem
    lock = StackLock.acquire(folder.out / "locks" / name, [recipe.run_id for recipe in stack], attempt)
    if lock is None:
        return Trained([], busy=len(stack))
    with lock:
        mine = [recipe for recipe in stack if recipe.run_id in set(lock.owner.runs)]
        busy = len(stack) - len(mine)
        if busy and checkpoint.exists():  # another process is training this stack
            return Trained([], busy=len(stack))
        finished, _ = folder.finished(mine, how.keep_steps)
        trained: list[Run] = []
        if len(finished) < len(mine):
            if not checkpoint.exists():
                done = {run.result.run_id for run in finished}
                mine = [recipe for recipe in mine if recipe.run_id not in done]
                checkpoint = folder.checkpoint(mine)
            folder.index.forget(recipe.run_id for recipe in mine)
            try:
                trained = _train(mine, folder, report, how, checkpoint, lock, warn)
            except _CutError as cut:  # by the other half's new owner, or whoever is free
                lock.release()
                remove(asked(lock.path))
                own = train_stack(cut.half, folder.checkpoint(cut.half), folder, report, how, warn, attempt)
                ended = [*finished, *own.finished]
                return Trained(ended, len(stack) - len(ended), own.failure, worked=True)
            except FencedError:
                return Trained(finished, busy=len(stack) - len(finished))
            except (OSError, ValueError, RuntimeError, MemoryError) as error:  # RuntimeError: torch's, out of memory among them
                reason = in_words(error)
                if lock.still_mine():
                    record(folder.out, name, [recipe.run_id for recipe in mine], reason)
                if how.fail_fast:
                    raise
                report(Progress([], message=f"a stack of {len(mine)} runs failed: {reason}"))
                finished, _ = folder.finished([recipe for recipe in stack if recipe.run_id in set(lock.owner.runs)], how.keep_steps)
                return Trained(finished, busy, reason, worked=True)
            finished = [*finished, *trained]
            folder.index.add(finished)
        forget(folder.out, name)
    return Trained(finished, busy, worked=bool(trained))


def _train(
    stack: list[Recipe],
    folder: SweepFolder,
    report: Callable[[Progress], None],
    how: Execution,
    checkpoint: Path,
    lock: StackLock,
    warn: Callable[[str], None],
) -> list[Run]:
    from anchorbench.train.loop import train

    failed: list[OSError | ValueError] = []
    trajectories: dict[str, Sequence[Point]] = {}
    looked = time.time()

    def confirm() -> None:
        if not lock.still_mine():
            raise FencedError

    def progress(step: int) -> None:
        nonlocal looked
        report(Progress(stack, step, trajectories=trajectories))
        if abs(time.time() - looked) > LOOK_SECONDS:
            confirm()
            looked = time.time()
            if step < stack[0].steps and len(lock.owner.runs) > 1 and asked(lock.path).exists():
                raise AskedError

    def write(members: list[Any]) -> None:
        confirm()
        before, _ = folder.finished([member.recipe for member in members], how.keep_steps)
        there = {run.result.run_id for run in before}  # by this stack, before it was interrupted
        if missing := [member for member in members if member.recipe.run_id not in there]:
            failed.extend(folder.write(missing, confirm))

    report(Progress(stack))
    while True:
        try:
            train(stack, progress, checkpoint, write, warn, trajectories.update, how=how)
            break
        except AskedError:
            if halves := cut_in_two(stack, folder, checkpoint):
                raise _CutError(halves[0]) from None
            remove(asked(lock.path))  # there is nothing to give
    if failed:
        raise failed[0]
    confirm()
    for path in (checkpoint, *checkpoint.parent.glob(f".{checkpoint.name}.*")):  # and partial saves of killed processes
        remove(path)
    finished, _ = folder.finished(stack, how.keep_steps)
    report(Progress(stack, stack[0].steps, finished, trajectories=trajectories))
    return finished

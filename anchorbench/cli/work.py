"""`anchorbench sweep work` and `sweep status`: one worker of a plan, and how far all of them are."""

import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from anchorbench.cli.plan import duration, write_and_show
from anchorbench.files import visible
from anchorbench.sweeps.engines.gpus import PAUSED
from anchorbench.sweeps.engines.gpus import run as run_workers
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.index import Index
from anchorbench.sweeps.plan import Cut, PlanInUseError, read_plan
from anchorbench.sweeps.run_folder import DamagedRunError, Run, read_run
from anchorbench.sweeps.runner import Progress
from anchorbench.sweeps.status import StackStatus, status
from anchorbench.sweeps.store import Store
from anchorbench.sweeps.tracking import Tracking
from anchorbench.sweeps.work import Worked, Worker
from anchorbench.train.execution import Execution, PausedError

TAKEN = os.EX_TEMPFAIL if hasattr(os, "EX_TEMPFAIL") else 75
"""Exit code: another process is training the stack; try again later."""
SHOWN = 40
"""Rows of the table of stacks."""


def work(out: Path, stack: int | None, attempt: int | None, how: Execution, track: str | None) -> None:
    """Trains one stack, or free ones until none is left; exits with 0, 1 after a failure, TAKEN or PAUSED."""
    tracking = None if track is None else Tracking(track, read_plan(out).sweep(), out, lambda line: typer.echo(visible(line)))
    asked_to_stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.set())

    def report(number: int, progress: Progress) -> None:
        if asked_to_stop.is_set() and progress.step and progress.finished is None:
            raise PausedError
        if tracking is not None:
            tracking.report(progress)
        if progress.message is not None:
            typer.echo(f"stack {number}: {visible(progress.message)}")
        elif progress.finished is not None:
            typer.echo(f"stack {number}: {len(progress.finished)} runs finished")
        elif not progress.step:
            typer.echo(f"stack {number}: {len(progress.recipes)} runs to train")

    try:
        worker = Worker(out, report, how, attempt)
        worked = worker.train_free() if stack is None else worker.train(stack)
    except PausedError:
        typer.echo("asked to stop: the state is saved, and the next worker resumes from it")
        sys.exit(PAUSED)
    finally:
        if tracking is not None:
            tracking.close()
    sys.exit(_told(worked, asked=stack))


def reindex(out: Path) -> None:
    """Writes the index of a folder anew."""
    runs, problems = _read_all(_run_folders(out))
    index = Index(out)
    index.clear()
    index.add(runs)
    stored, damaged = Store(out).reindex()
    for problem in (*problems, *damaged):
        typer.echo(f"left out: {visible(problem)}")
    typer.echo(f"index: {len(runs) + stored} runs")


def check(out: Path, sample: int | None) -> None:
    """Reads runs whole; exits with 1 if some are damaged."""
    folders, store = _run_folders(out), Store(out)
    problems = store.refresh()
    chosen = [*folders, *sorted(store.ids())]
    if sample is not None and sample < len(chosen):
        chosen = random.SystemRandom().sample(chosen, sample)
    runs, damaged = _read_all([each for each in chosen if isinstance(each, Path)])
    whole, damaged_stacks = store.check([each for each in chosen if isinstance(each, str)])
    problems += [*damaged, *damaged_stacks]
    for problem in problems:
        typer.echo(f"damaged: {visible(problem)}")
    typer.echo(f"{len(runs) + len(whole)} of {len(chosen)} runs are whole")
    if problems:
        typer.echo(f"to have the others trained again: anchorbench sweep reindex {visible(out)}, and then the sweep")
        sys.exit(1)


def _run_folders(out: Path) -> list[Path]:
    if not (out / "runs").is_dir():
        raise ValueError(f"{out} holds no runs; allowed: the output folder of a sweep")
    return sorted((out / "runs").glob("[!.]*"))


def _read_all(folders: list[Path]) -> tuple[list[Run], list[str]]:
    """The runs that are whole, and one message per damaged one."""
    runs: list[Run] = []
    problems: list[str] = []
    for folder in folders:
        try:
            run = read_run(folder)
            if not folder.name == run.recipe.run_id == run.result.run_id:
                raise DamagedRunError(f"{folder} holds another run's recipe")
            runs.append(run)
        except DamagedRunError as problem:
            problems.append(str(problem))
    return runs, problems


def run_on(engine: str, sweep: Sweep, out: Path, cut: Cut, threads: int | None) -> None:
    """Plans a sweep and has an engine train it. Raises ValueError with one sentence for an unknown engine or option."""
    from anchorbench.sweeps.engines import ray, slurm

    name, _, options = engine.partition(":")
    if name not in ("slurm", "ray"):
        raise ValueError(f"--on is {engine[:50]!r}; allowed: slurm or ray")
    parsed = slurm.parse_options(options) if name == "slurm" else {}
    if not write_and_show(sweep, out, cut).stacks:
        typer.echo("all runs are finished; nothing is trained")
    elif name == "slurm":
        typer.echo(visible(slurm.submit(out, parsed)))
        typer.echo(f"progress: anchorbench sweep status {visible(out)}")
    else:
        ray.run(out, options or None, lambda sentence: typer.echo(visible(sentence)), threads or 1)


def run_on_gpus(sweep: Sweep, out: Path, cut: Cut, gpus: Sequence[str], options: Sequence[str]) -> None:
    """Plans a sweep, and has a worker on each of these GPUs train it."""
    with suppress(PlanInUseError):
        write_and_show(sweep, out, cut)
    left = [stack for stack in status(out).stacks if stack.state != "finished"]
    if left:
        used = gpus[: len(left)]
        typer.echo(f"{len(used)} workers, one per GPU; progress: anchorbench sweep status {visible(out)}")
        run_workers(out, used, options)


def _told(worked: Worked, asked: int | None) -> int:
    for number, reason in worked.failed.items():
        typer.echo(f"stack {number} failed: {reason}", err=True)
    if worked.failed:
        return 1
    if worked.taken and asked is not None:
        typer.echo(f"stack {asked} is being trained by another process")
        return TAKEN
    return 0


def show_status(out: Path) -> None:
    """Prints how far the plan in a folder is: counts, the stacks that run or failed, and the estimated time left."""
    found = status(out)
    console = Console(markup=False, highlight=False)
    states = Counter(stack.state for stack in found.stacks)
    counts = ", ".join(f"{states[state]} {state}" for state in ("finished", "running", "failed", "waiting"))
    members, finished = (sum(getattr(stack, name) for stack in found.stacks) for name in ("members", "finished"))
    console.print(f"{finished} of {members} planned runs are finished; stacks: {counts}", soft_wrap=True)
    shown = [stack for stack in found.stacks if stack.state in ("running", "failed")]
    if shown:
        table = Table("stack", "runs", "state", "where", "since", "reason", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for stack in shown[:SHOWN]:
            table.add_row(*_row(stack))
        console.print(table)
        if len(shown) > SHOWN:
            console.print(f"and {len(shown) - SHOWN} more")
    if finished < members:
        left = (
            "unknown until a stack is running and a run is finished" if found.seconds_left is None else duration(found.seconds_left)
        )
        console.print(f"time left: {left}", soft_wrap=True)


def _row(stack: StackStatus) -> tuple[Any, ...]:
    return (
        str(stack.number),
        f"{stack.finished}/{stack.members}",
        stack.state,
        visible(stack.machine, 40),
        _when(stack.since),
        visible(stack.reason),
    )


def _when(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone().strftime("%m-%d %H:%M")

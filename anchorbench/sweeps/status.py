"""How far the stacks of a plan are: finished, running (where and since when), failed (why), and the time that is left."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from anchorbench.files import read_json
from anchorbench.sweeps.failures import failures
from anchorbench.sweeps.lock import living
from anchorbench.sweeps.plan import read_plan
from anchorbench.sweeps.run_folder import Result
from anchorbench.sweeps.store import Store

TIMED_RUNS = 100
"""Finished runs whose training time is read for the estimate."""


@dataclass(frozen=True)
class StackStatus:
    """One stack of the plan."""

    number: int
    members: int
    finished: int
    """Members that are finished."""
    state: Literal["finished", "running", "failed", "waiting"]
    machine: str = ""
    """Where it runs, or failed."""
    since: datetime | None = None
    """When it began to run there, or failed."""
    reason: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class Status:
    """All stacks of the plan."""

    stacks: list[StackStatus]
    seconds_left: float | None
    """Estimated from the training time of finished runs and the number of running stacks; None if there are none of either."""


def status(out: Path) -> Status:
    """How far the plan in an output folder is. Raises ValueError with one sentence if there is none."""
    plan = read_plan(out)
    running, failed = living(out / "locks"), failures(out)
    owners = {run: owner for owner in running.values() for run in owner.runs}
    of_runs = {run: failure for failure in failed.values() for run in failure.runs}  # of halves, if the stack was cut
    store = Store(out)
    store.refresh()
    there = {path.name for path in (out / "runs").glob("[!.]*")} | store.ids()
    found: list[StackStatus] = []
    for number, stack in enumerate(plan.stacks):
        finished = sum(run in there for run in stack.runs)
        members = len(stack.runs)
        owner = running.get(stack.name) or next((owners[run] for run in stack.runs if run in owners), None)
        if finished == members:
            found.append(StackStatus(number, members, finished, "finished"))
        elif owner is not None:
            found.append(StackStatus(number, members, finished, "running", owner.machine, owner.started))
        elif failure := failed.get(stack.name) or next((of_runs[run] for run in stack.runs if run in of_runs), None):
            found.append(StackStatus(number, members, finished, "failed", failure.machine, failure.at, failure.reason))
        else:
            found.append(StackStatus(number, members, finished, "waiting"))
    missing = sum(stack.members - stack.finished for stack in found)
    busy = sum(stack.state == "running" for stack in found)
    return Status(
        found, _seconds_left(out, [run for stack in plan.stacks for run in stack.runs if run in there], missing, busy, store)
    )


def _seconds_left(out: Path, finished: list[str], missing: int, running: int, store: Store) -> float | None:
    """At most: if missing runs take as long as finished ones, and stacks in training had just begun."""
    if not missing:
        return 0.0
    seconds: list[float] = []
    for run in finished:
        with suppress(ValueError):
            stored = store.run(run)
            path = out / "runs" / run / "result.json"
            seconds.append((Result.model_validate(read_json(path)) if stored is None else stored.result).seconds)
    return missing * sum(seconds) / len(seconds) / running if seconds and running else None

"""Trains an entry: a registered recipe on the suite, with the seeds that registration and beacon give."""

import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anchorbench.files import Plain, read_json, write_atomically
from anchorbench.inspect.open_model import open_model
from anchorbench.leaderboard.drawn import drawn_runs
from anchorbench.leaderboard.entry import Commit, Entry, Flow, Machine, Row, flow_example, flow_rows
from anchorbench.leaderboard.registration import Beacon, Registration, require_later, seeds_of
from anchorbench.leaderboard.suite import SEEDS, SuiteTask
from anchorbench.machine import Machine as Environment
from anchorbench.machine import commit
from anchorbench.presets import PRESETS
from anchorbench.probes.attention_flow import attention
from anchorbench.sweeps.run_folder import Run
from anchorbench.sweeps.runner import Progress, Sweep, SweepFolder, run_sweep
from anchorbench.verdict import Composition, composition_of

TIMED_STEPS = 20


def run_entry(
    registration: Registration, beacon: Beacon, out: Path, report: Callable[[str, str], None] = lambda task, message: None
) -> Entry:
    """Trains a registered recipe on its track's suite and on the drawn tasks in `out`, and writes `out/entry.json`.

    A second call trains only missing runs. `report` receives a task's name and a message about each stack of its members. Raises
    ValueError for a beacon that the registration did not announce, and for an unfinished folder that was started elsewhere.
    """
    require_later(registration, beacon)
    recipe = registration.recipe
    sweeps: list[tuple[SuiteTask, Sweep, SweepFolder]] = []
    for task in recipe.suite:
        seeds = seeds_of(registration.digest, beacon.value, task)
        sweep = Sweep(recipe.recipe(task, seeds[0]), {"seed": seeds})
        sweeps.append((task, sweep, SweepFolder(out / task.name.replace("/", "-"), sweep)))
    tasks = drawn_runs(registration.digest, beacon.value)
    drawn = Sweep(recipe.recipe(*tasks[0]), {"task_config,seed": tuple([task.config, seed] for task, seed in tasks)})
    drawn_folder = SweepFolder(out / "drawn", drawn)
    origin = _origin(out)
    every = [(sweep, folder) for _, sweep, folder in sweeps] + [(drawn, drawn_folder)]
    missing = any(len(folder.finished(sweep.runs())[0]) < sweep.size for sweep, folder in every)
    if missing and (changed := _changed(origin)):  # an entry names one machine and commit
        raise ValueError(f"folder {out} was started with {changed}; choose another --out")
    runs: list[tuple[SuiteTask, Run]] = []
    for task, sweep, folder in sweeps:
        runs += [(task, run) for run in run_sweep(sweep, folder, _teller(task, task.name, report))]
    rows = tuple(row_of(task, run) for task, run in runs)
    of_drawn = run_sweep(drawn, drawn_folder, _teller(tasks[0][0], "drawn tasks", report))
    entry = Entry.sealed(
        recipe=recipe,
        registration=registration.digest,
        beacon=beacon,
        rows=rows,
        drawn=tuple(row_of(task, run) for (task, _), run in zip(tasks, of_drawn, strict=True)),
        flows=tuple(filter(None, (flow_of(number, runs[number][1]) for number in flow_rows(recipe, rows)))),
        machine=origin.machine,
        environment=environment_of([*(run for _, run in runs), *of_drawn]),
        git=origin.git,
    )
    write_atomically(out / "entry.json", entry.to_json())
    return entry


def environment_of(runs: Sequence[Run]) -> Environment | None:
    """What the runs' bits depend on, if it was the same for all."""
    machines = [machine for run in runs for _, machine in run.result.machines]
    return machines[0] if all(machine == machines[0] for machine in machines) else None


class Origin(Plain):
    """The machine and commit that train an entry's runs."""

    machine: Machine
    git: Commit | None


def _origin(out: Path) -> Origin:
    """The origin recorded in `origin.json` by the folder's first call, so the reference is timed when training starts."""
    note = out / "origin.json"
    if not note.exists():
        write_atomically(note, Origin(machine=this_machine(), git=commit()).model_dump_json(indent=1).encode())
    try:
        return Origin.model_validate(read_json(note))
    except ValueError:
        raise ValueError(f"{note} is damaged; remove it or choose another --out") from None


def _changed(origin: Origin) -> str | None:
    """The first difference from the recorded origin, in words; None if there is none."""
    before, here = origin.machine.model_dump() | {"git": origin.git}, hardware() | {"git": commit()}
    return next((f"{name} {before[name]}, here it is {here[name]}" for name in here if here[name] != before[name]), None)


def _teller(task: SuiteTask, name: str, report: Callable[[str, str], None]) -> Callable[[Progress], None]:
    """A callback that turns a sweep's progress into messages."""

    def tell(progress: Progress) -> None:
        if progress.message is not None:
            report(name, progress.message)
        if progress.finished is not None:
            verdicts = Counter(row_of(task, run).verdict for run in progress.finished)
            report(name, ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()))

    return tell


def row_of(suite: SuiteTask, run: Run) -> Row:
    """The entry's row for a finished run."""
    result = run.result
    if result.composes is None:
        raise ValueError(f"task {suite.name} has no held-out groups; allowed in a suite: tasks with held-out groups")
    return Row(
        task=suite.task,
        variant=suite.variant,
        seed=run.recipe.seed,
        fingerprint=result.task_fingerprint,
        accuracy_train=result.accuracy_train,
        accuracy_iid=result.accuracy_iid,
        composes=result.composes,
        verdict=composition_of(result.accuracy_train.value, result.composes.interval),
        steps=result.steps_trained,
        settled=settled_at(run),
        seconds=result.seconds,
    )


def flow_of(number: int, run: Run) -> Flow | None:
    """Attention of the run in row `number`; None if it diverged."""
    tokens = flow_example(run.recipe.load_task())
    try:
        layers = attention(open_model(run), tokens)
    except ValueError:  # non-finite output
        return None
    percents = [np.rint(100 * layer[0, 0]).astype(int).tolist() for layer in layers]
    return Flow(row=number, attention=tuple(tuple(tuple(row[: i + 1]) for i, row in enumerate(layer)) for layer in percents))


def settled_at(run: Run) -> int:
    """First evaluated step from which the run's verdict no longer changed; the last step for a run that ends underfit, which more
    training might have fit. A trajectory does not record numbers of answers, so these verdicts ignore intervals.
    """

    def verdict(point: dict[str, Any]) -> Composition:
        return composition_of(point["accuracy_train"], (point["inferential"], point["inferential"]))

    points = run.trajectory()
    settled = points[-1]["step"]
    if verdict(points[-1]) == "underfit":
        return settled
    for point in reversed(points):
        if verdict(point) != verdict(points[-1]):
            break
        settled = point["step"]
    return settled


def hardware() -> dict[str, Any]:
    """Versions and hardware."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": str(torch.get_num_threads()),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        **{package: version(package) for package in ("anchorbench", "torch", "numpy")},
    }


def this_machine() -> Machine:
    """Versions, hardware, and the time of the reference recipe."""
    return Machine.model_validate({**hardware(), "reference_seconds": reference_seconds()})


def reference_seconds() -> float:
    """Seconds per member of the laptop preset on this machine, in a stack of SEEDS: median time of TIMED_STEPS, times its steps."""
    from anchorbench.train.gradients.choice import auto_precision
    from anchorbench.train.stack import Stack

    laptop = PRESETS["laptop"]
    recipe = laptop.override({"precision": auto_precision(laptop)})
    stack = Stack([recipe.override({"seed": seed}) for seed in range(SEEDS)])
    times: list[float] = []
    for _ in range(TIMED_STEPS + 1):
        start = time.perf_counter()
        stack.advance().sum().item()  # synchronizes with the accelerator
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) / SEEDS * recipe.steps

"""Trains an entry: the suite with the derived seeds, or a random part of it to verify a claim."""

import os
import platform
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binom

from anchorbench.files import Plain, read_json, write_atomically
from anchorbench.inspect.open_model import open_model
from anchorbench.leaderboard.check import read_recipe
from anchorbench.leaderboard.entry import (
    SEEDS,
    Commit,
    Entry,
    Flow,
    Interval,
    Machine,
    Row,
    SubmittedRecipe,
    SuiteTask,
    flow_example,
    flow_rows,
)
from anchorbench.leaderboard.statistics import BETTER, statistics_of
from anchorbench.presets import PRESETS
from anchorbench.probes.attention_flow import attention
from anchorbench.sweeps.run_folder import Run
from anchorbench.sweeps.runner import Progress, Sweep, SweepFolder, run_sweep
from anchorbench.task import Task
from anchorbench.verdict import Composition, Share, composition_of

TIMED_STEPS = 20
AGREE = 0.8
"""Assumed lower bound on how often a run retrained elsewhere agrees with its claim (inferential or not). With the same code on the
same kind of machine they always agree; of 20 runs near the boundary, one more was inferential in bf16 than in fp32."""


def run_entry(recipe_yaml: Path, out: Path, report: Callable[[str, str], None] = lambda task, message: None) -> Entry:
    """Trains the recipe on its track's suite in `out`, one sweep folder per task, and writes `out/entry.json`.

    A second call trains only missing runs. `report` receives a task's name and a message about each stack of its members. Raises
    ValueError as `read_recipe` does, and for an unfinished folder that was started elsewhere.
    """
    recipe = resolve(read_recipe(recipe_yaml))
    sweeps: list[tuple[SuiteTask, Sweep, SweepFolder]] = []
    for task in recipe.suite:
        seeds = recipe.seeds(task)
        sweep = Sweep(recipe.recipe(task, seeds[0]), {"seed": seeds})
        sweeps.append((task, sweep, SweepFolder(out / task.name.replace("/", "-"), sweep)))
    origin = _origin(out)
    finished = (len(folder.finished(sweep.runs())[0]) for _, sweep, folder in sweeps)
    if (changed := _changed(origin)) and any(n < SEEDS for n in finished):  # an entry names one machine and commit
        raise ValueError(f"folder {out} was started with {changed}; choose another --out")
    runs: list[tuple[SuiteTask, Run]] = []
    for task, sweep, folder in sweeps:
        runs += [(task, run) for run in run_sweep(sweep, folder, _teller(task, report))]
    rows = tuple(row_of(task, run) for task, run in runs)
    entry = Entry.sealed(
        recipe=recipe,
        rows=rows,
        statistics=statistics_of(recipe, rows),
        flows=tuple(filter(None, (flow_of(number, *runs[number]) for number in flow_rows(recipe, rows)))),
        machine=origin.machine,
        git=origin.git,
    )
    write_atomically(out / "entry.json", entry.to_json())
    return entry


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


def _teller(task: SuiteTask, report: Callable[[str, str], None]) -> Callable[[Progress], None]:
    """A callback that turns a sweep's progress into messages."""

    def tell(progress: Progress) -> None:
        if progress.message is not None:
            report(task.name, progress.message)
        if progress.finished is not None:
            verdicts = Counter(row_of(task, run).verdict for run in progress.finished)
            report(task.name, ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()))

    return tell


def resolve(recipe: SubmittedRecipe) -> SubmittedRecipe:
    """The recipe with `auto` resolved to this machine's precision."""
    from anchorbench.train.gradients.choice import auto_precision

    if recipe.precision != "auto":
        return recipe
    return recipe.model_copy(update={"precision": auto_precision(recipe.recipe(recipe.suite[0], 0))})


def row_of(suite: SuiteTask, run: Run) -> Row:
    """The entry's row for a finished run."""
    result, task = run.result, run.recipe.load_task()
    rule = follows_rule(task, result.groups, result.accuracy_iid)
    held_out = result.accuracy_iid if suite.unseen == "iid" else result.composes
    if held_out is None:
        raise ValueError(f"task {suite.name} has no held-out groups; allowed in a suite: tasks with held-out groups")
    return Row(
        task=suite.task,
        variant=suite.variant,
        seed=run.recipe.seed,
        fingerprint=result.task_fingerprint,
        accuracy_train=result.accuracy_train,
        accuracy_iid=result.accuracy_iid,
        rule=rule,
        composes=result.composes,
        ordered=result.ordered,
        symmetric=result.symmetric,
        verdict=composition_of(result.accuracy_train.value, held_out.interval),
        steps=result.steps_trained,
        settled=settled_at(suite, run),
        seconds=result.seconds,
    )


def flow_of(number: int, suite: SuiteTask, run: Run) -> Flow | None:
    """Attention of the run in row `number`; None if it diverged."""
    tokens = flow_example(suite, run.recipe.load_task())
    try:
        layers = attention(open_model(run), tokens)
    except ValueError:  # non-finite output
        return None
    percents = [np.rint(100 * layer[0, 0]).astype(int).tolist() for layer in layers]
    return Flow(row=number, attention=tuple(tuple(tuple(row[: i + 1]) for i, row in enumerate(layer)) for layer in percents))


def follows_rule(task: Task, groups: dict[str, Share], seen: Share) -> Share:
    """Accuracy on the seen groups trained with the rule; all of `seen` in a task without unseen data of seen groups."""
    if "iid" not in task.splits:
        return seen
    shares = [groups[group.name] for group in task.groups if group.role == "trained" and group.name in groups]
    return Share(sum(share.hits for share in shares), sum(share.n for share in shares))


def settled_at(suite: SuiteTask, run: Run) -> int:
    """First evaluated step from which the run's verdict no longer changed; the last step for a run that ends underfit, which more
    training might have fit. A trajectory does not record numbers of answers, so these verdicts ignore intervals.
    """

    def verdict(point: dict[str, Any]) -> Composition:
        held_out = point["accuracy_iid" if suite.unseen == "iid" else "inferential"]
        return composition_of(point["accuracy_train"], (held_out, held_out))

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


def commit() -> str | None:
    """Commit of this code, with -dirty if tracked files differ from it; None outside a repository that tracks it."""
    git = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent)]
    try:
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=False)
        if tracked.returncode:
            return None
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@dataclass(frozen=True)
class Verification:
    """A retrained subset of an entry's runs."""

    claim: Interval
    """The entry's share of inferential runs."""
    claimed: tuple[Row, ...]
    retrained: tuple[Row, ...]

    @property
    def share(self) -> Share:
        """Share of inferential runs among the retrained."""
        return Share(sum(row.verdict == "inferential" for row in self.retrained), len(self.retrained))

    @property
    def stands(self) -> bool:
        """Whether the share's Wilson interval overlaps the entry's, and not significantly few runs agree."""
        low, high = self.share.interval
        meets = low <= self.claim.high and self.claim.low <= high
        return meets and float(binom.cdf(self.agree, len(self.claimed), AGREE)) >= BETTER

    @property
    def reproduced(self) -> int:
        """Number of runs with exactly the claimed counts, as expected from the same code on the same kind of machine."""
        return sum(_counted(a) == _counted(b) for a, b in zip(self.claimed, self.retrained, strict=True))

    @property
    def agree(self) -> int:
        """Number of runs whose verdict (inferential or not) agrees with the claim."""
        pairs = zip(self.claimed, self.retrained, strict=True)
        return sum((a.verdict == "inferential") == (b.verdict == "inferential") for a, b in pairs)


def verify(entry: Entry, members: int, seed: int, out: Path) -> Verification:
    """Retrains `members` runs of a valid entry in `out`, drawn at random with `seed` and spread over as many tasks as possible.

    The submitter does not know `seed`. The claim stands if the 95% interval of the retrained runs' inferential share overlaps
    the entry's, and if the number of runs that agree with their claim is not improbable (p < BETTER) when each agrees with
    probability AGREE. The second condition can fail from 3 runs on, the first alone only if the entry's interval is high. Raises
    ValueError for a number of runs that the entry does not have, and for a negative seed.
    """
    if not 1 <= members <= len(entry.rows):
        raise ValueError(f"members is {members}; allowed: 1 to {len(entry.rows)}")
    if seed < 0:
        raise ValueError(f"seed is {seed}; allowed: 0 or more")
    chosen = _drawn(entry, members, seed)
    retrained: list[Row] = []
    for task in entry.suite:
        if seeds := tuple(row.seed for row in chosen if (row.task, row.variant) == (task.task, task.variant)):
            sweep = Sweep(entry.recipe.recipe(task, seeds[0]), {"seed": seeds})
            folder = SweepFolder(out / task.name.replace("/", "-"), sweep)
            retrained += [row_of(task, run) for run in run_sweep(sweep, folder)]
    return Verification(entry.statistics.inferential, tuple(chosen), tuple(retrained))


def _drawn(entry: Entry, members: int, seed: int) -> list[Row]:
    """Randomly chosen rows, in the entry's order: rounds over the tasks in random order, each with a random run per task."""
    rng = np.random.default_rng(seed)
    tasks = len(entry.suite)
    members_of = np.stack([rng.permutation(SEEDS) for _ in range(tasks)])
    rounds = [SEEDS * task + int(members_of[task, i]) for i in range(SEEDS) for task in rng.permutation(tasks)]
    return [entry.rows[row] for row in sorted(rounds[:members])]


def _counted(row: Row) -> dict[str, object]:
    return row.model_dump(exclude={"seconds"})

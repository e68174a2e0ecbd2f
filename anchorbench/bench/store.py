"""`bench store`: how the time to plan, write, look up and load a sweep's runs grows with their number; one is trained."""

import itertools
import math
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from anchorbench.presets import PRESETS
from anchorbench.recipe import Recipe
from anchorbench.sweeps.folder import MAX_FOLDERS, SweepFolder
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.plan import GPU_STACK_MEMBERS, Cut, write_plan
from anchorbench.sweeps.run_folder import load_results
from anchorbench.sweeps.runner import run_sweep
from anchorbench.train.loop import train

SMALL: dict[str, object] = {"steps": 6, "data_size": 500, "batch": 16, "optimizer.warmup": 2}
SMALL_MODEL: dict[str, object] = {"model.d_model": 8, "model.d_head": 8, "model.d_ff": 16}
SEEDS = 1000
"""Runs per condition, in large sweeps."""


@dataclass(frozen=True)
class Seconds:
    """Seconds that a sweep of so many runs takes."""

    runs: int
    plan: float
    """To make all ids and write the plan."""
    write: float
    """To write all runs."""
    write_256: float
    """To write a stack of 256 runs, the slowest."""
    second: float
    """A call of a new process that finds all runs finished."""
    load: float
    """`load_results`, in that process."""
    gigabytes: float
    """The most memory that process took, with all libraries."""


def bench_store(console: Console, sizes: Sequence[int]) -> list[dict[str, float]]:
    """Measures sweeps of these sizes in a temporary folder, prints a table, and returns its rows."""
    headers = ("runs", "plan", "write", "256 of them", "second call", "load", "memory")
    table = Table(*headers, box=box.SIMPLE_HEAD, pad_edge=False)
    found: list[Seconds] = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            found.append(measure(size, Path(temporary)))
        runs, *seconds, memory = asdict(found[-1]).values()
        table.add_row(f"{runs:,}", *(f"{value:.2f} s" for value in seconds), f"{memory:.2f} GB")
    console.print(table)
    console.print(f"up to {MAX_FOLDERS:,} runs: a folder per run; beyond: by stack")
    return [asdict(row) for row in found]


def sweep_of(size: int, base: Recipe) -> Sweep:
    """A sweep of so many runs, with up to SEEDS seeds per condition."""
    seeds = math.gcd(size, SEEDS)
    gammas = tuple(0.3 + 0.4 * seeds * at / size for at in range(size // seeds))
    return Sweep(base, {"init.gamma": gammas, "seed": tuple(range(seeds))})


def measure(size: int, out: Path) -> Seconds:
    """One sweep, whose runs are all the same trained one under other recipes."""
    base = PRESETS["laptop"].override(SMALL | SMALL_MODEL)
    start = time.perf_counter()
    sweep = sweep_of(size, base)
    folder = SweepFolder(out, sweep)
    write_plan(sweep, folder, Cut(workers=1, memory=2.0**40, device="cuda", keep_steps=[]))
    plan = time.perf_counter() - start
    recipes = (recipe for group in sweep.groups() for recipe in group.recipes())
    [member] = train([base])
    write, slowest = 0.0, 0.0
    while stack := [replace(member, recipe=recipe) for recipe in itertools.islice(recipes, GPU_STACK_MEMBERS)]:
        start = time.perf_counter()
        if failures := folder.write(stack, lambda: None):
            raise failures[0]
        slowest = max(slowest, time.perf_counter() - start)
        write += time.perf_counter() - start
    if not folder.by_stack:
        run_sweep(sweep, folder)  # writes the index
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        return Seconds(size, plan, write, slowest, *other.submit(call_again, size, base, out).result())


def call_again(size: int, base: Recipe, out: Path) -> tuple[float, float, float]:
    """Seconds of a second call and of `load_results`, and the memory in gigabytes."""
    start = time.perf_counter()
    sweep = sweep_of(size, base)
    run_sweep(sweep, SweepFolder(out, sweep))
    middle = time.perf_counter()
    load_results(out)
    return middle - start, time.perf_counter() - middle, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

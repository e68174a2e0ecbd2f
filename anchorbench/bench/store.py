"""`bench store`: how the time to plan, write, look up and load a sweep's runs grows with their number; one is trained."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from anchorbench.presets import PRESETS
from anchorbench.sweeps.folder import SweepFolder
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.run_folder import load_results, write_run
from anchorbench.sweeps.runner import run_sweep
from anchorbench.train.loop import train

SMALL: dict[str, object] = {"steps": 6, "data_size": 500, "batch": 16, "optimizer.warmup": 2}
SMALL_MODEL: dict[str, object] = {"model.d_model": 8, "model.d_head": 8, "model.d_ff": 16}


@dataclass(frozen=True)
class Seconds:
    """Seconds that a sweep of so many runs takes."""

    runs: int
    plan: float
    """To make all recipes and their ids."""
    write: float
    """To write all run folders."""
    unindexed: float
    """A call that reads every run folder, and writes the index."""
    second: float
    """A call that reads the index."""
    load: float
    """`load_results`."""


def bench_store(console: Console, sizes: Sequence[int]) -> list[dict[str, float]]:
    """Measures sweeps of these sizes in a temporary folder, prints a table, and returns its rows."""
    table = Table("runs", "plan", "write", "unindexed call", "second call", "load_results", box=box.SIMPLE_HEAD, pad_edge=False)
    found: list[Seconds] = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            found.append(measure(size, Path(temporary)))
        table.add_row(*(f"{value:.2f} s" if isinstance(value, float) else f"{value:,}" for value in asdict(found[-1]).values()))
    console.print(table)
    return [asdict(row) for row in found]


def measure(size: int, out: Path) -> Seconds:
    """One sweep, whose runs are all the same trained one under other recipes."""

    def sweep() -> Sweep:  # nothing is remembered from call to call
        return Sweep(PRESETS["laptop"].override(SMALL | SMALL_MODEL), {"seed": tuple(range(size))})

    clock = [time.perf_counter()]

    def lap() -> float:
        clock.append(time.perf_counter())
        return clock[-1] - clock[-2]

    recipes = sweep().runs()
    plan = lap()
    folder = SweepFolder(out, sweep())
    [member] = train(recipes[:1])
    lap()
    for recipe in recipes:
        write_run(folder.path(recipe), replace(member, recipe=recipe))
    write = lap()

    def call() -> float:
        called = sweep()
        run_sweep(called, SweepFolder(out, called))
        return lap()

    unindexed, second = call(), call()
    load_results(out)
    return Seconds(size, plan, write, unindexed, second, lap())

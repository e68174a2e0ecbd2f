"""The commands `anchorbench bench ...`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")
JsonFile = Annotated[Path | None, typer.Option("--json", help="JSON file to write the measurements to; default: none.")]


@app.command()
def data() -> None:
    """Sequences per second of every task's generator.

    Next to a plain Python loop.
    """
    from anchorbench.bench.data import bench_data

    _measure(bench_data, None)


@app.command()
def train(
    json_file: JsonFile = None,
    small: Annotated[bool, typer.Option("--small", help="Leave out the large config, whose steps take seconds.")] = False,
) -> None:
    """Member-steps per second, next to a plain loop over models.

    And next to the bare matmuls.
    """
    from anchorbench.bench.train import as_json, bench_train, cases

    _measure(lambda console: as_json(bench_train(console, cases(large=not small))), json_file)


@app.command()
def scale(json_file: JsonFile = None) -> None:
    """Step time over threads, members, width, length and depth."""
    from anchorbench.bench.scale import bench_scale, fastest_path, points

    _measure(lambda console: bench_scale(console, points(), fastest_path()), json_file)


@app.command()
def store(
    runs: Annotated[str, typer.Option(help="Numbers of runs, separated by commas.")] = "100,1000", json_file: JsonFile = None
) -> None:
    """Seconds to plan, write, look up and load sweeps.

    Their runs are copies of one that is trained.
    """
    from anchorbench.bench.store import bench_store
    from anchorbench.sweeps.grid import MAX_RUNS

    sizes = [part.strip() for part in runs.split(",")]
    if not all(size.isdecimal() and len(size) < 10 and 0 < int(size) <= MAX_RUNS for size in sizes):
        raise ValueError(f"runs is {runs[:100]!r}; allowed: numbers from 1 to {MAX_RUNS}, separated by commas")
    _measure(lambda console: bench_store(console, [int(size) for size in sizes]), json_file)


@app.command()
def gpu(json_file: JsonFile = None) -> None:
    """Correctness and speed on a GPU, in a few minutes.

    Whether training matches the CPU, and member-steps per second.
    """
    from anchorbench.bench.gpu import bench_gpu

    _measure(bench_gpu, json_file)


def _measure(bench: Callable[[Any], Any], json_file: Path | None) -> None:
    """Runs a benchmark that prints to the console, and writes what it returns."""
    from rich.console import Console

    from anchorbench.files import require_place, write_atomically

    if json_file is not None:
        require_place(json_file, "--json")
    found = bench(Console(highlight=False))
    if json_file is not None:
        write_atomically(json_file, (json.dumps(found, indent=1) + "\n").encode())

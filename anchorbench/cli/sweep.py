"""The commands `anchorbench sweep ...`."""

from pathlib import Path
from typing import Annotated

import typer

from anchorbench.cli.options import (
    Columns,
    Device,
    Formats,
    KeepSteps,
    Memory,
    StrictBits,
    Threads,
    Track,
    execution,
    in_bytes,
    steps_of,
    use,
)

app = typer.Typer(no_args_is_help=True, help="Sweeps over any fields of a recipe, described in a YAML file.")
RecipeFile = Annotated[
    Path,
    typer.Argument(help="YAML: preset, fields that differ from it, axes (zip pairs them), and blocks of further fields and axes."),
]
Axes = Annotated[list[str] | None, typer.Option("--axis", help="Another axis, such as init.gamma=0.4,0.5; default: none.")]


def _folder(recipe: Path, end: str = "") -> Path:
    return Path("anchorbench-out") / f"{recipe.stem}{end}"


Workers = Annotated[int | None, typer.Option(min=1, max=100_000, help="Number of workers that share the sweep; default: none.")]
RunDevice = Annotated[
    str | None, typer.Option(help="cpu, cuda, or cuda:N; default: every GPU, a worker on each, if there are any, else the CPU.")
]
WorkersDevice = Annotated[str | None, typer.Option(help="Kind of the workers' device, cpu or cuda; default: as here.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first stack that fails; default: train the others.")]
PlanFolder = Annotated[Path, typer.Argument(help="Output folder with a plan.", metavar="DIR")]


@app.command()
def plan(
    recipe: RecipeFile,
    axis: Axes = None,
    memory: Memory = None,
    workers: Workers = None,
    device: WorkersDevice = None,
    keep_steps: KeepSteps = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder, whose finished runs are not counted; default: anchorbench-out/RECIPE.")
    ] = None,
) -> None:
    """Print runs, stacks, memory and an estimate of the time.

    With --workers, cut the missing runs for these and write OUT/plan.json instead.
    """
    from anchorbench.cli.plan import load_sweep, make_cut, write_and_show
    from anchorbench.cli.plan import plan as show_plan

    sweep, folder = load_sweep(recipe, axis or ()), out or _folder(recipe)
    if workers is None and (device is not None or keep_steps is not None):
        raise ValueError("--device and --keep-steps are parts of a written plan; give --workers too")
    if workers is None:
        show_plan(sweep, folder, in_bytes(memory))
        return
    write_and_show(sweep, folder, make_cut(sweep, workers, in_bytes(memory), device, steps_of(keep_steps)))


@app.command()
def work(
    out: PlanFolder,
    stack: Annotated[int | None, typer.Option(help="Number of the stack to train; default: free ones until none is left.")] = None,
    attempt: Annotated[
        int | None, typer.Option(min=0, help="Number of this try at the stack, which takes over from lower ones; default: none.")
    ] = None,
    threads: Threads = None,
    device: Device = None,
    strict_bits: StrictBits = False,
    fail_fast: FailFast = False,
    track: Track = None,
) -> None:
    """Train stacks of a plan; any number of workers share one.

    Exits with 0 when done, 75 if another worker is training the stack asked for, 1 if a stack failed, and 143 after SIGTERM, when
    the state is saved.
    """
    from anchorbench.cli.work import work as work_on
    from anchorbench.train.execution import Execution

    use(threads, device)
    work_on(out, stack, attempt, Execution(strict_bits=strict_bits, fail_fast=fail_fast), track)


@app.command()
def status(out: PlanFolder) -> None:
    """Print which stacks are finished, running or failed.

    Where and since when, why, and about how much time is left.
    """
    from anchorbench.cli.work import show_status

    show_status(out)


@app.command()
def reindex(out: Annotated[Path, typer.Argument(help="Output folder of a sweep.", metavar="DIR")]) -> None:
    """Write the index of a folder anew, from its run folders.

    Damaged runs are named and left out: the next call of the sweep retrains them.
    """
    from anchorbench.cli.work import reindex as write_index

    write_index(out)


@app.command()
def check(
    out: Annotated[Path, typer.Argument(help="Output folder of a sweep.", metavar="DIR")],
    sample: Annotated[int | None, typer.Option(min=1, help="Number of runs to check, drawn at random; default: all.")] = None,
) -> None:
    """Check that every file of every run is as it was written.

    Exits with 1 if runs are damaged; sweep reindex then leaves them out.
    """
    from anchorbench.cli.work import check as check_runs

    check_runs(out, sample)


@app.command()
def run(
    recipe: RecipeFile,
    axis: Axes = None,
    memory: Memory = None,
    threads: Threads = None,
    device: RunDevice = None,
    keep_steps: KeepSteps = None,
    strict_bits: StrictBits = False,
    fail_fast: FailFast = False,
    workers: Workers = None,
    on: Annotated[
        str | None,
        typer.Option(help="slurm[:OPTION=VALUE,...] (sbatch's, and limit=N tasks at once) or ray[:ADDRESS]; default: here."),
    ] = None,
    figures: Formats = "png",
    columns: Columns = 2,
    track: Track = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: anchorbench-out/RECIPE, after the file's name.")] = None,
) -> None:
    """Train a sweep; finished runs are kept.

    Workers may join (sweep work OUT), and anyone may look (sweep status OUT). Failures are listed. Where there are several GPUs, a
    worker trains on each. With --on, the sweep is planned for --workers and --device (cpu or cuda), and trained by SLURM or Ray.
    """
    from anchorbench.cli.plan import load_sweep, make_cut
    from anchorbench.cli.run import run_and_show
    from anchorbench.cli.work import run_on, run_on_gpus
    from anchorbench.show.canvas import parse_formats
    from anchorbench.sweeps.engines.gpus import visible_gpus
    from anchorbench.train.memory import usable_cores

    formats = parse_formats(figures)
    if on is not None:
        if track is not None:
            raise ValueError("--track is given with --on; allowed: where this command trains")
        sweep, folder = load_sweep(recipe, axis or ()), out or _folder(recipe)
        cut = make_cut(sweep, workers or 1, in_bytes(memory), device, steps_of(keep_steps))
        run_on(on, sweep, folder, cut, threads)
        return
    if workers is not None:
        raise ValueError("--workers is given without --on; allowed: with an engine, or as sweep plan --workers")
    use(threads, device)
    sweep, folder = load_sweep(recipe, axis or ()), out or _folder(recipe)
    how = execution(memory, keep_steps, strict_bits=strict_bits, fail_fast=fail_fast)
    if len(gpus := visible_gpus()) > 1:
        given = {"--threads": threads or max(1, usable_cores() // len(gpus)), "--track": track}
        options = [text for name, value in given.items() if value is not None for text in (name, str(value))]
        options += [name for name, on in (("--strict-bits", strict_bits), ("--fail-fast", fail_fast)) if on]
        run_on_gpus(sweep, folder, make_cut(sweep, len(gpus), how.memory, None, how.keep_steps), gpus, options)
    run_and_show(sweep, folder, how, formats, make_cut(sweep, 1, how.memory, None, how.keep_steps), columns, track)


@app.command()
def locate(
    recipe: RecipeFile,
    low: Annotated[float, typer.Option(help="One end of the range, in units of the field.")],
    high: Annotated[float, typer.Option(help="The other end.")],
    along: Annotated[str, typer.Option(help="The recipe's field.")] = "init.gamma",
    width: Annotated[float, typer.Option(help="Width of the 95% interval to reach, in units of the field.")] = 0.04,
    seeds: Annotated[int, typer.Option(help="Maximum number of runs at either end.")] = 8,
    threads: Threads = None,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: anchorbench-out/RECIPE-boundary.")] = None,
) -> None:
    """Find where solutions turn inferential, with few runs.

    Fewer than a grid of the same resolution takes.
    """
    from anchorbench.cli.plan import load_sweep, locate_and_show

    use(threads, device)
    folder = out or _folder(recipe, "-boundary")
    locate_and_show(load_sweep(recipe, ()), along, low, high, width=width, seeds=seeds, out=folder)

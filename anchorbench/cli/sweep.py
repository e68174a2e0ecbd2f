"""The commands `anchorbench sweep ...`."""

from pathlib import Path
from typing import Annotated

import typer

from anchorbench.cli.options import Device, Formats, KeepSteps, Memory, StrictBits, Threads, execution, in_bytes, use

app = typer.Typer(no_args_is_help=True, help="Sweeps over any fields of a recipe, described in a YAML file.")
RecipeFile = Annotated[Path, typer.Argument(help="YAML: preset, fields that differ from it, and axes.")]
Axes = Annotated[list[str] | None, typer.Option("--axis", help="Another axis, such as init.gamma=0.4,0.5; default: none.")]


def _folder(recipe: Path, end: str = "") -> Path:
    return Path("anchorbench-out") / f"{recipe.stem}{end}"


@app.command()
def plan(
    recipe: RecipeFile,
    axis: Axes = None,
    memory: Memory = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder, whose finished runs are not counted; default: anchorbench-out/RECIPE.")
    ] = None,
) -> None:
    """Print runs, stacks, memory and an estimate of the time."""
    from anchorbench.cli.plan import load_sweep
    from anchorbench.cli.plan import plan as show_plan

    show_plan(load_sweep(recipe, axis or ()), out or _folder(recipe), in_bytes(memory))


@app.command()
def run(
    recipe: RecipeFile,
    axis: Axes = None,
    memory: Memory = None,
    threads: Threads = None,
    device: Device = None,
    keep_steps: KeepSteps = None,
    strict_bits: StrictBits = False,
    figures: Formats = "png",
    out: Annotated[Path | None, typer.Option(help="Output folder; default: anchorbench-out/RECIPE, after the file's name.")] = None,
) -> None:
    """Train a sweep; finished runs are kept."""
    from anchorbench.cli.plan import load_sweep
    from anchorbench.cli.run import run_and_show
    from anchorbench.show.canvas import parse_formats

    formats = parse_formats(figures)
    use(threads, device)
    sweep = load_sweep(recipe, axis or ())
    run_and_show(sweep, out or _folder(recipe), execution(memory, keep_steps, strict_bits=strict_bits), formats)


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

"""The commands `anchorbench sweep ...`."""

from pathlib import Path
from typing import Annotated

import typer

from anchorbench.cli.options import Device, Formats, KeepSteps, Memory, StrictBits, Threads, execution, in_bytes, use

app = typer.Typer(no_args_is_help=True, help="Sweeps over any fields of a recipe, described in a YAML file.")
RecipeFile = Annotated[Path, typer.Argument(help="YAML: preset, fields that differ from it, and axes.")]
Axes = Annotated[list[str] | None, typer.Option("--axis", help="Another axis, as FIELD=VALUE,...: init.gamma=0.4,0.5.")]


@app.command()
def plan(
    recipe: RecipeFile,
    axis: Axes = None,
    memory: Memory = None,
    out: Annotated[Path, typer.Option(help="Output folder; its finished runs are not counted.")] = Path("anchorbench-out/sweep"),
) -> None:
    """Print runs, stacks, memory and an estimate of the time, before anything starts."""
    from anchorbench.cli.plan import load_sweep
    from anchorbench.cli.plan import plan as show_plan

    show_plan(load_sweep(recipe, axis or ()), out, in_bytes(memory))


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
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("anchorbench-out/sweep"),
) -> None:
    """Train a sweep; what is finished is not trained again."""
    from anchorbench.cli.plan import load_sweep
    from anchorbench.cli.run import run_and_show
    from anchorbench.show.canvas import parse_formats

    formats = parse_formats(figures)
    use(threads, device)
    sweep = load_sweep(recipe, axis or ())
    run_and_show(sweep, out, execution(memory, keep_steps, strict_bits=strict_bits), formats)


@app.command()
def locate(
    recipe: RecipeFile,
    low: Annotated[float, typer.Option(help="One end of the range.")],
    high: Annotated[float, typer.Option(help="The other end.")],
    along: Annotated[str, typer.Option(help="The recipe's field.")] = "init.gamma",
    width: Annotated[float, typer.Option(help="Width of the 95% interval to reach.")] = 0.04,
    seeds: Annotated[int, typer.Option(help="Most members asked at an end.")] = 8,
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("anchorbench-out/boundary"),
) -> None:
    """Find where solutions turn from memorizing to inferential, with fewer members than a grid."""
    from anchorbench.cli.plan import load_sweep, locate_and_show

    locate_and_show(load_sweep(recipe, ()), along, low, high, width=width, seeds=seeds, out=out)

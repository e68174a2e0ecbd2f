"""The commands `anchorbench probe ...`, and what `anchorbench classify` shares with them."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from anchorbench.cli.options import AsJson, FigureFile, ModelName, TaskName


class ProbeGroup(typer.core.TyperGroup):
    """`anchorbench probe NAME MODEL`: what is no command of the group is a probe's name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["one", *args])


app = typer.Typer(no_args_is_help=True, cls=ProbeGroup, help="One probe (anchorbench probe NAME DIR|HF_ID), and its trial.")


@app.command(hidden=True)
def one(name: str, model: ModelName, task: TaskName = None, json: AsJson = False, figures: FigureFile = None) -> None:
    """Scores of one probe, with control and interval."""
    examine(model, task, name, as_json=json, figures=figures)


@app.command()
def validate(
    json_file: Annotated[Path | None, typer.Option("--json", help="File to write all figures to.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Four runs, asked of the shipped weights, instead of 280.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the runs; finished ones are not trained again.")] = Path(
        "anchorbench-out/validation"
    ),
) -> None:
    """Try the mechanistic verdict on planted truth, on nothing, and on behaviour that it never saw."""
    from anchorbench.inspect.validation import validate_and_show

    validate_and_show(out, json_file, quick=quick)


@app.command()
def fit(
    sweeps: Annotated[list[Path], typer.Argument(help="Output folders of sweeps.")],
    out: Annotated[Path, typer.Option(help="File for the weights.")] = Path("mechanism.json"),
) -> None:
    """Fit the weights of the mechanistic verdict to the runs of sweeps whose behaviour is decided."""
    from anchorbench.inspect.validation import fit_and_show

    fit_and_show(sweeps, out)


def examine(model: str, task: str | None, only: str | None, *, as_json: bool, figures: Path | None) -> None:
    """Prints what a model answers and computes, or one probe's scores of it."""
    import json

    from rich.console import Console

    from anchorbench.files import require_place
    from anchorbench.show import examine as examined
    from anchorbench.show.canvas import FORMATS, draw_all

    if figures is not None:
        require_place(figures, "--figures", [f".{kind}" for kind in FORMATS])
    found = examined.examine(model, task, only)
    if as_json:
        sys.stdout.write(json.dumps(examined.as_json(found), indent=1) + "\n")
    else:
        examined.show(found, Console(markup=False, highlight=False))
    if figures is not None:
        sys.stdout.flush()  # the verdict is said, whatever becomes of the figures
        _, problems = draw_all(lambda path: examined.draw(found, path), [figures])
        if problems:
            raise ValueError(problems[0])

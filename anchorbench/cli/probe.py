"""The commands `anchorbench probe ...`, and the code that `anchorbench classify` shares with them."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from anchorbench.cli.options import AsJson, Device, FigureFile, ModelName, TaskName, Threads, use


class ProbeGroup(typer.core.TyperGroup):
    """`anchorbench probe NAME MODEL`: anything that is not a command of the group is a probe's name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["one", *args])


app = typer.Typer(no_args_is_help=True, cls=ProbeGroup, help="Probes: anchorbench probe NAME DIR|HF_ID.")


@app.command(hidden=True)
def one(
    name: Annotated[str, typer.Argument(help="Name of the probe: anchorbench probe list.")],
    model: ModelName,
    task: TaskName = None,
    json: AsJson = False,
    figures: FigureFile = None,
    threads: Threads = None,
) -> None:
    """Scores of one probe, with control and interval."""
    use(threads)
    examine(model, task, name, as_json=json, figures=figures)


@app.command(name="list")
def list_all() -> None:
    """List the probes, and what each asks of a model."""
    from anchorbench.probes import ON_REQUEST, list_probes

    for name, probe in list_probes(on_request=True).items():
        typer.echo(f"{name:<20} {_question(probe)}")
    named = ", ".join(probe.__name__ for probe in ON_REQUEST)
    typer.echo(f"`anchorbench classify --probes` runs all but {named}, which take seconds and need a run of this package.")


def _question(probe: Any) -> str:
    """The first sentence of a probe's module, without the probe's name."""
    text = " ".join((sys.modules[probe.__module__].__doc__ or "").split("\n\n")[0].split())
    return text.partition(": ")[2] or text


@app.command()
def validate(
    json_file: Annotated[Path | None, typer.Option("--json", help="JSON file to write all figures to; default: none.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Test the shipped widths on four runs, instead of 360.")] = False,
    figures: FigureFile = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs; finished ones are kept.")] = Path("anchorbench-out/validation"),
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Grade the forecast on kinds of models that it was not fitted on.

    Also on planted circuits, and on models without a rule.
    """
    from anchorbench.cli.validation import run_trial
    from anchorbench.inspect.validation import full_trial, quick_trial

    use(threads, device)
    run_trial(quick_trial() if quick else full_trial(), out, json_file, figures)


@app.command()
def fit(
    sweeps: Annotated[list[Path], typer.Argument(help="Output folders of sweeps.")],
    out: Annotated[Path, typer.Option(help="File for the widths.")] = Path("forecast.json"),
) -> None:
    """Fit the width of the forecast's interval.

    To the errors on runs of sweeps.
    """
    from anchorbench.cli.validation import fit_and_show

    fit_and_show(sweeps, out)


def examine(
    model: str,
    task: str | None,
    only: str | None,
    *,
    as_json: bool,
    figures: Path | None,
    with_probes: bool = True,
    interactive: Path | None = None,
) -> None:
    """Prints a model's behaviour, the forecast of it and, if asked for, all probe scores or those of one probe."""
    import json

    from rich.console import Console

    from anchorbench.files import require_place
    from anchorbench.show import examine as examined
    from anchorbench.show.canvas import FORMATS, draw_all
    from anchorbench.show.interactive import circuitsvis, interactive_attention

    if figures is not None:
        require_place(figures, "--figures", [f".{kind}" for kind in FORMATS])
    if interactive is not None:
        require_place(interactive, "--interactive", [".html"])
        circuitsvis()
    found = examined.examine(model, task, only, with_probes=with_probes)
    if as_json:
        sys.stdout.write(json.dumps(examined.as_json(found), indent=1) + "\n")
    else:
        examined.show(found, Console(markup=False, highlight=False))
    sys.stdout.flush()  # the verdict is printed even if the figures fail
    if interactive is not None:
        if isinstance(found.inside, str):
            raise ValueError(found.inside)
        interactive_attention(found.inside, found.task, interactive)
    if figures is not None:
        _, problems = draw_all(lambda path: examined.draw(found, path), [figures])
        if problems:
            raise ValueError(problems[0])

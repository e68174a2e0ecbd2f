"""The command line. Heavy libraries are imported inside the commands, so that `--help` answers at once."""

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

INTERRUPTED = 130
USAGE_ERROR: Any = typer.BadParameter.__base__
"""What typer raises for an unknown command or option, or a value of another type; it exports only this subclass."""

app = typer.Typer(
    name="anchorbench",
    help="Did this transformer solve the task by inferring the rule, or by memorizing the table?",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _callback() -> None:
    pass


@app.command()
def run(
    task: Annotated[str, typer.Option(help="Task to train on.")] = "composite",
    variant: Annotated[str | None, typer.Option(help="Its variant: heldout-both, conflict, conflict-control, ...")] = None,
    preset: Annotated[str, typer.Option(help="laptop, paper-neurips or paper-pami.")] = "laptop",
    gamma: Annotated[str | None, typer.Option(help="Initialization rates, separated by commas.")] = None,
    norm: Annotated[str | None, typer.Option(help="Where LayerNorm sits: pre, post, or pre,post.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds a condition.")] = 4,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's weight decay.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; anchorbench-out/TASK-VARIANT-PRESET if not given.")] = None,
) -> None:
    """Train a sweep over the initialization rate, and name each member's solution."""
    from anchorbench.run import make_sweep, run_and_show

    sweep = make_sweep(
        task=task, variant=variant, preset=preset, gamma=gamma, norm=norm, seeds=seeds, steps=steps, weight_decay=weight_decay
    )
    folder = out if out is not None else Path("anchorbench-out") / f"{sweep.base.task}-{sweep.base.variant}-{preset}"
    run_and_show(sweep, folder)


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a finished run: OUT/runs/RUN_ID.")],
    out_dir: Annotated[Path, typer.Argument(help="Folder to write the checkpoint to.")],
) -> None:
    """Write a member as a Hugging Face checkpoint, which TransformerLens opens too."""
    from rich.console import Console

    from anchorbench.hub import export as export_run
    from anchorbench.store import read_run

    path = export_run(read_run(run_dir), out_dir)
    Console().print(f"checkpoint: {path}", soft_wrap=True)


def main() -> None:
    """Runs a command; bad input ends in one sentence on standard error and exit code 2, an interruption in 130."""
    try:
        # Without a command, help is shown. Commands return nothing: what comes back is an exit code, 130 after Ctrl-C.
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except ValueError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"cannot read or write {error.filename or 'a file'}: {error.strerror}")
    except USAGE_ERROR as error:
        _fail(error.format_message())
    if code == INTERRUPTED:
        _fail("interrupted; finished runs are kept, and the same command goes on with the rest", INTERRUPTED)
    sys.exit(code)


def _fail(sentence: str, code: int = 2) -> NoReturn:
    sys.stderr.write(f"anchorbench: {sentence}\n")
    sys.exit(code)

"""The command line. Heavy libraries are imported inside the commands, so that `--help` answers at once."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from anchorbench.cli.bench import app as bench_app
from anchorbench.cli.interruption import INTERRUPTED, SENTENCE
from anchorbench.cli.leaderboard import app as leaderboard_app

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


KeepSteps = Annotated[
    str | None, typer.Option(help="Steps whose weights and optimizer state are kept as well, separated by commas.")
]
StrictBits = Annotated[
    bool,
    typer.Option(
        "--strict-bits", help="Restart rather than resume training on a machine where results may differ in the last bits."
    ),
]


Device = Annotated[str | None, typer.Option(help="cpu, cuda, or cuda:N; the first GPU, if there is one, if not given.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=4096, help="Members trained at a time, or threads of an operation; all usable cores if not given."),
]


@app.command()
def run(
    task: Annotated[str, typer.Option(help="Task to train on.")] = "composite",
    variant: Annotated[str | None, typer.Option(help="Its variant: heldout-both, conflict, conflict-control, ...")] = None,
    preset: Annotated[str, typer.Option(help="laptop, paper-neurips or paper-pami.")] = "laptop",
    gamma: Annotated[str | None, typer.Option(help="Initialization rates, separated by commas.")] = None,
    norm: Annotated[str | None, typer.Option(help="Where LayerNorm sits: pre, post, or pre,post.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds a condition; 4, or 3 in the papers' presets.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's weight decay.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16, tf32 (GPUs), or auto (laptop): what trains fastest here.")
    ] = None,
    axis: Annotated[list[str] | None, typer.Option(help="Another axis, as FIELD=VALUE,...: model.n_layer=2,3.")] = None,
    keep_steps: KeepSteps = None,
    strict_bits: StrictBits = False,
    memory: Annotated[float | None, typer.Option(help="GiB that training may take; 60% of what is free if not given.")] = None,
    threads: Threads = None,
    device: Device = None,
    figures: Annotated[str, typer.Option(help="Formats of the figures, separated by commas: pdf, svg, png.")] = "png",
    out: Annotated[Path | None, typer.Option(help="Output folder; anchorbench-out/TASK-VARIANT-PRESET if not given.")] = None,
) -> None:
    """Train a sweep over the initialization rate, and name each member's solution."""
    from anchorbench.cli.run import make_sweep, run_and_show
    from anchorbench.show.canvas import parse_formats
    from anchorbench.sweeps.make import default_folder

    formats = parse_formats(figures)
    _use(threads, device)
    sweep = make_sweep(
        task=task,
        variant=variant,
        preset=preset,
        gamma=gamma,
        norm=norm,
        seeds=seeds,
        steps=steps,
        weight_decay=weight_decay,
        precision=precision,
        axes=axis or (),
    )
    folder = out if out is not None else default_folder(sweep, preset)
    run_and_show(sweep, folder, memory=_bytes(memory), keep_steps=_steps(keep_steps), strict_bits=strict_bits, figures=formats)


sweep_app = typer.Typer(no_args_is_help=True, help="Sweeps over any fields of a recipe, described in a YAML file.")
app.add_typer(sweep_app, name="sweep")
RecipeFile = Annotated[Path, typer.Argument(help="YAML: preset, fields that differ from it, and axes.")]
Axes = Annotated[list[str] | None, typer.Option("--axis", help="Another axis, as FIELD=VALUE,...: init.gamma=0.4,0.5.")]
Memory = Annotated[float | None, typer.Option(help="GiB that training may take; 60% of what is free if not given.")]


@sweep_app.command("plan")
def sweep_plan(
    recipe: RecipeFile,
    axis: Axes = None,
    memory: Memory = None,
    out: Annotated[Path, typer.Option(help="Output folder; its finished runs are not counted.")] = Path("anchorbench-out/sweep"),
) -> None:
    """Print runs, stacks, memory and an estimate of the time, before anything starts."""
    from anchorbench.cli.plan import load_sweep, plan

    plan(load_sweep(recipe, axis or ()), out, _bytes(memory))


@sweep_app.command("run")
def sweep_run(
    recipe: RecipeFile,
    axis: Axes = None,
    memory: Memory = None,
    threads: Threads = None,
    device: Device = None,
    keep_steps: KeepSteps = None,
    strict_bits: StrictBits = False,
    figures: Annotated[str, typer.Option(help="Formats of the figures, separated by commas: pdf, svg, png.")] = "png",
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("anchorbench-out/sweep"),
) -> None:
    """Train a sweep; what is finished is not trained again."""
    from anchorbench.cli.plan import load_sweep
    from anchorbench.cli.run import run_and_show
    from anchorbench.show.canvas import parse_formats

    formats = parse_formats(figures)
    _use(threads, device)
    sweep = load_sweep(recipe, axis or ())
    run_and_show(sweep, out, memory=_bytes(memory), keep_steps=_steps(keep_steps), strict_bits=strict_bits, figures=formats)


@sweep_app.command("locate")
def sweep_locate(
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


def _use(threads: int | None, device: str | None = None) -> None:
    import torch

    from anchorbench.machine import use_device
    from anchorbench.train.memory import usable_cores

    use_device(device)
    torch.set_num_threads(threads or usable_cores())


def _bytes(gib: float | None) -> float | None:
    if gib is not None and not gib > 0:
        raise ValueError(f"memory is {gib}; allowed: a positive number of GiB")
    return None if gib is None else gib * 2**30


def _steps(text: str | None) -> list[int]:
    try:
        return [] if text is None else [int(step) for step in text.split(",")]
    except ValueError:
        raise ValueError(f"keep-steps is {text!r}; allowed: whole numbers separated by commas") from None


ModelName = Annotated[str, typer.Argument(help="A run folder, a checkpoint folder or a Hub id.", metavar="DIR|HF_ID")]
TaskName = Annotated[str | None, typer.Option(help="TASK or TASK-VARIANT, if the model does not say itself.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Figures = Annotated[Path | None, typer.Option(help="File for the page of figures: .pdf, .svg or .png.")]


@app.command()
def classify(model: ModelName, task: TaskName = None, json: AsJson = False, figures: Figures = None) -> None:
    """Say what a model answers, how it computes, and every probe's scores with their controls."""
    _examine(model, task, None, as_json=json, figures=figures)


class ProbeGroup(typer.core.TyperGroup):
    """`anchorbench probe NAME MODEL`: what is no command of the group is a probe's name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["one", *args])


probe_app = typer.Typer(no_args_is_help=True, cls=ProbeGroup, help="One probe (anchorbench probe NAME DIR|HF_ID), and its trial.")
app.add_typer(probe_app, name="probe")


@probe_app.command("one", hidden=True)
def probe_one(name: str, model: ModelName, task: TaskName = None, json: AsJson = False, figures: Figures = None) -> None:
    """Scores of one probe, with control and interval."""
    _examine(model, task, name, as_json=json, figures=figures)


@probe_app.command("validate")
def probe_validate(
    json_file: Annotated[Path | None, typer.Option("--json", help="File to write all figures to.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Four runs, asked of the shipped weights, instead of 280.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the runs; finished ones are not trained again.")] = Path(
        "anchorbench-out/validation"
    ),
) -> None:
    """Try the mechanistic verdict on planted truth, on nothing, and on behaviour that it never saw."""
    from anchorbench.inspect.validation import validate_and_show

    validate_and_show(out, json_file, quick=quick)


@probe_app.command("fit")
def probe_fit(
    sweeps: Annotated[list[Path], typer.Argument(help="Output folders of sweeps.")],
    out: Annotated[Path, typer.Option(help="File for the weights.")] = Path("mechanism.json"),
) -> None:
    """Fit the weights of the mechanistic verdict to the runs of sweeps whose behaviour is decided."""
    from anchorbench.inspect.validation import fit_and_show

    fit_and_show(sweeps, out)


def _examine(model: str, task: str | None, only: str | None, *, as_json: bool, figures: Path | None) -> None:
    import json

    from rich.console import Console

    from anchorbench.files import require_place
    from anchorbench.show import examine
    from anchorbench.show.canvas import FORMATS, draw_all

    if figures is not None:
        require_place(figures, "--figures", [f".{kind}" for kind in FORMATS])
    found = examine.examine(model, task, only)
    if as_json:
        sys.stdout.write(json.dumps(examine.as_json(found), indent=1) + "\n")
    else:
        examine.show(found, Console(markup=False, highlight=False))
    if figures is not None:
        sys.stdout.flush()  # the verdict is said, whatever becomes of the figures
        _, problems = draw_all(lambda path: examine.draw(found, path), [figures])
        if problems:
            raise ValueError(problems[0])


@app.command()
def check(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a finished run: OUT/runs/RUN_ID.")],
    steps: Annotated[int, typer.Option(help="Retrain at most this many steps.")] = 500,
) -> None:
    """Check bit for bit that a run follows from its recipe: initial weights, training between kept steps, evaluation."""
    from anchorbench.sweeps.check import check_and_show

    if not check_and_show(run_dir, steps):
        sys.exit(1)


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a finished run: OUT/runs/RUN_ID.")],
    out_dir: Annotated[Path, typer.Argument(help="Folder to write the checkpoint to.")],
    step: Annotated[int | None, typer.Option(help="An intermediate step that was kept.")] = None,
) -> None:
    """Write a member as a Hugging Face checkpoint, which TransformerLens opens too."""
    from rich.console import Console

    from anchorbench.files import visible
    from anchorbench.hub.models import export as export_run
    from anchorbench.sweeps.run_folder import read_run

    path = export_run(read_run(run_dir), out_dir, step)
    Console(markup=False).print(f"checkpoint: {visible(path)}", soft_wrap=True)


@app.command()
def rates(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a finished run of the optimizer grafting: OUT/runs/RUN_ID.")],
    out: Annotated[Path, typer.Argument(help="JSON file to write.")],
    step: Annotated[int, typer.Option(help="The step that was kept (--keep-steps), after those that were measured.")],
) -> None:
    """Write the rate of each tensor that grafting measured, for the optimizer grafted-sgd (rates: FILE)."""
    from rich.console import Console

    from anchorbench.files import require_place, visible
    from anchorbench.sweeps.run_folder import read_run
    from anchorbench.train.optimizers.grafted_sgd import write_rates

    require_place(out, "OUT", (".json",))
    run = read_run(run_dir)
    written = write_rates(out, run.result.run_id, run.state(step), step)
    sentence = f"rates: {visible(out)}, of {len(written.rates)} tensors, each the median over {written.steps} steps"
    Console(markup=False, highlight=False).print(sentence, soft_wrap=True)


@app.command()
def tasks(
    name: Annotated[str | None, typer.Argument(help="Task, or TASK-VARIANT, to explain; all are listed if not given.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write the whole catalogue as Markdown: tasks/README.md.")] = False,
) -> None:
    """List the tasks, or explain one with three drawn examples."""
    from rich.console import Console

    from anchorbench import catalogue as gallery

    if markdown:
        sys.stdout.write(gallery.markdown())
    elif name is not None:
        sys.stdout.write(gallery.explanation(name) + "\n")
    else:
        Console(highlight=False).print(gallery.listing())


@app.command()
def parts(
    part: Annotated[str | None, typer.Argument(help="Part of a way of training; all are listed if not given.")] = None,
    kind: Annotated[str | None, typer.Argument(help="Kind to explain; the part's kinds are listed if not given.")] = None,
    out: Annotated[Path | None, typer.Option(help="Markdown file to write with all kinds explained.")] = None,
) -> None:
    """List the parts that a way of training is composed of, or explain one with its fields, bounds and source; draw a schedule."""
    from anchorbench.files import require_place, write_atomically
    from anchorbench.show.parts import explanation, listing, page

    if out is not None:
        require_place(out, "--out", (".md",))
        write_atomically(out, page().encode())
        return
    sys.stdout.write(listing(part) if part is None or kind is None else explanation(part, kind) + "\n")


data_app = typer.Typer(no_args_is_help=True, help="Tasks as Hugging Face data sets: build, verify, push.")
app.add_typer(data_app, name="data")


@app.command()
def report(
    sweep: Annotated[Path, typer.Argument(help="Output folder of a sweep.")],
    x: Annotated[str | None, typer.Option(help="Axis across; gamma if it varies.")] = None,
    y: Annotated[str | None, typer.Option(help="Axis upwards.")] = None,
    panels: Annotated[str | None, typer.Option(help="Axis of small multiples.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; SWEEP/report.html if not given.")] = None,
) -> None:
    """Write one HTML page for a sweep: phase diagram, trajectories, deviations, attention flow."""
    from rich.console import Console

    from anchorbench.files import visible
    from anchorbench.show.report import report as write_report

    console = Console(markup=False, highlight=False)
    page, problems = write_report(sweep, out, x=x, y=y, panels=panels)
    for problem in problems:
        console.print(f"left out: {visible(problem)}", soft_wrap=True)
    console.print(f"page: {visible(page)}", soft_wrap=True)


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(help="A claim, or all: those without a current result.", metavar="[NAME|all]")] = "all",
    scale: Annotated[str, typer.Option(help="laptop or paper.")] = "laptop",
    out: Annotated[Path, typer.Option(help="Folder of the ledger.")] = Path("docs/ledger"),
    runs: Annotated[Path, typer.Option(help="Folder in which trained runs are kept: what is there is not trained again.")] = Path(
        "anchorbench-out/claims"
    ),
) -> None:
    """Try published claims by rules written before the run, and write the ledger: JSON, table and page."""
    from anchorbench.cli.reproduce import reproduce as run_claims

    _use(None)
    run_claims(name, scale, out, runs)


@app.command()
def ways(
    runs: Annotated[Path, typer.Argument(help="Folder of the runs; what is missing there is trained.")],
    out: Annotated[Path, typer.Option(help="Folder of the table: ways.json and ways.md.")] = Path("docs"),
) -> None:
    """Compare every part of training with its control on the composite task, over paired seeds; about an hour on two cores."""
    from rich.console import Console

    from anchorbench.files import require_place, visible
    from anchorbench.ways import study, write

    data, page = out / "ways.json", out / "ways.md"
    require_place(data, "--out")
    _use(None)
    console = Console(markup=False, highlight=False)
    write(study(runs, lambda line: console.print(line, soft_wrap=True)), data, page)
    console.print(f"table: {visible(page)}", soft_wrap=True)


app.add_typer(bench_app, name="bench")
app.add_typer(leaderboard_app, name="leaderboard")


@data_app.command("build")
def data_build(
    task: Annotated[str, typer.Argument(help="TASK (all its variants), TASK-VARIANT, or all.")],
    out: Annotated[Path, typer.Option(help="Folder to write, new or empty.")],
    size: Annotated[int | None, typer.Option(help="Examples in each split; the paper's sizes if not given.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Write tasks as a data set that `load_dataset(DIR, "TASK-VARIANT")` opens."""
    from anchorbench.hub.datasets import build_and_show

    build_and_show(task, out, size=size, seed=seed)


@data_app.command("verify")
def data_verify(folder: Annotated[Path, typer.Argument(help="Folder of a data set, from anywhere.")]) -> None:
    """Work out every label, foil, group and split of a data set again; name the first wrong row."""
    from rich.console import Console

    from anchorbench.files import visible
    from anchorbench.hub.datasets import verify

    manifests = verify(folder)
    rows, configurations = sum(sum(manifest.examples.values()) for manifest in manifests), len(manifests)
    sentence = f"{visible(folder)}: all {rows:,} rows of {configurations} configuration{'s' * (configurations > 1)} are right"
    Console(markup=False, highlight=False).print(sentence, soft_wrap=True)


@data_app.command("push")
def data_push(
    folder: Annotated[Path, typer.Argument(help="Folder of a data set.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be uploaded.")] = False,
) -> None:
    """Verify a data set, then upload it to the Hugging Face Hub."""
    from rich.console import Console

    from anchorbench.files import visible
    from anchorbench.hub.datasets import push, uploads

    console = Console(markup=False, highlight=False)
    if not dry_run:
        console.print(f"uploaded: {visible(push(folder, repo))}", soft_wrap=True)
        return
    files = uploads(folder)
    for file in files:
        console.print(f"{file.stat().st_size:>14,}  {file.relative_to(folder)}", soft_wrap=True)
    total = sum(file.stat().st_size for file in files)
    console.print(f"{total:>14,}  bytes in {len(files)} files would be uploaded to {visible(repo)}; nothing was", soft_wrap=True)


def main() -> None:
    """Runs a command; bad input ends in one sentence on standard error and exit code 2, an interruption in 130."""
    try:
        # Without a command, help is shown. Commands return nothing: what comes back is an exit code, 130 after Ctrl-C.
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # whoever reads has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except ValueError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"cannot read or write {error.filename or 'a file'}: {error.strerror or error}")
    except USAGE_ERROR as error:
        _fail(error.format_message())
    if code == INTERRUPTED:
        sys.stderr.write(SENTENCE)
    sys.exit(code)


def _fail(sentence: str) -> NoReturn:
    from anchorbench.files import visible

    sys.stderr.write(f"anchorbench: {visible(sentence)}\n")
    sys.exit(2)

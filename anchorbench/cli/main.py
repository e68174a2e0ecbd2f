"""The command line. Heavy libraries are imported inside the commands, so that `--help` is fast."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from anchorbench.cli import bench, data, leaderboard, probe, sweep
from anchorbench.cli.examples import add_examples
from anchorbench.cli.interruption import INTERRUPTED, SENTENCE
from anchorbench.cli.options import (
    AsJson,
    Columns,
    Device,
    DryRun,
    FigureFile,
    Formats,
    KeepSteps,
    Memory,
    ModelName,
    StrictBits,
    TaskName,
    Threads,
    Track,
    execution,
    in_bytes,
    use,
)

USAGE_ERROR: Any = typer.BadParameter.__base__
"""What typer raises for an unknown command or option, or a value of another type; it exports only this subclass."""

app = typer.Typer(
    name="anchorbench",
    help="Did this transformer solve the task by inferring the rule, or by memorizing the table?",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        from anchorbench import __version__

        typer.echo(f"anchorbench {__version__}")
        raise typer.Exit


@app.callback()
def _callback(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    task: Annotated[str, typer.Option(help="Task to train on.")] = "composite",
    variant: Annotated[str | None, typer.Option(help="Its variant, such as conflict; default: the task's first.")] = None,
    preset: Annotated[str, typer.Option(help="laptop, paper-neurips or paper-pami.")] = "laptop",
    gamma: Annotated[
        str | None, typer.Option(help="Initialization rates, by commas; laptop default: 0.34,0.4,0.5,0.6,0.7.")
    ] = None,
    norm: Annotated[str | None, typer.Option(help="Where LayerNorm sits: pre, post, or pre,post; laptop default: pre.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds per condition; laptop default: 4.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps; laptop default: 2500.")] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Weight decay per step and unit of learning rate; laptop default: 0.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16, tf32 (GPUs), or auto: the fastest on this machine; laptop default: auto.")
    ] = None,
    axis: Annotated[list[str] | None, typer.Option(help="Another axis, such as model.n_layer=2,3; default: none.")] = None,
    keep_steps: KeepSteps = None,
    strict_bits: StrictBits = False,
    memory: Memory = None,
    threads: Threads = None,
    device: Device = None,
    figures: Formats = "png",
    columns: Columns = 2,
    track: Track = None,
    dry_run: DryRun = False,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: anchorbench-out/TASK-VARIANT-PRESET.")] = None,
) -> None:
    """Train a sweep over gamma and name each run's solution."""
    from anchorbench.cli.plan import make_cut, plan
    from anchorbench.cli.run import make_sweep, run_and_show
    from anchorbench.show.canvas import parse_formats
    from anchorbench.sweeps.make import default_folder

    formats = parse_formats(figures)
    use(threads, device)
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
    if dry_run:
        plan(sweep, folder, in_bytes(memory))
        return
    how = execution(memory, keep_steps, strict_bits=strict_bits)
    run_and_show(sweep, folder, how, formats, make_cut(sweep, 1, how.memory, None, how.keep_steps), columns, track)


@app.command()
def classify(
    model: ModelName,
    task: TaskName = None,
    json: AsJson = False,
    figures: FigureFile = None,
    probes: Annotated[bool, typer.Option("--probes", help="Also read every probe: scores, with controls.")] = False,
    interactive: Annotated[
        Path | None, typer.Option(help="HTML file for the attention of every head, by CircuitsVis (an extra); default: none.")
    ] = None,
    threads: Threads = None,
) -> None:
    """Say what a model answers, and why.

    Its behaviour, and the forecast of it from trained sequences alone.
    """
    use(threads)
    with_probes = probes or figures is not None
    probe.examine(model, task, None, as_json=json, figures=figures, with_probes=with_probes, interactive=interactive)


@app.command()
def check(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a finished run: OUT/runs/RUN_ID.")],
    steps: Annotated[int, typer.Option(help="Maximum number of training steps to repeat.")] = 500,
) -> None:
    """Check bit for bit that a run follows from its recipe.

    Its initial weights, training between kept steps, and evaluation are computed again.
    """
    from anchorbench.files import visible
    from anchorbench.sweeps.check import WORDS
    from anchorbench.sweeps.check import check as check_run

    found = check_run(run_dir, steps)
    for finding in found:
        typer.echo(f"{WORDS[finding.holds]:<8} {finding.what}: {visible(finding.why)}")
    if any(finding.holds is False for finding in found):
        sys.exit(1)


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a finished run: OUT/runs/RUN_ID.")],
    out_dir: Annotated[Path, typer.Argument(help="Folder to write the checkpoint to.")],
    step: Annotated[int | None, typer.Option(help="An intermediate step that was kept; default: the end of training.")] = None,
) -> None:
    """Write a run as a Hugging Face checkpoint.

    TransformerLens opens it too.
    """
    from anchorbench.files import visible
    from anchorbench.hub.models import export as export_run
    from anchorbench.sweeps.run_folder import read_run

    path = export_run(read_run(run_dir), out_dir, step)
    typer.echo(f"checkpoint: {visible(path)}")


@app.command()
def push(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a finished run: OUT/runs/RUN_ID.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the model card and list the files; upload nothing.")] = False,
) -> None:
    """Upload a run to the Hugging Face Hub, with a model card.

    As a checkpoint, like `export`. The token is that of `hf auth login`, or HF_TOKEN.
    """
    import tempfile

    from anchorbench.files import visible
    from anchorbench.hub.models import export as export_run
    from anchorbench.hub.upload import require_repo, upload
    from anchorbench.sweeps.run_folder import read_run

    require_repo(repo)
    with tempfile.TemporaryDirectory() as temporary:
        folder = export_run(read_run(run_dir), Path(temporary, "checkpoint"))
        files = sorted(folder.iterdir())
        if not dry_run:
            typer.echo(f"uploaded: {visible(upload(folder, [file.name for file in files], repo, 'model'))}")
            return
        typer.echo((folder / "README.md").read_text())
        for file in files:
            typer.echo(f"{file.stat().st_size:>14,}  {file.name}")
        total = sum(file.stat().st_size for file in files)
        typer.echo(f"{total:>14,}  bytes in {len(files)} files would be uploaded to {visible(repo)}; nothing was")


@app.command()
def rates(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a finished run of the optimizer grafting: OUT/runs/RUN_ID.")],
    out: Annotated[Path, typer.Argument(help="JSON file to write.")],
    step: Annotated[int, typer.Option(help="The step that was kept (--keep-steps), after those that were measured.")],
) -> None:
    """Write the rates per tensor that grafting measured.

    The optimizer grafted-sgd takes them (rates: FILE).
    """
    from anchorbench.files import require_place, visible
    from anchorbench.sweeps.run_folder import read_run
    from anchorbench.train.optimizers.grafted_sgd import write_rates

    require_place(out, "OUT", (".json",))
    run = read_run(run_dir)
    written = write_rates(out, run.result.run_id, run.state(step), step)
    sentence = f"rates: {visible(out)}, of {len(written.rates)} tensors, each the median over {written.steps} steps"
    typer.echo(sentence)


@app.command()
def tasks(
    name: Annotated[str | None, typer.Argument(help="TASK or TASK-VARIANT to explain (default: list all).")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write the whole catalogue as Markdown: tasks/README.md.")] = False,
) -> None:
    """List the tasks, or explain one with three drawn examples."""
    from anchorbench import catalogue as gallery

    if markdown:
        sys.stdout.write(gallery.markdown())
    elif name is not None:
        sys.stdout.write(gallery.explanation(name) + "\n")
    else:
        from rich.console import Console

        Console(highlight=False).print(gallery.listing())


@app.command()
def parts(
    part: Annotated[str | None, typer.Argument(help="Part of a training recipe (default: list all).")] = None,
    kind: Annotated[str | None, typer.Argument(help="Kind to explain (default: list the part's kinds).")] = None,
    out: Annotated[Path | None, typer.Option(help="Markdown file to write with all kinds explained; default: print.")] = None,
) -> None:
    """List the parts of a training recipe, or explain one.

    With its fields, bounds and source; schedules are plotted.
    """
    from anchorbench.files import require_place, write_atomically
    from anchorbench.show.parts import explanation, listing, page

    if out is not None:
        require_place(out, "--out", (".md",))
        write_atomically(out, page().encode())
        return
    sys.stdout.write(listing(part) if part is None or kind is None else explanation(part, kind) + "\n")


@app.command()
def new(
    kind: Annotated[str, typer.Argument(help="task, probe, claim, initializer, optimizer, schedule, model or penalty.")],
    name: Annotated[str, typer.Argument(help="Its name: lower-case letters, digits and hyphens.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write, new or empty (default: NAME).")] = None,
) -> None:
    """Write a package with a task, probe or part of your own.

    One module that works as it is, its test, and the entry point by which anchorbench finds it once it is installed.
    """
    from anchorbench.cli.new import write_skeleton
    from anchorbench.files import visible

    module = write_skeleton(kind, name, out or Path(name))
    where = visible(module.parent)
    typer.echo(f"{kind} {name}: {visible(module)}; install it (pip install -e {where}), test it (pytest {where}), then change it")


@app.command()
def report(
    sweep: Annotated[Path, typer.Argument(help="Output folder of a sweep.")],
    x: Annotated[str | None, typer.Option(help="Horizontal axis of the phase diagram; default: gamma, if it varies.")] = None,
    y: Annotated[str | None, typer.Option(help="Vertical axis; default: the next field that varies.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write (default: SWEEP/report.html).")] = None,
) -> None:
    """Write one HTML page about a sweep, finished or in training.

    Every run, phase diagram over any two axes, trajectories, what held-out answers are, attention and probes; it needs no network.
    """
    from anchorbench.files import visible
    from anchorbench.show.report import report as write_report

    page, problems = write_report(sweep, out, x=x, y=y, arguments=sys.argv[1:])
    for problem in problems:
        typer.echo(f"left out: {visible(problem)}")
    typer.echo(f"page: {visible(page)}")


@app.command()
def watch(
    sweep: Annotated[Path, typer.Argument(help="Output folder of a sweep, finished or in training.")],
    x: Annotated[str | None, typer.Option(help="Horizontal axis of the phase diagram; default: gamma, if it varies.")] = None,
    y: Annotated[str | None, typer.Option(help="Vertical axis; default: the next field that varies.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve on; 0: a free one.")] = 8765,
) -> None:
    """Serve a sweep's page on this machine while it trains.

    The page of report without probes, which follows the folder's files; Ctrl-C stops it.
    """
    from contextlib import suppress

    from anchorbench.show.live import ADDRESS, LivePage, server

    with server(LivePage(sweep, x, y), port) as serving:
        typer.echo(f"page: http://{ADDRESS}:{serving.server_port}/ (Ctrl-C stops it)")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            serving.serve_forever()


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(help="A claim, or all: those without a current result.", metavar="[NAME|all]")] = "all",
    scale: Annotated[str, typer.Option(help="laptop or paper.")] = "laptop",
    out: Annotated[Path, typer.Option(help="Folder of the ledger.")] = Path("docs/ledger"),
    runs: Annotated[Path, typer.Option(help="Folder in which trained runs are kept: what is there is not trained again.")] = Path(
        "anchorbench-out/claims"
    ),
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Test published claims and write the ledger.

    By rules written before the run; the ledger is JSON, a table and a page.
    """
    from anchorbench.cli.reproduce import reproduce as run_claims

    use(threads, device)
    run_claims(name, scale, out, runs)


@app.command()
def ways(
    runs: Annotated[Path, typer.Argument(help="Folder of the runs; missing ones are trained.")],
    out: Annotated[Path, typer.Option(help="Folder of the table: ways.json and ways.md.")] = Path("docs"),
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Compare every training part with its control.

    On the composite task, over paired seeds; about an hour on two cores.
    """
    from anchorbench.files import require_place, visible
    from anchorbench.ways import study, write

    data, page = out / "ways.json", out / "ways.md"
    require_place(data, "--out")
    use(threads, device)
    write(study(runs, typer.echo), data, page)
    typer.echo(f"table: {visible(page)}")


for group in (sweep, probe, data, bench, leaderboard):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])
add_examples(app)


def main() -> None:
    """Runs a command; bad input gives one sentence on standard error and exit code 2, an interruption 130."""
    try:
        # Without a command, help is shown. Commands return nothing: any returned value is an exit code, 130 after Ctrl-C.
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # the reader has closed the pipe
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

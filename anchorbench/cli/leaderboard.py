"""The commands `anchorbench leaderboard ...`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anchorbench.cli.options import Device, Threads, use

if TYPE_CHECKING:
    from anchorbench.leaderboard.entry import Entry

app = typer.Typer(no_args_is_help=True, help="Training recipes compared on a fixed suite of tasks.")
EntryFile = Annotated[Path, typer.Argument(help="An entry: one JSON file.")]


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="YAML: name, description, and fields of a recipe.")],
    out: Annotated[Path | None, typer.Option(help="Output folder; default: anchorbench-out/leaderboard/RECIPE.")] = None,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Train a recipe on its track's suite; write entry.json.

    Finished runs are kept.
    """
    from anchorbench.files import visible
    from anchorbench.leaderboard.submit import run_entry

    use(threads, device)
    folder = out if out is not None else Path("anchorbench-out/leaderboard") / recipe.stem

    def report(task: str, message: str) -> None:
        typer.echo(f"  {task}: {visible(message)}")

    entry = run_entry(recipe, folder, report)
    share = entry.statistics.inferential
    typer.echo(f"score {share.value:.2f}, 95% interval {share.low:.2f} to {share.high:.2f}")
    typer.echo(f"entry: {visible(folder / 'entry.json')}")


@app.command()
def validate(entries: Annotated[list[Path], typer.Argument(help="Entries: JSON files.")]) -> None:
    """Check entries without training.

    Format, digest, completeness and statistics; exit code 2 if one is rejected.
    """
    from anchorbench.files import visible
    from anchorbench.leaderboard.check import read_entry

    refused = 0
    for path in entries:
        try:
            entry = read_entry(path)
        except ValueError as refusal:
            refused += 1
            typer.echo(f"rejected: {visible(refusal)}")
        else:
            typer.echo(f"{visible(path)}: valid, {entry.recipe.name}, score {entry.statistics.inferential.value:.2f}")
    if refused:
        raise ValueError(f"{refused} of {len(entries)} entries rejected")


@app.command()
def verify(
    entry: EntryFile,
    members: Annotated[int, typer.Option(help="Number of runs to retrain.")] = 3,
    seed: Annotated[int | None, typer.Option(help="Seed for drawing the runs; default: random.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: a temporary one.")] = None,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Retrain a random part of an entry.

    Says whether its claim stands; exit code 1 if not.
    """
    import secrets
    import tempfile

    from anchorbench.leaderboard.check import read_entry
    from anchorbench.leaderboard.submit import verify as verify_entry

    use(threads, device)
    claim = read_entry(entry)
    drawn_by = secrets.randbelow(2**31) if seed is None else seed
    with tempfile.TemporaryDirectory() as temporary:
        done = verify_entry(claim, members, drawn_by, out or Path(temporary))
    for claimed, again in zip(done.claimed, done.retrained, strict=True):
        words = f"  {claimed.task}/{claimed.variant}, seed {claimed.seed}: claimed {claimed.verdict}, now {again.verdict}"
        typer.echo(words)
    low, high = done.share.interval
    share = claim.statistics.inferential
    typer.echo(
        f"--seed {drawn_by}: {done.share.hits} of {done.share.n} inferential, 95% interval {low:.2f} to {high:.2f};"
        f" claimed {share.value:.2f}, {share.low:.2f} to {share.high:.2f};"
        f" {done.agree} inferential or not as claimed, {done.reproduced} with exactly the claimed counts"
    )
    typer.echo("the claim stands" if done.stands else "the claim does not stand")
    if not done.stands:
        raise typer.Exit(1)


@app.command()
def render(
    folder: Annotated[Path, typer.Option(help="Folder with entries: JSON files.")] = Path("leaderboard/entries"),
    out: Annotated[Path, typer.Option(help="Folder to write index.html and table.md to.")] = Path("leaderboard"),
) -> None:
    """Write the page and the table of all valid entries.

    Invalid ones are named and left out.
    """
    from anchorbench.files import visible, write_atomically
    from anchorbench.leaderboard.check import read_entry
    from anchorbench.leaderboard.entry import name_key
    from anchorbench.leaderboard.page import markdown_table
    from anchorbench.leaderboard.page import render as render_page

    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; allowed: a folder with entries")
    entries: list[Entry] = []
    known: dict[object, Path] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            entry = read_entry(path)
            # Seeds follow from what is trained: the same ones, the same training, whatever it is called.
            training = (entry.recipe.track, entry.recipe.seeds(entry.suite[0]))
            name = name_key(entry.recipe.name)
            for what, key in (("the same training as", training), ("the same name as", name)):
                if key in known:
                    raise ValueError(f"{path}: {what} {known[key]}")
            known |= {training: path, name: path}
        except ValueError as refusal:
            typer.echo(f"left out: {visible(refusal)}")
        else:
            entries.append(entry)
    if not entries:
        raise ValueError(f"folder {folder} holds no valid entry; allowed: at least one")
    out.mkdir(parents=True, exist_ok=True)
    page = render_page(entries, out / "index.html")
    write_atomically(out / "table.md", markdown_table(entries).encode())
    typer.echo(f"{len(entries)} entries: {visible(page)}, {visible(out / 'table.md')}")


@app.command()
def export(
    entry: EntryFile,
    out: Annotated[Path, typer.Option(help="Folder to write eval.yaml and .eval_results to.")],
    dataset: Annotated[str, typer.Option(help="The benchmark's dataset on the Hub, OWNER/NAME.")],
) -> None:
    """Write Hugging Face eval.yaml and .eval_results files."""
    from anchorbench.files import visible
    from anchorbench.leaderboard.check import read_entry
    from anchorbench.leaderboard.export import export_entry

    for path in export_entry(read_entry(entry), dataset, out):
        typer.echo(visible(path))


@app.command()
def schema(out: Annotated[Path, typer.Option(help="Folder to write schema.json and README.md to.")] = Path("leaderboard")) -> None:
    """Write the JSON schema of an entry, and its README."""
    from anchorbench.files import write_atomically
    from anchorbench.leaderboard.schema import readme, schema_json

    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "schema.json", schema_json())
    write_atomically(out / "README.md", readme().encode())

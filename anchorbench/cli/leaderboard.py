"""The commands `anchorbench leaderboard ...`."""

from pathlib import Path
from typing import Annotated

import typer

from anchorbench.cli.options import Device, Threads, use

app = typer.Typer(no_args_is_help=True, help="Training recipes compared on a fixed suite of tasks.")
EntryFile = Annotated[Path, typer.Argument(help="An entry: one JSON file.")]
BoardFolder = Annotated[Path, typer.Option("--board", help="The board's folder, with entries, registrations and beacons.")]
BOARD = Path("leaderboard")


@app.command()
def register(
    recipe: Annotated[Path, typer.Argument(help="YAML: name, description, and fields of a recipe.")],
    name: Annotated[str, typer.Option(help="Name of the file: small letters, digits, '.' and '-'.")],
    beacon: Annotated[
        str | None, typer.Option(help="What will decide the seeds; default: the round of drand's quicknet one day from now.")
    ] = None,
    board: BoardFolder = BOARD,
) -> None:
    """Announce a recipe before its seeds exist.

    Writes registrations/NAME.yaml in the board's folder: the recipe with three significant digits and without fields that have no
    effect, and the beacon from which its seeds will follow.
    """
    import re
    from datetime import UTC, datetime

    from anchorbench.files import visible, write_atomically
    from anchorbench.leaderboard.check import read_recipe
    from anchorbench.leaderboard.names import name_key
    from anchorbench.leaderboard.registration import Registry
    from anchorbench.leaderboard.registration import register as register_recipe

    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,59}", name):
        raise ValueError(f"name is {visible(name, 100)!r}; allowed: 1 to 60 small letters, digits, '.' and '-', no sign first")
    path = board / "registrations" / f"{name}.yaml"
    if path.exists():
        raise ValueError(f"{path} exists; choose another --name")
    registration = register_recipe(read_recipe(recipe), beacon, datetime.now(UTC))
    known = Registry(board).registrations
    if registration.digest in known:
        before = known[registration.digest]
        raise ValueError(f"{recipe}: trains like {before.recipe.name!r}, registered {before.time}; allowed: one registration")
    if name_key(registration.recipe.name) in {name_key(each.recipe.name) for each in known.values()}:
        raise ValueError(f"the name {registration.recipe.name!r} is registered; choose another")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, registration.to_yaml())
    typer.echo(f"{visible(path)}: {registration.digest[:16]}, seeds by {registration.beacon}")


@app.command()
def run(
    registration: Annotated[Path, typer.Argument(help="A registration: YAML, from `leaderboard register`.")],
    beacon: Annotated[str, typer.Option(help="The announced beacon: a file with name, value, time and source, or its value.")],
    out: Annotated[Path | None, typer.Option(help="Output folder; default: anchorbench-out/leaderboard/NAME.")] = None,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Train a registered recipe on its track's suite.

    Writes entry.json. Finished runs are kept.
    """
    import re
    from datetime import UTC, datetime

    from anchorbench.files import visible
    from anchorbench.leaderboard.registration import Beacon, minute, read_beacon, read_registration
    from anchorbench.leaderboard.statistics import statistics_of
    from anchorbench.leaderboard.submit import run_entry

    use(threads, device)
    registered = read_registration(registration)
    if not re.fullmatch(r"[0-9a-f]{16,128}", beacon):
        value = read_beacon(Path(beacon))
    else:
        now = minute(datetime.now(UTC))
        content = {"name": registered.beacon, "value": beacon, "time": now, "source": "given on the command line"}
        value = Beacon.model_validate(content)
    folder = out if out is not None else Path("anchorbench-out/leaderboard") / registration.stem

    def report(task: str, message: str) -> None:
        typer.echo(f"  {task}: {visible(message)}")

    entry = run_entry(registered, value, folder, report)
    statistics = statistics_of(entry.recipe, entry.rows)
    score, underfit = statistics.score, statistics.underfit
    typer.echo(
        f"score {score.value:.2f}, 95% interval {score.low:.2f} to {score.high:.2f};"
        f" {statistics.inferential.value:.0%} of runs inferential, {underfit.hits} of {underfit.n} underfit"
    )
    typer.echo(f"entry: {visible(folder / 'entry.json')}")


@app.command()
def validate(
    entries: Annotated[list[Path], typer.Argument(help="Entries: JSON files.")],
    board: BoardFolder = BOARD,
) -> None:
    """Check entries without training.

    Format, digest, seeds and rows; exit code 2 if one is rejected.
    """
    from anchorbench.files import visible
    from anchorbench.leaderboard.board import require_registered
    from anchorbench.leaderboard.check import read_entry
    from anchorbench.leaderboard.registration import Registry
    from anchorbench.leaderboard.statistics import statistics_of

    refused = 0
    registry = Registry(board)
    for path in entries:
        try:
            entry = read_entry(path)
        except ValueError as refusal:
            refused += 1
            typer.echo(f"rejected: {visible(refusal)}")
            continue
        score = statistics_of(entry.recipe, entry.rows).score.value
        try:
            require_registered(entry, registry, "registered elsewhere")
            status = "registered"
        except ValueError as reason:
            status = visible(reason)
        typer.echo(f"{visible(path)}: valid, {entry.recipe.name}, score {score:.2f}; {status}")
    if refused:
        raise ValueError(f"{refused} of {len(entries)} entries rejected")


@app.command()
def verify(
    entry: EntryFile,
    fresh: Annotated[bool, typer.Option("--fresh", help="Draw new seeds: luck does not reproduce.")] = False,
    members: Annotated[int | None, typer.Option(help="Number of runs to retrain; default: enough to find a lie of 0.15.")] = None,
    seed: Annotated[str | None, typer.Option(help="16 hexadecimal digits that draw runs or seeds; default: random.")] = None,
    by: Annotated[str | None, typer.Option(help="With --fresh: your name, to sign a reproduction; default: write none.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: a temporary one.")] = None,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Retrain runs of an entry: does its claim stand?

    Says what the answer can and cannot exclude; exit code 1 if the claim does not stand.
    """
    import re
    import secrets
    import tempfile

    from anchorbench.files import visible, write_atomically
    from anchorbench.leaderboard.check import read_entry
    from anchorbench.leaderboard.verify import Reproduction, in_words, nonce_of, verify_fresh
    from anchorbench.leaderboard.verify import verify as verify_own

    use(threads, device)
    if seed is not None and not re.fullmatch(r"[0-9a-f]{16}", seed):
        raise ValueError(f"seed is {visible(seed, 100)!r}; allowed: 16 digits 0-9a-f")
    if by is not None and (not fresh or out is None or seed is not None):
        raise ValueError("by is given; allowed with --fresh and --out, where the reproduction is written, and without --seed")
    claim = read_entry(entry)
    drawn_by = seed or (secrets.token_hex(8) if by is None else nonce_of(claim.recipe, by))
    with tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        done = verify_fresh(claim, members, drawn_by, folder) if fresh else verify_own(claim, members, drawn_by, folder)
    for sentence in in_words(done, drawn_by):
        typer.echo(sentence)
    if by is not None and out is not None:
        write_atomically(out / "reproduction.json", Reproduction.of(done, by).to_json())
        typer.echo(f"reproduction: {visible(out / 'reproduction.json')}")
    if not done.stands:
        raise typer.Exit(1)


@app.command()
def render(
    board: BoardFolder = BOARD,
    out: Annotated[Path | None, typer.Option(help="Folder to write index.html and table.md to; default: the board's.")] = None,
) -> None:
    """Write the page and the table of a board.

    Invalid files are named and left out.
    """
    from anchorbench.files import visible, write_atomically
    from anchorbench.leaderboard.board import read_board
    from anchorbench.leaderboard.page import markdown_table
    from anchorbench.leaderboard.page import render as render_page

    found = read_board(board)
    for reason in found.left_out:
        typer.echo(f"left out: {reason}")
    count = sum(map(len, found.tracks.values()))
    if not count:
        raise ValueError(f"folder {board / 'entries'} holds no valid entry; allowed: at least one")
    folder = board if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    page = render_page(found, folder / "index.html")
    write_atomically(folder / "table.md", markdown_table(found).encode())
    typer.echo(f"{count} entries: {visible(page)}, {visible(folder / 'table.md')}")


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


@app.command()
def study(
    out: Annotated[Path, typer.Option(help="Output folder; finished runs in it are kept.")],
    json_file: Annotated[Path, typer.Option("--json", help="JSON file of what is found; candidates in it are not trained again.")],
    figure: Annotated[Path | None, typer.Option(help="File to draw the figure to; default: none.")] = None,
) -> None:
    """Train and grade the candidates for the suite.

    920 runs; the rules are in anchorbench/leaderboard/study.py.
    """
    from anchorbench.files import require_place
    from anchorbench.leaderboard.study import study as run_study
    from anchorbench.leaderboard.study_figure import study_figure, study_table
    from anchorbench.show.canvas import FORMATS

    require_place(json_file, "--json")
    if figure is not None:
        require_place(figure, "--figure", [f".{kind}" for kind in FORMATS])
    found = run_study(out, json_file, typer.echo)
    typer.echo(study_table(found.grades))
    if figure is not None:
        study_figure(found.grades, found.members, figure)

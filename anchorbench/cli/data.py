"""The commands `anchorbench data ...`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Tasks as Hugging Face datasets: build, verify, push.")


@app.command()
def build(
    task: Annotated[str, typer.Argument(help="TASK (all its variants), TASK-VARIANT, or all.")],
    out: Annotated[Path, typer.Option(help="Folder to write, new or empty.")],
    size: Annotated[int | None, typer.Option(help="Examples per split; default: the paper's sizes.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Write tasks as a Hugging Face data set.

    `load_dataset(DIR, "TASK-VARIANT")` opens it.
    """
    import time

    from anchorbench.files import visible
    from anchorbench.hub.datasets import TOKENIZER, Built
    from anchorbench.hub.datasets import build as build_data

    start = time.perf_counter()

    def show(what: str, built: list[Built], more: str = "") -> None:
        rows, size = sum(b.rows for b in built), sum(b.parquet_bytes for b in built)
        typer.echo(f"{what:<40} {rows:>10,} rows {size / 1000:>9,.0f} kB{more}")

    built = build_data(task, out, size=size, seed=seed, report=lambda b: show(b.task.full_name, [b]))
    show(f"{len(built)} in all", built, f", in {time.perf_counter() - start:.1f} s: {visible(out)}")
    if not (out / TOKENIZER[0]).exists():
        example = out / built[0].task.full_name
        typer.echo(
            f'Their vocabularies differ, so that each has its own tokenizer: AutoTokenizer.from_pretrained("{visible(example)}")'
        )


@app.command()
def verify(folder: Annotated[Path, typer.Argument(help="Folder of a dataset, of any origin.")]) -> None:
    """Compute every label and split of a data set again.

    Foils and groups as well; the first wrong row is named.
    """
    from anchorbench.files import visible
    from anchorbench.hub.datasets import verify as verify_data

    manifests = verify_data(folder)
    rows, configurations = sum(sum(manifest.examples.values()) for manifest in manifests), len(manifests)
    sentence = f"{visible(folder)}: all {rows:,} rows of {configurations} config{'s' * (configurations > 1)} are correct"
    typer.echo(sentence)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="Folder of a dataset.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be uploaded.")] = False,
) -> None:
    """Verify a dataset, then upload it to the Hugging Face Hub."""
    from anchorbench.files import visible
    from anchorbench.hub.datasets import push as push_data
    from anchorbench.hub.datasets import uploads
    from anchorbench.hub.upload import require_repo

    require_repo(repo)
    if not dry_run:
        typer.echo(f"uploaded: {visible(push_data(folder, repo))}")
        return
    files = uploads(folder)
    for file in files:
        typer.echo(f"{file.stat().st_size:>14,}  {file.relative_to(folder)}")
    total = sum(file.stat().st_size for file in files)
    typer.echo(f"{total:>14,}  bytes in {len(files)} files would be uploaded to {visible(repo)}; nothing was")

"""What `anchorbench probe validate` and `anchorbench probe fit` print and write."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from anchorbench.files import require_place, visible, write_atomically
from anchorbench.inspect.validation import STATED_NOISE, Trial, fit, observe, validate
from anchorbench.sweeps.run_folder import Run, read_run


def run_trial(trial: Trial, out: Path, json_file: Path | None) -> None:
    """Validates with runs in `out`, prints the shares and the disagreements, and writes all figures to `json_file`."""
    if json_file is not None:
        require_place(json_file, "--json")
    found = validate(out, typer.echo, trial)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("evaluation", "share", "95% interval", "n"):
        table.add_column(header, justify="left" if header == "evaluation" else "right")
    for words, figure in _rows(found):
        if figure is not None:
            table.add_row(words, f"{figure['value']:.3f}", f"{figure['low']:.3f} to {figure['high']:.3f}", f"{figure['n']:.0f}")
    Console(markup=False, highlight=False).print(table)
    listed = found["disagreements"]
    typer.echo(f"{len(listed)} disagreements{':' if listed else ''}")
    for row in listed:
        typer.echo(
            f"{row['run_id']}  {row['norm']}-LN, {row['n_layer']} layers, gamma {row['gamma']:g}, seed {row['seed']}: "
            f"{row['behaviour']} ({row['inferential']:.2f} composed), probability of inferring {row['probability']:.2f}"
        )
    if json_file is not None:
        write_atomically(json_file, (json.dumps(_plain(found), indent=1) + "\n").encode())


def _rows(found: dict[str, Any]) -> list[tuple[str, dict[str, float] | None]]:
    exception = found.get("exception", {})
    return [
        (f"planted circuits classified correctly, noise up to {STATED_NOISE}", found["planted_accuracy"]),
        ("planted circuits misclassified, any noise", found["planted_wrong"]),
        ("underfit (untrained, shuffled labels): undecided, by the accuracy gate", found["null_undecided"]),
        ("held-out recipes: verdict agrees", found["heldout_agreement"]),
        ("    verdict is the opposite", found["heldout_opposite"]),
        ("    AUROC", found["heldout_auroc"]),
        ("    AUROC of the recipe alone", found.get("baseline_auroc")),
        ("    agreement of the recipe alone", found.get("baseline_agreement")),
        ("pairs of runs of one recipe: right order", found.get("within_recipe")),
        ("    pre-LN only", found.get("within_recipe_pre_norm")),
        ("trained exception: verdict agrees", exception.get("heldout_agreement")),
        ("    AUROC", exception.get("heldout_auroc")),
        *((f"AUROC after {row['fraction']:.0%} of training", row["auroc"]) for row in found.get("early", [])),
    ]


def _plain(value: Any) -> Any:
    """`value` with non-finite numbers replaced by null, as JSON has neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def fit_and_show(folders: Sequence[Path], out: Path) -> None:
    """Runs `anchorbench probe fit`. Raises ValueError if a folder holds no finished runs, or all runs behave alike."""
    require_place(out, "--out")
    runs: list[Run] = []
    for folder in folders:
        found = [read_run(path.parent) for path in sorted((folder / "runs").glob("[!.]*/digests.json"))]
        if not found:
            raise ValueError(f"folder {folder} holds no finished runs; allowed: the output folder of a sweep")
        runs += found
    classifier = fit(observe(runs))
    write_atomically(out, (classifier.model_dump_json(indent=1) + "\n").encode())
    asked = f" (and {classifier.exception.runs} with a trained exception)" if classifier.exception else ""
    fitted = f"fitted on {classifier.composition.runs} runs{asked} with clear behaviour, of {len(runs)}"
    typer.echo(f"{fitted}: {visible(out)}")

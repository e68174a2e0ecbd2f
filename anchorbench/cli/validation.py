"""What `anchorbench probe validate` and `anchorbench probe fit` print and write."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from anchorbench.files import require_place, visible, write_atomically
from anchorbench.inspect.validation import Trial, fit, read_runs, validate
from anchorbench.show.calibration import calibration_figure
from anchorbench.show.canvas import FORMATS
from anchorbench.sweeps.run_folder import Run, read_run

WORST = 10
"""Cases listed."""


def run_trial(trial: Trial, out: Path, json_file: Path | None, figure: Path | None = None) -> None:
    """Validates with runs in `out`, prints a row per holdout and the worst cases, writes all numbers to `json_file`, and draws."""
    if json_file is not None:
        require_place(json_file, "--json")
    if figure is not None:
        require_place(figure, "--figures", [f".{kind}" for kind in FORMATS])
    found = validate(out, typer.echo, trial)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="fitted models; 95% intervals over recipes", title_justify="left")
    for header in ("holdout", "n", "abstains", "coverage", "error", "error of guess", "skill", "rank"):
        table.add_column(header, justify="left" if header == "holdout" else "right")
    grades = found["holdouts"] | {name: found[name] for name in ("pre", "post", "early", "all")}
    for name, each in grades.items():
        figures = [_cell(each.get(key)) for key in ("coverage", "error", "guess_error", "skill", "rank_within")]
        table.add_row(name, str(each["fitted"]), str(each["abstained"]), *figures)
    console = Console(markup=False, highlight=False)
    console.print(table)
    for name, each in found["without_rule"].items():
        told = f"{each['fooled']['value']:.2f} of {each['fooled']['n']} fool it; the largest forecast is {each['largest']:.2f}"
        typer.echo(f"{name}: {told}")
    planted, controls = found["planted_covered"], found["controls"]
    typer.echo(f"planted circuits: {planted['value']:.2f} of {planted['n']} are covered")
    typer.echo("recombined: " + ", ".join(f"{name} {share:.2f}" for name, share in controls.items()))
    typer.echo(f"a trained exception: error of the share that repeats it on its mirror {_cell(found['exception'])}")
    typer.echo("worst cases:")
    for row in worst(found["rows"]):
        typer.echo(
            f"  {row['run']}  {row['holdout']}: composes {row['composed']:.2f}, forecast {row['forecast']:.2f}"
            f" ({row['low']:.2f} to {row['high']:.2f}), fidelity {row['fidelity']:.2f}, sites differ by {row['disagreement']:.2f}"
        )
    if json_file is not None:
        write_atomically(json_file, (json.dumps(_plain(found), indent=1) + "\n").encode())
    if figure is not None:
        calibration_figure(found["rows"], figure)


def worst(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The graded rows with the largest errors."""
    graded = [row for row in rows if row["fits"] and row["forecast"] is not None]
    return sorted(graded, key=lambda row: -abs(row["forecast"] - row["composed"]))[:WORST]


def _cell(figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return "-"
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"


def _plain(value: Any) -> Any:
    """`value` with non-finite numbers replaced by null, as JSON has neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def fit_and_show(folders: Sequence[Path], out: Path) -> None:
    """Runs `anchorbench probe fit`. Raises ValueError if a folder holds no finished runs, or too few have a forecast."""
    require_place(out, "--out")
    runs: list[Run] = []
    for folder in folders:
        found = [read_run(path.parent) for path in sorted((folder / "runs").glob("[!.]*/digests.json"))]
        if not found:
            raise ValueError(f"folder {folder} holds no finished runs; allowed: the output folder of a sweep")
        runs += found
    widths = fit(read_runs("fit", runs))
    write_atomically(out, (widths.model_dump_json(indent=1) + "\n").encode())
    typer.echo(f"fitted on {widths.runs} runs that fit, of {len(runs)}: {visible(out)}")

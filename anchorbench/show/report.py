"""A self-contained HTML page per sweep: a phase diagram over any two axes, with a third as small multiples; trajectories;
deviations of held-out answers; and attention flow and probes of the clearest runs.
"""

import base64
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anchorbench.files import require_place
from anchorbench.probes import Score, list_probes
from anchorbench.show.canvas import draw_all
from anchorbench.show.examine import examine, forecast_in_words
from anchorbench.show.figures import attention_flow_figure
from anchorbench.show.html import write_page
from anchorbench.sweeps.run_folder import DamagedRunError, Run, read_run
from anchorbench.sweeps.summary import Condition, clearest, conditions

FARTHEST = 15
"""Deviations beyond this are pooled."""


@dataclass(frozen=True)
class Cell:
    """The runs in one cell of a phase diagram; `column` and `row` count from the lower left."""

    column: int
    row: int
    verdicts: list[tuple[str, int]]
    """(verdict, count), most frequent first."""
    inferential: float | None
    """Mean share of held-out answers that follow composition."""

    @property
    def members(self) -> int:
        return sum(count for _, count in self.verdicts)

    @property
    def majority(self) -> float:
        return self.verdicts[0][1] / self.members

    @property
    def words(self) -> str:
        return ", ".join(f"{count} {verdict}" for verdict, count in self.verdicts)


@dataclass(frozen=True)
class Panel:
    """A phase diagram at one value of the third axis."""

    title: str
    cells: list[Cell]


@dataclass(frozen=True)
class Line:
    """A run's held-out share over training: (position on the logarithmic step axis in [0, 1], share)."""

    verdict: str
    seed: int
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Group:
    """The runs at one value of the first axis: their trajectories, and how often each deviation occurs."""

    title: str
    lines: list[Line]
    bars: list[tuple[int, float]]
    """(deviation, share of all held-out answers), for -FARTHEST..FARTHEST."""
    beyond: float


@dataclass(frozen=True)
class Member:
    """A run whose internals are shown."""

    name: str
    verdict: str
    forecast: str


@dataclass(frozen=True)
class ProbeRow:
    """A probe's score for each run shown; None where the probe does not apply."""

    probe: str
    score: str
    found: list[Score | None]


def report(
    folder: Path, out: Path | None = None, *, x: str | None = None, y: str | None = None, panels: str | None = None
) -> tuple[Path, list[str]]:
    """Writes the page of the sweep in `folder` to `out` (default: `folder/report.html`). Returns its path, and one message per
    damaged run or failed figure that was left out.

    `x`, `y` and `panels` are axes of the sweep by dotted path; unspecified ones are chosen among the varying axes, gamma
    first. Runs that differ only in other axes share a cell. Raises ValueError for a folder without finished runs, an axis that
    does not vary or is given twice, and a file that cannot be written.
    """
    runs, problems = _read(folder)
    out = folder / "report.html" if out is None else out
    require_place(out, "--out")
    grouped = conditions(runs)
    varying = sorted(_varying(grouped), key=lambda path: path != "init.gamma")
    for path in (x, y, panels):
        if path is not None and path not in varying:
            raise ValueError(f"axis is {path!r}; allowed: {', '.join(varying) or 'none, as the sweep varies only seeds'}")
    given = [path for path in (x, y, panels) if path is not None]
    if len(set(given)) < len(given):
        raise ValueError(f"axes are {', '.join(given)}; allowed: each axis once")
    left = [path for path in varying if path not in (x, y, panels)]
    chosen = [path if path is not None else left.pop(0) if left else None for path in (x, y, panels)]
    x, y, panels = chosen
    columns, rows = _values(grouped, x), _values(grouped, y)
    steps = [point["step"] for run in runs for point in run.trajectory()]
    shown = clearest(runs)
    shown_members, probe_rows = _probes(shown)
    picture, undrawn = _attention_flow(shown)
    page = write_page(
        "report.html",
        out,
        task=" and ".join(dict.fromkeys(f"{run.result.task}, {run.result.variant}" for run in runs)),
        x=x,
        y=y,
        third=panels,
        pooled=left,
        columns=[_word(value) for value in columns],
        rows=[_word(value) for value in rows],
        panels=[
            Panel(
                "" if panels is None else f"{panels} {_word(value)}",
                _cells([each for each in grouped if _value(each, panels) == value], x, y, columns, rows),
            )
            for value in _values(grouped, panels)
        ],
        groups=[
            _group(
                "all runs" if x is None else f"{x} {_word(value)}",
                [run for each in grouped if _value(each, x) == value for run in each.runs],
                min(steps),
                max(steps),
            )
            for value in columns
        ],
        first_step=min(steps),
        last_step=max(steps),
        conditions=grouped,
        varying=varying,
        members=len(runs),
        picture=picture,
        shown_members=shown_members,
        probe_rows=probe_rows,
        verdicts=list(dict.fromkeys(str(run.result.verdict) for run in runs)),
        farthest=FARTHEST,
    )
    return page, problems + undrawn


def _read(folder: Path) -> tuple[list[Run], list[str]]:
    runs: list[Run] = []
    problems: list[str] = []
    for path in sorted((folder / "runs").glob("[!.]*")):
        try:
            runs.append(read_run(path))
        except DamagedRunError as problem:
            problems.append(str(problem))
    if not runs:
        raise ValueError(f"{folder} holds no finished run; allowed: the output folder of a sweep")
    return runs, problems


def _attention_flow(shown: list[Run]) -> tuple[str | None, list[str]]:
    """The attention-flow figure of the runs as base64, if there are runs and it can be drawn; and a message for each failure."""
    if not shown:
        return None, []
    with tempfile.TemporaryDirectory() as temporary:
        drawn, problems = draw_all(lambda path: attention_flow_figure(shown, path), [Path(temporary) / "attention_flow.png"])
        return next((base64.b64encode(path.read_bytes()).decode() for path in drawn), None), problems


def _probes(shown: list[Run]) -> tuple[list[Member], list[ProbeRow]]:
    """Runs every probe on the runs: some probes apply to one run but not another, and none is read on an underfit run."""
    examined = [examine(str(run.path)) for run in shown]
    members = [
        Member(
            f"gamma {run.recipe.init.gamma:g}, {run.recipe.model.norm}-LN, seed {run.recipe.seed}",
            str(run.result.verdict),
            forecast_in_words(each.forecast),
        )
        for run, each in zip(shown, examined, strict=True)
    ]
    rows: list[ProbeRow] = []
    for probe in list_probes():
        found = [each.probes if isinstance(each.probes, str) else each.probes[probe] for each in examined]
        scores = [{} if isinstance(each, str) else each.scores() for each in found]
        names = dict.fromkeys(name for each in scores for name in each)
        rows += [ProbeRow(probe, name, [each.get(name) for each in scores]) for name in names]
    return members, rows


def _varying(grouped: Sequence[Condition]) -> list[str]:
    return [path for path in grouped[0].axes if len(_values(grouped, path)) > 1]


def _value(condition: Condition, path: str | None) -> Any:
    return None if path is None else condition.axes[path]


def _values(grouped: Sequence[Condition], path: str | None) -> list[Any]:
    """The axis's distinct values: numbers sorted, others in order of appearance."""
    values = [_value(condition, path) for condition in grouped]
    distinct = [value for i, value in enumerate(values) if value not in values[:i]]  # values may be lists
    numbers = all(isinstance(value, int | float) for value in distinct)
    return sorted(distinct) if numbers else distinct


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else "" if value is None else str(value)


def _cells(grouped: list[Condition], x: str | None, y: str | None, columns: list[Any], rows: list[Any]) -> list[Cell]:
    found: list[Cell] = []
    for row, low in enumerate(rows):
        for column, left in enumerate(columns):
            here = [each for each in grouped if _value(each, x) == left and _value(each, y) == low]
            runs = [run for each in here for run in each.runs]
            if runs:
                counted = Counter(str(run.result.verdict) for run in runs).most_common()
                shares = [run.result.inferential for run in runs if run.result.inferential is not None]
                found.append(Cell(column, row, counted, float(np.mean(shares)) if shares else None))
    return found


def _group(title: str, runs: list[Run], first: int, last: int) -> Group:
    lines: list[Line] = []
    deviations: Counter[int] = Counter()
    for run in runs:
        points = [(point["step"], point["inferential"]) for point in run.trajectory() if point["inferential"] is not None]
        places = [(float(np.log(step / first) / np.log(max(last / first, 1.001))), float(share)) for step, share in points]
        lines.append(Line(str(run.result.verdict), run.recipe.seed, places))
        deviations.update(run.result.deviations)
    total = max(1, deviations.total())
    bars = [(value, deviations[value] / total) for value in range(-FARTHEST, FARTHEST + 1)]
    return Group(title, lines, bars, sum(count for value, count in deviations.items() if abs(value) > FARTHEST) / total)

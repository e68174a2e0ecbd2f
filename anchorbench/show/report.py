"""The page of a sweep, finished or in training: phase diagram over any two axes, trajectories, what held-out answers are,
attention, probes and every run in a table, in one file that needs no network.

Python gathers and counts; the page's script draws the charts of the runs that its table shows.
"""

import base64
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anchorbench.files import require_place, write_atomically
from anchorbench.probes import Score, list_probes
from anchorbench.recipe import SEEDS, Recipe, flatten
from anchorbench.show.answers import COMPOSED, ELSE, deviation_names
from anchorbench.show.canvas import draw_all
from anchorbench.show.charts import IN_TRAINING, NO_VERDICT, charts, runtime
from anchorbench.show.circuits import Flow, flow_of, most_different
from anchorbench.show.examine import examine, forecast_in_words
from anchorbench.show.facts import facts, recipe_yaml
from anchorbench.show.flow import attention_flow_figure
from anchorbench.show.html import ours, render
from anchorbench.show.scores import Meaning, beyond_control, meaning
from anchorbench.show.source import Training, gather
from anchorbench.sweeps.run_folder import DamagedRunError, Run
from anchorbench.sweeps.summary import Condition, conditions

MAX_RUNS = 1000
"""Runs in the table, and with trajectories; a larger sweep shows as many of every condition. The phase diagram has all."""
MAX_FLOWS = 200
"""Runs whose attention is read."""
MAX_BYTES = 3_000_000
ANSWERS = 8
"""Kinds of held-out answers told apart per run."""


@dataclass(frozen=True)
class Row:
    """A run in the table."""

    run_id: str
    axes: list[Any]
    """Its value on each swept axis."""
    seed: int | None
    verdict: str
    step: int | None
    """The last step known of a run in training; None for a finished one."""
    so_far: str
    """The verdict at its last evaluation."""
    shares: list[float | None]
    """See SHARES."""
    forecast: tuple[float, float, float] | None
    """Forecast share of held-out answers that compose, with its 90% interval."""
    seconds: float | None


SHARES = {"accuracy_train": "Train", "accuracy_iid": "Iid", "inferential": "Composed", "symmetric": "As the exception"}
"""Column of `Run.row` -> header."""


@dataclass(frozen=True)
class Member:
    """A run whose internals are shown."""

    name: str
    verdict: str
    forecast: str


@dataclass(frozen=True)
class Found:
    """A probe's score for one run, and on which side of its control the whole interval lies."""

    score: Score
    beyond: str


@dataclass(frozen=True)
class ProbeRow:
    """A probe's score for each run shown; None where the probe does not apply."""

    probe: str
    score: str
    meaning: Meaning | None
    found: list[Found | None]


@dataclass
class Known:
    """What was read of models: a page that is written again need not read it again."""

    flows: dict[str, Flow | None] = field(default_factory=dict)
    """By run id."""
    pictures: dict[tuple[str, ...], tuple[str | None, list[str]]] = field(default_factory=dict)
    """By ids of the runs shown."""


def report(
    folder: Path,
    out: Path | None = None,
    *,
    x: str | None = None,
    y: str | None = None,
    arguments: Sequence[str] = (),
) -> tuple[Path, list[str]]:
    """Writes the page of the sweep in `folder` to `out` (default: `folder/report.html`). Returns its path, and one message per
    damaged run or failed figure that was left out.

    `x` and `y` are the axes of the phase diagram at first, as dotted paths; unspecified ones are chosen among the varying axes,
    gamma first. `arguments` are the command's, for the page's head. Raises ValueError for a folder that holds no sweep, an axis
    that does not vary or is given twice, a file that cannot be written, and a page of more than MAX_BYTES.
    """
    out = folder / "report.html" if out is None else out
    require_place(out, "--out")
    content, problems = page(folder, x=x, y=y, arguments=arguments, csv=(folder / "results.csv").exists() and out.parent == folder)
    if len(content) > MAX_BYTES:
        raise ValueError(f"the page has {len(content)} bytes; allowed: at most {MAX_BYTES}")
    write_atomically(out, content)
    return out, problems


def page(
    folder: Path,
    *,
    x: str | None = None,
    y: str | None = None,
    arguments: Sequence[str] = (),
    csv: bool = False,
    known: Known | None = None,
    live: str = "",
) -> tuple[bytes, list[str]]:
    """The page as bytes, and messages as `report` returns; `csv` says that `results.csv` lies beside it.

    A `live` page asks its server whether the folder's version is still this one, and reads no probes, which take seconds.
    """
    gathered = gather(folder)
    runs, problems = gathered.finished, list(gathered.problems)
    known = known or Known()
    grouped = conditions(runs)
    recipes = [run.recipe for run in runs] + [run.recipe for run in gathered.training if run.recipe is not None]
    axes = _axes(recipes)
    varying = list(axes)
    x, y = _chosen(x, y, varying)
    shown = _thinned(grouped)
    pair = most_different(runs, known.flows)
    ids = tuple(run.result.run_id for run in pair)
    if ids not in known.pictures:
        known.pictures[ids] = _attention_flow(pair)
    picture, undrawn = known.pictures[ids]
    members, probe_rows = ([], []) if live else _probes(pair)  # reads forecasts, which rows show
    rows = [_row(run, varying) for run in shown] + [_training_row(run, varying) for run in gathered.training]
    used = [at for at in range(len(SHARES)) if any(row.shares[at] is not None for row in rows)]
    trajectories, damaged = _trajectories(shown, gathered.training)
    names = [f"{run.result.task}, {run.result.variant}" for run in runs] or [
        f"{each.task}, {each.load_task().variant}" for each in recipes
    ]
    content = render(
        "report.html",
        scripts=[runtime(), ours("report.js")],
        data={
            "charts": {"light": charts(dark=False), "dark": charts(dark=True)},
            "axes": {path: [_word(value) for value in values] for path, values in axes.items()},
            "x": x,
            "y": y,
            "version": live,
            "conditions": [_condition(each, axes) for each in grouped],
            "runs": [[row.run_id, row.verdict] for row in rows],
            "trajectories": trajectories,
            "answers": _answers(shown),
            "attention": _attention(shown, known),
        },
        live=bool(live),
        task=" and ".join(dict.fromkeys(names)) or folder.name,
        members=len(runs),
        planned=gathered.planned,
        training=len(gathered.training),
        rows=rows,
        left_out=len(runs) - len(shown),
        varying=varying,
        headers=[list(SHARES.values())[at] for at in used],
        used=used,
        verdicts=Counter(_verdict(run) for run in runs).most_common(),
        chance=_chance(runs),
        facts=facts(folder, runs, arguments or ["report", folder.name]) if runs else [],
        recipe=recipe_yaml([run.recipe for run in shown] + recipes[len(runs) :]) if recipes else "",
        csv=csv,
        picture=picture,
        shown_members=members,
        probe_rows=probe_rows,
    )
    return content, problems + undrawn + damaged


def _chosen(x: str | None, y: str | None, varying: list[str]) -> tuple[str | None, str | None]:
    """The axes of the phase diagram. Raises ValueError for one that does not vary, or is given twice."""
    for path in (x, y):
        if path is not None and path not in varying:
            raise ValueError(f"axis is {path!r}; allowed: {', '.join(varying) or 'none, as the sweep varies only seeds'}")
    if x is not None and x == y:
        raise ValueError(f"axes are {x}, {y}; allowed: each axis once")
    left = [path for path in varying if path not in (x, y)]
    x = x if x is not None else left.pop(0) if left else None
    return x, y if y is not None else left.pop(0) if left else None


def _axes(recipes: Sequence[Recipe]) -> dict[str, list[Any]]:
    """The fields other than seeds in which recipes differ, gamma first, with their values: numbers sorted, others as they come."""
    flat = [flatten(recipe.model_dump()) for recipe in recipes]
    found: dict[str, list[Any]] = {}
    for path in dict.fromkeys(path for fields in flat for path in fields if path not in SEEDS):
        distinct = list({repr(value): value for fields in flat for value in [fields.get(path)]}.values())  # values may be lists
        if len(distinct) > 1:
            numbers = all(isinstance(value, int | float) for value in distinct)
            found[path] = sorted(distinct) if numbers else distinct
    return dict(sorted(found.items(), key=lambda axis: axis[0] != "init.gamma"))


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else "" if value is None else str(value)


def _thinned(grouped: Sequence[Condition]) -> list[Run]:
    """The runs to show one by one, in the order of the conditions: all, or as many of each condition as fit."""
    each = max([1, MAX_RUNS // len(grouped)]) if grouped else 0
    total = sum(len(condition.runs) for condition in grouped)
    ordered = [sorted(condition.runs, key=lambda run: run.recipe.seed) for condition in grouped]
    chosen = [run for members in ordered for run in (members if total <= MAX_RUNS else members[:each])]
    return chosen[:: -(-len(chosen) // MAX_RUNS)] if chosen else []


def _verdict(run: Run) -> str:
    return run.result.verdict or NO_VERDICT


def _chance(runs: Sequence[Run]) -> float | None:
    return runs[0].recipe.load_task().chance if runs else None


def _row(run: Run, varying: list[str]) -> Row:
    fields, measured, read = flatten(run.recipe.model_dump()), run.row(), run.forecast()
    share = read["forecast_share"]
    return Row(
        run_id=run.result.run_id,
        axes=[fields.get(path) for path in varying],
        seed=run.recipe.seed,
        verdict=_verdict(run),
        step=None,
        so_far="",
        shares=[measured[name] for name in SHARES],
        forecast=None if share is None else (share, read["forecast_low"] or 0.0, read["forecast_high"] or 1.0),
        seconds=run.result.seconds,
    )


def _training_row(run: Training, varying: list[str]) -> Row:
    fields = {} if run.recipe is None else flatten(run.recipe.model_dump())
    last = run.trajectory[-1].model_dump() if run.trajectory else {}
    return Row(
        run_id=run.run_id,
        axes=[fields.get(path) for path in varying],
        seed=None if run.recipe is None else run.recipe.seed,
        verdict=IN_TRAINING,
        step=run.step,
        so_far=last.get("verdict") or "",
        shares=[last.get(name) for name in SHARES],
        forecast=None,
        seconds=None,
    )


def _condition(each: Condition, axes: dict[str, list[Any]]) -> list[Any]:
    """Indices of its values on the axes; verdicts and their counts; sum and number of the shares shown; ids of its runs."""
    shares = [run.result.inferential if run.result.inferential is not None else run.result.accuracy_iid.value for run in each.runs]
    fields = flatten(each.runs[0].recipe.model_dump())
    places = [list(map(repr, values)).index(repr(fields.get(path))) for path, values in axes.items()]
    counted = Counter(_verdict(run) for run in each.runs)
    return [places, dict(counted), round(sum(shares), 3), len(shares), [run.result.run_id for run in each.runs]]


def _trajectories(shown: Sequence[Run], training: Sequence[Training]) -> tuple[dict[str, Any], list[str]]:
    """Per run [number of its list of steps, train, iid, held-out (in thousandths), loss]; and messages about damaged files."""
    problems: list[str] = []
    grids: dict[tuple[int, ...], int] = {}
    lines: list[list[Any] | None] = []

    def line(points: list[dict[str, Any]]) -> list[Any]:
        steps = tuple(int(point["step"]) for point in points)
        names = ("accuracy_train", "accuracy_iid", "inferential")
        shares = [[None if point[name] is None else round(1000 * point[name]) for point in points] for name in names]
        if all(share is None for share in shares[2]):  # nothing is held out
            shares[2] = []
        losses = [None if point["loss"] is None else float(f"{point['loss']:.3g}") for point in points]
        return [grids.setdefault(steps, len(grids)), *shares, losses]

    for run in shown:
        try:
            lines.append(line(run.trajectory()))
        except DamagedRunError as problem:
            problems.append(str(problem))
            lines.append(None)
    lines += [line([point.model_dump() for point in run.trajectory]) for run in training]
    return {"steps": list(map(list, grids)), "lines": lines}, problems


def _answers(shown: Sequence[Run]) -> dict[str, Any]:
    """What held-out answers are: names, and per run pairs of [number of the name, count], the most frequent first."""
    by_task: dict[str, dict[int, str]] = {}
    names: dict[str, int] = {COMPOSED: 0, ELSE: 1}
    counts: list[list[list[int]]] = []
    for run in shown:
        fingerprint = run.result.task_fingerprint
        if fingerprint not in by_task:
            by_task[fingerprint] = deviation_names(run.recipe.load_task()) if run.result.deviations else {}
        counted: Counter[int] = Counter()
        for deviation, count in Counter(run.result.deviations).most_common():
            words = by_task[fingerprint].get(deviation)
            is_told = words is not None and len(counted) < ANSWERS
            counted[names.setdefault(words, len(names)) if is_told and words is not None else names[ELSE]] += count
        counts.append([list(pair) for pair in counted.most_common()])
    return {"names": list(names), "counts": counts}


def _attention(shown: Sequence[Run], known: Known) -> dict[str, Any] | None:
    """Attention averaged over sequences, in hundredths, per run, if these have the same layers, readers and sources."""
    read = shown[:: -(-len(shown) // MAX_FLOWS)] if shown else []
    for run in read:
        if run.result.run_id not in known.flows:
            known.flows[run.result.run_id] = flow_of(run)
    found = {run.result.run_id: flow for run in shown if (flow := known.flows.get(run.result.run_id)) is not None}
    first = next(iter(found.values()), None)
    if first is None:
        return None
    same = {
        run_id: np.rint(100 * flow.share).astype(int).ravel().tolist()
        for run_id, flow in found.items()
        if flow.share.shape == first.share.shape and flow.readers == first.readers
    }
    return {"readers": first.readers, "sources": first.sources, "layers": len(first.share), "runs": same}


def _attention_flow(shown: list[Run]) -> tuple[str | None, list[str]]:
    """The attention-flow figure of the runs as base64, if there are runs and it can be drawn; and a message for each failure."""
    if not shown:
        return None, []
    with tempfile.TemporaryDirectory() as temporary:
        drawn, problems = draw_all(lambda path: attention_flow_figure(shown, path), [Path(temporary) / "attention_flow.svg"])
        return next((base64.b64encode(path.read_bytes()).decode() for path in drawn), None), problems


def _probes(shown: list[Run]) -> tuple[list[Member], list[ProbeRow]]:
    """Runs every probe on the runs: some probes apply to one run but not another, and none is read on an underfit run."""
    examined = [examine(str(run.path)) for run in shown]
    members = [
        Member(
            f"gamma {run.recipe.init.gamma:g}, {run.recipe.model.norm}-LN, seed {run.recipe.seed}",
            _verdict(run),
            forecast_in_words(each.forecast),
        )
        for run, each in zip(shown, examined, strict=True)
    ]
    rows: list[ProbeRow] = []
    for probe in list_probes():
        found = [each.probes if isinstance(each.probes, str) else each.probes[probe] for each in examined]
        scores = [{} if isinstance(each, str) else each.scores() for each in found]
        for name in dict.fromkeys(name for each in scores for name in each):
            cells = [None if name not in each else Found(each[name], beyond_control(each[name])) for each in scores]
            rows.append(ProbeRow(probe, name, meaning(probe, name), cells))
    return members, rows

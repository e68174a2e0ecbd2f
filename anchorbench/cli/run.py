"""`anchorbench run`: options become a sweep, which is trained with live progress; then table and figures are shown."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from anchorbench.cli.costs import bytes_on_disk, costs
from anchorbench.cli.plan import duration, parse_axis, require_steps
from anchorbench.cli.progress import ProgressLines
from anchorbench.files import visible
from anchorbench.recipe import Recipe
from anchorbench.show.canvas import draw_all
from anchorbench.sweeps import make
from anchorbench.sweeps.failures import FailedStacksError
from anchorbench.sweeps.folder import MAX_FOLDERS
from anchorbench.sweeps.plan import Cut, PlanInUseError, stacks, write_plan
from anchorbench.sweeps.run_folder import Run, load_results
from anchorbench.sweeps.runner import Progress as Event
from anchorbench.sweeps.runner import Sweep, SweepFolder, run_sweep
from anchorbench.sweeps.summary import Condition, Mean, conditions
from anchorbench.sweeps.tracking import Tracking
from anchorbench.train.execution import Execution

SHOWN = 40
"""Rows of the table of a sweep that is stored by stack."""
LONG = 5_000
"""Steps, summed over runs, from which on a sweep says beforehand what it takes: fewer take seconds."""


def make_sweep(*, gamma: str | None, norm: str | None, axes: Sequence[str] = (), **options: Any) -> Sweep:
    """The sweep that the command-line options describe. Raises ValueError with one sentence for an invalid value."""
    parsed: dict[str, tuple[Any, ...]] = {}
    for path, values in map(parse_axis, axes):
        if path in parsed:
            raise ValueError(f"axis {path} is given twice; allowed: once")
        parsed[path] = values
    return make.make_sweep(
        gamma=None if gamma is None else [_number(text) for text in gamma.split(",")],
        norm=None if norm is None else [text.strip() for text in norm.split(",")],
        axes=parsed,
        **options,
    )


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"gamma is {text.strip()!r}; allowed: finite numbers separated by commas, such as 0.5,0.7")
    return value


def run_and_show(
    sweep: Sweep,
    out: Path,
    how: Execution,
    figures: Sequence[str] = ("png",),
    cut: Cut | None = None,
    columns: int = 2,
    track: str | None = None,
) -> Sequence[Run]:
    """Trains the missing runs of the sweep in `out`, then prints the table and writes the figures, in these formats and
    as wide as so many columns of a paper.

    With `cut`, a plan is written first, unless workers are training by another; `track` is the name of a tracker. A figure that
    cannot be drawn gives one sentence at the end; the results are already written.
    """
    console = Console(markup=False)  # paths may contain brackets
    require_steps(sweep, how.keep_steps)
    tracking = None if track is None else Tracking(track, sweep, out, lambda line: console.print(visible(line), soft_wrap=True))
    folder = SweepFolder(out, sweep)
    if folder.by_stack:
        return _run_by_stack(sweep, folder, console, how, tracking)
    recipes = sweep.runs()
    finished, problems = folder.finished(recipes, how.keep_steps)
    start = time.perf_counter()
    if len(finished) == len(recipes):
        console.print(f"All {len(recipes)} runs are finished; nothing is trained.")
        runs = run_sweep(sweep, folder, how=how)
    else:
        if cut is not None:
            with suppress(PlanInUseError):
                write_plan(sweep, folder, cut)  # which removes damaged runs
                for problem in problems:
                    console.print(f"{visible(problem)}; it is retrained", soft_wrap=True, highlight=False)
        already = f", {len(finished)} of them finished" if finished else ""
        rounded = ", in bf16" if sweep.base.precision == "bf16" else ""
        console.print(f"{sweep.base.task}, variant {sweep.base.variant}: {len(recipes)} runs{already}{rounded}")
        if not finished and sum(recipe.steps for recipe in recipes) >= LONG:
            _say_costs(recipes, console, how)
        try:
            runs = _train_with_progress(sweep, folder, len(recipes) - len(finished), console, how, tracking)
        except FailedStacksError as failed:
            if failed.runs:
                show(failed.runs, console)
            raise
    show(runs, console)
    console.print(f"{time.perf_counter() - start:.0f} s. Results: {visible(out / 'results.jsonl')}", soft_wrap=True)
    _draw(runs, out, figures, columns, console)
    return runs


def _run_by_stack(sweep: Sweep, folder: SweepFolder, console: Console, how: Execution, tracking: Tracking | None) -> Sequence[Run]:
    """Trains a sweep of too many runs for a row or line each: by its plan, and with one table in the end."""
    start = time.perf_counter()
    count, done = len(sweep.numbers()), folder.ids(how.keep_steps)[0]
    finished = len(done & sweep.numbers().keys())
    told = "nothing is trained" if finished == count else f"{finished:,} of them finished"
    console.print(f"{sweep.base.task}, variant {sweep.base.variant}: {count:,} runs, {told}", highlight=False)
    runs = _train_with_progress(sweep, folder, count - finished, console, how, tracking)
    frame = load_results(folder.out)
    frame = frame[frame["run_id"].isin(list(sweep.numbers()))]  # others are from earlier calls with other axes
    columns = ("gamma", "runs", "seen", "iid", "composed", "verdicts")
    table = Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    groups: list[tuple[float, Any]] = list(frame.groupby("gamma"))  # pyright: ignore[reportAssignmentType] - keys of one column
    for gamma, rows in groups[:SHOWN]:
        means = (rows[name].astype(float).mean() for name in ("accuracy_seen", "accuracy_iid", "inferential"))
        verdicts = _counts(Counter(rows["verdict"].dropna()))
        table.add_row(f"{gamma:g}", f"{len(rows):,}", *("" if math.isnan(mean) else f"{mean:.2f}" for mean in means), verdicts)
    console.print(table)
    if len(groups) > SHOWN:
        console.print(f"and {len(groups) - SHOWN} more values of gamma", highlight=False)
    results = f"Results: anchorbench.load_results({str(folder.out)!r}); figures and a folder per run: of up to {MAX_FOLDERS:,} runs"
    console.print(f"{time.perf_counter() - start:.0f} s. {visible(results)}", soft_wrap=True, highlight=False)
    return runs


def _say_costs(recipes: list[Recipe], console: Console, how: Execution) -> None:
    """Prints what training them will take."""
    seconds = sum(cost.seconds for cost in costs(stacks(recipes, how.memory)))
    disk = bytes_on_disk(recipes, len(how.keep_steps)) / 1e6
    console.print(f"about {duration(seconds)} on this machine, and {disk:.1f} MB of disk; nothing is downloaded", highlight=False)


def _draw(runs: Sequence[Run], out: Path, formats: Sequence[str], columns: int, console: Console) -> None:
    from anchorbench.show.circuits import most_different
    from anchorbench.show.figures import phase_figure
    from anchorbench.show.flow import attention_flow_figure

    shown = most_different(runs)
    flows = [out / f"attention_flow.{kind}" for kind in formats]
    drawn, problems = draw_all(
        lambda path: phase_figure(list(runs), path, columns=columns), [out / f"phase.{kind}" for kind in formats]
    )
    if shown:
        drawn_too, problems_too = draw_all(lambda path: attention_flow_figure(shown, path, columns=columns), flows)
        drawn, problems = drawn + drawn_too, problems + problems_too
    else:
        for path in flows:  # from an earlier call
            with suppress(OSError):
                path.unlink()
    no_flow = "" if shown else "; no attention flow, as no run fits the seen pairs"
    console.print(f"Figures: {', '.join(map(visible, drawn)) or 'none'}{no_flow}", soft_wrap=True)
    for problem in problems:
        console.print(visible(problem), soft_wrap=True)


def _train_with_progress(
    sweep: Sweep, folder: SweepFolder, missing: int, console: Console, how: Execution, tracking: Tracking | None
) -> Sequence[Run]:
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    lines = ProgressLines(lambda line: console.print(line, soft_wrap=True, highlight=False), folder.out, missing * sweep.base.steps)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=missing)
        done = 0
        so_far: Counter[str] = Counter()

        def report(event: Event) -> None:
            nonlocal done
            if tracking is not None:
                tracking.report(event)
            if not console.is_terminal:
                lines.report(event)
            if event.message is not None:
                console.print(visible(event.message), soft_wrap=True)
                return
            if event.finished is None:
                bar.update(task, completed=done + len(event.recipes) * event.step / sweep.base.steps)
                return
            done += len(event.recipes)
            if folder.by_stack:
                bar.update(task, completed=done, description=f"{done:,} of {missing:,} runs")
                return
            so_far.update(run.result.verdict or "done" for run in event.finished)
            bar.update(task, description=f"{done} of {missing} members: {_counts(so_far)}")
            for condition in conditions(event.finished):
                where = f"{condition.others or condition.runs[0].recipe.model.norm + '-LN'}, gamma {condition.gamma:g}"
                composed = condition.mean("inferential")
                held_out = "" if composed is None else f", composed {composed.value:.2f}"
                seen = _cell(condition.mean("accuracy_seen"))
                console.print(
                    f"  [{done:>3}/{missing}] {where}: seen {seen}{held_out}; {_counts(condition.verdicts)}", highlight=False
                )

        try:
            return run_sweep(sweep, folder, report, how)
        finally:
            if tracking is not None:
                tracking.close()


def show(runs: Sequence[Run], console: Console) -> None:
    """Prints the sweep's table: one row per gamma, and one table per combination of the other axes."""
    grouped = conditions(runs)
    result = runs[0].result
    console.print(f"\n{result.task}, {result.variant}: means over seeds at the last step, 95% intervals", highlight=False)
    if any(condition.verdicts for condition in grouped):
        console.print("seen, iid: trained groups at trained and at unseen keys and positions", highlight=False)
        console.print("composed: of the held-out answers; agree: both orders get the same answer", highlight=False)
    for others in dict.fromkeys(condition.others for condition in grouped):
        console.print(_table(others, [condition for condition in grouped if condition.others == others]))


def _table(title: str, grouped: list[Condition]) -> Table:
    exception = any(condition.exceptions for condition in grouped)
    asks = any(condition.verdicts for condition in grouped)
    both = exception and any(run.result.composes for condition in grouped for run in condition.runs)
    lines = None if exception else box.SIMPLE_HEAD  # the columns of an exception leave no room for lines in 80 columns
    table = Table(title=title or None, title_justify="left", box=lines, padding=(0, 1, 0, 0), pad_edge=False)
    headers = ["gamma", "members", "seen", "iid"]
    if asks:
        headers += ["composed", *(["symmetric"] if exception and not both else []), "agree", "verdicts"]
        headers += ["exception"] if both else []
    for header in [*headers, "time"]:
        counts = header in ("verdicts", "exception")
        table.add_column(header, justify="left" if counts else "right", no_wrap=True)
    for condition in grouped:
        cells = [f"{condition.gamma:g}", str(len(condition.runs))]
        cells += [_cell(condition.mean(f"accuracy_{split}")) for split in ("seen", "iid")]
        if asks:
            cells.append(_cell(condition.mean("inferential"), interval=True))
            if exception and not both:
                cells.append(_cell(condition.mean("symmetric")))
            cells += [_cell(condition.mean("commutes")), _counts(condition.verdicts, "\n")]
        if both:
            cells.append(_counts(condition.exceptions, "\n"))
        table.add_row(*cells, f"{condition.seconds:.0f} s")
    return table


def _cell(mean: Mean | None, *, interval: bool = False) -> str:
    if mean is None:
        return "-"
    return f"{mean.value:.2f}" + (f" [{mean.low:.2f}, {mean.high:.2f}]" if interval else "")


def _counts(counted: Counter[str], separator: str = ", ") -> str:
    return separator.join(f"{count} {name}" for name, count in counted.most_common()) or "no verdict: nothing is held out"

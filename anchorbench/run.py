"""The main job: options become a sweep, the sweep is trained with live progress, and table and figures are shown."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from anchorbench.plan import parse_axis
from anchorbench.recipe import PRESETS
from anchorbench.store import Run
from anchorbench.summary import Condition, Mean, conditions
from anchorbench.sweep import Progress as Event
from anchorbench.sweep import Sweep, SweepFolder, run_sweep

PRECISIONS = ("auto", "fp32", "bf16")


GAMMAS = {
    "laptop": (0.34, 0.4, 0.45, 0.5, 0.6, 0.7),
    "paper-neurips": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "paper-pami": (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8),
}


def make_sweep(
    *,
    task: str,
    variant: str | None,
    preset: str,
    gamma: str | None,
    norm: str | None,
    seeds: int,
    steps: int | None,
    weight_decay: float | None,
    precision: str = "auto",
    axes: Sequence[str] = (),
) -> Sweep:
    """The sweep that command-line options describe. Raises ValueError with one sentence for a value that makes no sense."""
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; allowed: {', '.join(PRESETS)}")
    base = PRESETS[preset]
    fields: dict[str, object] = {"task": task}
    if task != base.task:
        fields |= {"task_config": {}, "variant": None}
    if variant is not None:
        fields["variant"] = variant
    if steps is not None:
        fields["steps"] = steps
        fields["optimizer.warmup"] = min(base.optimizer.warmup, steps // 4) if steps > 0 else 0
    if weight_decay is not None:
        fields["optimizer.weight_decay"] = weight_decay
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; allowed: {', '.join(PRECISIONS)}")
    from anchorbench.train import native_bf16

    fields["precision"] = precision if precision != "auto" else "bf16" if native_bf16() else "fp32"
    base = base.override(fields)
    loaded = base.load_task()
    base = base.override({"variant": loaded.variant})
    gammas = GAMMAS[preset] if gamma is None else tuple(_number(text) for text in gamma.split(","))
    norms = (base.model.norm,) if norm is None else tuple(text.strip() for text in norm.split(","))
    for name in norms:
        if name not in ("pre", "post"):
            raise ValueError(f"norm is {name!r}; allowed: pre, post, or pre,post")
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; allowed: at least 1")
    others = dict(map(parse_axis, axes))
    sweep = Sweep(base, {**others, "model.norm": norms, "init.gamma": gammas, "seed": tuple(range(seeds))})
    sweep.runs()
    return sweep


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"gamma is {text.strip()!r}; allowed: finite numbers separated by commas, such as 0.5,0.7")
    return value


def run_and_show(sweep: Sweep, out: Path, *, memory: float | None = None, keep_steps: Sequence[int] = ()) -> list[Run]:
    """Trains what is missing of the sweep in `out`, then prints the table and writes the figures."""
    console = Console(markup=False)  # paths may hold brackets
    folder = SweepFolder(out, sweep)
    recipes = sweep.runs()
    for step in keep_steps:
        if not 0 < step < sweep.base.steps:
            raise ValueError(f"keep-steps has {step}; allowed: steps between 1 and {sweep.base.steps - 1}")
    finished, _ = folder.finished(recipes, keep_steps)
    start = time.perf_counter()
    if len(finished) == len(recipes):
        console.print(f"All {len(recipes)} runs are finished; nothing is trained.")
        runs = run_sweep(sweep, folder, keep_steps=keep_steps)
    else:
        already = f", {len(finished)} of them finished" if finished else ""
        console.print(f"{sweep.base.task}, variant {sweep.base.variant}: {len(recipes)} runs{already}")
        if sweep.base.precision == "bf16":
            console.print(
                "Products in bf16, which this processor has; weights, moments and evaluation in fp32 (--precision fp32 for all)."
            )
        runs = _train_with_progress(sweep, folder, len(recipes) - len(finished), console, memory, keep_steps)
    show(runs, console)
    from anchorbench.plots import attention_flow_figure, clearest, phase_figure

    phase_figure(runs, out / "phase.png")
    shown = clearest(runs)
    if shown:
        attention_flow_figure(shown, out / "attention_flow.png")
    console.print(f"{time.perf_counter() - start:.0f} s. Results: {out / 'results.jsonl'}", soft_wrap=True)
    console.print(f"Figures: {out / 'phase.png'}" + (f", {out / 'attention_flow.png'}" if shown else ""), soft_wrap=True)
    return runs


def _train_with_progress(
    sweep: Sweep, folder: SweepFolder, missing: int, console: Console, memory: float | None, keep_steps: Sequence[int]
) -> list[Run]:
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=missing * sweep.base.steps)
        done = 0

        def report(event: Event) -> None:
            nonlocal done
            if event.message is not None:
                console.print(event.message)
            if event.finished is None:
                bar.update(task, completed=(done + len(event.recipes) * event.step / sweep.base.steps) * sweep.base.steps)
                return
            done += len(event.recipes)
            for condition in conditions(event.finished):
                where = f"{condition.others or condition.runs[0].recipe.model.norm + '-LN'}, gamma {condition.gamma:g}"
                composed = condition.mean("inferential")
                held_out = "" if composed is None else f", composed {composed.value:.2f}"
                seen = _cell(condition.mean("accuracy_iid"))
                console.print(
                    f"  [{done:>3}/{missing}] {where}: iid {seen}{held_out}; {_counts(condition.verdicts)}", highlight=False
                )

        return run_sweep(sweep, folder, report, memory=memory, keep_steps=keep_steps)


def show(runs: list[Run], console: Console) -> None:
    """Prints the sweep's table: a row a gamma, and a table for each combination of the other axes."""
    grouped = conditions(runs)
    result = runs[0].result
    console.print(f"\n{result.task}, {result.variant}: means over seeds at the last step, with 95% intervals", highlight=False)
    if any(condition.verdicts for condition in grouped):
        console.print(
            "composed: of the held-out answers; agree: both orders of a held-out pair get the same answer", highlight=False
        )
    for others in dict.fromkeys(condition.others for condition in grouped):
        console.print(_table(others, [condition for condition in grouped if condition.others == others]))


def _table(title: str, grouped: list[Condition]) -> Table:
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    exception = any(condition.exceptions for condition in grouped)
    asks = any(condition.verdicts for condition in grouped)
    both = exception and any(run.result.composes for condition in grouped for run in condition.runs)
    headers = ["gamma", "members", "train", "iid"]
    if asks:
        headers += ["composed", *(["symmetric"] if exception else []), "agree", "verdicts", *(["exception"] if both else [])]
    for header in [*headers, "time"]:
        counts = header in ("verdicts", "exception")
        table.add_column(header, justify="left" if counts else "right", no_wrap=True)
    for condition in grouped:
        cells = [f"{condition.gamma:g}", str(len(condition.runs))]
        cells += [_cell(condition.mean(f"accuracy_{split}")) for split in ("train", "iid")]
        if asks:
            cells.append(_cell(condition.mean("inferential"), interval=True))
            if exception:
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

"""`anchorbench sweep`: sweeps from YAML, planned before anything starts, or narrowed down to a boundary."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from anchorbench.cli.costs import TIMED_STEPS, bytes_on_disk, costs
from anchorbench.files import parse_yaml, read_yaml, visible, write_atomically
from anchorbench.presets import PRESETS
from anchorbench.recipe import SEEDS, flatten
from anchorbench.sweeps.folder import SweepFolder
from anchorbench.sweeps.grid import MAX_RUNS, Axes, Sweep
from anchorbench.sweeps.plan import Cut, Plan, cut_stacks, missing_runs, plan_path, write_plan
from anchorbench.sweeps.run_folder import Run, write_tables
from anchorbench.sweeps.runner import run_sweep

INFERS = {"inferential": True, "memorizing": False, "symmetric": False}
"""The two sides of a boundary; runs with other verdicts are undecided."""


def load_sweep(path: Path, axes: Sequence[str]) -> Sweep:
    """A sweep from a YAML file: `preset`, fields of a recipe that differ from it, `axes` and `blocks`; `axes` replace or add.

        preset: laptop
        optimizer: {weight_decay: 0.1}
        axes:
          init.gamma: [0.5, 0.7]
          zip: {model.d_model: [32, 64], model.d_ff: [64, 128]}         # paired: 32 with 64, and 64 with 128
          seed: 8
        blocks:                                                         # each adds fields and axes to those above
          - optimizer: {kind: lion}
          - {optimizer: {kind: sgd}, axes: {optimizer.momentum: [0, 0.9]}}

    A number for `seed` (or `init_seed`, `data_seed`, `order_seed`, `noise_seed`) means that many seeds. The runs are those of all
    blocks. Raises ValueError with one sentence for anything invalid.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no recipe; allowed: a mapping of fields")
    preset = content.pop("preset", "laptop")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; allowed: {', '.join(PRESETS)}")
    chosen, blocks = _axes(content.pop("axes", {})), content.pop("blocks", [])
    _require_sections(path, content)
    base = PRESETS[preset]
    if content.get("task", base.task) != base.task:
        base = base.override({"variant": None, "task_config": {}, "task": content["task"]})
    base = base.override(flatten(content))
    base = base.override({"variant": base.load_task().variant})
    given = dict(map(parse_axis, axes))
    if len(given) < len(axes):
        raise ValueError(f"--axis is given as {', '.join(axes)}; allowed: each field once")
    sweep = Sweep(base, {**chosen, **given}, _blocks(path, blocks))
    if twice := [field for field in given for block in sweep.blocks if field in ",".join(block).split(",")]:
        raise ValueError(f"--axis is {twice[0]}, which blocks of {path} set; allowed: other fields")
    sweep.numbers()
    return sweep


def _axes(chosen: Any) -> Axes:
    if not isinstance(chosen, dict):
        raise ValueError(f"axes is {chosen!r}; allowed: a mapping of a recipe's fields to their values")
    found: Axes = {}
    for path, values in chosen.items():
        found |= _paired(values) if path == "zip" else {path: _values(path, values)}
    return found


def _paired(chosen: Any) -> Axes:
    """One axis of several fields."""
    if not isinstance(chosen, dict) or len(chosen) < 2:
        raise ValueError(f"zip is {chosen!r}; allowed: a mapping of at least two of a recipe's fields to their values")
    columns = {path: _values(path, values) for path, values in chosen.items()}
    if len(set(map(len, columns.values()))) > 1:
        lengths = ", ".join(f"{len(values)} of {path}" for path, values in columns.items())
        raise ValueError(f"zip has {lengths}; allowed: as many values of each field")
    return {",".join(columns): tuple(zip(*columns.values(), strict=True))}


def _blocks(path: Path, blocks: Any) -> tuple[Axes, ...]:
    if not isinstance(blocks, list) or not all(isinstance(block, dict) and block for block in blocks):
        raise ValueError(f"blocks is {blocks!r}; allowed: a list of mappings, of fields and axes each")
    found: list[Axes] = []
    for block in blocks:
        axes = _axes(block.pop("axes", {}))
        _require_sections(path, block)
        found.append({**{field: (value,) for field, value in flatten(block).items()}, **axes})
    return tuple(found)


def _require_sections(path: Path, content: dict[Any, Any]) -> None:
    if dotted := [key for key in content if "." in str(key)]:  # could give a field twice, together with its section
        raise ValueError(f"{path} has the field {dotted[0]!r}; allowed: sections, such as optimizer: {{lr: 0.001}}")


def parse_axis(text: str) -> tuple[str, tuple[Any, ...]]:
    """Parses `model.n_layer=2,3` into a field and its values."""
    path, equals, values = text.partition("=")
    name = f"axis {text[:100]!r}"
    if not equals or not values:
        raise ValueError(f"{name} has no values; allowed: FIELD=VALUE,VALUE,..., such as model.n_layer=2,3")
    return path, _values(path, [parse_yaml(value.encode("utf-8", "surrogateescape"), name) for value in values.split(",")])


def _values(path: Any, values: Any) -> tuple[Any, ...]:
    if path in SEEDS and type(values) is int:
        if values > MAX_RUNS:
            raise ValueError(f"axis {path} is {values}; allowed: at most {MAX_RUNS} seeds")
        values = list(range(values)) or values
    if not isinstance(path, str) or not isinstance(values, list) or not values:
        raise ValueError(f"axis {path} is {values!r}; allowed: a list of at least one value")
    return tuple(values)


def plan(sweep: Sweep, out: Path, memory: float | None) -> None:
    """Prints runs, stacks, memory, and an estimate of the time from a few steps of each kind of stack; trains nothing."""
    from anchorbench.train.memory import memory_of_member

    console = Console(markup=False, highlight=False)
    finished = SweepFolder(out, sweep).ids()[0] if (out / "sweep.json").exists() else set[str]()
    groups = [(recipe, [recipe] * len(runs)) for recipe, runs in missing_runs(sweep, finished)]  # a recipe stands for its seeds
    planned = cut_stacks(groups, memory)
    count, done = len(sweep.numbers()), len(finished & sweep.numbers().keys())
    console.print(f"{count} runs, {done} finished; {len(planned)} stack{'s' * (len(planned) != 1)} to train")
    headers = ("stacks", "members", "layers", "width", "batch", "steps", "memory", "ms/step", "time")
    table = Table(*headers, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))  # fits 80 columns
    total = 0.0
    for cost in costs(planned):
        recipe = cost.recipe
        total += cost.seconds
        shape = (cost.stacks, cost.members, recipe.model.n_layer, recipe.model.d_model, recipe.batch, recipe.steps)
        table.add_row(
            *map(str, shape),
            f"{memory_of_member(recipe) * cost.members / 2**20:.0f} MiB",
            f"{1000 * cost.step / cost.members:.2f}",
            duration(cost.seconds),
        )
    console.print(table)
    console.print(
        f"estimated time: {duration(total)}, from {TIMED_STEPS} timed steps per kind of stack; evaluation adds a few per cent"
    )
    disk = bytes_on_disk([recipe for stack in planned for recipe in stack], kept=0)
    console.print(f"disk: {disk / 1e6:.1f} MB, without --keep-steps; nothing is downloaded")


def make_cut(sweep: Sweep, workers: int, memory: float | None, device: str | None, keep_steps: Sequence[int]) -> Cut:
    """What a plan is cut for. Raises ValueError with one sentence for an invalid value."""
    require_steps(sweep, keep_steps)
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device is {device[:50]!r}; allowed: cpu or cuda, the kind of the workers' device")
    return Cut(workers=workers, memory=memory, device=device, keep_steps=sorted(set(keep_steps)))


def require_steps(sweep: Sweep, keep_steps: Sequence[int]) -> None:
    """Raises ValueError with one sentence for a step that cannot be kept."""
    for step in keep_steps:
        if not 0 < step < sweep.base.steps:
            raise ValueError(f"keep-steps has {step}; allowed: steps between 1 and {sweep.base.steps - 1}")


def write_and_show(sweep: Sweep, out: Path, cut: Cut) -> Plan:
    """Writes the plan of a sweep to `out` and says what is in it."""
    written = write_plan(sweep, SweepFolder(out, sweep), cut)
    sizes = [len(stack.runs) for stack in written.stacks]
    stacks_of = f"{len(sizes)} stack{'s' * (len(sizes) != 1)}" + (f" of {min(sizes)} to {max(sizes)}" if sizes else "")
    typer.echo(f"plan: {visible(plan_path(out))}: {sum(sizes)} of {len(sweep.numbers())} runs in {stacks_of}")
    return written


def duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def locate_and_show(sweep: Sweep, path: str, low: float, high: float, *, width: float, seeds: int, out: Path) -> None:
    """Locates the boundary between inferential and other decided runs along one field; prints it, and writes boundary.json."""
    from anchorbench.sweeps.locate import locate

    if len(sweep.runs()) != len({recipe.seed for recipe in sweep.runs()}):
        raise ValueError("a recipe with axes other than seed has no single boundary; leave them out")
    if path in SEEDS:
        raise ValueError(f"along is {path!r}; allowed: a numeric field that members of a condition share, such as init.gamma")
    ends = Sweep(sweep.base, {path: (low, high), "seed": (0,)})
    ends.runs()
    trained: dict[str, Run] = {}

    def decide(value: float, members: list[int]) -> list[bool | None]:
        runs = run_sweep(Sweep(sweep.base, {path: (value,), "seed": tuple(members)}), SweepFolder(out, ends))
        trained.update({run.result.run_id: run for run in runs})
        types = [INFERS.get(run.result.verdict or "") for run in runs]
        typer.echo(f"  {path} {value:g}: " + ", ".join(str(run.result.verdict) for run in runs))
        return types

    boundary = locate(decide, low, high, width=width, seeds=seeds)
    left, right = boundary.interval
    settled = "" if boundary.settled else f" - wider than the requested {width:g}: runs differ too much"
    typer.echo(f"boundary: {path} {boundary.value:.3f}, 95% interval {left:.3f} to {right:.3f}{settled}")
    typer.echo(f"{boundary.members} runs; a grid with spacing {width:g} and {seeds} seeds takes {boundary.grid_members}")
    write_tables(out, trained.values())
    write_atomically(out / "boundary.json", (json.dumps(asdict(boundary), indent=1) + "\n").encode())

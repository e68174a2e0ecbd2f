"""What makes a sweep's page citable: recipe, shape, machines, versions, dates, code and commands, from its runs."""

import itertools
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from anchorbench import __version__
from anchorbench.machine import commit
from anchorbench.model.counts import parameters
from anchorbench.presets import PRESETS
from anchorbench.recipe import Recipe, flatten
from anchorbench.sweeps.run_folder import Run

Facts = list[tuple[str, str]]


def facts(folder: Path, runs: Sequence[Run], arguments: Sequence[str]) -> Facts:
    """(Name, value) pairs for the head of the page; `arguments` are those of `anchorbench report`."""
    name = shlex.quote(folder.name)
    found = [("Shape", _shapes(runs)), ("Machine", _machines(runs)), ("Versions", _versions(runs))]
    found += [("Trained", _trained(folder, runs)), ("Page", f"{_day(datetime.now(UTC).timestamp())}, by {code()}")]
    found.append(("Command", f"anchorbench sweep run recipe.yaml --out {name}; {shlex.join(['anchorbench', *arguments])}"))
    return found


def code() -> str:
    """The version of the package, with the commit where it runs from a clone."""
    found = commit()
    return f"anchorbench {__version__}" + (f", commit {found}" if found else "")


def recipe_yaml(recipes: Sequence[Recipe]) -> str:
    """A recipe for `anchorbench sweep run` with these runs: what differs from the laptop preset, and axes, or else blocks."""
    flat = [flatten(recipe.model_dump(mode="json")) for recipe in recipes]
    paths = list(dict.fromkeys(path for fields in flat for path in fields))
    varying = [path for path in paths if any(fields.get(path) != flat[0].get(path) for fields in flat)]
    laptop = flatten(PRESETS["laptop"].model_dump(mode="json"))
    same = {path: flat[0][path] for path in paths if path not in varying and path in flat[0] and laptop.get(path) != flat[0][path]}
    content: dict[str, Any] = {"preset": "laptop", **_nested({"task": flat[0]["task"], "variant": flat[0]["variant"]} | same)}
    axes = {path: _distinct([fields.get(path) for fields in flat]) for path in varying}
    is_there = {repr([fields.get(path) for path in varying]) for fields in flat}
    size = math.prod(map(len, axes.values()))
    if axes and size == len(flat) and {repr(list(values)) for values in itertools.product(*axes.values())} == is_there:
        content["axes"] = axes
    elif axes:
        blocks: dict[str, tuple[dict[str, Any], list[int]]] = {}
        for fields in flat:
            others = {path: fields[path] for path in varying if path != "seed" and path in fields}
            blocks.setdefault(repr(others), (others, []))[1].append(fields["seed"])
        content["blocks"] = [{**_nested(others), "axes": {"seed": seeds}} for others, seeds in blocks.values()]
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)


def _distinct(values: list[Any]) -> list[Any]:
    return [value for i, value in enumerate(values) if value not in values[:i]]  # values may be lists


def _nested(fields: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for path, value in fields.items():
        *parents, leaf = path.split(".")
        inner = content
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[leaf] = value
    return content


def _counted(words: Sequence[str]) -> str:
    """The distinct words, each with its number of runs if there are several."""
    counted = Counter(words).most_common()
    return "; ".join(word if len(counted) == 1 else f"{word} ({count} runs)" for word, count in counted[:4]) + (
        f"; and {len(counted) - 4} more" if len(counted) > 4 else ""
    )


def _shapes(runs: Sequence[Run]) -> str:
    known: dict[Any, str] = {}

    def words(recipe: Recipe) -> str:
        shape = recipe.model_at(recipe.steps)
        key = (shape, recipe.task, recipe.variant, repr(recipe.task_config))
        if key not in known:
            task = recipe.load_task()
            size = parameters(shape, task.vocab_size, task.seq_len)
            heads = f"{shape.n_head} head{'s' * (shape.n_head != 1)}"
            known[key] = (
                f"{shape.n_layer} layers, {heads}, d_model {shape.d_model}, d_ff {shape.d_ff}, {shape.norm}-LN, {size:,} parameters"
                f"; sequences of {task.seq_len} from a vocabulary of {task.vocab_size}"
            )
        return known[key]

    return _counted([words(run.recipe) for run in runs])


def _machines(runs: Sequence[Run]) -> str:
    def words(run: Run) -> str:
        machine = run.result.machines[-1][1]
        chip = machine.cpu if machine.gpu == "none" else f"{machine.gpu} ({machine.driver})"
        return f"{chip}, {machine.capability}, {machine.system}, threads {machine.threads}; {machine.gradient}, {machine.precision}"

    return _counted([words(run) for run in runs])


def _versions(runs: Sequence[Run]) -> str:
    def words(run: Run) -> str:
        machine = run.result.machines[-1][1]
        versions = f"Python {machine.python}, torch {machine.torch}, numpy {machine.numpy}, {machine.blas}"
        return f"anchorbench {machine.anchorbench}, {versions}"

    return _counted([words(run) for run in runs])


def _trained(folder: Path, runs: Sequence[Run]) -> str:
    times = [(run.path / "result.json").stat().st_mtime for run in runs if (run.path / "result.json").exists()]
    times += [(folder / "sweep.json").stat().st_mtime] if (folder / "sweep.json").exists() else []
    days = list(dict.fromkeys(_day(time) for time in (min(times), max(times)))) if times else []
    spent = sum(run.result.seconds for run in runs)
    return ", ".join([" to ".join(days)] * bool(days) + [f"{spent:,.0f} s of training in all"])


def _day(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")

"""A sweep: axes become runs, runs become stacks, stacks are trained; what is finished is never trained again."""

import copy
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anchorbench.recipe import Recipe
from anchorbench.store import DamagedRunError, Run, read_run, write_atomically, write_run, write_tables

STACK_MEMBERS = 8
"""Members trained at once: enough to fill two cores; an interruption loses at most one stack."""


@dataclass(frozen=True)
class Sweep:
    """A base recipe and the values of its axes; runs are all combinations.

    An axis is a field of the recipe by its dotted path: `init.gamma`, `model.n_layer`, `optimizer.weight_decay`, `seed`, ...
    """

    base: Recipe
    axes: dict[str, tuple[Any, ...]]

    def runs(self) -> list[Recipe]:
        """Every run, the last axis varying fastest. Raises ValueError with one sentence if a value makes no sense."""
        for path, values in self.axes.items():
            if not values:
                raise ValueError(f"axis {path} has no values; allowed: at least 1")
        combinations = itertools.product(*(dict.fromkeys(values) for values in self.axes.values()))
        return [self.base.override(dict(zip(self.axes, values, strict=True))) for values in combinations]


@dataclass(frozen=True)
class Progress:
    """What happened: a stack began or went on one step (`recipes`, `step`), ended (`finished`), or something is to be said."""

    recipes: list[Recipe]
    step: int = 0
    finished: list[Run] | None = None
    message: str | None = None


class SweepFolder:
    """An output folder: `sweep.json` says whose it is, `runs/` holds a folder a run, the tables are derived."""

    def __init__(self, out: Path, sweep: Sweep) -> None:
        """Opens or makes the folder. Raises ValueError if it is another recipe's, holds other things, or cannot be written."""
        self.out = out
        content = {"axes": list(sweep.axes), "base": sweep.base.model_dump(mode="json")}
        marker = out / "sweep.json"
        try:
            out.mkdir(parents=True, exist_ok=True)
            if marker.exists():
                known = json.loads(marker.read_bytes())
                # Axes may be added or left out between calls; everything else must be the same.
                varying = {*known["axes"], *content["axes"]}
                if difference := _difference(_without(known["base"], varying), _without(content["base"], varying)):
                    raise ValueError(f"folder {out} belongs to another recipe ({difference}); choose another --out")
            elif any(not path.name.startswith(".sweep.json.") for path in out.iterdir()):  # what a kill -9 may leave behind
                raise ValueError(f"folder {out} is not empty and holds no sweep; choose another --out")
            else:
                write_atomically(marker, (json.dumps(content, indent=1) + "\n").encode())
            (out / "runs").mkdir(exist_ok=True)
            (out / "checkpoints").mkdir(exist_ok=True)
            if not os.access(out / "runs", os.W_OK):
                raise PermissionError(13, "Permission denied")
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{marker} is damaged; remove it or choose another --out") from None
        except OSError as error:
            raise ValueError(f"folder {out} cannot be written: {error.strerror}") from None

    def path(self, recipe: Recipe) -> Path:
        return self.out / "runs" / recipe.run_id

    def checkpoint(self, stack: list[Recipe]) -> Path:
        """Where the state of a stack in training is kept."""
        name = hashlib.sha256(" ".join(recipe.run_id for recipe in stack).encode()).hexdigest()[:16]
        return self.out / "checkpoints" / f"{name}.safetensors"

    def finished(self, recipes: list[Recipe]) -> tuple[list[Run], list[str]]:
        """The finished runs among `recipes`, and a sentence for each folder that is damaged."""
        runs: list[Run] = []
        problems: list[str] = []
        for recipe in recipes:
            if self.path(recipe).exists():
                try:
                    run = read_run(self.path(recipe))
                    if run.recipe != recipe or run.result.run_id != recipe.run_id:
                        raise DamagedRunError(f"{self.path(recipe)} holds another run's recipe")
                    runs.append(run)
                except DamagedRunError as problem:
                    problems.append(str(problem))
        return runs, problems


def stacks(recipes: list[Recipe]) -> list[list[Recipe]]:
    """Groups runs of one structure into stacks of at most STACK_MEMBERS, keeping their order."""
    from anchorbench.train import structure

    by_structure: dict[Any, list[Recipe]] = {}
    for recipe in recipes:
        by_structure.setdefault(structure(recipe), []).append(recipe)
    return [
        alike[start : start + STACK_MEMBERS] for alike in by_structure.values() for start in range(0, len(alike), STACK_MEMBERS)
    ]


def run_sweep(sweep: Sweep, folder: SweepFolder, report: Callable[[Progress], None] = lambda progress: None) -> list[Run]:
    """Trains what is missing and returns all runs in the sweep's order; damaged folders are reported and trained again."""
    recipes = sweep.runs()
    runs, problems = folder.finished(recipes)
    for problem in problems:
        report(Progress([], message=f"{problem}; it is trained again"))
    done = {run.result.run_id: run for run in runs}
    missing = [recipe for recipe in recipes if recipe.run_id not in done]
    for finished in _train(missing, folder, report):
        done |= {run.result.run_id: run for run in finished}
    ordered = [done[recipe.run_id] for recipe in recipes]
    write_tables(folder.out, ordered)
    return ordered


def _train(missing: list[Recipe], folder: SweepFolder, report: Callable[[Progress], None]) -> Iterator[list[Run]]:
    if not missing:
        return
    from anchorbench.train import train

    for stack in stacks(missing):
        report(Progress(stack))
        checkpoint = folder.checkpoint(stack)
        for member in train(stack, lambda step: report(Progress(stack, step)), checkpoint):  # noqa: B023
            write_run(folder.path(member.recipe), member)
        checkpoint.unlink(missing_ok=True)
        finished = [read_run(folder.path(recipe)) for recipe in stack]
        report(Progress(stack, stack[0].steps, finished))
        yield finished


def _without(content: Any, paths: set[str]) -> Any:
    """`content` without the fields at dotted `paths`."""
    kept = copy.deepcopy(content)
    for path in paths:
        *parents, leaf = path.split(".")
        inner = kept
        for parent in parents:
            inner = inner.get(parent, {})
        inner.pop(leaf, None)
    return kept


def _difference(known: Any, new: Any, where: str = "") -> str | None:
    """The first field in which two recipes differ, in words; None if they are equal."""
    if isinstance(known, dict) and isinstance(new, dict):
        for key in [*new, *known]:
            if known.get(key) != new.get(key):
                return _difference(known.get(key), new.get(key), f"{where}.{key}" if where else key)
    return None if known == new else f"{where}: {known!r} there, {new!r} here"

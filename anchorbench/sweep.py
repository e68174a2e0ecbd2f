"""A sweep: axes become runs, runs become stacks, stacks are trained; what is finished is never trained again."""

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
AXES = {"gamma": ("init", "gamma"), "norm": ("model", "norm"), "seed": ("seed",)}


@dataclass(frozen=True)
class Sweep:
    """A base recipe and the values of its axes; runs are all combinations."""

    base: Recipe
    gammas: tuple[float, ...]
    seeds: int
    norms: tuple[str, ...]

    def runs(self) -> list[Recipe]:
        """Every run, ordered by norm, gamma and seed. Raises ValueError with one sentence if a value makes no sense."""
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}; allowed: at least 1")
        return [
            self.base.override(model__norm=norm, init__gamma=gamma, seed=seed)
            for norm in dict.fromkeys(self.norms)
            for gamma in dict.fromkeys(self.gammas)
            for seed in range(self.seeds)
        ]


@dataclass(frozen=True)
class Progress:
    """What happened: a stack began or went on one step (`recipes`, `step`), ended (`finished`), or something is to be said."""

    recipes: list[Recipe]
    step: int = 0
    finished: list[Run] | None = None
    message: str | None = None


class SweepFolder:
    """An output folder: `sweep.json` says whose it is, `runs/` holds a folder a run, the tables are derived."""

    def __init__(self, out: Path, base: Recipe) -> None:
        """Opens or makes the folder. Raises ValueError if it is another recipe's, holds other things, or cannot be written."""
        self.out = out
        identity = base.model_dump(mode="json")
        for path in AXES.values():
            inner = identity
            for key in path[:-1]:
                inner = inner[key]
            del inner[path[-1]]
        try:
            out.mkdir(parents=True, exist_ok=True)
            marker = out / "sweep.json"
            if marker.exists():
                known = json.loads(marker.read_text())
                if known != identity:
                    raise ValueError(
                        f"folder {out} belongs to another recipe ({_difference(known, identity)}); choose another --out"
                    )
            elif any(out.iterdir()):
                raise ValueError(f"folder {out} is not empty and holds no sweep; choose another --out")
            else:
                write_atomically(marker, (json.dumps(identity, indent=1) + "\n").encode())
            (out / "runs").mkdir(exist_ok=True)
            if not os.access(out / "runs", os.W_OK):
                raise PermissionError(13, "Permission denied")
        except json.JSONDecodeError:
            raise ValueError(f"{out / 'sweep.json'} is not complete JSON; remove it or choose another --out") from None
        except OSError as error:
            raise ValueError(f"folder {out} cannot be written: {error.strerror}") from None

    def path(self, recipe: Recipe) -> Path:
        return self.out / "runs" / recipe.run_id

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
        for member in train(stack, progress=lambda step: report(Progress(stack, step))):  # noqa: B023
            write_run(folder.path(member.recipe), member)
        finished = [read_run(folder.path(recipe)) for recipe in stack]
        report(Progress(stack, stack[0].steps, finished))
        yield finished


def _difference(known: Any, new: Any, where: str = "") -> str:
    """The first field in which two recipes differ, for a sentence."""
    if isinstance(known, dict) and isinstance(new, dict):
        for key in [*new, *known]:
            if known.get(key) != new.get(key):
                return _difference(known.get(key), new.get(key), f"{where}.{key}" if where else key)
    return f"{where}: {known!r} there, {new!r} here"

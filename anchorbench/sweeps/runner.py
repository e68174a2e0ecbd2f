"""Runs a sweep: axes expand to runs, runs are grouped into stacks, and stacks are trained; finished runs are never retrained."""

import copy
import hashlib
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from anchorbench.files import read_json, remove, require_plain, write_atomically
from anchorbench.recipe import SCHEMA, Recipe, parse_recipe
from anchorbench.sweeps.lock import STALE, RunLock, nobody_inside
from anchorbench.sweeps.run_folder import DamagedRunError, Run, read_run, write_run, write_tables
from anchorbench.train.checkpoint import CheckpointState
from anchorbench.train.execution import Execution
from anchorbench.train.gradients.choice import suits_native
from anchorbench.train.gradients.compiled import announce
from anchorbench.train.memory import free_memory

STACK_MEMBERS = 8
"""Members trained at once: enough to fill two cores, while results still arrive stack by stack."""
GPU_STACK_MEMBERS = 256
"""The same on a GPU, which takes hundreds of small models to fill."""
MAX_RUNS = 100_000
"""Maximum number of runs: larger sweeps are a mistake in the recipe."""
LEFTOVERS = (
    "runs/.*.*",
    "checkpoints/.*.safetensors.*",
    ".sweep.json.*",
    ".results.*.*",
    ".phase.*.*",
    ".attention_flow.*.*",
    ".report.html.*",
    ".boundary.json.*",
)
"""Names of temporary files in an output folder: if one is still there, the process that wrote it was killed."""
INTRINSIC = "optimizer.intrinsic_lr"
"""An axis: the intrinsic learning rate (2010.02916), peak learning rate times weight decay, which sets the pace at which training
of scale-invariant weights reaches its equilibrium. With an axis `optimizer.lr`, both vary at a constant product."""
POLL_SECONDS = 2.0
"""How often to poll for runs that another process is training."""


@dataclass(frozen=True)
class Sweep:
    """A base recipe and the values of its axes; the runs are all combinations.

    An axis is a recipe field, given by its dotted path: `init.gamma`, `model.n_layer`, `optimizer.weight_decay`, `seed`, ...; or
    INTRINSIC, which is not a field: it sets the weight decay to its value divided by the learning rate.
    """

    base: Recipe
    axes: dict[str, tuple[Any, ...]]

    def runs(self) -> list[Recipe]:
        """All runs, with the last axis varying fastest. Raises ValueError with one sentence for an invalid value."""
        return list(self._runs)

    @cached_property
    def _runs(self) -> tuple[Recipe, ...]:
        for path, values in self.axes.items():
            if not values:
                raise ValueError(f"axis {path} has no values; allowed: at least 1")
        if (count := math.prod(map(len, self.axes.values()))) > MAX_RUNS:
            raise ValueError(f"the axes make {count} runs; allowed: at most {MAX_RUNS}")
        if INTRINSIC in self.axes and "optimizer.weight_decay" in self.axes:
            raise ValueError(
                f"axes are optimizer.weight_decay and {INTRINSIC}; allowed: one of them, as each sets the weight decay"
            )
        combinations = itertools.product(*self.axes.values())
        recipes = [self._recipe(dict(zip(self.axes, values, strict=True))) for values in combinations]
        return tuple({recipe.run_id: recipe for recipe in recipes}.values())

    def _recipe(self, fields: dict[str, Any]) -> Recipe:
        if INTRINSIC not in fields:
            return self.base.override(fields)
        product = fields.pop(INTRINSIC)
        if not isinstance(product, int | float) or isinstance(product, bool):
            raise ValueError(f"{INTRINSIC} is {product!r}; allowed: a number")
        recipe = self.base.override(fields)
        # Rounded, so that 0.0001 at a rate of 0.001 has the weight decay 0.1, and the run id of that.
        return recipe.override({"optimizer.weight_decay": float(f"{product / recipe.optimizer.lr:.12g}")})


@dataclass(frozen=True)
class Progress:
    """A progress event: a stack started or advanced one step (`recipes`, `step`), ended (`finished`), or it has a message."""

    recipes: list[Recipe]
    step: int = 0
    finished: list[Run] | None = None
    message: str | None = None


class SweepFolder:
    """An output folder: `sweep.json` identifies its sweep, `runs/` holds one folder per run, the tables are derived."""

    def __init__(self, out: Path, sweep: Sweep) -> None:
        """Opens or creates the folder. Raises ValueError if it is of another recipe, holds other files, or cannot be written."""
        self.out = out
        marker = out / "sweep.json"
        try:
            out.mkdir(parents=True, exist_ok=True)
            # Checked before the marker, since another process may be creating the folder. A kill -9 may leave a partial marker,
            # and the root of a file system holds lost+found.
            strange = any(not path.name.startswith(".sweep.json.") and path.name != "lost+found" for path in out.iterdir())
            if marker.exists():
                self._require_same(marker, sweep)
            elif strange:
                raise ValueError(f"folder {out} is not empty and holds no sweep; choose another --out")
            else:
                content = {"schema": SCHEMA, "axes": list(sweep.axes), "base": sweep.base.model_dump(mode="json")}
                write_atomically(marker, (json.dumps(content, indent=1) + "\n").encode())
            (out / "runs").mkdir(exist_ok=True)
            (out / "checkpoints").mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=out / "runs"):  # permissions alone do not tell
                pass
        except OSError as error:
            where = out if error.filename is None else error.filename
            raise ValueError(f"{where} cannot be written: {error.strerror}; choose another --out") from None

    def _require_same(self, marker: Path, sweep: Sweep) -> None:
        """Requires the same sweep: axes may be added or dropped between calls, all else must match (absent fields: defaults)."""
        try:
            known = read_json(marker)
            if not isinstance(known, dict) or not isinstance(axes := known.get("axes"), list):
                raise ValueError("no axes")
            schema = known.get("schema", 1)
            base = parse_recipe(known.get("base"))
        except ValueError:
            raise ValueError(f"{marker} is damaged; remove it or choose another --out") from None
        if schema != SCHEMA:
            raise ValueError(f"folder {self.out} is of a version of anchorbench with other run ids; choose another --out")
        varying = {*map(str, axes), *sweep.axes}
        there, here = (_without(recipe.model_dump(mode="json"), varying) for recipe in (base, sweep.base))
        if difference := _difference(there, here):
            raise ValueError(f"folder {self.out} belongs to another recipe ({difference}); choose another --out")

    def path(self, recipe: Recipe) -> Path:
        return self.out / "runs" / recipe.run_id

    def checkpoint(self, stack: list[Recipe]) -> Path:
        """Path of a stack's training checkpoint."""
        name = hashlib.sha256(" ".join(recipe.run_id for recipe in stack).encode()).hexdigest()[:16]
        return self.out / "checkpoints" / f"{name}.safetensors"

    def remove_checkpoints(self, finished: set[str]) -> None:
        """Removes damaged checkpoints and those of finished stacks."""
        for path in (self.out / "checkpoints").glob("*.safetensors"):
            if finished >= set(checkpoint_runs(path)):
                remove(path)

    def remove_leftovers(self) -> None:
        """Removes what killed processes left, unless a process trains here: dead locks, and partially written files and folders."""
        with suppress(OSError), nobody_inside(self.out / "locks") as now:
            for path in itertools.chain.from_iterable(map(self.out.glob, LEFTOVERS if now is not None else ())):
                # Tables and figures are written without a lock: a recent temporary file may still be in use.
                if path.parent != self.out or abs((now or 0.0) - path.stat().st_mtime) > STALE:
                    remove(path)

    def require_free(self, recipes: Sequence[Recipe]) -> None:
        """Raises ValueError, before training, if anything other than a folder occupies the path of one of the runs."""
        for path in map(self.path, recipes):
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise ValueError(f"{path} is a link or file in the place of a run folder; remove it or choose another --out")

    def others(self, known: set[str]) -> list[Run]:
        """Finished runs in the folder that are not `known`, from earlier calls with other axes."""
        runs: list[Run] = []
        for path in sorted((self.out / "runs").iterdir()):
            if path.name not in known and not path.name.startswith("."):
                with suppress(DamagedRunError):
                    run = read_run(path)
                    if run.recipe.run_id == path.name:
                        runs.append(run)
        return runs

    def finished(self, recipes: Sequence[Recipe], keep_steps: Sequence[int] = ()) -> tuple[list[Run], list[str]]:
        """Finished runs among `recipes` that also kept the weights at `keep_steps`, and one message per damaged folder."""
        runs: list[Run] = []
        problems: list[str] = []
        for recipe in recipes:
            if self.path(recipe).exists():
                try:
                    run = read_run(self.path(recipe))
                    if run.recipe != recipe or run.result.run_id != recipe.run_id:
                        raise DamagedRunError(f"{self.path(recipe)} holds another run's recipe")
                    if {step for step in keep_steps if step < run.result.steps_trained} <= set(run.result.kept_steps):
                        runs.append(run)
                except DamagedRunError as problem:
                    problems.append(str(problem))
        return runs, problems


def stacks(recipes: Sequence[Recipe], memory: float | None = None) -> list[list[Recipe]]:
    """Groups runs of the same structure into stacks, the longest runs first: at most STACK_MEMBERS (GPU_STACK_MEMBERS) members,
    and as many as fit in `memory` bytes (default: 60% of free memory, on the GPU if there is one). Raises ValueError if not even
    one fits.
    """
    import torch

    from anchorbench.train.memory import memory_of_member

    on_gpu = torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if on_gpu else free_memory()
    budget = 0.6 * free if memory is None else memory
    most = GPU_STACK_MEMBERS if on_gpu else STACK_MEMBERS
    grouped: list[tuple[float, list[Recipe]]] = []
    for alike in _by_structure(recipes):
        each = memory_of_member(alike[0])
        if 2 * each > budget:  # a single member is trained as a stack of two
            raise ValueError(
                f"the smallest stack takes {2 * each / 2**30:.2f} GiB of memory; allowed here: {budget / 2**30:.2f} GiB (--memory)"
            )
        count = -(-len(alike) // int(min(most, budget / each)))  # balanced sizes within the limit
        edges = [len(alike) * i // count for i in range(count + 1)]
        grouped += [(each * alike[0].steps, alike[left:right]) for left, right in itertools.pairwise(edges)]
    return [stack for _, stack in sorted(grouped, key=lambda item: -item[0])]


def run_sweep(
    sweep: Sweep,
    folder: SweepFolder,
    report: Callable[[Progress], None] = lambda progress: None,
    how: Execution | None = None,
) -> list[Run]:
    """Trains the missing runs and returns all runs in the sweep's order; damaged run folders are reported and retrained.

    Waits for runs that another process is training in the same folder.
    """
    how = how or Execution()
    recipes = sweep.runs()
    runs, problems = folder.finished(recipes, how.keep_steps)
    done = {run.result.run_id: run for run in runs}
    folder.require_free([recipe for recipe in recipes if recipe.run_id not in done])
    for problem in problems:
        report(Progress([], message=f"{problem}; it is retrained"))
    warnings: set[str] = set()

    def warn(sentence: str) -> None:
        if sentence not in warnings:
            report(Progress([], message=sentence))
        warnings.add(sentence)

    if any(suits_native(recipe) for recipe in recipes if recipe.run_id not in done):
        announce(warn)
    waiting = 0
    while any(recipe.run_id not in done for recipe in recipes):
        busy = _train_free(recipes, done, folder, report, how, warn)
        if busy:
            if busy != waiting:
                report(Progress([], message=f"waiting for {busy} runs that another process trains"))
            waiting = busy
            time.sleep(POLL_SECONDS)
            runs, _ = folder.finished([recipe for recipe in recipes if recipe.run_id not in done], how.keep_steps)
            done |= {run.result.run_id: run for run in runs}
    ordered = [done[recipe.run_id] for recipe in recipes]
    folder.remove_checkpoints(set(done))
    folder.remove_leftovers()
    write_tables(folder.out, [*ordered, *folder.others(set(done))])
    return ordered


def _train_free(
    recipes: Sequence[Recipe],
    done: dict[str, Run],
    folder: SweepFolder,
    report: Callable[[Progress], None],
    how: Execution,
    warn: Callable[[str], None],
) -> int:
    """Trains the stacks of missing runs that no other process trains, and adds them to `done` (run id -> run).

    Returns how many runs others were training.
    """
    busy = 0
    for stack, checkpoint in _planned([recipe for recipe in recipes if recipe.run_id not in done], recipes, folder, how):
        with ExitStack() as held:
            locks = {recipe.run_id: lock for recipe in stack if (lock := _lock(folder, recipe, held))}
            mine = [recipe for recipe in stack if recipe.run_id in locks]
            busy += len(stack) - len(mine)
            if checkpoint.exists() and len(mine) < len(stack):
                continue  # another process is training this stack
            meanwhile, _ = folder.finished([recipe for recipe in mine if recipe.run_id not in done], how.keep_steps)
            done |= {run.result.run_id: run for run in meanwhile}
            if any(recipe.run_id not in done for recipe in mine):
                trained = _train(mine, folder, report, how, checkpoint, locks, warn)
                done |= {run.result.run_id: run for run in trained}
    return busy


def _by_structure(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    from anchorbench.train.stack import structure

    alike: dict[Any, list[Recipe]] = {}
    for recipe in recipes:
        alike.setdefault(structure(recipe), []).append(recipe)
    return list(alike.values())


def _lock(folder: SweepFolder, recipe: Recipe, held: ExitStack) -> RunLock | None:
    """Acquires the run's lock until `held` is closed; None if another process holds it."""
    lock = RunLock.acquire(folder.out / "locks" / recipe.run_id)
    return None if lock is None else held.enter_context(lock)


def _planned(
    missing: Sequence[Recipe], recipes: Sequence[Recipe], folder: SweepFolder, how: Execution
) -> Iterator[tuple[list[Recipe], Path]]:
    """The stacks to train, each with its checkpoint: first the stacks stored in checkpoints, unchanged, then the rest."""
    known = {recipe.run_id: recipe for recipe in recipes}
    wanted = {recipe.run_id for recipe in missing}
    for path in sorted((folder.out / "checkpoints").glob("*.safetensors")):
        held = checkpoint_runs(path)
        if wanted & set(held) and known.keys() >= set(held):
            wanted -= set(held)
            yield [known[run_id] for run_id in held], path
    if wanted:
        for stack in stacks([recipe for recipe in missing if recipe.run_id in wanted], how.memory):
            yield stack, folder.checkpoint(stack)


def _train(
    stack: list[Recipe],
    folder: SweepFolder,
    report: Callable[[Progress], None],
    how: Execution,
    checkpoint: Path,
    locks: dict[str, RunLock],
    warn: Callable[[str], None],
) -> list[Run]:
    from anchorbench.train.loop import train

    failures: list[OSError | ValueError] = []

    def write(member: Any) -> None:
        written = folder.finished([member.recipe], how.keep_steps)[0]  # by this stack, before it was interrupted
        if not written and locks[member.recipe.run_id].still_mine():
            try:
                write_run(folder.path(member.recipe), member)
            except (OSError, ValueError) as failure:  # the other runs may still succeed
                failures.append(failure)

    report(Progress(stack))
    train(stack, lambda step: report(Progress(stack, step)), checkpoint, write, warn, how=how)
    if failures:
        raise failures[0]
    for path in (checkpoint, *checkpoint.parent.glob(f".{checkpoint.name}.*")):  # and partial saves of killed processes
        remove(path)
    finished, _ = folder.finished(stack, how.keep_steps)  # all, unless a lock was lost
    report(Progress(stack, stack[0].steps, finished))
    return finished


def checkpoint_runs(path: Path) -> list[str]:
    """Ids of the runs in a training checkpoint; empty if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        require_plain(path)
        with safe_open(path, "np") as file:
            return CheckpointState.read(file.metadata()["anchorbench"], path).run_ids
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return []


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

"""The output folder of a sweep: `sweep.json` identifies the sweep, `runs/` holds its runs, `checkpoints/`, `locks/` its stacks."""

import copy
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from anchorbench.files import read_json, remove, require_plain, write_atomically
from anchorbench.recipe import SCHEMA, Recipe, parse_recipe
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.index import Index
from anchorbench.sweeps.lock import STALE, nobody_inside
from anchorbench.sweeps.run_folder import DamagedRunError, Run, read_run, write_tables
from anchorbench.train.checkpoint import CheckpointState

LEFTOVERS = (
    "runs/.*.*",
    "checkpoints/.*.safetensors.*",
    "failed/.*.json.*",
    "index/.*.parquet.*",
    ".plan.json.*",
    ".sweep.json.*",
    ".results.*.*",
    ".phase.*.*",
    ".attention_flow.*.*",
    ".report.html.*",
    ".boundary.json.*",
)
"""Names of temporary files in an output folder: if one is still there, the process that wrote it was killed."""


class SweepFolder:
    """An output folder: `sweep.json` identifies its sweep, `runs/` holds one folder per run, the index and tables are derived."""

    def __init__(self, out: Path, sweep: Sweep) -> None:
        """Opens or creates the folder. Raises ValueError if it is of another recipe, holds other files, or cannot be written."""
        self.out = out
        self.index = Index(out)
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
                content = {"schema": SCHEMA, "axes": sweep.fields, "base": sweep.base.model_dump(mode="json")}
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
        varying = {*map(str, axes), *sweep.fields}
        there, here = (_without(recipe.model_dump(mode="json"), varying) for recipe in (base, sweep.base))
        if difference := _difference(there, here):
            raise ValueError(f"folder {self.out} belongs to another recipe ({difference}); choose another --out")

    def path(self, recipe: Recipe) -> Path:
        return self.out / "runs" / recipe.run_id

    def checkpoint(self, stack: Sequence[Recipe]) -> Path:
        """Path of a stack's training checkpoint."""
        return self.out / "checkpoints" / f"{stack_name(recipe.run_id for recipe in stack)}.safetensors"

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
            if now is not None:
                self.index.merge()

    def finish(self, runs: Sequence[Run]) -> None:
        """Cleans up after these runs are finished, completes the index, and writes the tables of all runs in the folder."""
        done = {run.result.run_id for run in runs}
        self.remove_checkpoints(done)
        others = self.others(done)
        self.index.add([*runs, *others])
        self.remove_leftovers()
        write_tables(self.out, [*runs, *others])

    def require_free(self, recipes: Sequence[Recipe]) -> None:
        """Raises ValueError, before training, if anything other than a folder occupies the path of one of the runs."""
        for path in map(self.path, recipes):
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise ValueError(f"{path} is a link or file in the place of a run folder; remove it or choose another --out")

    def others(self, known: set[str]) -> list[Run]:
        """Finished runs in the folder that are not `known`, from earlier calls with other axes."""
        runs: list[Run] = []
        for name in sorted({path.name for path in (self.out / "runs").iterdir()} - known):
            if not name.startswith("."):
                with suppress(DamagedRunError):
                    run = self.index.run(name) or read_run(self.out / "runs" / name)
                    if run.recipe.run_id == name:
                        runs.append(run)
        return runs

    def finished(self, recipes: Sequence[Recipe], keep_steps: Sequence[int] = ()) -> tuple[list[Run], list[str]]:
        """Finished runs among `recipes` that also kept the weights at `keep_steps`, and one message per damaged folder.

        Only folders that are not in the index are read.
        """
        runs: list[Run] = []
        problems: list[str] = []
        self.index.refresh()
        for recipe in recipes:
            path = self.path(recipe)
            there = (path / "digests.json").exists()
            if there or path.exists():
                try:
                    run = self.index.run(recipe.run_id, recipe) if there else None
                    if run is None:
                        run = read_run(self.path(recipe))
                        if run.recipe != recipe or run.result.run_id != recipe.run_id:
                            raise DamagedRunError(f"{self.path(recipe)} holds another run's recipe")
                    if {step for step in keep_steps if step < run.result.steps_trained} <= set(run.result.kept_steps):
                        runs.append(run)
                except DamagedRunError as problem:
                    problems.append(str(problem))
        return runs, problems


def stack_name(run_ids: Iterable[str]) -> str:
    """16 hex digits that identify a stack in an output folder: of its checkpoint, lock and failure."""
    return hashlib.sha256(" ".join(run_ids).encode()).hexdigest()[:16]


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

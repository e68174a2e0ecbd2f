"""The output folder of a sweep: `sweep.json` identifies the sweep, `runs/` holds its runs, `checkpoints/`, `locks/` its stacks."""

import copy
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, overload

from pydantic import Field, TypeAdapter

from anchorbench.files import read_json, remove, require_plain, write_atomically
from anchorbench.recipe import SCHEMA, Recipe, parse_recipe
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.index import Index
from anchorbench.sweeps.lock import STALE, nobody_inside
from anchorbench.sweeps.run_folder import DamagedRunError, Run, read_run, write_run, write_tables
from anchorbench.sweeps.store import Store, stack_name
from anchorbench.train.checkpoint import CheckpointState
from anchorbench.train.trajectory import Word

MAX_FOLDERS = 1000
"""Number of runs up to which a sweep is stored as one folder per run, for people to look into, with tables; beyond, by stack."""
_HALVES = TypeAdapter(Annotated[list[Annotated[list[Word], Field(min_length=1)]], Field(min_length=2, max_length=2)])
LEFTOVERS = (
    "runs/.*.*",
    "stacks/*/.*.*",
    "forecasts/.*.json.*",
    "checkpoints/.*.safetensors.*",
    "failed/.*.json.*",
    "recut/.*.json.*",
    "locks/.asked-*",
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
    """An output folder: `sweep.json` identifies its sweep, `runs/` holds one folder per run, the index and tables are derived.

    A sweep of more than MAX_FOLDERS runs is stored by stack instead, see `store`; a folder may hold both.
    """

    def __init__(self, out: Path, sweep: Sweep) -> None:
        """Opens or creates the folder. Raises ValueError if it is of another recipe, holds other files, or cannot be written."""
        self.out = out
        self.index, self.store = Index(out), Store(out)
        self.by_stack = sweep.size > MAX_FOLDERS
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
        """Removes damaged checkpoints and those of finished stacks, and how these were cut."""
        for path in (self.out / "checkpoints").glob("*.safetensors"):
            if finished >= set(checkpoint_runs(path)):
                remove(path)
        for path, halves in cuts(self.out):
            if finished.issuperset(itertools.chain(*halves)):
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
                self.store.merge()

    def finish(self, done: set[str], runs: Sequence[Run]) -> None:
        """Cleans up after the runs `done` are finished; if runs have folders, completes the index and writes the tables of all."""
        self.remove_checkpoints(done)
        if not self.by_stack:
            others = self.others(done)
            self.index.add([*runs, *others])
            write_tables(self.out, [*runs, *others])
        self.remove_leftovers()

    def _occupied(self, run_ids: Sequence[str]) -> list[Path]:
        """What is in the places of these runs' folders, in their order; their names are not looked up one by one."""
        there = {path.name for path in (self.out / "runs").iterdir()}
        return [self.out / "runs" / run_id for run_id in run_ids if run_id in there]

    def remove(self, run_ids: Sequence[str]) -> None:
        """Removes the folders of these runs."""
        for path in self._occupied(run_ids):
            remove(path)

    def require_free(self, run_ids: Sequence[str]) -> None:
        """Raises ValueError, before training, if anything other than a folder occupies the path of one of the runs."""
        for path in self._occupied(run_ids):
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

    def write(self, members: Sequence[Any], confirm: Callable[[], None]) -> list[OSError | ValueError]:
        """Writes trained members (`anchorbench.train.stack.Member`) of one stack; gives the errors of those that failed.

        `confirm` is called as by `write_run`.
        """
        failures: list[OSError | ValueError] = []
        if self.by_stack:
            try:
                self.store.write(members, confirm)
                self.store.merge()
            except (OSError, ValueError) as failure:
                failures.append(failure)
            return failures
        for member in members:
            try:
                write_run(self.path(member.recipe), member, confirm)
            except (OSError, ValueError) as failure:  # the other runs may still succeed
                failures.append(failure)
        return failures

    def finished(self, recipes: Sequence[Recipe], keep_steps: Sequence[int] = ()) -> tuple[list[Run], list[str]]:
        """Finished runs among `recipes` that also kept the weights at `keep_steps`, and one message per damaged folder.

        Only run folders that are not in the index are read.
        """
        runs: list[Run] = []
        self.index.refresh()
        problems = self.store.refresh()
        for recipe in recipes:
            try:
                run = self._run(recipe.run_id, recipe)
                if run is not None and _kept(run, keep_steps):
                    runs.append(run)
            except DamagedRunError as problem:
                problems.append(str(problem))
        return runs, problems

    def ids(self, keep_steps: Sequence[int] = ()) -> tuple[set[str], list[str]]:
        """As `finished`, for all runs in the folder, but their ids only: stored runs are known by the index, and not read."""
        self.index.refresh()
        problems = self.store.refresh()
        found = self.store.ids(keep_steps)
        for name in {path.name for path in (self.out / "runs").glob("[!.]*")} - found:
            try:
                run = self._run(name)
                if run is not None and _kept(run, keep_steps):
                    found.add(name)
            except DamagedRunError as problem:
                problems.append(str(problem))
        return found, problems

    def has(self, run_ids: Sequence[str], keep_steps: Sequence[int] = ()) -> bool:
        """Whether all of these runs are there; False if folders must be read to know, as steps are to be kept."""
        self.store.refresh()
        left = [run_id for run_id in run_ids if not self.store.has(run_id, keep_steps)]
        return not left or (not keep_steps and all((self.out / "runs" / run_id).exists() for run_id in left))

    def _run(self, run_id: str, recipe: Recipe | None = None) -> Run | None:
        path = self.out / "runs" / run_id
        there = (path / "digests.json").exists()
        if not there and not path.exists():
            return self.store.run(run_id)
        run = self.index.run(run_id, recipe) if there else None
        if run is None:
            run = read_run(path)
            if not run_id == run.recipe.run_id == run.result.run_id or recipe not in (None, run.recipe):
                raise DamagedRunError(f"{path} holds another run's recipe")
        return run


class FinishedRuns(Sequence[Run]):
    """Finished runs of a folder, each of which is read when it is asked for."""

    def __init__(self, folder: SweepFolder, ids: Sequence[str]) -> None:
        self._folder, self.ids = folder, ids

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, at: int) -> Run: ...
    @overload
    def __getitem__(self, at: slice) -> "FinishedRuns": ...
    def __getitem__(self, at: int | slice) -> "Run | FinishedRuns":
        if isinstance(at, slice):
            return FinishedRuns(self._folder, self.ids[at])
        run = self._folder._run(self.ids[at])
        if run is None:
            raise DamagedRunError(f"run {self.ids[at]} is gone from {self._folder.out}")
        return run


def _kept(run: Run, keep_steps: Sequence[int]) -> bool:
    return {step for step in keep_steps if step < run.result.steps_trained} <= set(run.result.kept_steps)


def checkpoint_runs(path: Path) -> list[str]:
    """Ids of the runs in a training checkpoint; empty if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        require_plain(path)
        with safe_open(path, "np") as file:
            return CheckpointState.read(file.metadata()["anchorbench"], path).run_ids
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return []


def cuts(out: Path, name: str = "*") -> Iterator[tuple[Path, list[list[str]]]]:
    """The stacks that were cut in two, or that of one name: the file that says so, and the runs of the halves."""
    for path in sorted((out / "recut").glob(f"{name}.json")):
        with suppress(ValueError):  # damaged: the stack is trained as planned
            yield path, _HALVES.validate_python(read_json(path))


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

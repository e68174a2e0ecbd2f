"""Finished runs by stack, as sweeps of many runs are stored, and the index of them.

    stacks/<first two digits>/<name>/runs.parquet  trajectories.parquet  weights.safetensors  digests.json
    stacks/index/*.parquet

A stack's folder appears at once, when its members have ended: recipes and results are rows, weights `[member, ...]`, and digests,
written last, detect damage. Steps that are kept add `weights-STEP.safetensors` and `state-STEP.safetensors`.

The index has one row per run, and one part per finished stack, written by whoever trained it; anyone may merge parts. Nothing else
depends on it: a folder that no part mentions is added by the next call, and rows whose folder is gone do not count.
"""

import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
from pydantic_core import from_json

from anchorbench.files import new_folder, open_plain, parse_json, read_json, remove, visible, write_atomically
from anchorbench.recipe import SEEDS, flatten, parse_recipe
from anchorbench.sweeps.run_folder import (
    NAMED_FIELDS,
    TRAJECTORY,
    DamagedRunError,
    Reading,
    Result,
    Run,
    as_json,
    kept_name,
    result_of,
    state_name,
)
from anchorbench.task import first_sentence

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_PARTS = 64
"""Parts of one size from which on they are merged, so that a run's row is written again a few times only."""
MAX_PARQUET_BYTES = 2**31
DIGESTS, RUNS, TRAJECTORIES = "digests.json", "runs.parquet", "trajectories.parquet"
_STACK, _RECIPE, _KEPT, _TRAINED = ".stack", ".recipe", ".kept", ".trained"
"""Columns of the index besides those of `Run.row`: name of the stack, recipe without seeds, steps kept and trained."""
_OTHER_SEEDS = {f".{name}": name for name in SEEDS[1:]}


def stack_name(run_ids: Iterable[str]) -> str:
    """16 hex digits that identify a stack in an output folder: its folder, checkpoint, lock and failure."""
    return hashlib.sha256(" ".join(run_ids).encode()).hexdigest()[:16]


class StoredRun(Run):
    """A finished run as read from a stack's folder; `path` is where its own folder would be."""

    stack: Path
    member: int

    @property
    def forecast_path(self) -> Path:
        """In a folder of its own."""
        return self.path.parent.parent / "forecasts" / f"{self.result.run_id}.json"

    def trajectory(self) -> list[dict[str, Any]]:
        """As that of any run."""
        rows = _read(self.stack, TRAJECTORIES, filters=[("run_id", "=", self.result.run_id)]).drop_columns("run_id").to_pylist()
        try:
            points = [row | {"groups": parse_json(row["groups"].encode(), f"{self.stack / TRAJECTORIES}")} for row in rows]
            return [point.model_dump() for point in TRAJECTORY.validate_python(points)]
        except (ValueError, AttributeError, KeyError) as error:
            why = first_sentence(error) if isinstance(error, ValidationError) else error
            raise DamagedRunError(f"{self.stack / TRAJECTORIES} is damaged: {why}") from None

    def _tensors(self, name: str) -> dict[str, Any]:
        from safetensors import SafetensorError, safe_open

        require_whole(self.stack, name)
        try:
            with safe_open(self.stack / name, "pt") as file:
                found = {key: file.get_slice(key)[self.member : self.member + 1] for key in file.keys()}  # noqa: SIM118
            return {key: rows[0].clone() for key, rows in found.items()}
        except (SafetensorError, OSError, IndexError) as error:
            raise DamagedRunError(f"{self.stack / name} does not hold the weights of its members ({error})") from None


class _Kept(NamedTuple):
    """What the runs of a stack have in common."""

    steps: frozenset[int]
    trained: int


class Store:
    """The runs in `OUT/stacks`, as far as the index was read."""

    def __init__(self, out: Path) -> None:
        self._out, self._folder, self._index = out, out / "stacks", out / "stacks" / "index"
        self._stacks: dict[str, _Kept] = {}
        self._of: dict[str, str] = {}
        """Run id -> name of its stack."""
        self._parts: set[str] = set()
        self._looked = False

    def path(self, name: str) -> Path:
        """The folder of a stack."""
        return self._folder / name[:2] / name

    def write(self, members: Sequence[Any], confirm: Callable[[], None] = lambda: None) -> None:
        """Writes trained members (`anchorbench.train.stack.Member`) of one stack as one folder, and their part of the index.

        `confirm` is called as by `write_run`. Raises ValueError with one sentence if the folder cannot be written.
        """
        from safetensors.torch import save_file

        name = stack_name(member.recipe.run_id for member in members)
        results = [result_of(member) for member in members]
        recipes = [as_json(member.recipe.model_dump(mode="json")).decode() for member in members]
        columns = {
            "run_id": [result.run_id for result in results],
            "recipe": recipes,
            "result": [as_json(result.model_dump(mode="json")).decode() for result in results],
        }
        points = [
            {"run_id": member.recipe.run_id, **vars(point), "groups": as_json(point.groups).decode()}
            for member in members
            for point in member.trajectory
        ]
        tensors = {"weights.safetensors": [member.weights for member in members]}
        for step in sorted(members[0].kept):
            tensors[kept_name(step)] = [member.kept[step] for member in members]
            tensors[state_name(step)] = [member.states[step] for member in members]
        with new_folder(self.path(name), marker=DIGESTS, replace=True) as temporary:
            pq.write_table(pa.table(columns), temporary / RUNS, compression="zstd")
            pq.write_table(pa.Table.from_pylist(_finite(points)), temporary / TRAJECTORIES, compression="zstd")
            for file, each in tensors.items():
                save_file(_stacked(each), temporary / file)
            digests = {path.name: _digest(path) for path in temporary.iterdir()}
            (temporary / DIGESTS).write_bytes(as_json(digests))
            confirm()
        self._add(
            name,
            [
                Run(path=self._out / "runs" / result.run_id, recipe=member.recipe, result=result)
                for member, result in zip(members, results, strict=True)
            ],
        )

    # ------------------------------------------------------------------------------------------------ what is there

    def refresh(self) -> list[str]:
        """Reads the parts that were written since the last call; the first call looks at the stacks' folders too.

        Returns one message for each damaged stack that is not in the index.
        """
        while new := {path.name for path in self._index.glob("[!.]*.parquet")} - self._parts:
            for name in sorted(new, key=_when):
                with suppress(ValueError, pa.ArrowException, KeyError):  # merged meanwhile, or damaged
                    self._learn(_read_part(self._index / name, ["run_id", _STACK, _KEPT, _TRAINED]))
            self._parts |= new
        problems: list[str] = []
        if not self._looked:
            self._looked = True
            there = set(self._names())
            self._of = {run_id: name for run_id, name in self._of.items() if name in there}
            for name in sorted(there - self._stacks.keys()):
                try:
                    self._add(name, read_stack(self._out, self.path(name)))
                except DamagedRunError as problem:
                    problems.append(str(problem))
        return problems

    def ids(self, keep_steps: Sequence[int] = ()) -> set[str]:
        """Ids of the runs that are there and kept the weights at `keep_steps`."""
        if not keep_steps:
            return set(self._of)
        enough = {name for name, kept in self._stacks.items() if {step for step in keep_steps if step < kept.trained} <= kept.steps}
        return {run_id for run_id, name in self._of.items() if name in enough}

    def has(self, run_id: str, keep_steps: Sequence[int] = ()) -> bool:
        """Whether the run is among `ids`."""
        kept = self._stacks.get(self._of.get(run_id, ""))
        return kept is not None and {step for step in keep_steps if step < kept.trained} <= kept.steps

    def run(self, run_id: str) -> StoredRun | None:
        """The run, read from its stack's folder; None if there is none. Raises DamagedRunError if the folder is damaged."""
        if run_id not in self._of:
            return None
        folder = self.path(self._of[run_id])
        member, recipe, result = _members(folder, _stamp(folder)).get(run_id, (0, "", ""))
        return _stored(self._out, folder, run_id, member, recipe, result)

    def frame(self) -> "DataFrame | None":
        """One row per run, with the columns of `Run.row`, the forecasts, and every field in which recipes differ; None if empty."""
        parts = sorted((path.name for path in self._index.glob("[!.]*.parquet")), key=_when)
        tables: list[pa.Table] = []
        for name in parts:
            with suppress(ValueError, pa.ArrowException):
                tables.append(_read_part(self._index / name))
        if not tables:
            return None
        table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
        of_stack = table[_STACK].combine_chunks()
        there = set(self._names())
        gone = [name not in there for name in of_stack.dictionary.to_pylist()]
        keep = ~np.array(gone)[of_stack.indices.to_numpy()] & ~table["run_id"].to_pandas().duplicated(keep="last").to_numpy()
        if not keep.all():
            table = table.filter(pa.array(keep))
        return _with_differences(table, self._readings())

    # ------------------------------------------------------------------------------------------------ the index

    def merge(self) -> None:
        """Merges parts of one size, if there are many; those that others write meanwhile stay."""
        tiers: dict[int, list[str]] = {}
        for path in self._index.glob("[!.]*.parquet"):
            tiers.setdefault(_tier(path.name), []).append(path.name)
        for tier, names in tiers.items():
            if len(names) >= MAX_PARTS:
                names.sort(key=_when)
                read: dict[str, pa.Table] = {}
                for name in names:
                    with suppress(ValueError, pa.ArrowException):
                        read[name] = _read_part(self._index / name)
                if read:
                    merged = pa.concat_tables(read.values(), promote_options="permissive").unify_dictionaries()
                    self._save(merged, tier + 1, _when(names[-1]))
                for name in names:
                    remove(self._index / name)

    def reindex(self) -> tuple[int, list[str]]:
        """Writes the index anew from the stacks' folders; the number of runs, and one message for each damaged stack."""
        for path in self._index.glob("*.parquet"):
            remove(path)
        self._stacks, self._of, self._parts, self._looked = {}, {}, set(), False
        problems = self.refresh()
        return len(self._of), problems

    def check(self, run_ids: Iterable[str]) -> tuple[set[str], list[str]]:
        """Reads the stacks of these runs whole; gives those of the runs that are, and one message for each damaged stack."""
        of_stack: dict[str, set[str]] = {}
        for run_id in run_ids:
            of_stack.setdefault(self._of[run_id], set()).add(run_id)
        whole, problems = set[str](), list[str]()
        for name, runs in sorted(of_stack.items()):
            try:
                whole |= runs & {run.result.run_id for run in read_stack(self._out, self.path(name))}
            except DamagedRunError as problem:
                problems.append(str(problem))
        return whole, problems

    def _names(self) -> list[str]:
        places = self._folder.glob("[0-9a-f][0-9a-f]") if self._folder.is_dir() else ()
        return [path.name for place in places for path in place.glob("[!.]*")]

    def _learn(self, part: pa.Table) -> None:
        of_stack = part[_STACK].combine_chunks()
        if not pa.types.is_dictionary(of_stack.type):  # just made
            of_stack = of_stack.dictionary_encode()
        names: list[str] = of_stack.dictionary.to_pylist()
        indices = of_stack.indices.to_numpy()
        self._of.update(zip(part["run_id"].to_pylist(), map(names.__getitem__, indices.tolist()), strict=True))
        firsts = np.unique(indices, return_index=True)[1]
        for name, row in zip(names, part.select([_KEPT, _TRAINED]).take(pa.array(firsts)).to_pylist(), strict=True):
            self._stacks[name] = _Kept(frozenset(map(int, row[_KEPT].split())), row[_TRAINED])

    def _add(self, name: str, runs: Sequence[Run]) -> None:
        """Adds the runs of a stack that was just read or written, as one part; without one, the next call reads the folder."""
        table = pa.Table.from_pylist([_row(name, run) for run in runs])
        self._learn(table)
        with suppress(OSError):
            self._parts.add(self._save(table, 0, time.time_ns()))

    def _save(self, table: pa.Table, tier: int, when: int) -> str:
        name = f"{tier}-{when:020d}-{secrets.token_hex(4)}.parquet"
        content = pa.BufferOutputStream()
        pq.write_table(table, content, compression="zstd")
        self._index.mkdir(parents=True, exist_ok=True)
        write_atomically(self._index / name, content.getvalue().to_pybytes())
        return name

    def _readings(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for path in (self._out / "forecasts").glob("[!.]*.json"):
            with suppress(ValueError):
                found[path.stem] = Reading.model_validate(read_json(path)).model_dump()
        return found


def read_stack(out: Path, folder: Path) -> list[StoredRun]:
    """All runs in a stack's folder, every file of which is whole. Raises DamagedRunError with one sentence if not."""
    for name in sorted(_digests(folder)):
        require_whole(folder, name)
    members = _members(folder, _stamp(folder))
    found = [_stored(out, folder, run_id, *member) for run_id, member in members.items()]
    if stack_name(members) != folder.name:
        raise DamagedRunError(f"{folder} holds another stack's runs")
    expected = {RUNS, TRAJECTORIES, "weights.safetensors"}
    expected |= {of(step) for run in found for step in run.result.kept_steps for of in (kept_name, state_name)}
    if missing := sorted(expected - _digests(folder).keys()):
        raise DamagedRunError(f"{folder} is incomplete: {missing[0]} is missing")
    return found


def require_whole(folder: Path, name: str) -> None:
    """Raises DamagedRunError if a file of a stack does not have the digest recorded when it was written."""
    try:
        status = (folder / name).stat()
        found = _digest_of(folder / name, status.st_size, status.st_mtime_ns)
    except FileNotFoundError:
        raise DamagedRunError(f"{folder} is incomplete: {name} is missing") from None
    except (OSError, ValueError) as error:
        raise DamagedRunError(f"{folder / name} cannot be read: {error}") from None
    if _digests(folder).get(name) != found:
        raise DamagedRunError(f"{folder / name} is damaged: its digest is not the one recorded when it was written")


@lru_cache(maxsize=1024)
def _digest_of(path: Path, size: int, modified: int) -> str:
    """Computed once for as long as the file stays as it is: the members of a stack are read one by one."""
    return _digest(path)


def _digest(path: Path) -> str:
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(folder: Path) -> dict[str, Any]:
    try:
        digests = read_json(folder / DIGESTS)
    except ValueError as error:
        raise DamagedRunError(str(error)) from None
    if not isinstance(digests, dict):
        raise DamagedRunError(f"{folder / DIGESTS} is damaged; allowed: a digest of every file")
    return digests


def _stamp(folder: Path) -> int:
    """Changes whenever the folder is replaced."""
    with suppress(OSError):
        return (folder / DIGESTS).stat().st_mtime_ns
    return 0


@lru_cache(maxsize=4)
def _members(folder: Path, stamp: int) -> dict[str, tuple[int, str, str]]:
    """Run id -> position, recipe and result, as JSON."""
    columns = _read(folder, RUNS).to_pydict()
    if not set(columns) >= {"run_id", "recipe", "result"}:
        raise DamagedRunError(f"{folder / RUNS} is damaged; allowed: the columns run_id, recipe and result")
    rows = zip(columns["run_id"], columns["recipe"], columns["result"], strict=True)
    return {run_id: (member, recipe, result) for member, (run_id, recipe, result) in enumerate(rows)}


def _stored(out: Path, folder: Path, run_id: str, member: int, recipe: str, result: str) -> StoredRun:
    try:
        known = parse_recipe(parse_json(recipe.encode(), f"{folder / RUNS}, a recipe"))
        found = Result.model_validate(parse_json(result.encode(), f"{folder / RUNS}, a result")).up_to_date()
    except ValidationError as error:
        raise DamagedRunError(f"{folder / RUNS} is damaged: {first_sentence(error)}") from None
    except ValueError as error:
        raise DamagedRunError(f"{folder / RUNS} is damaged: {error}") from None
    if not run_id == known.run_id == found.run_id:
        raise DamagedRunError(f"{folder / RUNS} is damaged: a row is another run's")
    return StoredRun(path=out / "runs" / run_id, recipe=known, result=found, stack=folder, member=member)


def _read(folder: Path, name: str, **options: Any) -> pa.Table:
    require_whole(folder, name)
    try:
        return _read_table(folder / name, **options)
    except (ValueError, KeyError, pa.ArrowException) as error:
        raise DamagedRunError(f"{folder / name} is damaged: {visible(error)}") from None


def _read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    table = _read_table(path, columns=columns, dictionaries=True)
    if columns is None and not {"run_id", _STACK, _RECIPE} <= set(table.column_names):
        raise ValueError(f"{path} is no part of an index")
    return table


def _read_table(path: Path, *, dictionaries: bool = False, **options: Any) -> pa.Table:
    """With `dictionaries`, text other than ids is read as dictionaries of what is different in it: most of it is not."""
    with open_plain(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_PARQUET_BYTES:
            raise ValueError(f"{path} is larger than {MAX_PARQUET_BYTES} bytes")
        if dictionaries:
            options["read_dictionary"] = [
                field.name for field in pq.read_schema(file) if pa.types.is_string(field.type) and field.name != "run_id"
            ]
        return pq.read_table(file, **options)


def _tier(name: str) -> int:
    tier = name.partition("-")[0]
    return int(tier) if tier.isdecimal() and len(tier) < 3 else 0


def _when(name: str) -> int:
    when = name.split("-")[1] if name.count("-") == 2 else ""
    return int(when) if when.isdecimal() and len(when) < 30 else 0


def _row(name: str, run: Run) -> dict[str, Any]:
    recipe = run.recipe.model_dump(mode="json")
    seeds = {column: recipe[seed] for column, seed in _OTHER_SEEDS.items()}
    without = {field: value for field, value in recipe.items() if field not in SEEDS}
    kept = {_KEPT: " ".join(map(str, run.result.kept_steps)), _TRAINED: run.result.steps_trained}
    return {**run.row(), _STACK: name, _RECIPE: json.dumps(without, sort_keys=True), **seeds, **kept}


def _with_differences(table: pa.Table, readings: Mapping[str, dict[str, Any]]) -> "DataFrame":
    import pandas as pd

    recipes = table[_RECIPE].combine_chunks()
    indices = recipes.indices.to_numpy()
    flat = [flatten(from_json(text)) for text in recipes.dictionary.to_pylist()]
    used = np.unique(indices)
    paths = dict.fromkeys(path for each in flat for path in each if path not in NAMED_FIELDS)
    varying = [path for path in paths if len({json.dumps(flat[at].get(path)) for at in used}) > 1]
    internal = (_STACK, _RECIPE, _KEPT, _TRAINED, *_OTHER_SEEDS)
    table_of_rows = table.drop_columns([name for name in internal if name in table.column_names])
    text = [field.with_type(pa.large_string()) if pa.types.is_dictionary(field.type) else field for field in table_of_rows.schema]
    frame = table_of_rows.cast(pa.schema(text)).to_pandas()
    empty = dict.fromkeys(Reading.model_fields)
    rows = frame["run_id"].map(readings) if readings else None
    for name in empty:
        frame[name] = None if rows is None else [row[name] if isinstance(row, dict) else None for row in rows]
    for path in varying:
        frame[path] = pd.Series([each.get(path) for each in flat]).take(indices).to_numpy()
    for column, name in _OTHER_SEEDS.items():
        if len(set(table[column].unique().to_pylist())) > 1:
            frame[name] = table[column].to_pandas()
    return frame


def _stacked(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    import torch

    return {name: torch.stack([tensors[name] for tensors in each]) for name in each[0]}


def _finite(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Losses that JSON lacks are null here too."""
    losses = [math.nan if point["loss"] is None else point["loss"] for point in points]
    return [point | {"loss": loss if math.isfinite(loss) else None} for point, loss in zip(points, losses, strict=True)]

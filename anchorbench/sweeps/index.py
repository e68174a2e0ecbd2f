"""The index of an output folder: what its finished runs hold, in a few parquet files instead of one folder per run.

Each file of `index/` is a part, written once by whoever trained a stack; anyone may merge parts. A later version of an entry
replaces earlier ones, and an entry without a result says that the run's folder is to be read instead, as for a run that no part
mentions. So nothing depends on the index but speed: parts may be missing, damaged or removed.
"""

import io
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anchorbench.files import open_plain, parse_json, remove, write_atomically
from anchorbench.recipe import Recipe, parse_recipe
from anchorbench.sweeps.run_folder import Result, Run
from anchorbench.sweeps.store import StoredRun

MAX_PARTS = 64
"""Parts from which on they are merged."""
MAX_PART_BYTES = 2**31
_SCHEMA = pa.schema([("run_id", pa.string()), ("version", pa.int64()), ("recipe", pa.string()), ("result", pa.string())])
_Row = tuple[int, str | None, str | None]
"""Version, recipe and result, as JSON."""


class Index:
    """The index of the output folder `out`, as far as it was read."""

    def __init__(self, out: Path) -> None:
        self._out, self._folder = out, out / "index"
        self._rows: dict[str, _Row] = {}
        self._parts: set[str] = set()
        self._runs: dict[str, Run] = {}

    def refresh(self) -> None:
        """Reads the parts that were written since the last call."""
        new = {path.name for path in self._folder.glob("[!.]*.parquet")} - self._parts
        for name in sorted(new):
            with suppress(ValueError, pa.ArrowException):  # removed meanwhile, or damaged: folders are read instead
                for run_id, row in _read(self._folder / name):
                    if row[0] > self._rows.get(run_id, (0,))[0]:
                        self._rows[run_id] = row
                        self._runs.pop(run_id, None)
        self._parts |= new

    def run(self, run_id: str, recipe: Recipe | None = None) -> Run | None:
        """The run as it was when it was added, with the recipe that has this id, if known; None if its folder is to be read."""
        if run_id not in self._runs:
            _, recipe_json, result_json = self._rows.get(run_id, (0, None, None))
            if recipe_json is None or result_json is None:
                return None
            try:
                known = recipe or parse_recipe(parse_json(recipe_json.encode(), "recipe"))
                result = Result.model_validate_json(result_json)
            except ValueError:  # of another version
                return None
            if known.run_id != run_id or result.run_id != run_id:
                return None
            self._runs[run_id] = Run(path=self._out / "runs" / run_id, recipe=known, result=result)
        return self._runs[run_id]

    def add(self, runs: Iterable[Run]) -> None:
        """Adds runs that are not in the index, whose folders were just read or written, as one part; stored ones have their own."""
        own = [run for run in runs if not isinstance(run, StoredRun)]
        new = {run.result.run_id: run for run in own if self.run(run.result.run_id, run.recipe) is None}
        self._write({run_id: (run.recipe.model_dump_json(), run.result.model_dump_json()) for run_id, run in new.items()})
        self._runs |= new

    def forget(self, run_ids: Iterable[str]) -> None:
        """Has the folders of these runs read again: before they are replaced, or since they are damaged."""
        known = {run_id: (None, None) for run_id in run_ids if run_id in self._rows and self._rows[run_id][2] is not None}
        self._write(known)
        for run_id in known:
            self._runs.pop(run_id, None)

    def merge(self) -> None:
        """Merges the parts, if there are many; those that others write meanwhile stay."""
        self.refresh()
        parts = [self._folder / name for name in self._parts if (self._folder / name).exists()]
        if len(parts) > MAX_PARTS:
            self._save(self._rows)
            for path in parts:
                remove(path)

    def clear(self) -> None:
        """Removes all parts."""
        for path in self._folder.glob("*.parquet"):
            remove(path)
        self._rows, self._parts, self._runs = {}, set(), {}

    def _write(self, entries: Mapping[str, tuple[str | None, str | None]]) -> None:
        if entries:
            rows = {run_id: (self._rows.get(run_id, (0,))[0] + 1, *entry) for run_id, entry in entries.items()}
            self._rows |= rows
            with suppress(OSError):  # then folders are read
                self._save(rows)

    def _save(self, rows: Mapping[str, _Row]) -> None:
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}.parquet"
        columns: list[list[Any]] = [list(rows), *(list(column) for column in zip(*rows.values(), strict=True))]
        content = io.BytesIO()
        pq.write_table(pa.table(columns, schema=_SCHEMA), content, compression="zstd")
        self._folder.mkdir(exist_ok=True)
        write_atomically(self._folder / name, content.getvalue())
        self._parts.add(name)


def _read(path: Path) -> list[tuple[str, _Row]]:
    with open_plain(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_PART_BYTES:
            raise ValueError(f"{path} is larger than any part of an index")
        table = pq.read_table(file)
    if table.schema != _SCHEMA:
        raise ValueError(f"{path} is no part of an index")
    ids, *columns = (column.to_pylist() for column in table.columns)
    return list(zip(ids, zip(*columns, strict=True), strict=True))

"""What can happen to a parquet file of an index."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def nonsense(path: Path) -> None:
    path.write_bytes(b"nonsense")


def of_another_schema(path: Path) -> None:
    pq.write_table(pa.table({"run_id": ["x"], ".stack": [3]}), path)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: list[Callable[[Path], None]] = [Path.unlink, truncated, nonsense, of_another_schema, pipe]

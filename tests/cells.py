"""Cells of parquet files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def change(path: Path, name: str, row: int, value: object) -> None:
    """Sets one cell of a parquet file."""
    table = pq.read_table(path)
    values = table[name].to_pylist()
    values[row] = value
    at = table.schema.get_field_index(name)
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type)), path)

"""Parquet files as record batches, in the order of their rows, from any row on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def slices(batch: pa.RecordBatch, start: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield a batch from row `start` on, in pieces of at most `batch_rows`."""
    for offset in range(start, batch.num_rows, batch_rows):
        yield batch.slice(offset, batch_rows)


def read_parquet(
    path: Path, skip: int, batch_rows: int, columns: Sequence[str] | None
) -> Iterator[pa.RecordBatch]:
    """Yield a Parquet file's rows from number `skip` on; row groups before it are not read."""
    with pq.ParquetFile(path) as file:
        groups: list[int] = []
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if skip >= rows and not groups:
                skip -= rows
            else:
                groups.append(group)
        present = [name for name in file.schema_arrow.names if columns is None or name in columns]
        if not groups:
            return
        for batch in file.iter_batches(batch_rows, row_groups=groups, columns=present):
            yield from slices(batch, min(skip, batch.num_rows), batch_rows)
            skip -= min(skip, batch.num_rows)

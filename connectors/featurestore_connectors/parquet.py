"""Parquet files as record batches, in the order of their rows, from any row on.

Polars reads them in half of pyarrow's time, but whole row groups, and some types otherwise. So it reads files
of usual types whose row groups are not large; pyarrow reads all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import OperatorError

_USUAL = frozenset(
    [
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.float32(), pa.float64(), pa.bool_(), pa.string(), pa.large_string(), pa.date32()),
        *(pa.timestamp(unit, zone) for unit in ("ms", "us", "ns") for zone in (None, "UTC")),
    ]
)
_GROUP_BYTES = 128 << 20
_GROUP_CELLS = 1 << 24


def slices(batch: pa.RecordBatch, start: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield a batch from row `start` on, in pieces of at most `batch_rows`."""
    for offset in range(start, batch.num_rows, batch_rows):
        yield batch.slice(offset, batch_rows)


def read_parquet(
    path: Path, skip: int, batch_rows: int, columns: Sequence[str] | None
) -> Iterator[pa.RecordBatch]:
    """Yield a Parquet file's rows from number `skip` on; row groups before it are not read.

    Raises OperatorError where the file cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            present = [name for name in names if columns is None or name in columns]
            groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
            if _is_usual(file, present) and all(_is_small(group, len(present)) for group in groups):
                sizes = [group.num_rows for group in groups]
                yield from _by_polars(path, present, sizes, skip, batch_rows)
            else:
                yield from _by_pyarrow(file, present, skip, batch_rows)
    except (pa.ArrowInvalid, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise unreadable(path, "parquet", error) from error


def unreadable(path: Path, kind: str, error: BaseException) -> OperatorError:
    """Return the error that a file is not what it should be."""
    return OperatorError(
        f"{path} cannot be read as {kind}: {error}", hint="Repair it, or move it out of the path."
    )


def _by_pyarrow(
    file: pq.ParquetFile, columns: list[str], skip: int, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    first, groups = 0, file.num_row_groups
    while first < groups and skip >= (rows := file.metadata.row_group(first).num_rows):
        skip -= rows
        first += 1
    if first == groups:
        return
    for batch in file.iter_batches(batch_rows, row_groups=list(range(first, groups)), columns=columns):
        yield from slices(batch, min(skip, batch.num_rows), batch_rows)
        skip -= min(skip, batch.num_rows)


def _is_usual(file: pq.ParquetFile, columns: list[str]) -> bool:
    """Tell whether Polars reads these columns just as pyarrow does."""
    schema = file.schema_arrow
    return (
        len(columns) > 0
        and len(set(schema.names)) == len(schema.names)
        and all(schema.field(name).type in _USUAL for name in columns)
        and all(file.schema.column(i).physical_type != "INT96" for i in range(len(file.schema)))
    )


def _is_small(group: pq.RowGroupMetaData, columns: int) -> bool:
    return bool(group.total_byte_size <= _GROUP_BYTES and group.num_rows * columns <= _GROUP_CELLS)


def _by_polars(
    path: Path, columns: list[str], groups: list[int], skip: int, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file with row groups of so many rows: as many groups at once as make a batch."""
    query = pl.scan_parquet(path, glob=False, hive_partitioning=False).select(columns)
    begin = end = 0
    for number, rows in enumerate(groups):
        end += rows
        if end - begin < batch_rows and number + 1 < len(groups):
            continue
        start = max(begin, skip)
        if start < end:
            table = query.slice(start, end - start).collect().to_arrow(compat_level=pl.CompatLevel.newest())
            yield from table.to_batches(max_chunksize=batch_rows)
        begin = end

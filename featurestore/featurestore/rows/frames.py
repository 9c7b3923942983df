"""A batch source over a frame in memory, or one that is scanned: Polars (also lazy), pandas, Arrow.

A frame is one input. Its digest is of its values: the same values in the same order and columns have the same
digest, from whichever library and in whatever chunks; integers of any width are the same, text and categories
are the same. In pandas, NaN stands for a missing value, and is null here. A lazy frame is written once to a
temporary Parquet file, out of core, so that what is digested is what is read.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from featurestore.contracts import BatchInput
from featurestore.errors import RequestError
from featurestore.rows import hashing
from featurestore.types import DataType, Field

_DIGEST_ROWS = 65_536


class FrameSource:
    """A BatchSource (see `featurestore.contracts`) of one frame. Without a name it goes by its values."""

    def __init__(self, frame: Any, name: str | None = None) -> None:
        self._path: Path | None = None
        self._table: pa.Table | None = None
        self._name = name
        self._item: BatchInput | None = None
        if isinstance(frame, pl.LazyFrame):
            directory = tempfile.mkdtemp(prefix="featurestore-")
            self._remove = weakref.finalize(self, shutil.rmtree, directory, True)
            self._path = Path(directory) / "frame.parquet"
            frame.sink_parquet(self._path, maintain_order=True)
        else:
            self._table = _to_arrow(frame)

    def inputs(self) -> list[BatchInput]:
        """Return the frame as one input, with the digest of its values."""
        if self._item is None:
            digest, rows = _digest(self._batches(_DIGEST_ROWS, None))
            self._item = BatchInput(self._name or f"frame {digest}", digest, rows)
        return [self._item]

    def read(
        self,
        item: BatchInput,  # noqa: ARG002 — there is one
        skip: int,
        batch_rows: int,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows from number `skip` on; only `columns`, where given."""
        for batch in self._batches(batch_rows, columns):
            if skip < batch.num_rows:
                yield batch.slice(skip)
            skip = max(0, skip - batch.num_rows)

    def close(self) -> None:
        """Delete the temporary file of a lazy frame."""
        if self._path is not None:
            self._remove()

    def _batches(self, batch_rows: int, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        if self._path is not None:
            with pq.ParquetFile(self._path) as file:
                present = [name for name in file.schema_arrow.names if columns is None or name in columns]
                yield from file.iter_batches(batch_rows, columns=present)
        else:
            assert self._table is not None
            table = self._table
            if columns is not None:
                table = table.select([name for name in table.column_names if name in columns])
            yield from table.to_batches(max_chunksize=batch_rows)


def _to_arrow(frame: Any) -> pa.Table:
    if isinstance(frame, pl.DataFrame):
        return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    if isinstance(frame, pa.RecordBatch | pa.Table | pa.RecordBatchReader):
        _check_names(frame.schema.names)
        if isinstance(frame, pa.Table):
            return frame
        return frame.read_all() if isinstance(frame, pa.RecordBatchReader) else pa.Table.from_batches([frame])
    if type(frame).__module__.partition(".")[0] == "pandas":
        _check_names([str(name) for name in frame.columns])
        try:
            return pa.Table.from_pandas(frame, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise RequestError(
                f"The pandas frame has a column of mixed or unknown values: {error}.",
                hint="Give each column one type, for example with convert_dtypes().",
            ) from error
    raise RequestError(
        f"{type(frame).__name__} is no frame.",
        hint="Pass a Polars, pandas or Arrow frame, or the path of a file.",
    )


def _check_names(names: Sequence[str]) -> None:
    """Raise RequestError where two columns share a name: nobody could tell which one is meant."""
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise RequestError(
            f"The frame has the column '{repeated}' {names.count(repeated)} times.",
            hint="Drop or rename all but one; in pandas: frame.loc[:, ~frame.columns.duplicated()].",
        )


def _digest(batches: Iterator[pa.RecordBatch]) -> tuple[str, int]:
    """Return the digest of the values, and the number of rows."""
    digest = xxhash.xxh3_128()
    rows = 0
    for batch in batches:
        frame = pl.DataFrame(pl.from_arrow(batch))
        columns = [_plain(column) for column in frame.get_columns()]
        if not rows:
            digest.update(repr([(s.name, _family(s.dtype)) for s in frame.get_columns()]).encode())
        places = [series.alias(f"{place:09}") for place, (series, _) in enumerate(columns)]
        fields = [Field(series.name, kind) for series, (_, kind) in zip(places, columns, strict=True)]
        hashes = hashing.row_hash(pl.DataFrame(places), fields)
        digest.update(hashes.to_numpy().astype("<i8").tobytes())
        rows += frame.height
    return digest.hexdigest(), rows


def _family(dtype: pl.DataType) -> str:
    if isinstance(dtype, (pl.Categorical, pl.Enum)):
        return "string"
    return "integer" if dtype.is_integer() else "float" if dtype.is_float() else str(_lists(dtype)).lower()


def _plain(series: pl.Series) -> tuple[pl.Series, DataType]:
    """Return a column as one that can be hashed. What the door never takes is hashed as its text."""
    dtype = series.dtype
    if isinstance(dtype, pl.Datetime):
        return series.to_physical(), DataType("int64")
    if isinstance(dtype, (pl.Categorical, pl.Enum)):
        return series.cast(pl.String), DataType("string")
    if isinstance(dtype, (pl.List, pl.Array)) and not _is_strange(dtype):
        lists = series.cast(_lists(dtype))
        return lists, DataType("list", item=_plain(pl.Series(dtype=lists.dtype.inner))[1])  # type: ignore[attr-defined]
    if isinstance(dtype, pl.Decimal):
        return series, DataType("decimal", precision=38, scale=dtype.scale)
    simple: dict[Any, str] = {
        pl.Boolean: "bool",
        pl.String: "string",
        pl.Binary: "binary",
        pl.Date: "date",
        pl.UInt64: "uint64",
    }
    if dtype in simple:
        return series, DataType(simple[dtype])
    if dtype.is_integer():
        return series, DataType("int64")
    if dtype.is_float():
        return series, DataType("float64")
    return pl.Series(series.name, [_text(value) for value in series.to_list()], dtype=pl.String), DataType(
        "string"
    )


def _lists(dtype: Any) -> Any:
    """Return a type of lists with lists for fixed-size arrays."""
    return pl.List(_lists(dtype.inner)) if isinstance(dtype, (pl.List, pl.Array)) else dtype


def _is_strange(dtype: Any) -> bool:
    """Tell whether a type of lists holds what the door never takes."""
    while isinstance(dtype, (pl.List, pl.Array)):
        dtype = dtype.inner
    return dtype.is_nested() or dtype in (pl.Time, pl.Duration, pl.Object)


def _text(value: Any) -> str | None:
    return None if value is None else repr(value)


def to_polars(data: Any) -> pl.DataFrame:
    """Return a Polars frame of a frame of any kind, a file, or a query.

    Files are .parquet, .ndjson, or .csv, whose columns are text. Text that begins with SELECT, WITH or FROM
    is SQL, run by DuckDB, which guesses types: `SELECT … FROM 'labels.csv'`.
    """
    if isinstance(data, pl.DataFrame):
        return data
    if isinstance(data, pl.LazyFrame):
        return data.collect()
    if isinstance(data, str) and data.lstrip().upper().startswith(("SELECT", "WITH", "FROM")):
        return _queried(data)
    if isinstance(data, str | Path):
        return _read_file(Path(data))
    frame = pl.from_arrow(_to_arrow(data))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _read_file(path: Path) -> pl.DataFrame:
    if path.is_file() and path.suffix == ".parquet":
        return pl.read_parquet(path)
    if path.is_file() and path.suffix == ".csv":
        return pl.read_csv(path, infer_schema=False)
    if path.is_file() and path.suffix == ".ndjson":
        return pl.read_ndjson(path)
    raise RequestError(f"'{path}' is no file of rows.", hint="Give a .parquet, .csv or .ndjson file.")


def _queried(query: str) -> pl.DataFrame:
    import duckdb

    try:
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            frame = pl.from_arrow(connection.sql(query).to_arrow_table())
    except duckdb.Error as error:
        raise RequestError(f"The query cannot be run: {error}") from error
    assert isinstance(frame, pl.DataFrame)
    return frame

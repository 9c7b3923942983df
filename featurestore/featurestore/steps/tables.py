"""Static tables of `join` steps: read when specs are compiled, kept as plain values with what is applied.

An applied version holds its tables' rows (`text_of`), so it goes on working, anywhere, when the file changes
or is gone; a changed file is a new version, for the digest of the rows is in the fingerprint.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from featurestore.errors import SpecError, did_you_mean
from featurestore.steps.plan import Table
from featurestore.types import STRING, DataType, Field

if TYPE_CHECKING:
    import polars as pl

LARGEST = 4 * 1024 * 1024
"""How many bytes a table may take, compressed, in a version."""

_FOLDER: ContextVar[Path | None] = ContextVar("folder", default=None)
Key = tuple[Field, str]
"""A column of the row, and the table's column that it is found by."""


@contextmanager
def folder(root: Path) -> Iterator[None]:
    """Let relative paths begin at a project's folder."""
    token = _FOLDER.set(root)
    try:
        yield
    finally:
        _FOLDER.reset(token)


def root() -> Path:
    """Return where relative paths begin."""
    return _FOLDER.get() or Path()


def read(
    name: str, on: Sequence[Key], columns: Sequence[str] | None, types: Mapping[str, str]
) -> tuple[tuple[Field, ...], Table]:
    """Return the columns that a file gives, default all but the keys, and its rows by their keys.

    Raises SpecError where the file, a column or a value is not as it must be, or two rows have one key.
    """
    frame = _frame(name)
    by = [column for _, column in on]
    given = list(columns) if columns is not None else [c for c in frame.columns if c not in by]
    if not given:
        raise SpecError(
            f"'{name}' gives no column: all are in on:.",
            hint="Name those that it gives in columns:, with a prefix: where their names are taken.",
        )
    if len(set(given)) < len(given):
        raise SpecError(f"columns: names a column of '{name}' twice.")
    for column in (*by, *given, *types):
        if column not in frame.columns:
            raise SpecError(f"'{name}' has no column '{column}'.", hint=did_you_mean(column, frame.columns))
    keys = [_typed(name, frame[column], field.type) for field, column in on]
    kinds = [_type_of(name, frame[column], types) for column in given]
    values = [_typed(name, frame[column], kind) for column, kind in zip(given, kinds, strict=True)]
    rows: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for number, (key, found) in enumerate(
        zip(zip(*keys, strict=True), zip(*values, strict=True), strict=True), start=1
    ):
        if None in key:
            continue
        if key in rows:
            shown = ", ".join(map(repr, key))
            raise SpecError(
                f"'{name}' has {shown} twice in {', '.join(by)}, again in row {number}.",
                hint="A row may find one row of the table at most; leave the others out.",
            )
        rows[key] = found
    outputs = tuple(map(Field, given, kinds))
    return outputs, _table([field.type for field, _ in on], outputs, rows)


def text_of(on: Sequence[Field], outputs: Sequence[Field], table: Table) -> str:
    """Return a table as text that `kept` takes back. Raises SpecError where it is too large."""
    content = _content([field.type for field in on], outputs, table.rows)
    data = zlib.compress(content, 9)
    if len(data) > LARGEST:
        raise SpecError(
            f"The table takes {len(data)} bytes, compressed, and may take {LARGEST}.",
            hint="Make it a source and a feature set, and look it up in the vector.",
        )
    return base64.b64encode(data).decode()


def kept(text: str) -> tuple[tuple[DataType, ...], tuple[Field, ...], Table]:
    """Return the types of the keys, the columns and the rows of a table that a version holds."""
    types, names, rows = msgspec.msgpack.decode(zlib.decompress(base64.b64decode(text)))
    kinds = [DataType.parse(kind) for kind in types]
    on = len(kinds) - len(names)
    found = {}
    for row in rows:
        values = [_restored(value, kind) for value, kind in zip(row, kinds, strict=True)]
        found[tuple(values[:on])] = tuple(values[on:])
    outputs = tuple(map(Field, names, kinds[on:]))
    return tuple(kinds[:on]), outputs, _table(kinds[:on], outputs, found)


def without_rows(declaration: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored declaration as it was written, without the rows of its tables and its Avro schema."""
    steps = [
        {name: {k: v for k, v in parameters.items() if k != "data"} if name == "join" else parameters}
        for step in declaration.get("steps", ())
        for name, parameters in step.items()
    ]
    written = {**declaration, "steps": steps} if "steps" in declaration else dict(declaration)
    if isinstance(half := written.get("stream"), dict):
        written["stream"] = {k: v for k, v in half.items() if k != "definition"}
    if isinstance(source := written.get("source"), dict):
        written["source"] = without_rows(source)
    return written


def _table(
    on: Sequence[DataType], outputs: Sequence[Field], rows: Mapping[tuple[Any, ...], tuple[Any, ...]]
) -> Table:
    return Table(hashlib.sha256(_content(on, outputs, rows)).hexdigest(), rows)


def _content(
    on: Sequence[DataType], outputs: Sequence[Field], rows: Mapping[tuple[Any, ...], tuple[Any, ...]]
) -> bytes:
    """Return a table's canonical bytes: types, names, and the rows in the order of their keys."""
    kinds = [*map(str, on), *(str(field.type) for field in outputs)]
    names = [field.name for field in outputs]
    return msgspec.msgpack.encode([kinds, names, [[*key, *rows[key]] for key in sorted(rows)]])


def _restored(value: Any, kind: DataType) -> Any:
    """Return a value as it was before MessagePack, which has no decimals."""
    if value is None:
        return None
    if kind.name == "decimal":
        return Decimal(value)
    return [_restored(item, kind.item) for item in value] if kind.item is not None else value


def _frame(name: str) -> pl.DataFrame:
    import polars as pl

    path = root() / name
    if path.suffix not in (".csv", ".parquet"):
        raise SpecError(f"'{name}' is no table.", hint="Give a .csv or a .parquet file.")
    try:
        return pl.read_csv(path, infer_schema=False) if path.suffix == ".csv" else pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        said = "there is no such file" if isinstance(error, FileNotFoundError) else str(error).splitlines()[0]
        raise SpecError(
            f"The table '{name}' cannot be read: {said}.",
            hint="A relative path begins at the project's folder.",
        ) from None


def _type_of(name: str, series: pl.Series, types: Mapping[str, str]) -> DataType:
    """Return a column's type: as declared, else as the file says; text where a CSV file says nothing."""
    if series.name in types:
        return DataType.parse(types[series.name])
    found = _kind(series.dtype)
    if found is None:
        raise SpecError(
            f"'{name}' has {str(series.dtype).lower()} in '{series.name}'.",
            hint=f"Name the columns to take in columns:, or its type: types: {{{series.name}: json}}.",
        )
    return found


def _kind(dtype: Any) -> DataType | None:
    """Return the type of a file's column; None where we have none."""
    import polars as pl

    if isinstance(dtype, pl.List):
        item = _kind(dtype.inner)
        return None if item is None else DataType("list", item=item)
    if isinstance(dtype, pl.Decimal):
        return DataType("decimal", precision=dtype.precision or 38, scale=dtype.scale)
    if isinstance(dtype, pl.Datetime):
        return DataType("timestamp")
    if isinstance(dtype, (pl.Categorical, pl.Enum)):
        return STRING
    try:
        return DataType.parse("bool" if dtype == pl.Boolean else str(dtype).lower())
    except SpecError:
        return None


def _typed(name: str, series: pl.Series, kind: DataType) -> list[Any]:
    """Return a column's row values, cast as the door casts a source's. Raises SpecError with the row."""
    from featurestore.expressions.vectors import physical
    from featurestore.rows import casting

    cast = casting.cast(series, kind, casting.Context(name))
    for mask in cast.bad.values():
        row = int(mask.argmax())
        raise SpecError(f"'{name}', row {row + 1}: {series.name} {series[row]!r} is no {kind}.")
    return physical(cast.values).to_list()

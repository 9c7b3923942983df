"""Rows that users give: files, SQL, JSON, and key=value pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import RequestError

if TYPE_CHECKING:
    import polars as pl

    from featurestore.plans import VectorPlan
    from featurestore.types import DataType

INSTANT = "as 2026-11-21T10:00:00Z"
_TEXTS = ("string", "binary", "decimal", "date", "timestamp")
_KINDS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".ndjson": "json", ".jsonl": "json"}


def read_raw_rows(path: Path, limit: int) -> pl.DataFrame:
    """Return the first `limit` rows of a file as an ingest reads them: CSV as text, JSON as its lines."""
    import polars as pl
    import pyarrow as pa

    from featurestore.contracts import extension

    kind = _KINDS.get(path.suffix)
    if kind is None:
        raise RequestError(f"'{path}' has no known suffix.", hint=f"Known: {', '.join(_KINDS)}.")
    if not path.is_file():
        raise RequestError(f"There is no file '{path}'.")
    root = path.resolve().parent
    source = extension("batch", kind)({"kind": kind, "path": path.name, "options": {}}, root)
    batches = islice(source.read(source.inputs()[0], 0, limit), 1)
    frame = pl.from_arrow(pa.Table.from_batches([batch.slice(0, limit) for batch in batches]))
    assert isinstance(frame, pl.DataFrame)
    return frame


def entity_rows(text: str, plan: VectorPlan, event_time: str) -> pl.DataFrame:
    """Return the rows of a file or a query, with keys, instants and inputs as the vector has them.

    Text in a file is cast as it is at the door: "00123" stays text where the key is text, and is 123 where it
    is an integer; instants carry a zone.
    """
    types = _types(plan)
    if plan.base is not None:
        return read_rows(
            text, texts=[name for name, kind in types.items() if kind.name in ("string", "json")]
        )
    from featurestore.rows.casting import Context, cast
    from featurestore.types import DataType

    types[event_time] = DataType("timestamp")
    frame = read_rows(text, texts=list(types))
    casts = {
        name: cast(frame[name], kind, Context(text))
        for name, kind in types.items()
        if name in frame.columns and frame[name].dtype == _string()
    }
    for code, bad in casts[event_time].bad.items() if event_time in casts else ():
        place = int(bad.argmax())
        raise RequestError(
            f"'{frame[event_time][place]}' in row {place + 1} is no instant ({code}).",
            where=f"{text}, column '{event_time}'",
            hint=f"Write it with its time zone, {INSTANT}.",
        )
    return frame.with_columns(made.values.alias(name) for name, made in casts.items())


def read_rows(text: str, texts: Sequence[str]) -> pl.DataFrame:
    """Return the rows of a Parquet, CSV or NDJSON file, or of a SQL query; CSV columns in `texts` as text."""
    import polars as pl

    from featurestore.rows.frames import to_polars

    if not text.lower().endswith(".csv") or not Path(text).is_file():
        return to_polars(text)
    try:
        header = pl.read_csv(text, n_rows=0).columns
        overrides = {name: pl.String for name in texts if name in header}
        return pl.read_csv(text, schema_overrides=overrides, infer_schema_length=10_000)
    except pl.exceptions.PolarsError as error:
        raise RequestError(f"The file cannot be read: {str(error).splitlines()[0]}", where=text) from None


def request_rows(objects: Sequence[str], pairs: Sequence[str], plan: VectorPlan) -> list[dict[str, Any]]:
    """Return request rows: one per JSON object, and one of all key=value pairs."""
    rows = [_object(text) for text in objects]
    if pairs:
        rows.append(_pairs(pairs, _types(plan)))
    if not rows:
        keys = plan.request_keys if plan.base is None else [f.name for f in plan.base.source.schema]
        raise RequestError(
            "There is no row to look up.", hint="Give " + " ".join(f"{k}=…" for k in keys) + ", or --row."
        )
    return rows


def _object(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text, parse_float=Decimal)  # to the last digit
    except (json.JSONDecodeError, RecursionError) as error:
        raise RequestError(
            f"--row {text:.200} is not JSON: {error}.", hint="""Write --row '{"customer": "C1"}'."""
        ) from None
    if not isinstance(row, dict):
        raise RequestError(f"--row {text} is no JSON object.", hint="""Write --row '{"customer": "C1"}'.""")
    return row


def _pairs(pairs: Sequence[str], types: Mapping[str, DataType]) -> dict[str, Any]:
    """Return a row; what the vector reads from text stays text, else it is read as JSON if it can be."""
    row: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise RequestError(f"'{pair}' is no pair.", hint="Write customer=C1, or --row with JSON.")
        kind = types.get(name)
        if kind is not None and kind.name in _TEXTS:
            row[name] = None if text == "null" and kind.name != "string" else text
        else:
            row[name] = _value(text)
    return row


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def _types(plan: VectorPlan) -> dict[str, DataType]:
    """Return the types of a request's fields: the keys', the inputs', and those of the base's raw row."""
    where = plan.training.where
    types = {
        name: key.type
        for lookup in (*plan.lookups, *(where.lookups if where else ()))
        for name, key in zip(lookup.keys, lookup.set.keys, strict=True)
        if name in lookup.given_keys
    }
    if plan.label is not None:
        types |= {n: k.type for n, k in zip(plan.label.keys, plan.label.set.keys, strict=True)}
    if plan.base is not None:
        types |= {f.name: f.type for f in plan.base.source.schema}
    return types | {f.name: f.type for f in plan.inputs}


def _string() -> Any:
    import polars as pl

    return pl.String

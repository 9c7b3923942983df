"""Whatever holds the events, the same events are pushed: dictionaries, JSON, lines, files, frames."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.errors import RequestError
from featurestore.events import Refused, payloads

SPECS = """
kind: Entity
name: customer
---
kind: Source
name: payments
event_time: at
event_id: id
schema:
  id: int64
  customer: string
  at: timestamp
  amount: float64
  price: decimal(10,2)
  day: date
  raw: binary
  codes: list<int64>
stream: {topic: payments}
---
kind: FeatureSet
name: spending
entities: [customer]
source: payments
history: all
"""
AT = datetime(2026, 3, 1, 10, 30, 0, 123456, tzinfo=UTC)
ROWS: list[dict[str, Any]] = [
    {
        "id": 2**53 + 1,
        "customer": "é\n",
        "at": AT,
        "amount": 0.1,
        "price": Decimal("1.20"),
        "day": date(2026, 3, 1),
        "raw": b"\x00\xff",
        "codes": [1, None],
    },
    {
        "id": 2,
        "customer": "b",
        "at": AT,
        "amount": None,
        "price": None,
        "day": None,
        "raw": None,
        "codes": None,
    },
]
FRAME = pl.DataFrame(
    ROWS,
    schema={
        "id": pl.Int64,
        "customer": pl.String,
        "at": pl.Datetime("us", "UTC"),
        "amount": pl.Float64,
        "price": pl.Decimal(10, 2),
        "day": pl.Date,
        "raw": pl.Binary,
        "codes": pl.List(pl.Int64),
    },
)
TABLE = FRAME.to_arrow(compat_level=pl.CompatLevel.oldest())
LINES = b"\n".join(
    json.dumps(row, default=lambda v: "AP8=" if isinstance(v, bytes) else str(v)).encode() for row in ROWS
)


def written(folder: Path, name: str) -> Path:
    """Return a file of the rows, in the format of its suffix."""
    path = folder / name
    if path.suffix == ".parquet":
        pq.write_table(TABLE, path, row_group_size=1)
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, TABLE.schema) as writer:
            writer.write_table(TABLE, 1)
    elif path.suffix == ".arrows":
        with pa.ipc.new_stream(path, TABLE.schema) as stream:
            stream.write_table(TABLE)
    else:
        path.write_bytes(b"\n" + LINES.replace(b"\n", b"\r\n\r\n") + b"\n\n")
    return path


KINDS: dict[str, Callable[[Path], Any]] = {
    "dictionaries": lambda _: ROWS,
    "a generator": lambda _: (row for row in ROWS),
    "JSON bytes": lambda _: LINES.split(b"\n"),
    "JSON text": lambda _: LINES.decode().split("\n"),
    "lines": lambda _: LINES,
    "lines that end": lambda _: bytearray(LINES + b"\n"),
    "an open file": lambda folder: io.BytesIO(written(folder, "a.ndjson").read_bytes()),
    "Polars": lambda _: FRAME,
    "lazy Polars": lambda _: FRAME.lazy(),
    "Arrow": lambda _: TABLE,
    "an Arrow batch": lambda _: TABLE.combine_chunks().to_batches()[0],
    "an Arrow reader": lambda _: TABLE.to_reader(1),
    "pandas": lambda _: TABLE.to_pandas(types_mapper=pd.ArrowDtype),
    "nanoseconds": lambda _: FRAME.with_columns(
        pl.col("at").dt.cast_time_unit("ns") + pl.duration(nanoseconds=9)
    ),
    **{
        name: lambda folder, name=name: written(folder, name)  # type: ignore[misc]
        for name in ("a.ndjson", "a.jsonl", "a.json", "a.parquet", "a.arrow", "a.arrows")
    },
    "a path as text": lambda folder: str(written(folder, "a.parquet")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_events_are_the_same_rows_whatever_holds_them(kind: str, tmp_path: Path) -> None:
    (tmp_path / "featurestore.yaml").write_text(
        "project: shop\nonline: {kind: sqlite}\nstream: {kind: log}\n"
    )
    (tmp_path / "specs.yaml").write_text(SPECS)
    with FeatureStore(tmp_path) as store:
        store.apply()
        report = store.push("payments", KINDS[kind](tmp_path))
        assert report.refused == []
        assert [(item["index"], item["sequence"]) for item in report.accepted] == [(0, 0), (1, 1)]
        store.drain()
        plan = store.catalog.feature_set("spending")
        table = store.environment.rows_table(plan)
        snapshot = table.snapshot()
        assert snapshot is not None
        rows = table.lazy(snapshot, schema=plan.columns).select(FRAME.columns).sort("customer").collect()
        assert rows.equals(FRAME.sort("customer"))


def test_one_event_by_itself_is_one_event() -> None:
    assert list(payloads({"id": 1})) == [b'{"id":1}']


@pytest.mark.parametrize(
    ("frame", "refused"),
    [
        (pl.DataFrame({"a": [1.0, float("nan")]}), {1: "nan"}),
        (pl.DataFrame({"a": [[float("-inf")], [0.0]]}), {0: "-inf"}),
        (pd.DataFrame({"a": [1.0, float("inf"), float("nan")]}), {1: "inf"}),  # in pandas NaN is missing
    ],
)
def test_a_value_that_json_cannot_carry_refuses_its_row_alone(frame: Any, refused: dict[int, str]) -> None:
    found = {i: p.message for i, p in enumerate(payloads(frame)) if isinstance(p, Refused)}
    assert found == {i: f"a: JSON has no {value}; send null" for i, value in refused.items()}


def test_what_holds_no_events_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no file of events"):
        list(payloads(tmp_path / "a.txt"))
    with pytest.raises(RequestError, match="cannot be read"):
        list(payloads(tmp_path / "missing.ndjson"))
    (tmp_path / "bad.arrow").write_bytes(b"no arrow")
    with pytest.raises(RequestError, match="cannot be read"):
        list(payloads(tmp_path / "bad.arrow"))
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(RequestError, match="cannot be read"):
        list(payloads(tmp_path / "bad.parquet"))
    with pytest.raises(RequestError, match="no events"):
        list(payloads(5))


def test_a_reader_of_many_batches_is_not_held_as_a_whole() -> None:
    """Each batch is asked for when the events before it have been taken."""
    asked = 0

    def batches() -> Any:
        nonlocal asked
        for number in range(10):
            asked += 1
            yield pa.record_batch({"a": [number] * 100})

    events = payloads(pa.RecordBatchReader.from_batches(pa.schema({"a": pa.int64()}), batches()))
    for _ in range(150):
        next(events)
    assert asked == 2

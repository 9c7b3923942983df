"""Every declared type comes back from a Delta table as it went in."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from featurestore.types import DataType, Field
from featurestore_connectors.delta import DeltaOfflineStore, cast_back

VALUES: dict[str, list[Any]] = {
    "int8": [-128, 127, None],
    "int16": [-(2**15), 2**15 - 1, None],
    "int32": [-(2**31), 2**31 - 1, None],
    "int64": [-(2**63), 2**63 - 1, None],
    "uint8": [0, 255, None],
    "uint16": [0, 2**16 - 1, None],
    "uint32": [0, 2**32 - 1, None],
    "uint64": [0, 2**64 - 1, None],
    "float32": [1.5, -math.inf, None],
    "float64": [0.1, math.inf, 5e-324, None],
    "bool": [True, False, None],
    "string": ["", "\x00é😀" * 50, None],
    "binary": [b"", b"\x00\xff" * 50, None],
    "date": [date(1, 1, 1), date(9999, 12, 31), date(1969, 12, 31), None],
    "timestamp": [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        None,
    ],
    "decimal(38,0)": [Decimal(10**38 - 1), Decimal(1 - 10**38), None],
    "decimal(5,2)": [Decimal("-999.99"), Decimal("0.01"), None],
    "list<int64>": [[1, None], [], None],
    "list<uint64>": [[2**64 - 1], [None], None],
    "list<float32>": [[1.5], [math.inf], None],
    "list<string>": [["", None], [], None],
    "list<list<uint8>>": [[[255], None], [[]], None],
    "list<timestamp>": [[datetime(1, 1, 1, tzinfo=UTC)], [None], None],
}


@pytest.fixture(params=[1, 65_536], ids=["as many rows", "as few rows"], autouse=True)
def many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are written by deltalake where they are few, and by Polars where they are many."""
    monkeypatch.setattr("featurestore_connectors.delta.table._MANY", request.param)


@pytest.mark.parametrize("name", VALUES)
def test_a_type_comes_back(name: str, tmp_path: Path) -> None:
    kind = DataType.parse(name)
    rows = pa.table({"value": pa.array(VALUES[name], kind.arrow())})
    table = DeltaOfflineStore({"path": str(tmp_path)}).table("rows")
    snapshot = table.append(None, rows, {})
    assert snapshot is not None
    restored = pa.Table.from_batches(table.scan(snapshot, schema=[Field("value", kind)]))
    assert restored.schema == rows.schema
    assert restored.to_pydict() == rows.to_pydict()
    plain = pa.Table.from_batches(table.scan(snapshot))
    assert cast_back(plain, [Field("value", kind)]).to_pydict() == rows.to_pydict()


@pytest.mark.parametrize("column", ["value", "ingest_time"])
@pytest.mark.parametrize("name", VALUES)
def test_a_type_comes_back_after_compaction(name: str, column: str, tmp_path: Path) -> None:
    """A feature may have the name that an instant has in the table of dead letters."""
    kind = DataType.parse(name)
    count = len(VALUES[name])
    table = DeltaOfflineStore({"path": str(tmp_path)}).table("rows")
    rows = pa.table(
        {
            "__event_time": pa.array(range(count), pa.timestamp("us", "UTC")),
            column: pa.array(VALUES[name], kind.arrow()),
        }
    )
    table.append(None, rows, {})
    assert table.compact()["rows"] == count
    snapshot = table.snapshot()
    assert snapshot is not None
    restored = pa.Table.from_batches(table.scan(snapshot, schema=[Field(column, kind)]))
    assert restored.sort_by("__event_time").to_pydict() == rows.to_pydict()


def test_floats_keep_nan_and_the_sign_of_zero(tmp_path: Path) -> None:
    table = DeltaOfflineStore({"path": str(tmp_path)}).table("rows")
    times = pa.array([0, 1], pa.timestamp("us", "UTC"))
    table.append(None, pa.table({"__event_time": times, "value": pa.array([math.nan, -0.0])}), {})
    for compacted in (False, True):
        if compacted:
            table.compact()
        snapshot = table.snapshot()
        assert snapshot is not None
        rows = pa.Table.from_batches(table.scan(snapshot)).sort_by("__event_time")
        nan, zero = rows["value"].to_pylist()
        assert math.isnan(nan)
        assert math.copysign(1, zero) == -1


def test_polars_frames_text_and_bytes_are_stored(tmp_path: Path) -> None:
    table = DeltaOfflineStore({"path": str(tmp_path)}).table("rows")
    categories = pl.Series(["u", "v"], dtype=pl.Categorical)
    frame = pl.DataFrame({"s": ["a", None], "b": [b"x", None], "c": categories})
    first = table.append(None, frame.to_arrow(compat_level=pl.CompatLevel.oldest()), {})
    views = frame.cast({"c": pl.String}).to_arrow(compat_level=pl.CompatLevel.newest())
    second = table.append(first, views, {})
    assert second is not None
    stored = pa.Table.from_batches(table.scan(second)).sort_by("c").to_pydict()
    assert stored == {"s": ["a", "a", None, None], "b": [b"x", b"x", None, None], "c": ["u", "u", "v", "v"]}

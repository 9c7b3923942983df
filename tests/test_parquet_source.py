"""Parquet files as batches: whichever way a file is read, its rows are those that pyarrow reads."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.errors import OperatorError
from featurestore_connectors import parquet
from featurestore_connectors.files import FileSource

USUAL: dict[str, tuple[pa.DataType, list[Any]]] = {
    "i8": (pa.int8(), [-128, 127, None]),
    "i64": (pa.int64(), [-(2**63), 2**63 - 1, None]),
    "u8": (pa.uint8(), [0, 255, None]),
    "u32": (pa.uint32(), [0, 2**32 - 1, None]),
    "u64": (pa.uint64(), [0, 2**64 - 1, None]),
    "f32": (pa.float32(), [-0.0, float("nan"), None]),
    "f64": (pa.float64(), [float("-inf"), 5e-324, None]),
    "flag": (pa.bool_(), [True, False, None]),
    "text": (pa.string(), ["", "né\0x" * 9, None]),
    "long": (pa.large_string(), ["a", "b", None]),
    "day": (pa.date32(), [dt.date(1, 1, 1), dt.date(9999, 12, 31), None]),
    "ms": (pa.timestamp("ms", "UTC"), [dt.datetime(1, 1, 1, tzinfo=dt.UTC), -1, None]),
    "us": (pa.timestamp("us"), [dt.datetime(9999, 12, 31, 23, 59, 59, 999_999), -1, None]),
    "ns": (pa.timestamp("ns", "UTC"), [-1, 2**63 - 1, None]),
}  # fmt: skip
UNUSUAL: dict[str, tuple[pa.DataType, list[Any]]] = {
    "bytes": (pa.binary(), [b"", b"\xff", None]),
    "kind": (pa.dictionary(pa.int32(), pa.string()), ["a", "b", None]),
    "money": (pa.decimal128(10, 2), [None, None, None]),
    "local": (pa.timestamp("us", "Europe/Vienna"), [0, 1, None]),
    "second": (pa.timestamp("s"), [0, 1, None]),
    "list": (pa.list_(pa.int64()), [[1, None], [], None]),
    "clock": (pa.time64("us"), [0, 1, None]),
}


@pytest.fixture(params=["usual", "unusual"])
def table(request: pytest.FixtureRequest) -> pa.Table:
    columns = USUAL if request.param == "usual" else USUAL | UNUSUAL
    return pa.table({name: pa.array(values * 5, kind) for name, (kind, values) in columns.items()})


def read(path: Path, skip: int = 0, size: int = 4, columns: list[str] | None = None) -> pa.Table:
    batches = list(parquet.read_parquet(path, skip, size, columns))
    assert all(0 < batch.num_rows <= size for batch in batches)
    return pa.Table.from_batches(batches)


def same(found: pa.Table, expected: pa.Table) -> None:
    assert found.column_names == expected.column_names
    for name in found.column_names:
        views = {pa.string_view(): pa.large_string()}
        kind = views.get(found[name].type, found[name].type)
        assert kind == expected[name].type or pa.types.is_large_string(kind), name
        one, other = found[name].cast(expected[name].type), expected[name]
        assert repr(one.to_pylist() if name != "ns" else one.cast(pa.int64()).to_pylist()) == repr(
            other.to_pylist() if name != "ns" else other.cast(pa.int64()).to_pylist()
        ), name


@pytest.mark.parametrize("group", [1, 3, 4, 7, 100])
@pytest.mark.parametrize(
    "options", [{}, {"store_schema": False}, {"data_page_version": "2.0", "compression": "zstd"}]
)
def test_rows_are_those_that_pyarrow_reads_from_any_row_on(
    group: int, options: dict[str, Any], table: pa.Table, tmp_path: Path
) -> None:
    path = tmp_path / "odd [name]*.parquet"
    pq.write_table(table, path, row_group_size=group, **options)
    whole = pq.read_table(path)
    for skip in range(0, table.num_rows, 2):
        same(read(path, skip), whole.slice(skip))
    assert list(parquet.read_parquet(path, table.num_rows, 4, None)) == []
    assert list(parquet.read_parquet(path, table.num_rows + 1, 4, None)) == []
    same(read(path, 2, 100, ["text", "i8", "none"]), whole.select(["i8", "text"]).slice(2))


def test_what_polars_reads(table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Usual files with small row groups, and no others: it would hold a large one whole."""
    path = tmp_path / "x.parquet"
    pq.write_table(table, path)
    called: list[Path] = []
    by_polars = parquet._by_polars
    monkeypatch.setattr(
        parquet, "_by_polars", lambda path, *more: called.append(path) or by_polars(path, *more)
    )
    read(path)
    assert bool(called) == (table.column_names == list(USUAL))
    called.clear()
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 100)
    same(read(path), pq.read_table(path))
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 1 << 20)
    monkeypatch.setattr(parquet, "_GROUP_CELLS", 100)
    same(read(path), pq.read_table(path))
    assert not called


def test_instants_of_96_bits_are_left_to_pyarrow(tmp_path: Path) -> None:
    rows = pa.table({"at": pa.array([0, 1], pa.timestamp("ns"))})
    pq.write_table(rows, tmp_path / "x.parquet", use_deprecated_int96_timestamps=True)
    with pq.ParquetFile(tmp_path / "x.parquet") as file:
        assert not parquet._is_usual(file, ["at"])
    assert read(tmp_path / "x.parquet")["at"].cast(pa.int64()).to_pylist() == [0, 1]


def test_a_file_without_rows_or_columns_gives_none(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "x.parquet")
    assert list(parquet.read_parquet(tmp_path / "x.parquet", 0, 4, None)) == []


@pytest.mark.parametrize("compression", ["zstd", "snappy", "none"])
@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_a_broken_file_is_an_error_that_names_it(kind: pa.DataType, compression: str, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    rows = pa.table({"text": pa.array([f"{n}" * 50 for n in range(1000)], kind)})
    pq.write_table(rows, path, compression=compression)
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(data)
    source = FileSource({"kind": "parquet", "path": "x.parquet"}, tmp_path)
    [item] = source.inputs()
    with pytest.raises(OperatorError, match=r"x\.parquet cannot be read as parquet"):
        list(source.read(item, 0, 100))

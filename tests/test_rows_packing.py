"""Rows packed column by column are the bytes that msgspec writes for each row's values."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.expressions.vectors import physical
from featurestore.rows.packing import is_packable, pack_rows
from featurestore.types import DataType, Field

EDGES = [
    bound + step
    for size in (5, 7, 8, 15, 16, 31, 32, 63)
    for bound in (-(2**size), 2**size)
    for step in (-1, 0, 1)
]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.sampled_from([edge for edge in EDGES if -(2**63) <= edge < 2**63]) | st.integers(-200, 300),
    "int8": st.integers(-128, 127),
    "uint32": st.integers(0, 2**32 - 1),
    "bool": st.booleans(),
    "float64": st.floats(),
    "float32": st.floats(width=32),
    "timestamp": st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    "date": st.dates(date(1900, 1, 1), date(2200, 1, 1)),
    "string": st.text(max_size=40)
    | st.sampled_from(["x" * 31, "x" * 32, "x" * 255, "ä" * 128, "x" * 70_000]),
    "binary": st.binary(max_size=40) | st.sampled_from([b"x" * 255, b"x" * 256, b"x" * 65_536]),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[pl.DataFrame, list[Field]]:
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=20))
    rows = draw(st.integers(0, 5))
    fields = [Field(f"f{number}", DataType(kind)) for number, kind in enumerate(kinds)]
    columns = [
        pl.Series(
            field.name,
            draw(st.lists(st.none() | VALUES[field.type.name], min_size=rows, max_size=rows)),
            dtype=field.type.polars(),
        )
        for field in fields
    ]
    return pl.DataFrame(columns), fields


@settings(deadline=None)
@given(tables())
def test_packed_rows_are_those_of_msgspec(table: tuple[pl.DataFrame, list[Field]]) -> None:
    frame, fields = table
    found = pack_rows(frame, fields).to_pylist()
    wanted = list(pl.DataFrame([physical(series) for series in frame]).iter_rows())
    assert list(map(repr, map(msgspec.msgpack.decode, found))) == [repr(list(row)) for row in wanted]
    if not any(field.type.name == "float32" for field in fields):
        assert found == [msgspec.msgpack.encode(row) for row in wanted]


def test_blocks_of_rows_follow_each_other_and_slices_are_packed_as_they_are() -> None:
    rows = 10_000
    frame = pl.DataFrame({"n": range(rows), "t": [f"row {n}" if n % 7 else None for n in range(rows)]})
    fields = [Field("n", DataType("int64")), Field("t", DataType("string"))]
    found = pack_rows(frame[1234:9999], fields).to_pylist()
    assert found == [msgspec.msgpack.encode(row) for row in frame.iter_rows()][1234:9999]


@pytest.mark.parametrize("kind", ["uint64", "decimal", "list", "vector"])
def test_what_has_no_fixed_form_is_not_packed_so(kind: str) -> None:
    assert not is_packable(DataType(kind))

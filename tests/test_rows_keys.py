"""Canonical keys and shards of columns are those of single values (DESIGN 3.12)."""

from __future__ import annotations

import struct
from datetime import UTC, date
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.keys import cast_key, encode_key, shard_of
from featurestore.plans import KeyColumn
from featurestore.rows.keys import encode, encode_keys
from featurestore.types import DataType

KINDS = ["int8", "int64", "uint64", "string", "binary", "bool", "date", "timestamp"]
COLUMNS: dict[str, tuple[pl.DataType, st.SearchStrategy[Any]]] = {
    "Int64": (pl.Int64(), st.integers(-(2**63), 2**63 - 1)),
    "UInt64": (pl.UInt64(), st.integers(0, 2**64 - 1)),
    "Int16": (pl.Int16(), st.integers(-(2**15), 2**15 - 1)),
    "Float64": (pl.Float64(), st.floats() | st.integers(-300, 300).map(float)),
    "Float32": (pl.Float32(), st.floats(width=32) | st.integers(-300, 300).map(float)),
    "String": (
        pl.String(),
        st.text(max_size=12) | st.sampled_from(["00123", "2026-01-02", "2026-01-02T03:04Z"]),
    ),
    "Binary": (pl.Binary(), st.binary(max_size=12)),
    "Boolean": (pl.Boolean(), st.booleans()),
    "Date": (pl.Date(), st.dates()),
    "Datetime": (pl.Datetime("us", "UTC"), st.datetimes(timezones=st.just(UTC))),
}


def key(kind: str, name: str = "a") -> KeyColumn:
    return KeyColumn(name, name, DataType.parse(kind), name)


def slow(value: Any, kind: DataType) -> bytes | None:
    try:
        return encode_key([cast_key(value, kind)], [kind])
    except (ValueError, OverflowError, struct.error):
        return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", sorted(COLUMNS))
def test_a_column_encodes_as_its_values_do(kind: str, column: str) -> None:
    dtype, values = COLUMNS[column]

    @settings(deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.none() | values, min_size=1, max_size=6))
    def check(data: list[Any]) -> None:
        series = pl.Series("a", data, dtype=dtype)
        found = encode(pl.DataFrame([series]), [key(kind)], ["a"])
        expected = [slow(value, DataType.parse(kind)) for value in series.to_list()]
        assert found.key.to_list() == expected
        assert found.shard.to_list() == [None if part is None else shard_of(part) for part in expected]
        missing = [value is None or value != value for value in series.to_list()]
        lost = [part is None for part in expected]
        assert found.uncastable.to_list() == [a and not b for a, b in zip(lost, missing, strict=True)]

    check()


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.none() | st.text(max_size=5), st.none() | st.integers(0, 9), st.dates()), min_size=1
    )
)
def test_composite_parts_never_run_together(rows: list[tuple[str | None, int | None, date]]) -> None:
    frame = pl.DataFrame(rows, schema={"a": pl.String, "b": pl.Int32, "c": pl.Date}, orient="row")
    keys = [key("string", "a"), key("int64", "b"), key("date", "c")]
    expected = [None if None in row else encode_key(row, [k.type for k in keys]) for row in rows]
    assert encode_keys(frame, keys, ["a", "b", "c"]).to_list() == expected


def test_what_the_contract_says_of_keys() -> None:
    frame = pl.DataFrame({"f": [17850.0, 17850.5, float("nan"), None], "t": ["00123", "1", "", None]})
    whole = encode(frame, [key("int64")], ["f"])
    assert whole.key.to_list() == [b"i" + (17850).to_bytes(8, "big"), None, None, None]
    assert whole.uncastable.to_list() == [False, True, False, False]
    text = encode_keys(frame, [key("string")], ["t"]).to_list()
    assert text == [b"s\0\0\0\x0500123", b"s\0\0\0\x011", b"s\0\0\0\0", None]
    narrow, wide = pl.DataFrame({"a": [1]}, {"a": pl.Int32}), pl.DataFrame({"a": [1]}, {"a": pl.Int64})
    assert encode_keys(narrow, [key("int64")], ["a"])[0] == encode_keys(wide, [key("int64")], ["a"])[0]
    assert encode_keys(wide, [key("string")], ["a"]).to_list() == [None]


def test_a_part_has_its_types_tag_and_text_its_length() -> None:
    text, whole = DataType.parse("string"), DataType.parse("int64")
    assert encode_key(["ab", "c"], [text, text]) == b"s\0\0\0\x02abs\0\0\0\x01c"
    assert encode_key(["a", "bc"], [text, text]) == b"s\0\0\0\x01as\0\0\0\x02bc"
    assert encode_key([1], [whole]) == b"i\0\0\0\0\0\0\0\x01"
    assert encode_key(["1"], [text]) == b"s\0\0\0\x011"


def test_a_slice_of_a_frame_has_its_own_keys() -> None:
    frame = pl.DataFrame({"a": [str(n) * n for n in range(30)]})[7:19]
    assert encode_keys(frame, [key("string")], ["a"]).to_list() == [
        encode_key([value], [DataType.parse("string")]) for value in frame["a"]
    ]

"""JSON records: exact, strictly typed, and one bad record costs only itself (DESIGN 3.14)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.contracts import Record, RecordBatch
from featurestore.plans import SourcePlan
from featurestore.rows.door import admit
from featurestore.rows.json import decode
from featurestore.types import DataType, Field


def source(types: dict[str, str], **changes: Any) -> SourcePlan:
    plan: dict[str, Any] = {
        "name": "payments",
        "schema": tuple(Field(name, DataType.parse(kind)) for name, kind in types.items()),
        "event_time": None,
        "ingest_time": None,
        "event_id": (),
        "order_by": None,
        "timezone": None,
        "delay": 0,
        "future": 0,
        "max_bytes": 1 << 20,
        "cutover": None,
        "on_duplicate": "first",
        "deleted": None,
        "batch": None,
        "stream": {"topic": "t", "options": {}},
        "fingerprint": "f",
    }
    return SourcePlan(**{**plan, **changes})


def batch(*payloads: bytes | None) -> RecordBatch:
    records = [Record(100 + place, 5, None, payload) for place, payload in enumerate(payloads)]
    return RecordBatch("log:x/0", records, 100 + len(payloads))


def one(kind: str, written: str, **changes: Any) -> Any:
    """Return the value of a column as admitted, or the code of the dead letter."""
    plan = source({"v": kind}, **changes)
    rows, refused = decode(plan, batch(b'{"v":%s}' % written.encode()))
    admitted = admit(plan, rows, now=0)
    if admitted.rows.height:
        return admitted.rows["v"].to_list()[0]
    return pl.concat([refused, admitted.rejected])["code"].to_list()[0]


T = datetime(2026, 11, 21, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "written", "expected"),
    [
        ("int64", "9007199254740993", 9007199254740993),
        ("int64", "-9223372036854775808", -(2**63)),
        ("int64", "9223372036854775808", "bad_value"),
        ("uint64", "18446744073709551615", 2**64 - 1),
        ("uint64", "18446744073709551616", "bad_value"),
        ("uint64", "-1", "bad_value"),
        ("int8", "128", "bad_value"),
        ("int64", "17850.0", 17850),
        ("int64", "1e3", 1000),
        ("int64", "12.5", "bad_value"),
        ("int64", "1e300", "bad_value"),
        ("int64", "9007199254740994.0", "bad_value"),
        ("int64", '"1"', "bad_type"),
        ("int64", "true", "bad_type"),
        ("int64", "[1]", "bad_type"),
        ("int64", "null", None),
        ("float64", "1", 1.0),
        ("float64", "0.1", 0.1),
        ("float64", '"0.1"', "bad_type"),
        ("float64", "NaN", "malformed"),
        ("float64", "1e400", "bad_value"),
        ("float32", "1e300", "bad_value"),
        ("bool", "true", True),
        ("bool", "1", "bad_type"),
        ("bool", '"true"', "bad_type"),
        ("string", '"00123"', "00123"),
        ("string", '""', ""),
        ("string", "123", "bad_type"),
        ("string", '{"a": 1}', "bad_type"),
        ("binary", '"aGk="', b"hi"),
        ("binary", '"a"', "bad_value"),
        ("decimal(6,2)", "12.34", Decimal("12.34")),
        ("decimal(6,2)", '"12.34"', Decimal("12.34")),
        ("decimal(6,2)", "12", Decimal("12.00")),
        ("decimal(6,2)", "12.345", "bad_value"),
        ("decimal(6,2)", "1e999999999", "bad_value"),
        ("decimal(6,2)", '"twelve"', "bad_value"),
        ("decimal(38,20)", "0.12345678901234567891", Decimal("0.12345678901234567891")),
        ("timestamp", '"2026-11-21T10:00:00Z"', T),
        ("timestamp", '"2026-11-21T11:00:00.0000009+01:00"', T),
        ("timestamp", '"2026-11-21T10:00:00"', "naive_timestamp"),
        ("timestamp", '"soon"', "bad_value"),
        ("timestamp", "1700000000", "bad_type"),
        ("date", '"2026-11-21"', T.date()),
        ("date", "20000", "bad_type"),
        ("list<int64>", "[1, null, 2]", [1, None, 2]),
        ("list<int64>", "[1, 2.0]", [1, 2]),
        ("list<int64>", '[1, "2"]', "bad_type"),
        ("list<int64>", "1", "bad_type"),
        ("list<decimal(6,2)>", "[1.25, null]", [Decimal("1.25"), None]),
        ("list<timestamp>", '["2026-11-21T10:00:00Z"]', [T]),
    ],
)
def test_a_value_of_each_type(kind: str, written: str, expected: Any) -> None:
    assert one(kind, written) == expected


@pytest.mark.parametrize(
    ("epoch", "written"),
    [("s", "1795255200"), ("ms", "1795255200000"), ("us", "1795255200000000"), ("ns", "1795255200000000999")],
)
def test_integers_are_times_where_the_stream_says_what_they_count(epoch: str, written: str) -> None:
    said = {"topic": "t", "options": {"epoch": epoch}}
    assert one("timestamp", written, stream=said) == T
    assert one("timestamp", '"2026-11-21T10:00:00Z"', stream=said) == T
    assert one("timestamp", "9" * 30, stream=said) == "bad_value"


BAD: list[tuple[bytes | None, str]] = [
    (None, "tombstone"),
    (b"", "malformed"),
    (b"   ", "malformed"),
    (b"{", "malformed"),
    (b'{"a":1}{"a":2}', "malformed"),
    (b'{"a":1},{"a":2}', "malformed"),
    (b'{"a":1}\n{"a":2}', "malformed"),
    (b'{"a":"x', "malformed"),
    (b"[1]", "malformed"),
    (b"null", "malformed"),
    (b'"text"', "malformed"),
    (b'{"t":"\xff"}', "malformed"),
    (b'{"t":"\\ud800"}', "malformed"),
    (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed"),
    (b'{"a":' + b"9" * 10_000 + b"}", "malformed"),
    (b'{"a":"1"}', "bad_type"),
    (b'{"t":"' + b"x" * (1 << 20) + b'"}', "too_large"),
]


@pytest.mark.parametrize(("payload", "code"), BAD)
def test_a_bad_record_costs_only_itself(payload: bytes | None, code: str) -> None:
    plan = source({"a": "int64", "t": "string"})
    good = b' {"a": 1, "t": "\xc3\xbc", "more": {"a": [2]}}\n'
    rows, refused = decode(plan, batch(good, payload, good))
    assert rows.select("a", "t", "__sequence").rows() == [(1, "ü", 100), (1, "ü", 102)]
    assert rows["__partition"].to_list() == ["log:x/0"] * 2
    assert rows["__record_time"].to_list() == [5, 5]
    assert rows["__payload"].to_list() == [good, good]
    assert refused.select("source", "partition", "sequence", "code").rows() == [
        ("payments", "log:x/0", 101, code)
    ]
    kept = payload[:4096] if payload is not None and code == "too_large" else payload
    assert refused["payload"].to_list() == [kept]
    assert refused["message"].to_list()[0]
    assert refused["ingest_time"].to_physical().to_list() == [5]


def test_bad_records_among_thousands_cost_only_themselves() -> None:
    payloads: list[bytes | None] = [b'{"v":%d}' % number for number in range(5_000)]
    payloads[7], payloads[1024], payloads[3000], payloads[4999] = b"{", None, b'{"v":1.0}', b'{"v":"1"}'
    rows, refused = decode(source({"v": "int64"}), batch(*payloads))
    lacking = {7, 1024, 4999}
    assert rows["__sequence"].to_list() == [100 + n for n in range(5_000) if n not in lacking]
    assert rows["v"].to_list() == [1 if n == 3000 else n for n in range(5_000) if n not in lacking]
    assert refused["sequence"].to_list() == [107, 1124, 5099]
    assert refused["code"].to_list() == ["malformed", "tombstone", "bad_type"]


def test_a_record_of_just_max_bytes_is_read() -> None:
    plan = source({"a": "int64"}, max_bytes=7)
    assert decode(plan, batch(b'{"a":1}'))[0].height == 1
    assert decode(plan, batch(b'{"a":1} '))[1]["code"].to_list() == ["too_large"]


def test_fields_may_be_missing_repeated_and_named_as_keywords() -> None:
    plan = source({"from": "int64", "class": "string", "absent": "int64"})
    rows, _ = decode(plan, batch(b'{"from":1,"from":2,"class":"x"}'))
    assert rows.select("from", "class", "absent").rows() == [(2, "x", None)]


def test_no_records_give_the_same_columns() -> None:
    plan = source({"a": "int64", "t": "list<decimal(6,2)>"})
    full, _ = decode(plan, batch(b'{"a":1,"t":[1.5]}'))
    none, refused = decode(plan, batch())
    assert none.schema == full.schema
    assert refused.height == 0


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "i": st.none() | st.integers(-(2**63), 2**63 - 1),
                "f": st.none() | st.floats(allow_nan=False, allow_infinity=False),
                "t": st.none() | st.text(),
                "b": st.none() | st.booleans(),
                "l": st.none() | st.lists(st.none() | st.text()),
            }
        ),
        min_size=1,
    )
)
def test_what_the_standard_library_writes_is_read_to_the_bit(rows: list[dict[str, Any]]) -> None:
    types = {"i": "int64", "f": "float64", "t": "string", "b": "bool", "l": "list<string>"}
    frame, refused = decode(source(types), batch(*(json.dumps(row).encode() for row in rows)))
    assert refused.height == 0
    assert frame.select(list(types)).rows(named=True) == rows

"""One JSON event is one row, by whichever door: a stream's, `push`, a request's base row (DESIGN 3.11, 3.14).

Each literal stands in an event, in a column of the type. The value, or that it is refused, is said by hand.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurestore.compiler import compile_project
from featurestore.contracts import Record, RecordBatch
from featurestore.errors import RequestError
from featurestore.expressions.vectors import physical
from featurestore.online.requests import cast_row
from featurestore.plans import SourcePlan
from featurestore.pushing import admit_one
from featurestore.rows.door import admit
from featurestore.rows.json import decode
from featurestore.specs.loading import load_project
from featurestore_serving.bodies import online_request

NO = object()
NOW = 1_780_000_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def us(*parts: int) -> int:
    """Return microseconds of a UTC datetime."""
    delta = datetime(*parts, tzinfo=UTC) - EPOCH  # type: ignore[misc,arg-type]
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def days(*parts: int) -> int:
    """Return days since 1970."""
    return (date(*parts) - date(1970, 1, 1)).days


CASES: list[tuple[str, str, Any]] = [
    ("int64", "1", 1),
    ("int64", "1.0", 1),
    ("int64", "1e2", 100),
    ("int64", "1.5", NO),
    ("int64", "9007199254740993", 2**53 + 1),
    ("int64", "9007199254740992.0", 2**53),
    ("int64", "9007199254740994.0", NO),
    ("int64", "1e300", NO),
    ("int64", "9223372036854775808", NO),
    ("int64", "-9223372036854775808", -(2**63)),
    ("int64", '"1"', NO),
    ("int64", "true", NO),
    ("int64", "[1]", NO),
    ("int8", "128", NO),
    ("int8", "-128.0", -128),
    ("uint64", "18446744073709551615", 2**64 - 1),
    ("uint64", "18446744073709551616", NO),
    ("uint64", "-1", NO),
    ("float64", "1", 1.0),
    ("float64", "0.1", 0.1),
    ("float64", "-0.0", 0.0),
    ("float64", "1e308", 1e308),
    ("float64", "1e309", NO),
    ("float64", "5e-324", 5e-324),
    ("float64", "9007199254740993", 2.0**53),
    ("float64", "123456789012345678901234567890", 1.2345678901234568e29),
    ("float64", '"0.1"', NO),
    ("float64", "true", NO),
    ("float32", "0.1", float(np.float32(0.1))),
    ("float32", "1e39", NO),
    ("float32", "16777217", 16777216.0),
    ("bool", "true", True),
    ("bool", "1", NO),
    ("bool", '"true"', NO),
    ("string", '"00123"', "00123"),
    ("string", '""', ""),
    ("string", '" x "', " x "),
    ("string", '"\\u0000"', "\x00"),
    ("string", '"e\\u0301"', "e\u0301"),
    ("string", '"\\ud83d\\ude00"', "\U0001f600"),
    ("string", "1", NO),
    ("binary", '"AP8="', b"\x00\xff"),
    ("binary", '""', b""),
    ("binary", '"!"', NO),
    ("binary", "1", NO),
    ("decimal(10,2)", "1.5", Decimal("1.50")),
    ("decimal(10,2)", '"1.50"', Decimal("1.50")),
    ("decimal(10,2)", "1", Decimal("1.00")),
    ("decimal(10,2)", "1e3", Decimal("1000.00")),
    ("decimal(10,2)", "1.234", NO),
    ("decimal(10,2)", "123456789", NO),
    ("decimal(10,2)", '"1_0"', Decimal("10.00")),
    ("decimal(10,2)", '"NaN"', NO),
    ("decimal(10,2)", '"Infinity"', NO),
    ("decimal(10,2)", "1e999999", NO),
    ("decimal(10,2)", "true", NO),
    ("decimal(38,10)", "12345678901234567890.1234567891", Decimal("12345678901234567890.1234567891")),
    ("decimal(38,0)", "99999999999999999999999999999999999999", Decimal("9" * 38)),
    ("date", '"2024-02-29"', days(2024, 2, 29)),
    ("date", '"0001-01-01"', days(1, 1, 1)),
    ("date", '"2023-02-29"', NO),
    ("date", '"20240229"', NO),
    ("date", "19782", NO),
    ("timestamp", '"2024-02-29T12:00:00Z"', us(2024, 2, 29, 12)),
    ("timestamp", '"2024-02-29 12:00:00.1234567+02:00"', us(2024, 2, 29, 10, 0, 0, 123456)),
    ("timestamp", '"0001-01-01T00:00:00Z"', us(1, 1, 1)),
    ("timestamp", '"0001-01-01T00:00:00+01:00"', NO),
    ("timestamp", '"9999-12-31T23:59:59.999999Z"', us(9999, 12, 31, 23, 59, 59, 999999)),
    ("timestamp", '"2024-02-29T12:00:00"', NO),
    ("timestamp", '"2024-02-30T12:00:00Z"', NO),
    ("timestamp", "1700000000", NO),
    ("list<int64>", "[1, null, 2.0]", [1, None, 2]),
    ("list<int64>", "[]", []),
    ("list<int64>", "[1.5]", NO),
    ("list<int64>", '"[]"', NO),
    (
        "list<decimal(38,10)>",
        "[12345678901234567890.1234567891, null]",
        [Decimal("12345678901234567890.1234567891"), None],
    ),
    ("list<timestamp>", '["1970-01-01T00:00:00Z", null]', [0, None]),
    ("list<list<string>>", '[["a", null], [], null]', [["a", None], [], None]),
    ("json", '{"b": 1.10, "a": [17850.0, null]}', '{"a":[17850,null],"b":1.1}'),
    ("json", '"{\\"a\\": 1.10}"', '{"a":1.1}'),
    ("json", "1.50", "1.5"),
    ("json", "0.12345678901234567890123", "0.12345678901234568"),
    ("json", '{"a": 1e400}', NO),
    ("json", "[]", "[]"),
    ("list<json>", '[{"a": 1.0}, null]', ['{"a":1}', None]),
    ("vector<float32,2>", "[0.1, 2]", [float(np.float32(0.1)), 2.0]),
    ("vector<float32,2>", "[0.1]", NO),
    ("vector<float32,2>", "[0.1, null]", NO),
    ("vector<float32,2>", "[0.1, 1e39]", NO),
    ("vector<float64,1>", '["1"]', NO),
    ("vector<float64,1>", "[true]", NO),
    *(
        (kind, "null", None)
        for kind in ("int64", "float64", "string", "list<int64>", "vector<float32,2>", "decimal(10,2)")
    ),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourcePlan]:
    """A source per type."""
    root = tmp_path_factory.mktemp("doors")
    (root / "featurestore.yaml").write_text("project: doors\n")
    kinds = list(dict.fromkeys(kind for kind, _, _ in CASES))
    made = [
        f"kind: Source\nname: s{n}\nevent_time: at\nschema:\n  at: timestamp\n  v: {kind}\n"
        f"  price: decimal(38,10)\n  whole: int64\nstream: {{topic: t{n}}}"
        for n, kind in enumerate(kinds)
    ]
    (Path(root) / "specs.yaml").write_text("\n---\n".join(made))
    plans = compile_project(load_project(root, environ={})).sources
    return {kind: plans[f"s{n}"] for n, kind in enumerate(kinds)}


AT = '"2024-01-01T00:00:00Z"'
PRICE = "12345678901234567890.1234567891"


def event(literal: str, whole: str = "7") -> bytes:
    return f'{{"at": {AT}, "v": {literal}, "price": {PRICE}, "whole": {whole}}}'.encode()


def told(value: Any) -> Any:
    return (type(value).__name__, str(value)) if not isinstance(value, list) else [told(v) for v in value]


def by_stream(source: SourcePlan, payload: bytes) -> Any:
    frame, refused = decode(source, RecordBatch("p", [Record(0, NOW, None, payload)], 1))
    admitted = admit(source, frame, now=NOW)
    rows = admitted.rows
    assert rows.height + admitted.rejected.height + refused.height == 1
    if not rows.height:
        return NO
    assert rows["price"][0] == Decimal(PRICE)
    return physical(rows["v"]).to_list()[0]


def by_push(source: SourcePlan, payload: bytes) -> Any:
    try:
        row = admit_one(source, payload)
    except RequestError:
        return NO
    assert row["price"] == Decimal(PRICE)
    return row["v"]


def by_request(source: SourcePlan, payload: bytes) -> Any:
    body = b'{"vector": "v", "rows": [' + payload + b"]}"
    try:
        row = cast_row(online_request(body, 5).rows[0], source.schema)
    except RequestError:
        return NO
    assert row["price"] == Decimal(PRICE)
    return row["v"]


@pytest.mark.parametrize("door", [by_stream, by_push, by_request])
@pytest.mark.parametrize(("kind", "literal", "expected"), CASES, ids=[f"{k}-{v}" for k, v, _ in CASES])
def test_a_literal_is_the_same_value_at_every_door(
    sources: dict[str, SourcePlan], door: Any, kind: str, literal: str, expected: Any
) -> None:
    for whole in ("7", "7.0"):  # the second takes the stream's other way, of what its fast decoder refuses
        found = door(sources[kind], event(literal, whole))
        if expected is NO or found is NO:
            assert found is expected
        else:
            assert told(found) == told(expected)


def test_a_literal_that_json_forbids_is_malformed_at_every_door(sources: dict[str, SourcePlan]) -> None:
    for literal in ("NaN", "Infinity", "01", "'x'"):
        assert by_stream(sources["float64"], event(literal)) is NO
        assert by_push(sources["float64"], event(literal)) is NO
        with pytest.raises(RequestError):
            online_request(b'{"vector": "v", "rows": [' + event(literal) + b"]}", 5)

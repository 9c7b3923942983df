"""Runs an expression in both lowerings over the same rows, and compares to the bit."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import polars as pl

from featurestore.expressions import Expression, RowRejected
from featurestore.expressions.to_closure import to_closure
from featurestore.expressions.to_polars import rejects, to_polars
from featurestore.expressions.vectors import column, physical
from featurestore.instants import ALWAYS, DAY, LAST
from featurestore.types import DataType

REJECTED = "rejected"

INTEGERS = [None, 0, 1, -1, 2, 3, -7, 10, 127, -128, 1000, 2**31, 2**53 + 1, -(2**53) - 1]
EDGES: dict[str, list[Any]] = {
    "int64": [*INTEGERS, 2**63 - 1, -(2**63), 3_037_000_500],
    "int32": [None, 0, 1, -1, 7, 2**31 - 1, -(2**31)],
    "int8": [None, 0, 1, -1, 7, 127, -128],
    "uint8": [None, 0, 1, 255],
    "uint64": [None, 0, 1, 5, 2**63 - 1, 2**63, 2**64 - 1],
    "float64": [
        *(None, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.1, 2.675, 1e-300, 5e-324, 1e300),
        *(-1e300, 3.0, 1e16, 2.0**52 + 1, 2.0**63, -(2.0**63), 2.0**64, math.nan, math.inf, -math.inf, 127.5),
        *(-128.5, 1e22, 123456.789, 710.0),
    ],
    "float32": [None, 0.0, -0.0, 1.5, -2.5, 16777216.0, 0.10000000149011612, math.nan, math.inf, -math.inf],
    "bool": [None, True, False],
    "string": [
        *(
            None,
            "",
            "a",
            "A",
            "b",
            "es_food",
            "naïve",
            "İI",
            "ΑΣ",
            "straße",
            "𝒳y",
            "%",
            "a.c",
            "abc",
            "  x \t",
        ),
        *(
            "5",
            "+5",
            "-5",
            " 5",
            "007",
            "1e3",
            "1.5",
            ".5",
            "5.",
            "1e999",
            "-0",
            "99999999999999999999",
            "nan",
        ),
        *("inf", "-Infinity", "true", "false", "True", "2024-02-29", "2023-02-29", "2024-02-29T12:00:00Z"),
        *(
            "2024-02-29T12:00:00",
            "2024-02-29T12:00:00.123456789+02:00",
            "0000-01-01",
            "٣",
            "1_0",
            "x\n",
            "5\n",
        ),
        *("ꟋꟌ", "e\u0301", "\x00", "12.345", "-0.005", "128", "9223372036854775808"),
    ],
    "timestamp": [
        *(None, 0, -1, 1, ALWAYS, LAST, 1_700_000_000_123_456, -2_208_988_800_000_000, 4_102_444_799_999_999),
        *(1_711_846_799_999_999, 1_711_846_800_000_000, 1_729_990_800_000_000, 1_729_990_799_999_999),
        *(253_370_764_800_000_000, 951_782_400_000_000, ALWAYS + DAY, 1_704_067_199_000_000),
        *(ALWAYS - 1, LAST + 1, 2**63 - 1, -(2**63) + 1),  # which no door lets in, but a step may make
    ],
    "date": [
        *(None, 0, -1, ALWAYS // DAY, LAST // DAY, 19_782, 19_723, 11_016, 2_900_000, -700_000),
        *(ALWAYS // DAY - 1, LAST // DAY + 1, 2**31 - 1, -(2**31)),
    ],
    "decimal(10,2)": [
        None,
        *map(Decimal, ("0.00", "1.50", "-0.05", "99999999.99", "-99999999.99", "2.50", "0.10")),
    ],
    "decimal(38,4)": [
        None,
        *map(Decimal, ("0.0000", "1.2345", "0.0050", "9999999999999999999999999999999999.9999")),
    ],
    "binary": [None, b"", b"a", b"\x00\xff", b"b"],
    "json": [
        *(None, '"x"', '""', "1", "0", "-2.5", "true", "false", "[]", "{}", '"12"', '"é\\n\\"𝒳"', "1e-9"),
        *('{"a":1,"b":[1,"2",null]}', '{"a":{"b":"es_food"},"b":[]}', '{"a":"2024-02-29","é f":[[1],[2,3]]}'),
        *(
            '[1,2.5,null,"3","x",true,[1]]',
            '[{"a":1},{"a":2}]',
            '["2024-02-29T12:00:00Z","a"]',
            '{"a":"1.50"}',
        ),
        *("9223372036854775808", "123456789012345678901234567890", '{"":{"":5}}'),
    ],
    "document": [  # text that may be a document
        *(
            None,
            "",
            " ",
            "null",
            "x",
            '{"a": 1.0, "a": 2, "b": [1, "2", null]}',
            '{"a":',
            "[1, 1e3]  ",
            "-0.0",
        ),
        *("1e400", "1e401", "NaN", '"\\ud800"', '{"b":{"a":[]}, "a":"\\u00e9"}', "\ufeff1", "[1]x", '"\x00"'),
        *("[" * 5000 + "]" * 5000, "1" * 5000, '{"a": 0.1000, "é f": -1E-3}', "[]", "01"),
    ],
    "list<string>": [None, [], ["a"], ["", None, "b"]],
    "degrees": [
        *(
            None,
            0.0,
            -0.0,
            90.0,
            -90.0,
            90.00000000000001,
            180.0,
            -180.0,
            359.9,
            -360.0,
            361.0,
            52.52,
            13.405,
        ),
        *(math.nan, math.inf, -math.inf, 1e-300, 45.0),
    ],
}


def bits(value: Any) -> Any:
    """Return a value so that equality is of type and bits; every NaN is one."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack(">d", value)
    return (type(value).__name__, str(value) if isinstance(value, Decimal) else value)


def by_closure(expression: Expression, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the closure's values, REJECTED where it rejects the row."""
    function = to_closure(expression)
    values = []
    for row in rows:
        try:
            values.append(function(row))
        except RowRejected:
            values.append(REJECTED)
    return values


def frame_of(schema: Mapping[str, DataType], rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return rows as a frame, exactly typed."""
    return pl.DataFrame(
        [column([row[name] for row in rows], kind).alias(name) for name, kind in schema.items()]
    )


def by_polars(expression: Expression, frame: pl.DataFrame) -> list[Any]:
    """Return Polars' values, REJECTED where it rejects the row; checks the type."""
    where = rejects(expression)
    rejected = pl.repeat(False, pl.len()) if where is None else where
    out = frame.with_columns(value=to_polars(expression), rejected=rejected)
    assert out["value"].dtype == expression.type.polars()
    assert out["rejected"].null_count() == 0
    values = physical(out["value"]).to_list()
    return [REJECTED if no else value for no, value in zip(out["rejected"].to_list(), values, strict=True)]


def assert_equal(
    expression: Expression, schema: Mapping[str, DataType], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Check that both lowerings give the same bits, over all rows at once and over single ones."""
    closure = by_closure(expression, rows)
    frame = frame_of(schema, rows)
    polars = by_polars(expression, frame)
    for row, python, lowered in zip(rows, closure, polars, strict=True):
        assert bits(python) == bits(lowered), f"{expression.sql} over {row}: {python!r} and {lowered!r}"
    for i in range(1, len(rows), max(1, len(rows) // 5)):
        (alone,) = by_polars(expression, frame.slice(i, 1))
        assert bits(alone) == bits(closure[i]), f"{expression.sql} over one row, {rows[i]}"

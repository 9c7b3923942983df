"""Expressions over types without arithmetic: what has a meaning works in both lowerings; the rest says so.

Every function and operator is tried over lists, vectors and binary: it is refused with the type in the
message, or gives the same value in Polars and in the closure.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from tests.lowerings import EDGES, by_closure, by_polars, frame_of

from featurestore.errors import SpecError
from featurestore.expressions import parse
from featurestore.expressions.functions import FUNCTIONS, MACROS
from featurestore.types import DataType

VALUES: dict[str, list[Any]] = {
    "binary": EDGES["binary"],
    "list<int64>": [None, [], [None], [1, 2], [2**63 - 1]],
    "list<string>": [None, [], ["a", None], [""]],
    "list<timestamp>": [None, [], [0, None, -1]],
    "list<decimal(10,2)>": [None, [], [Decimal("1.50"), None]],
    "list<list<date>>": [None, [], [[0, None], None]],
    "vector<float32,2>": [None, [0.0, 1.5], [float("inf"), -2.5]],
}
OPERATORS = [
    "a + a",
    "a - a",
    "a * a",
    "a / a",
    "a % a",
    "-a",
    "a = a",
    "a <> a",
    "a < a",
    "a >= a",
    "a || a",
    "not a",
]
FORMS = [
    "a in (1)",
    "a in ('x')",
    "a between 1 and 2",
    "a like 'x'",
    "a is true",
    "a = 1",
    "a = 'x'",
    "a and true",
]
CALLS = [
    f"{name}({', '.join(['a'] * count)})"
    for name, function in [*FUNCTIONS.items(), *MACROS.items()]
    if function.signature.startswith(f"{name}(") and name != "cast"
    for count in range(max(1, function.arity[0]), 4)
    if function.arity[1] is None or count <= function.arity[1]
]
CASTS = [
    f"cast(a as {kind})"
    for kind in ("int64", "float64", "string", "bool", "date", "timestamp", "decimal(10,2)")
]
MEANINGS = [
    "a is null",
    "a is not null",
    "coalesce(a, b)",
    "if(c, a, b)",
    "case when c then a else b end",
    "coalesce(a, null)",
]


@pytest.mark.parametrize("kind", VALUES)
def test_whether_a_value_is_there_and_which_of_two_works_for_every_type(kind: str) -> None:
    values = VALUES[kind]
    schema = {"a": DataType.parse(kind), "b": DataType.parse(kind), "c": DataType.parse("bool")}
    rows = [{"a": x, "b": y, "c": c} for x in values for y in values for c in (None, True, False)]
    expected = {
        "a is null": lambda r: r["a"] is None,
        "a is not null": lambda r: r["a"] is not None,
        "coalesce(a, b)": lambda r: r["b"] if r["a"] is None else r["a"],
        "coalesce(a, null)": lambda r: r["a"],
        "if(c, a, b)": lambda r: r["a"] if r["c"] else r["b"],
        "case when c then a else b end": lambda r: r["a"] if r["c"] else r["b"],
    }
    assert sorted(expected) == sorted(MEANINGS)
    frame = frame_of(schema, rows)
    for text, twin in expected.items():
        expression = parse(text, schema)
        wanted = [twin(row) for row in rows]
        assert by_closure(expression, rows) == wanted, text
        assert by_polars(expression, frame) == wanted, text


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("text", [*OPERATORS, *FORMS, *CALLS, *CASTS])
def test_every_function_gives_one_value_or_refuses_the_type_by_its_name(kind: str, text: str) -> None:
    schema = {"a": DataType.parse(kind)}
    rows = [{"a": value} for value in VALUES[kind]]
    try:
        expression = parse(text, schema)
    except SpecError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert kind in said or "no order" in said or "written out" in said
        return
    assert by_closure(expression, rows) == by_polars(expression, frame_of(schema, rows))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("u > 9223372036854775807", True),
        ("u = 18446744073709551615", True),
        ("u in (18446744073709551615, 1)", True),
        ("cast(u as string)", "18446744073709551615"),
        ("cast(u as float64)", 2.0**64),
        ("cast(u as decimal(20,0))", Decimal(2**64 - 1)),
        ("cast('18446744073709551615' as uint64)", 2**64 - 1),
        ("u % 10", "rejected"),  # arithmetic of integers is int64, which does not hold it
        ("u + 0", "rejected"),
        ("d + 1", 10.0**28),  # arithmetic of decimals is float64
        ("d = d", True),
        ("cast(d as string)", "9999999999999999999999999999.9999999999"),
        ("d > 0.5", True),
    ],
)
def test_wide_integers_and_decimals(text: str, value: Any) -> None:
    schema = {"u": DataType.parse("uint64"), "d": DataType.parse("decimal(38,10)")}
    row = {"u": 2**64 - 1, "d": Decimal("9999999999999999999999999999.9999999999")}
    expression = parse(text, schema)
    assert by_closure(expression, [row]) == [value]
    frame = pl.DataFrame([row], schema={name: kind.polars() for name, kind in schema.items()})
    assert by_polars(expression, frame) == [value]

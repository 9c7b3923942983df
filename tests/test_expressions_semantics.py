"""What expressions mean, by hand."""

from __future__ import annotations

import math
import pickle
from decimal import Decimal
from typing import Any

import pytest

from featurestore.expressions import Expression, RowRejected, parse
from featurestore.expressions.to_closure import to_closure
from featurestore.expressions.zones import Zone
from featurestore.instants import parse_instant
from featurestore.types import DataType

SCHEMA = {
    name: DataType.parse(kind)
    for name, kind in {
        "i": "int64",
        "j": "int64",
        "small": "int8",
        "u": "uint64",
        "x": "float64",
        "f": "float32",
        "s": "string",
        "p": "bool",
        "t": "timestamp",
        "d": "date",
        "m": "decimal(10,2)",
        "Order": "int64",
        "merchant.amount_sum_2h": "float64",
    }.items()
}


def value(text: str, **row: Any) -> Any:
    return to_closure(parse(text, SCHEMA))(dict.fromkeys(SCHEMA) | row)


@pytest.mark.parametrize(
    ("text", "row", "expected"),
    [
        ("i / j", {"i": 1, "j": 0}, None),
        ("x / 0", {"x": 1.0}, None),
        ("i / j", {"i": 6, "j": 3}, 2.0),
        ("i / 4", {"i": 1}, 0.25),
        ("i % j", {"i": 7, "j": -3}, 1),
        ("i % j", {"i": -7, "j": 3}, -1),
        ("x % 1", {"x": math.inf}, math.nan),
        ("ln(x)", {"x": -0.0}, None),
        ("ln(x)", {"x": math.nan}, math.nan),
        ("log2(0)+1", {}, None),
        ("sqrt(i)", {"i": -4}, None),
        ("power(i, j)", {"i": 0, "j": -1}, None),
        ("power(x, 0.5)", {"x": -8.0}, None),
        ("exp(x)", {"x": 1000.0}, math.inf),
        ("round(x)", {"x": 0.5}, 0.0),
        ("round(x)", {"x": 1.5}, 2.0),
        ("round(x)", {"x": -2.5}, -2.0),
        ("round(x, 2)", {"x": 1.125}, 1.12),
        ("round(i, 2)", {"i": 7}, 7),
        ("cast(x as int64)", {"x": 3.5}, 4),
        ("cast(x as int64)", {"x": math.nan}, None),
        ("cast(m as int64)", {"m": Decimal("2.50")}, 2),
        ("cast(s as int64)", {"s": "12"}, 12),
        ("cast(s as int64)", {"s": " 12"}, None),
        ("cast(s as int8)", {"s": "300"}, None),
        ("cast(s as float64)", {"s": "1e3"}, 1000.0),
        ("cast(s as timestamp)", {"s": "1970-01-01T00:00:01Z"}, 1_000_000),
        ("cast(s as timestamp)", {"s": "1970-01-01T00:00:01"}, None),
        ("cast(x as string)", {"x": 1e22}, "1e+22"),
        ("cast(t as string)", {"t": 0}, "1970-01-01T00:00:00.000000Z"),
        ("i = null", {"i": 1}, None),
        ("p and null", {"p": False}, False),
        ("p or null", {"p": True}, True),
        ("not p", {}, None),
        ("x = x", {"x": math.nan}, True),
        ("x > 1e308", {"x": math.nan}, True),
        ("x < 1", {"x": math.nan}, False),
        ("least(x, 1.0)", {"x": math.nan}, 1.0),
        ("greatest(x, 1.0)", {"x": math.nan}, math.nan),
        ("greatest(i, j)", {"i": 1}, None),
        ("x = 0", {"x": -0.0}, True),
        ("x in (0)", {"x": -0.0}, True),
        ("i in (1, null)", {"i": 1}, True),
        ("i in (1, null)", {"i": 2}, None),
        ("i not in (1, 2)", {"i": 3}, True),
        ("i in (j, 5)", {"i": 4, "j": 4}, True),
        ("p is true", {}, False),
        ("p is not true", {}, True),
        ("length(s)", {"s": "👍🏽é"}, 3),
        ("substring(s, -1, 3)", {"s": "abc"}, "a"),
        ("substring(s, 2, -1)", {"s": "abc"}, ""),
        ("s like 'a_c%'", {"s": "abcd"}, True),
        ("s like 'a.c'", {"s": "abc"}, False),
        ("s || null", {"s": "a"}, None),
        ("nullif(x, 0)", {"x": 0.0}, None),
        ("nullif(i, null)", {"i": 5}, 5),
        ("if(x > 0, 'a', 'b')", {}, "b"),
        ("case when i > 0 then 1 when i < 0 then -1 end", {"i": 0}, None),
        ("hour(t)", {"t": parse_instant("2026-11-21T23:30:00Z")}, 23),
        ("hour(t, 'Europe/Berlin')", {"t": parse_instant("2026-11-21T23:30:00Z")}, 0),
        ("hour(t, 'America/New_York')", {"t": parse_instant("2026-03-08T06:59:59Z")}, 1),
        ("hour(t, 'America/New_York')", {"t": parse_instant("2026-03-08T07:00:00Z")}, 3),
        ("hour(t, 'Europe/Berlin')", {"t": parse_instant("2080-07-01T10:00:00Z")}, 12),
        ("day_of_week(t)", {"t": 0}, 3),
        ("day_of_week(d)", {"d": 4}, 0),
        ("week(t)", {"t": parse_instant("2027-01-03T12:00:00Z")}, 53),
        ("is_weekend(t)", {"t": parse_instant("2026-11-22T12:00:00Z")}, True),
        ("quarter(t)", {"t": parse_instant("2026-04-01T00:00:00Z")}, 2),
        ("year(t)", {"t": -1}, 1969),
        ("seconds_between(t, '1970-01-01T00:01:00Z')", {"t": 0}, 60.0),
        ("t >= '1970-01-01T01:00:00+01:00'", {"t": 0}, True),
        ("d = '1970-01-02'", {"d": 1}, True),
        ("m = 1.5", {"m": Decimal("1.50")}, True),
        ("m = 0.001", {"m": Decimal("0.00")}, False),
        ("merchant.amount_sum_2h * 2", {"merchant.amount_sum_2h": 1.5}, 3.0),
        ('"Order" + 1', {"Order": 1}, 2),
        ("small * small", {"small": 127}, 16129),
        ("abs(small)", {"small": -128}, 128),
        ("-x", {"x": 0.0}, 0.0),
        ("u > 5", {"u": 2**64 - 1}, True),
        ("coalesce(small, 0)", {}, 0),
    ],
)
def test_value(text: str, row: dict[str, Any], expected: Any) -> None:
    found = value(text, **row)
    assert type(found) is type(expected)
    assert found == expected or (math.isnan(found) and math.isnan(expected))
    if isinstance(found, float):
        assert math.copysign(1, found) == math.copysign(1, expected)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("i + small", "int64"),
        ("small + 1", "int64"),
        ("i + x", "float64"),
        ("i / j", "float64"),
        ("f + f", "float64"),
        ("m + m", "float64"),
        ("coalesce(small, 0)", "int8"),
        ("coalesce(small, 1000)", "int64"),
        ("coalesce(f, 0)", "float32"),
        ("if(p, i, x)", "float64"),
        ("i > x", "bool"),
        ("hour(t)", "int64"),
        ("is_weekend(t)", "bool"),
        ("length(s)", "int64"),
        ("round(i)", "int64"),
        ("floor(x)", "float64"),
        ("cast(null as date)", "date"),
    ],
)
def test_type(text: str, kind: str) -> None:
    assert str(parse(text, SCHEMA).type) == kind


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("i + j", {"i": 2**63 - 1, "j": 1}),
        ("i - j", {"i": -(2**63), "j": 1}),
        ("i * j", {"i": 2**32, "j": 2**31}),
        ("-i", {"i": -(2**63)}),
        ("abs(i)", {"i": -(2**63)}),
        ("u + 1", {"u": 2**63}),
        ("cast(i as int8)", {"i": 128}),
        ("cast(x as int64)", {"x": 9.3e18}),
        ("cast(x as int64)", {"x": math.inf}),
        ("cast(x as decimal(4,2))", {"x": 100.0}),
        ("i + j > 0 or p", {"i": 2**63 - 1, "j": 1, "p": True}),
        ("j + (i * i)", {"i": 2**62, "j": None}),
        ("if(p, i * i, 0)", {"i": 2**62, "p": True}),
    ],
)
def test_overflow_rejects_the_row(text: str, row: dict[str, Any]) -> None:
    with pytest.raises(RowRejected, match="overflow"):
        value(text, **row)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("if(p, i * i, 0)", 0),
        ("p and i * i > 0", False),
        ("not p or i * i > 0", True),
        ("coalesce(j, i * i)", 1),
        ("case when not p then 1 when i * i > 0 then 2 end", 1),
    ],
)
def test_what_is_not_evaluated_rejects_nothing(text: str, expected: Any) -> None:
    assert value(text, i=2**62, j=1, p=False) == expected


def test_expressions_are_hashable_picklable_and_name_their_columns() -> None:
    expression = parse("ln(x + 1) / nullif(i, 0) > merchant.amount_sum_2h", SCHEMA)
    again: Expression = pickle.loads(pickle.dumps(expression))
    assert again == expression
    assert hash(again) == hash(expression)
    assert expression.columns == {"x", "i", "merchant.amount_sum_2h"}


def test_canonical_text_does_not_depend_on_how_the_author_writes() -> None:
    assert parse("X >= 1 AND (i<>2)".replace("X", "x"), SCHEMA).sql == parse('"x">=1 and i != 2', SCHEMA).sql
    assert parse("1 + 2", SCHEMA).sql == "3"


def test_deep_expressions_compile() -> None:
    text = " + ".join(["x"] * 90)
    assert value(text, x=1.0) == 90.0
    nested = "x"
    for i in range(20):
        nested = f"case when x > {i} then {nested} else nullif(x, {i}) end"
    assert value(nested, x=100.0) == 100.0


def test_no_zone_changes_twice_in_a_day_of_the_years_that_matter() -> None:
    """What `zones` remembers per day is right: hour by hour it equals the zone's own offsets."""
    for name in (
        "Europe/Berlin",
        "America/St_Johns",
        "Pacific/Apia",
        "Africa/Casablanca",
        "Australia/Lord_Howe",
    ):
        zone, fresh = Zone(name), Zone(name)
        start = parse_instant("2010-12-20T00:00:00Z")
        for hour in range(0, 24 * 800):
            instant = start + hour * 3_600_000_000
            assert zone.local(instant) == instant + fresh._exact(instant)

"""What casts without loss is cast; else a value is bad, and a column of another kind the author's error."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest

from featurestore.errors import SpecError
from featurestore.rows.casting import Cast, Context, cast
from featurestore.types import DataType

BAD = object()
NAIVE = object()
NAN = float("nan")
D = Decimal
DT = datetime


def run(values: list[Any], dtype: Any, kind: str, **context: Any) -> Cast:
    return cast(pl.Series("a", values, dtype=dtype), DataType.parse(kind), Context("payments", **context))


CASES: list[tuple[str, Any, Any, Any]] = [
    ("int64", pl.Int8, -5, -5),
    ("int8", pl.Int64, 127, 127),
    ("int8", pl.Int64, 128, BAD),
    ("uint8", pl.Int64, -1, BAD),
    ("int64", pl.UInt64, 2**63, BAD),
    ("uint64", pl.UInt64, 2**64 - 1, 2**64 - 1),
    ("int64", pl.Float64, 17850.0, 17850),
    ("int64", pl.Float64, 12.5, BAD),
    ("int64", pl.Float64, NAN, None),
    ("int64", pl.Float64, float("inf"), BAD),
    ("int64", pl.Float64, 2.0**63, BAD),
    ("int64", pl.Float64, -(2.0**63), -(2**63)),
    ("int64", pl.Decimal(10, 2), D("3.00"), 3),
    ("int64", pl.Decimal(10, 2), D("3.50"), BAD),
    ("int64", pl.String, "12", 12),
    ("int64", pl.String, " 12 ", 12),
    ("int64", pl.String, "12.0", 12),
    ("int64", pl.String, "12.5", BAD),
    ("int64", pl.String, "9007199254740993", 9007199254740993),
    ("int64", pl.String, "9223372036854775808", BAD),
    ("int64", pl.String, "1e3", BAD),
    ("int64", pl.String, "", None),
    ("int64", pl.String, "x", BAD),
    ("float64", pl.Float32, 0.5, 0.5),
    ("float64", pl.Int64, 2**53, 2.0**53),
    ("float64", pl.Int64, 2**53 + 1, BAD),
    ("float64", pl.Int64, 2**63 - 1, BAD),
    ("float32", pl.Int32, 2**24 + 1, BAD),
    ("float32", pl.Float64, 1e300, BAD),
    ("float32", pl.Float64, float("inf"), float("inf")),
    ("float64", pl.String, "0.1", 0.1),
    ("float64", pl.String, "1e400", BAD),
    ("float64", pl.String, "-inf", float("-inf")),
    ("float64", pl.String, "1_0", BAD),
    ("float64", pl.String, "1,5", BAD),
    ("float64", pl.Decimal(10, 2), D("1.25"), 1.25),
    ("decimal(6,2)", pl.Decimal(10, 3), D("1.250"), D("1.25")),
    ("decimal(6,2)", pl.Decimal(10, 3), D("1.255"), BAD),
    ("decimal(6,2)", pl.Decimal(10, 2), D("12345.00"), BAD),
    ("decimal(6,2)", pl.Int64, 1234, D("1234.00")),
    ("decimal(6,2)", pl.Int64, 12345, BAD),
    ("decimal(6,2)", pl.Float64, 0.1, D("0.10")),
    ("decimal(6,2)", pl.Float64, 0.125, BAD),
    ("decimal(6,2)", pl.Float64, NAN, None),
    ("decimal(6,2)", pl.String, "-1.2500", D("-1.25")),
    ("decimal(6,2)", pl.String, "1.255", BAD),
    ("decimal(6,2)", pl.String, "1E3", D("1000.00")),
    ("decimal(6,2)", pl.String, "1E999999", BAD),
    ("decimal(6,2)", pl.String, "0E999999", D("0.00")),
    ("decimal(6,2)", pl.String, "1_0", BAD),
    ("decimal(6,2)", pl.String, "NaN", BAD),
    ("bool", pl.Int64, 1, True),
    ("bool", pl.Int64, 2, BAD),
    ("bool", pl.String, "True", True),
    ("bool", pl.String, "f", False),
    ("bool", pl.String, "yes", BAD),
    ("string", pl.String, "00123", "00123"),
    ("string", pl.String, "", ""),
    ("string", pl.Categorical, "es_food", "es_food"),
    ("binary", pl.String, "aGk=", b"hi"),
    ("binary", pl.String, "aGk", BAD),
    ("date", pl.String, "2026-11-21", date(2026, 11, 21)),
    ("date", pl.String, "2026-11-21T00:00:00", date(2026, 11, 21)),
    ("date", pl.String, "2026-11-21T00:00:01", BAD),
    ("date", pl.String, "2026-02-30", BAD),
    ("date", pl.Datetime("us"), DT(2026, 11, 21), date(2026, 11, 21)),
    ("date", pl.Datetime("us"), DT(2026, 11, 21, 1), BAD),
    ("timestamp", pl.String, "2026-11-21T10:00:00Z", DT(2026, 11, 21, 10, tzinfo=UTC)),
    ("timestamp", pl.String, "2026-11-21T10:00:00", NAIVE),
    ("timestamp", pl.String, "yesterday", BAD),
    (
        "timestamp",
        pl.Datetime("ms", "Europe/Paris"),
        DT(2026, 7, 1, 8, tzinfo=UTC),
        DT(2026, 7, 1, 8, tzinfo=UTC),
    ),
    ("list<int64>", pl.List(pl.Float64), [1.0, None, 2.0], [1, None, 2]),
    ("list<int64>", pl.List(pl.Float64), [1.5], BAD),
    ("list<int64>", pl.List(pl.Float64), [], []),
    ("list<string>", pl.List(pl.String), ["a"], ["a"]),
    ("list<list<int8>>", pl.List(pl.List(pl.Int64)), [[1], [], None], [[1], [], None]),
    ("list<list<int8>>", pl.List(pl.List(pl.Int64)), [[1], [300]], BAD),
    ("list<int64>", pl.Array(pl.Int64, 2), [1, 2], [1, 2]),
]


@pytest.mark.parametrize(("kind", "dtype", "value", "expected"), CASES)
def test_one_value_among_nulls(kind: str, dtype: Any, value: Any, expected: Any) -> None:
    found = run([None, value, None], dtype, kind)
    assert found.values.dtype == DataType.parse(kind).polars()
    assert found.values.name == "a"
    if expected is BAD or expected is NAIVE:
        code = "bad_value" if expected is BAD else "naive_timestamp"
        assert {name: mask.tolist() for name, mask in found.bad.items()} == {code: [False, True, False]}
        assert found.values.to_list() == [None, None, None]
    else:
        assert found.bad == {}
        assert found.values.to_list() == [None, expected, None]


@pytest.mark.parametrize("kind", ["int64", "float64", "string", "timestamp", "decimal(9,2)", "list<string>"])
@pytest.mark.parametrize("dtype", [pl.Null, pl.Int64, pl.String])
def test_a_column_of_nulls_is_of_every_type(kind: str, dtype: Any) -> None:
    found = run([None, None], dtype, kind)
    assert found.values.dtype == DataType.parse(kind).polars()
    assert found.values.to_list() == [None, None]
    assert run([], dtype, kind).values.to_list() == []


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (pl.Boolean, "int64"),
        (pl.Int64, "string"),
        (pl.Float64, "string"),
        (pl.Float64, "bool"),
        (pl.Int64, "timestamp"),
        (pl.Int64, "date"),
        (pl.Float64, "timestamp"),
        (pl.String, "list<int64>"),
        (pl.List(pl.Int64), "int64"),
        (pl.List(pl.Int64), "list<string>"),
    ],
)
def test_another_kind_names_column_source_and_both_types(dtype: Any, kind: str) -> None:
    value: Any = (
        [1] if isinstance(dtype, pl.List) else "x" if dtype == pl.String else dtype == pl.Boolean or 1
    )
    with pytest.raises(SpecError, match=r"source 'payments': column 'a' is .* in the input and .* in the"):
        run([value], dtype, kind)


def test_a_nan_stays_and_a_negative_zero_goes() -> None:
    found = run([-0.0, NAN, None, -1.5], pl.Float64, "float64").values
    assert np.signbit(found.fill_null(0.0).to_numpy()).tolist() == [False, False, False, True]
    assert found.is_nan().to_list() == [False, True, None, False]
    inside = run([[-0.0, 1.0]], pl.List(pl.Float64), "list<float64>").values
    assert np.signbit(inside.explode().to_numpy()).tolist() == [False, False]
    text = run(["-0.0", "nan"], pl.String, "float64").values
    assert np.signbit(text.to_numpy()[0]) == np.False_


@pytest.mark.parametrize(("unit", "physical"), [("ns", -1), ("us", -1), ("ms", -1)])
def test_nanoseconds_are_floored_and_other_units_are_exact(unit: Any, physical: int) -> None:
    series = pl.Series("a", [physical, 0, None]).cast(pl.Datetime(unit, "UTC"))
    found = cast(series, DataType.parse("timestamp"), Context("payments"))
    expected = {"ns": -1, "us": -1, "ms": -1000}[unit]
    assert found.values.to_physical().to_list() == [expected, 0, None]


def test_an_instant_outside_the_calendar_is_bad() -> None:
    for unit in ("ms", "us"):
        series = pl.Series("a", [2**62, -(2**62), 0]).cast(pl.Datetime(unit, "UTC"))
        found = cast(series, DataType.parse("timestamp"), Context("payments"))
        assert found.bad["bad_value"].tolist() == [True, True, False]


def test_a_local_clock_needs_its_zone_and_what_is_odd_is_counted() -> None:
    local = [DT(2024, 10, 27, 1, 30), DT(2024, 3, 31, 1, 30), DT(2024, 7, 1), None]
    with pytest.raises(SpecError, match=r"column 'a' has times without a zone.*timezone: Europe/London"):
        run(local, pl.Datetime("us"), "timestamp")
    found = run(local, pl.Datetime("us"), "timestamp", timezone="Europe/London")
    assert found.values.to_list() == [
        DT(2024, 10, 27, 0, 30, tzinfo=UTC),
        DT(2024, 3, 31, 1, 30, tzinfo=UTC),
        DT(2024, 6, 30, 23, tzinfo=UTC),
        None,
    ]
    assert found.counts == {"ambiguous_local_time": 1, "nonexistent_local_time": 1}
    text = run(
        ["2024-07-01T00:00:00", "2024-07-01T00:00:00Z"], pl.String, "timestamp", timezone="Europe/London"
    )
    assert [value.hour for value in text.values] == [23, 0]
    dates = run([date(2024, 7, 1)], pl.Date, "timestamp", timezone="Europe/London")
    assert dates.values.to_list() == [DT(2024, 6, 30, 23, tzinfo=UTC)]


@pytest.mark.parametrize(("epoch", "number"), [("s", 1), ("ms", 1000), ("us", 10**6), ("ns", 10**9)])
def test_integers_are_times_where_the_unit_is_said(epoch: str, number: int) -> None:
    found = run([number, None], pl.Int64, "timestamp", epoch=epoch)
    assert found.values.to_list() == [DT(1970, 1, 1, 0, 0, 1, tzinfo=UTC), None]


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(SpecError, match="'minutes' is no unit"):
        Context("payments", epoch="minutes")


@pytest.mark.parametrize(
    ("kind", "dtype", "value", "expected"), [c for c in CASES if c[3] not in (BAD, NAIVE)]
)
def test_casting_again_changes_nothing(kind: str, dtype: Any, value: Any, expected: Any) -> None:
    once = run([value, None], dtype, kind).values
    again = cast(once, DataType.parse(kind), Context("payments"))
    assert again.bad == {}
    assert again.values.equals(once)

"""The oracle gives what was worked out by hand from DESIGN section 3."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from oracle import (
    Cell,
    aggregate,
    evaluate,
    expected_cells,
    expected_vector,
    facts,
    in_window,
    newest,
    plain,
    rows_of,
    same,
    tolerance,
)

HOUR = 3_600_000_000
NAN, INF = math.nan, math.inf


def row(event_time: int, amount: Any = None, /, key: str = "a", **given: Any) -> dict[str, Any]:
    """Return a row known as it happens; `ingest_time=`, `order=`, `hash=`, `id=`, `deleted=` are its own."""
    made: dict[str, Any] = {
        "__key": key,
        "__event_time": event_time,
        "__ingest_time": given.pop("ingest_time", event_time),
        "__row_hash": given.pop("hash", 0),
        "amount": amount,
    }
    for short, name in (("order", "__order"), ("id", "__event_id"), ("deleted", "__deleted")):
        if short in given:
            made[name] = given.pop(short)
    return made | given


THREE = [row(1 * HOUR, 2.0), row(2 * HOUR, 6.0), row(3 * HOUR, 10.0)]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("count", 3),
        ("sum", 18.0),
        ("avg", 6.0),
        ("min", 2.0),
        ("max", 10.0),
        ("var", 16.0),  # (16 + 0 + 16) / 2
        ("std", 4.0),
        ("first", 2.0),
        ("last", 10.0),
        ("count_distinct", 3),
    ],
)
def test_a_window_over_two_six_ten(function: str, expected: float) -> None:
    assert evaluate(THREE, "a", 3 * HOUR, function, 24 * HOUR, column="amount") == expected


def test_last_k_is_the_newest_k_with_the_oldest_first() -> None:
    assert evaluate(THREE, "a", 3 * HOUR, "last_k", 24 * HOUR, column="amount", k=2) == [6.0, 10.0]
    assert evaluate(THREE, "a", 3 * HOUR, "last_k", 24 * HOUR, column="amount", k=9) == [2.0, 6.0, 10.0]


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        (0, 0),
        (1 * HOUR - 1, 0),
        (1 * HOUR, 1),  # an event at t is in
        (2 * HOUR, 2),
        (3 * HOUR - 1, 2),
        (3 * HOUR, 2),  # the event of 1h is exactly 2h old: out
        (4 * HOUR, 1),
        (5 * HOUR - 1, 1),
        (5 * HOUR, 0),
    ],
)
def test_a_window_leaves_out_what_is_exactly_its_width_old(t: int, expected: int) -> None:
    assert evaluate(THREE, "a", t, "count", 2 * HOUR) == expected


@pytest.mark.parametrize(
    ("t", "expected"), [(1 * HOUR, 0), (1 * HOUR + 1, 1), (3 * HOUR, 2), (3 * HOUR + 1, 2), (5 * HOUR, 1)]
)
def test_a_left_closed_window_leaves_out_t_and_keeps_its_left_edge(t: int, expected: int) -> None:
    assert evaluate(THREE, "a", t, "count", 2 * HOUR, closed="left") == expected


def test_granularity_rounds_the_left_edge_down() -> None:
    # At 10:35 a window of 1h reaches back to 9:35; to the half hour below, that is 9:30.
    t, half = 10 * HOUR + 35 * HOUR // 60, HOUR // 2
    nine_thirty = 9 * HOUR + half
    for event_time, right, left in [
        (nine_thirty - 1, False, False),
        (nine_thirty, False, True),
        (nine_thirty + 1, True, True),
        (t, True, False),
    ]:
        assert in_window(event_time, t, HOUR, granularity=half) is right
        assert in_window(event_time, t, HOUR, granularity=half, closed="left") is left
    # Where t - W is on the grid there is nothing to round.
    assert not in_window(9 * HOUR, 10 * HOUR, HOUR, granularity=half)
    assert in_window(9 * HOUR + 1, 10 * HOUR, HOUR, granularity=half)
    # Before 1970 down is still down: -1h - 20min goes to -1h30.
    assert in_window(-HOUR - half + 1, -HOUR // 3, HOUR, granularity=half)
    assert not in_window(-HOUR - half, -HOUR // 3, HOUR, granularity=half)


def test_an_offset_shifts_both_edges() -> None:
    assert evaluate(THREE, "a", 4 * HOUR, "sum", 2 * HOUR, column="amount", offset=HOUR) == 16.0
    assert evaluate(THREE, "a", 3 * HOUR, "sum", 2 * HOUR, column="amount", offset=HOUR) == 8.0
    # With a granularity of 2h: (floor(5h - 1h - 1h) = 2h, 4h] has the row of 3h alone.
    assert (
        evaluate(THREE, "a", 5 * HOUR, "sum", HOUR, column="amount", offset=HOUR, granularity=2 * HOUR)
        == 10.0
    )


def test_another_entity_sees_nothing_of_it() -> None:
    assert evaluate(THREE, "b", 3 * HOUR, "count", 24 * HOUR) == 0


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("count", 0),
        ("sum", 0),
        ("count_distinct", 0),
        ("avg", None),
        ("min", None),
        ("max", None),
        ("var", None),
        ("std", None),
        ("first", None),
        ("last", None),
        ("last_k", None),
    ],
)
@pytest.mark.parametrize("values", [[], [None, None]])
def test_an_empty_window_is_zero_for_counts_and_sums_and_null_for_all_else(
    function: str, expected: int | None, values: list[Any]
) -> None:
    assert aggregate(function, values, k=3) == expected


def test_an_empty_sum_has_the_type_of_the_sum() -> None:
    assert repr(aggregate("sum", [], type="float64")) == "0.0"
    assert repr(aggregate("sum", [], type="int64")) == "0"
    assert repr(aggregate("sum", [], type="decimal(38,2)")) == "Decimal('0')"


@pytest.mark.parametrize(
    ("function", "values", "expected"),
    [
        ("count", [None, 1.0, None, NAN], 2),
        ("first", [None, 1.0, 2.0, None], 1.0),
        ("last", [None, 1.0, 2.0, None], 2.0),
        ("last_k", [None, 1.0, None, 2.0, 3.0, None], [2.0, 3.0]),
        ("avg", [None, 4.0, None, 8.0], 6.0),
        ("var", [5.0, None], None),
        ("var", [5.0, 5.0, 5.0], 0.0),
        ("std", [1.0, 2.0, 3.0, 4.0], 1.2909944487358056),  # the root of 5/3
        ("count_distinct", ["x", "y", None, "x"], 2),
        ("count_distinct", [NAN, NAN, 0.0, -0.0], 2),
        ("min", ["b", "a", "c"], "a"),
        ("max", ["b", "a", "c"], "c"),
        ("max", [False, True], True),
        ("min", [b"\xff", b"\x00\x01"], b"\x00\x01"),
    ],
)
def test_nulls_are_skipped(function: str, values: list[Any], expected: Any) -> None:
    assert aggregate(function, values, k=2) == expected


@pytest.mark.parametrize("function", ["sum", "avg", "min", "max", "var", "std"])
def test_a_nan_in_the_window_makes_it_nan_and_leaves_with_its_row(function: str) -> None:
    rows = [row(0, NAN), row(HOUR, 1.0), row(2 * HOUR, 3.0)]
    assert math.isnan(evaluate(rows, "a", 2 * HOUR, function, 3 * HOUR, column="amount"))
    assert not math.isnan(evaluate(rows, "a", 2 * HOUR, function, 2 * HOUR, column="amount"))


@pytest.mark.parametrize(
    ("function", "values", "expected"),
    [
        ("sum", [INF, 1.0], INF),
        ("sum", [INF, -INF], NAN),
        ("sum", [-INF, NAN], NAN),
        ("avg", [-INF, 1.0], -INF),
        ("var", [INF, 1.0], NAN),
        ("var", [NAN], None),
        ("var", [INF], None),
        ("min", [INF, -INF], -INF),
        ("max", [INF, 1.0], INF),
        ("sum", [1.7e308, 1.7e308], INF),
        ("sum", [1.7e308, 1.7e308, -1.7e308], 1.7e308),
        ("last", [1.0, NAN], NAN),
    ],
)
def test_infinities_and_nan(function: str, values: list[float], expected: float | None) -> None:
    assert same(expected, aggregate(function, values))


@pytest.mark.parametrize("function", ["sum", "avg", "min", "max", "first", "last"])
def test_minus_zero_is_zero(function: str) -> None:
    assert math.copysign(1.0, aggregate(function, [-0.0])) == 1.0


def test_float_sums_are_exact_and_rounded_once() -> None:
    assert aggregate("sum", [1e16, 1.0, -1e16]) == 1.0
    assert aggregate("sum", [0.1] * 10) == 1.0
    assert aggregate("var", [1e10, 1e10 + 1.0, 1e10 + 2.0]) == 1.0
    assert aggregate("avg", [2**63 - 1, 2**63 - 1]) == 2.0**63


def test_an_integer_sum_past_int64_is_null() -> None:
    assert aggregate("sum", [2**63 - 1, 1]) is None
    assert aggregate("sum", [2**63 - 1, 1, -1]) == 2**63 - 1
    assert aggregate("sum", [-(2**63), -1]) is None


def test_decimals_are_exact() -> None:
    assert aggregate("sum", [Decimal("0.10"), Decimal("0.20")]) == Decimal("0.30")
    assert aggregate("sum", [Decimal("9" * 38), Decimal(1)]) is None


@pytest.mark.parametrize("function", ["sum", "avg", "var", "std"])
@pytest.mark.parametrize("value", [True, "x"])
def test_arithmetic_takes_numbers_only(function: str, value: Any) -> None:
    with pytest.raises(TypeError, match="takes numbers"):
        aggregate(function, [value])


def test_a_plain_feature_is_the_newest_row_even_where_it_is_null() -> None:
    rows = [row(HOUR, 1.0), row(3 * HOUR, None), row(2 * HOUR, 2.0)]
    assert plain(rows, "a", HOUR - 1, "amount") is None
    assert plain(rows, "a", HOUR, "amount") == 1.0
    assert plain(rows, "a", 3 * HOUR - 1, "amount") == 2.0
    assert plain(rows, "a", 3 * HOUR, "amount") is None
    assert newest(rows, "a", 3 * HOUR) == rows[1]


def test_with_a_ttl_a_row_exactly_as_old_is_too_old() -> None:
    rows = [row(HOUR, 1.0), row(2 * HOUR, 2.0)]
    assert plain(rows, "a", 3 * HOUR - 1, "amount", ttl=HOUR) == 2.0
    assert plain(rows, "a", 3 * HOUR, "amount", ttl=HOUR) is None
    assert plain(rows, "a", 3 * HOUR - 1, "amount", ttl=HOUR, closed="left") == 2.0
    assert plain(rows, "a", 3 * HOUR, "amount", ttl=HOUR, closed="left") is None


def test_a_left_closed_plain_feature_is_what_stood_before() -> None:
    rows = [row(HOUR, 1.0), row(2 * HOUR, 2.0)]
    assert plain(rows, "a", 2 * HOUR, "amount", closed="left") == 1.0
    assert plain(rows, "a", 2 * HOUR + 1, "amount", closed="left") == 2.0


def test_ties_go_to_order_by_then_ingest_time_then_hash() -> None:
    rows = [
        row(HOUR, "hash", order=2, ingest_time=9, hash=7),
        row(HOUR, "null order", order=None, ingest_time=99, hash=99),
        row(HOUR, "ingest", order=2, ingest_time=9, hash=-7),
        row(HOUR, "order", order=2, ingest_time=8, hash=8),
        row(HOUR, "none", order=1, ingest_time=99, hash=99),
    ]
    expected = ["null order", "none", "order", "ingest", "hash"]
    for turned in (rows, rows[::-1]):
        assert evaluate(turned, "a", HOUR, "last_k", HOUR, column="amount", k=9) == expected
        assert plain(turned, "a", HOUR, "amount") == "hash"
        assert evaluate(turned, "a", HOUR, "first", HOUR, column="amount") == "null order"


def test_as_known_leaves_out_what_was_not_yet_known() -> None:
    rows = [row(HOUR, 1.0), row(2 * HOUR, 2.0, ingest_time=5 * HOUR)]
    assert plain(rows, "a", 4 * HOUR, "amount") == 2.0
    assert plain(rows, "a", 4 * HOUR, "amount", as_known=True) == 1.0
    assert plain(rows, "a", 5 * HOUR, "amount", as_known=True) == 2.0
    assert evaluate(rows, "a", 5 * HOUR - 1, "count", 9 * HOUR, as_known=True) == 1
    assert evaluate(rows, "a", 5 * HOUR, "count", 9 * HOUR, as_known=True) == 2


def test_rows_of_one_id_are_one_row() -> None:
    rows = [
        row(HOUR, 2.0, id=1, ingest_time=2 * HOUR),
        row(HOUR, 1.0, id=1),
        row(HOUR, 5.0, id=2),
        row(2 * HOUR, 7.0, id=1),  # another instant: another row
        row(HOUR, 9.0, key="b", id=1),  # another entity: another row
    ]
    assert evaluate(rows, "a", 3 * HOUR, "sum", 9 * HOUR, column="amount") == 13.0
    assert evaluate(rows, "a", 3 * HOUR, "sum", 9 * HOUR, column="amount", on_duplicate="replace") == 14.0
    assert evaluate(rows, "b", 3 * HOUR, "sum", 9 * HOUR, column="amount") == 9.0
    # At 1:30 the second copy is not yet known, so that it replaces nothing.
    early = evaluate(
        rows, "a", HOUR * 3 // 2, "sum", HOUR, column="amount", on_duplicate="replace", as_known=True
    )
    assert early == 6.0


def test_a_retraction_takes_its_id_away() -> None:
    rows = [
        row(HOUR, 1.0, id=1),
        row(HOUR, None, id=1, ingest_time=3 * HOUR, deleted=True),
        row(HOUR, 3.0, id=1, ingest_time=4 * HOUR),
        row(HOUR, 5.0, id=2),
    ]
    assert [kept["amount"] for kept in facts(rows, "a", 9 * HOUR)] == [5.0]
    # Under `replace` the newest row stands, at its own place in the order.
    assert [kept["amount"] for kept in facts(rows, "a", 9 * HOUR, on_duplicate="replace")] == [5.0, 3.0]
    assert [kept["amount"] for kept in facts(rows, "a", 2 * HOUR, as_known=True)] == [1.0, 5.0]


def test_without_ids_a_deleted_row_ends_its_entity() -> None:
    rows = [row(HOUR, 1.0), row(2 * HOUR, None, deleted=True), row(3 * HOUR, 3.0), row(HOUR, 9.0, key="b")]
    assert plain(rows, "a", HOUR, "amount") == 1.0
    assert plain(rows, "a", 2 * HOUR, "amount") is None
    assert newest(rows, "a", 2 * HOUR) is None
    assert evaluate(rows, "a", 3 * HOUR, "sum", 9 * HOUR, column="amount") == 3.0
    assert plain(rows, "b", 3 * HOUR, "amount") == 9.0
    assert evaluate(rows, "a", 2 * HOUR, "count", 9 * HOUR, closed="left") == 1


def test_a_category_and_a_condition_pick_rows() -> None:
    rows = [
        row(HOUR, 1.0, category="food"),
        row(HOUR, 2.0, category="travel"),
        row(HOUR, 4.0, category=None),
        row(HOUR, None, category="food"),
    ]
    sums = {"column": "amount", "by": "category"}
    assert evaluate(rows, "a", HOUR, "sum", HOUR, value="food", **sums) == 1.0
    assert evaluate(rows, "a", HOUR, "sum", HOUR, value="rent", **sums) == 0
    assert evaluate(rows, "a", HOUR, "count", HOUR, by="category", value="food") == 2
    assert evaluate(rows, "a", HOUR, "count", HOUR, value="food", **sums) == 1
    # A null condition is false.
    over_one = {None: None, 1.0: False, 2.0: True, 4.0: True}
    assert evaluate(rows, "a", HOUR, "count", HOUR, where=lambda seen: over_one[seen["amount"]]) == 2


def test_a_base_row_counts_once_whether_or_not_it_has_arrived() -> None:
    before = [row(HOUR, 1.0, id=1)]
    base = row(2 * HOUR, 10.0, id=2, ingest_time=9 * HOUR)
    twin = row(2 * HOUR, 10.0, id=2, ingest_time=3 * HOUR)
    for rows in (before, [*before, twin], [*before, base]):
        for as_known in (False, True):
            total = evaluate(
                rows, "a", 2 * HOUR, "sum", 9 * HOUR, column="amount", base=base, as_known=as_known
            )
            assert total == 11.0
            assert evaluate(rows, "a", 2 * HOUR, "count", 9 * HOUR, base=base, closed="left") == 1


NOTHING = {"k": None, "half_life": None, "percentile": None}


def _plan(**given: Any) -> Any:
    window = SimpleNamespace(width=2 * HOUR, left_closed=False, granularity=None, offset=0)
    everything = SimpleNamespace(column="amount", where=None, by=None, value=None)
    large = SimpleNamespace(column=None, where="amount > 5", by=None, value=None)
    return SimpleNamespace(
        source=SimpleNamespace(on_duplicate="first"),
        plain=(SimpleNamespace(name="amount"),),
        aggregates=(
            SimpleNamespace(
                name="amount_sum_2h",
                function="sum",
                input=everything,
                window=window,
                type="float64",
                **NOTHING,
            ),
            SimpleNamespace(
                name="count_2h", function="count", input=large, window=window, type="int64", **NOTHING
            ),
        ),
        **({"ttl": None, "left_closed": False} | given),
    )


def test_a_feature_set_is_its_plain_features_and_its_aggregates() -> None:
    def predicate(text: str) -> Any:
        assert text == "amount > 5"
        return lambda seen: seen["amount"] > 5

    def read(t: int, **options: Any) -> dict[str, Any]:
        return expected_vector(_plan(), THREE, "a", t, predicate=predicate, **options)

    assert read(0) == {"amount": None, "amount_sum_2h": 0.0, "count_2h": 0}
    assert read(3 * HOUR) == {"amount": 10.0, "amount_sum_2h": 16.0, "count_2h": 2}
    assert read(9 * HOUR) == {"amount": 10.0, "amount_sum_2h": 0.0, "count_2h": 0}
    base = row(3 * HOUR, 7.0, hash=1)
    assert read(3 * HOUR, base=base) == {"amount": 7.0, "amount_sum_2h": 23.0, "count_2h": 3}
    cells = expected_cells(_plan(ttl=HOUR), THREE, "a", 4 * HOUR, predicate=predicate)
    assert cells["amount"] == Cell(None)
    assert cells["amount_sum_2h"] == (10.0, pytest.approx(1e-14))


def test_rows_of_a_frame_have_whole_microseconds_and_days() -> None:
    frame = pl.DataFrame(
        {
            "at": [datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)],
            "on": [date(1970, 1, 2)],
            "list": [[date(1969, 12, 31)]],
            "nothing": [None],
        },
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )
    assert rows_of(frame) == [{"at": -1, "on": 1, "list": [-1], "nothing": None}]


def test_tolerances_are_those_of_the_contract() -> None:
    assert tolerance("sum", [3.0, -4.0, None]) == 7e-15
    assert tolerance("avg", [3.0, -5.0]) == 4e-15
    assert tolerance("sum", [3, -4]) == 0.0
    assert tolerance("max", [3.0]) == 0.0
    assert tolerance("sum", [INF]) == 0.0
    assert tolerance("var", [5.0, 5.0]) == 0.0
    assert tolerance("var", [2.0, 6.0, 10.0]) == pytest.approx(16e-9)
    assert tolerance("std", [2.0, 6.0, 10.0]) == pytest.approx(4e-9)
    assert tolerance("var", [1e12, 1e12 + 1.0]) == math.inf


def test_null_nan_and_booleans_equal_only_themselves() -> None:
    assert same(None, None)
    assert not same(None, 0.0)
    assert not same(0.0, None)
    assert same(NAN, NAN)
    assert not same(NAN, 0.0, tolerance=1.0)
    assert not same(1, True)
    assert same([1.0, NAN], [1.0, NAN])
    assert not same([1.0], [1.0, 2.0])
    assert Cell(1.0, 0.5).agrees(1.5)
    assert not Cell(1.0, 0.5).agrees(1.75)

"""Laws that the oracle keeps on any log: what follows from DESIGN section 3 without a number in it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import aggregate, evaluate, facts, same
from strategies import HOUR, floats, kernel_log, queries, schedules

SPANS = [HOUR, 2 * HOUR]
LOG = kernel_log({"amount": "float64", "kind": "string"}, SPANS)
FUNCTIONS = ["count", "sum", "avg", "min", "max", "var", "std", "first", "last", "count_distinct", "last_k"]


def read(rows: list[dict[str, Any]], t: int, function: str, **options: Any) -> Any:
    return evaluate(rows, b"a", t, function, 2 * HOUR, column="amount", type="float64", k=3, **options)


@given(st.data())
@settings(deadline=None)
def test_the_order_and_the_number_of_deliveries_do_not_matter(data: st.DataObject) -> None:
    rows = data.draw(LOG)
    delivered = data.draw(schedules(rows))
    for t in data.draw(queries(SPANS, [row["__event_time"] for row in rows])):
        for function in FUNCTIONS:
            assert same(read(rows, t, function), read(delivered, t, function))


@given(st.data())
@settings(deadline=None)
def test_left_closed_at_t_is_right_closed_just_before(data: st.DataObject) -> None:
    rows = data.draw(LOG)
    for t in data.draw(queries(SPANS, [row["__event_time"] for row in rows])):
        for function in FUNCTIONS:
            assert same(read(rows, t, function, closed="left"), read(rows, t - 1, function))


@given(st.data())
@settings(deadline=None)
def test_an_offset_is_an_earlier_instant(data: st.DataObject) -> None:
    rows = data.draw(LOG)
    for t in data.draw(queries(SPANS, [row["__event_time"] for row in rows])):
        for function in FUNCTIONS:
            assert same(read(rows, t, function, offset=HOUR), read(rows, t - HOUR, function))


@given(st.data())
@settings(deadline=None)
def test_as_known_is_the_log_of_what_was_known(data: st.DataObject) -> None:
    rows = data.draw(LOG)
    for t in data.draw(queries(SPANS, [row["__ingest_time"] for row in rows])):
        known = [row for row in rows if row["__ingest_time"] <= t]
        for function in FUNCTIONS:
            assert same(read(rows, t, function, as_known=True), read(known, t, function))


@given(st.data())
@settings(deadline=None)
@pytest.mark.parametrize("on_duplicate", ["first", "replace"])
def test_one_row_counts_of_each_id(on_duplicate: str, data: st.DataObject) -> None:
    rows = data.draw(LOG)
    for t in data.draw(queries(SPANS, [row["__event_time"] for row in rows])):
        kept = facts(rows, b"a", t, on_duplicate=on_duplicate)
        ids = {
            (row["__event_time"], row["__event_id"])
            for row in rows
            if row["__key"] == b"a" and row["__event_time"] <= t
        }
        assert len(kept) == len(ids)


@given(st.lists(floats(special=False), min_size=1))
def test_a_sum_is_the_one_that_python_rounds_once(values: list[float]) -> None:
    assert aggregate("sum", values) == math.fsum(values)


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=8))
def test_the_variance_is_that_of_all_pairs(values: list[int]) -> None:
    pairs = sum((x - y) ** 2 for x in values for y in values)
    assert aggregate("var", values) == pairs / (2 * len(values) * (len(values) - 1))

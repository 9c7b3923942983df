"""The point-in-time kernel says what the oracle says: every function, window, tie, copy and late row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import oracle
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parity import (
    COLUMNS,
    aggregate_columns,
    check_cells,
    examples,
    instants_of,
    kernel_frame,
    predicate,
    set_like,
)
from strategies import HOUR, SECOND, kernel_log, queries

from featurestore.aggregates import function_names, plain_values
from featurestore.aggregates.inputs import PartsPlan
from featurestore.aggregates.layout import Layout
from featurestore.kernel import EntityRows, Rules, evaluate
from featurestore.online.frames import entity_rows, order_columns
from featurestore.plans import AggregateColumn, Input, Window
from featurestore.types import FLOAT64, INT64

SPANS = [HOUR, 2 * HOUR, 90 * SECOND]
KEYS = [b"a", b"b", b"c", b"nobody"]
ALL = function_names()


def answers(
    made: Any,
    rows: Sequence[Mapping[str, Any]],
    asked: Sequence[tuple[bytes, int]],
    *,
    as_known: bool = False,
    base: Sequence[Mapping[str, Any] | None] | None = None,
    ids: bool = True,
    order: bool = False,
    deleted: bool = False,
) -> list[dict[str, Any]]:
    """Return the kernel's answer to each question (entity, instant)."""
    layout = Layout.of(made.aggregates)
    parts = PartsPlan.of(layout.inputs)

    def sorted_rows(frame: pl.DataFrame, codes: list[int], entities: int) -> tuple[pl.DataFrame, EntityRows]:
        coded = frame.with_columns(pl.Series("__code", codes, pl.Int64))
        coded = coded.sort(["__code", *order_columns(coded)])
        return coded, entity_rows(parts, coded, coded["__code"].to_numpy(), entities, len(layout.inputs))

    frame, known = sorted_rows(
        kernel_frame(rows, ids=ids, order=order, deleted=deleted),
        [KEYS.index(row["__key"]) for row in rows],
        len(KEYS),
    )
    extra = None
    if base is not None:
        there = [(number, row) for number, row in enumerate(base) if row is not None]
        _, extra = sorted_rows(
            kernel_frame([row for _, row in there], ids=ids, order=order, deleted=deleted),
            [n for n, _ in there],
            len(asked),
        )
    answer = evaluate(
        known,
        np.array([KEYS.index(key) for key, _ in asked], np.int64),
        np.array([t for _, t in asked], np.int64),
        Rules(layout, made.left_closed, made.ttl, made.source.on_duplicate == "replace"),
        as_known=as_known,
        extra=extra,
    )
    plain = {field.name: [oracle._natural(v) for v in frame[field.name].to_list()] for field in made.plain}
    columns = {
        output.name: plain_values(*finished, output.type)
        for output, finished in zip(layout.outputs, answer.aggregates, strict=True)
    }
    result = []
    for number in range(len(asked)):
        row, gone = int(answer.row[number]), bool(answer.expired[number])
        newest = {name: None if row < 0 or gone else values[row] for name, values in plain.items()}
        result.append(newest | {name: values[number] for name, values in columns.items()})
    return result


@st.composite
def questions(draw: st.DrawFn, rows: Sequence[Mapping[str, Any]]) -> list[tuple[bytes, int]]:
    """Return entities and instants, in no order."""
    times = draw(queries(SPANS, instants_of(rows)))
    return [(draw(st.sampled_from(KEYS)), t) for t in times for _ in range(2)]


def check(
    made: Any, rows: Sequence[Mapping[str, Any]], asked: Sequence[tuple[bytes, int]], **options: Any
) -> None:
    """Compare the kernel's answers with the oracle's."""
    bases = options.get("base") or [None] * len(asked)
    got = answers(made, rows, asked, **options)
    for (key, t), base, found in zip(asked, bases, got, strict=True):
        cells = oracle.expected_cells(
            made, rows, key, t, as_known=options.get("as_known", False), predicate=predicate, base=base
        )
        if base is not None:
            cells = {name: cells[name] for name in [a.name for a in made.aggregates]}
        check_cells(cells, found, (key, t))


@pytest.mark.parametrize("function", ALL)
@given(st.data())
@examples(40)
def test_each_function_over_all_types_windows_conditions_and_categories(
    function: str, data: st.DataObject
) -> None:
    rows = data.draw(kernel_log(COLUMNS, SPANS))
    made = set_like(
        data.draw(aggregate_columns([function], SPANS)),
        on_duplicate=data.draw(st.sampled_from(["first", "replace"])),
    )
    check(made, rows, data.draw(questions(rows)), as_known=data.draw(st.booleans()))


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "no-ids"])
@pytest.mark.parametrize("order", [True, False], ids=["order-by", "no-order-by"])
@given(st.data())
@examples(60)
def test_newest_rows_by_order_with_ttl_left_closed_and_as_known(
    ids: bool, order: bool, data: st.DataObject
) -> None:
    rows = data.draw(kernel_log({"amount": "float64", "kind": "string"}, SPANS, ids=ids, order=order))
    rows = [dict.fromkeys(COLUMNS) | row for row in rows]
    made = set_like(
        data.draw(aggregate_columns(["first", "last", "last_k", "count"], SPANS, most=2)),
        ttl=data.draw(st.sampled_from([None, *SPANS])),
        left_closed=data.draw(st.booleans()),
        on_duplicate=data.draw(st.sampled_from(["first", "replace"])),
    )
    check(made, rows, data.draw(questions(rows)), as_known=data.draw(st.booleans()), ids=ids, order=order)


@given(st.data())
@examples(80)
def test_a_base_row_counts_once_whether_or_not_it_has_arrived(data: st.DataObject) -> None:
    rows = data.draw(kernel_log(COLUMNS, SPANS))
    made = set_like(
        data.draw(aggregate_columns(ALL, SPANS)),
        on_duplicate=data.draw(st.sampled_from(["first", "replace"])),
    )
    asked, base = [], []
    for row in data.draw(kernel_log(COLUMNS, SPANS, max_rows=6)):
        arrived = data.draw(st.sampled_from([None, *rows]))
        if arrived is not None:  # the row itself, or another with its id
            chosen = arrived if data.draw(st.booleans()) else row
            row = chosen | {name: arrived[name] for name in ("__key", "__event_time", "__event_id")}
        asked.append((row["__key"], row["__event_time"]))
        base.append(row if data.draw(st.integers(0, 4)) else None)
    check(made, rows, asked, as_known=data.draw(st.booleans()), base=base)


@pytest.mark.parametrize("ids", [True, False], ids=["retract-ids", "end-entities"])
@given(st.data())
@examples(150)
def test_deleted_rows_retract_their_id_or_end_their_entity(ids: bool, data: st.DataObject) -> None:
    order = data.draw(st.booleans())
    rows = data.draw(kernel_log(COLUMNS, SPANS, ids=ids, order=order, deleted=True))
    made = set_like(
        data.draw(aggregate_columns(ALL, SPANS)),
        ttl=data.draw(st.sampled_from([None, *SPANS])),
        left_closed=data.draw(st.booleans()),
        on_duplicate=data.draw(st.sampled_from(["first", "replace"])) if ids else "first",
    )
    options = {"as_known": data.draw(st.booleans()), "ids": ids, "order": order, "deleted": True}
    check(made, rows, data.draw(questions(rows)), **options)


@pytest.mark.parametrize("ids", [True, False], ids=["retract-ids", "end-entities"])
@given(st.data())
@examples(80)
def test_a_base_row_among_deleted_rows(ids: bool, data: st.DataObject) -> None:
    rows = data.draw(kernel_log(COLUMNS, SPANS, ids=ids, deleted=True))
    made = set_like(data.draw(aggregate_columns(ALL, SPANS)))
    asked, base = [], []
    for row in data.draw(kernel_log(COLUMNS, SPANS, ids=ids, max_rows=6)):
        arrived = data.draw(st.sampled_from([None, *rows]))
        if arrived is not None:
            same = ("__key", "__event_time", *(["__event_id"] if ids else []))
            row |= {name: arrived[name] for name in same}
        asked.append((row["__key"], row["__event_time"]))
        base.append(row | {"__deleted": False})
    check(made, rows, asked, as_known=data.draw(st.booleans()), base=base, ids=ids, deleted=True)


def test_a_base_row_makes_room_for_its_visible_twin_where_late_rows_are_left_out() -> None:
    """The twin in the store counts, though the base row comes first in order."""

    def row(number: int, id: int, ingest: int) -> dict[str, Any]:
        return dict.fromkeys(COLUMNS) | {
            "whole": number,
            "__key": b"a",
            "__event_time": HOUR,
            "__ingest_time": ingest,
            "__row_hash": 0,
            "__event_id": id,
        }

    made = set_like(
        (AggregateColumn("n", "sum", Input("whole", INT64, None, None, None), Window(HOUR), None, INT64),)
    )
    rows = [row(1, 1, HOUR), row(2, 2, 5 * HOUR)]
    base = row(16, 1, 0)
    [got] = answers(made, rows, [(b"a", HOUR)], as_known=True, base=[base])
    assert got["n"] == 1
    [got] = answers(made, rows, [(b"a", HOUR)], as_known=False, base=[base])
    assert got["n"] == 3
    [got] = answers(made, rows[1:], [(b"a", HOUR)], as_known=True, base=[base])
    assert got["n"] == 16


@given(st.data())
@examples(40)
def test_a_set_without_windows_and_a_log_without_rows(data: st.DataObject) -> None:
    rows = data.draw(kernel_log(COLUMNS, SPANS, max_rows=data.draw(st.sampled_from([0, 6]))))
    made = set_like((), plain=list(COLUMNS), left_closed=data.draw(st.booleans()))
    check(made, rows, data.draw(questions(rows)), as_known=data.draw(st.booleans()))


@given(st.data())
@examples(40)
def test_an_answer_does_not_depend_on_what_else_is_asked(data: st.DataObject) -> None:
    rows = data.draw(kernel_log(COLUMNS, SPANS))
    made = set_like(data.draw(aggregate_columns(ALL, SPANS)))
    asked = data.draw(questions(rows))
    as_known = data.draw(st.booleans())
    together = answers(made, rows, asked, as_known=as_known)
    for question, expected in zip(asked, together, strict=True):
        [alone] = answers(made, rows, [question], as_known=as_known)
        for name, value in expected.items():
            assert oracle.same(value, alone[name]), name


def test_private_copies_are_cut_into_parts_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many questions that must not see a late row give the same answers three pairs at a time."""
    from featurestore.kernel import point_in_time

    rows = [
        dict.fromkeys(COLUMNS)
        | {
            "amount": float(number),
            "__key": KEYS[number % 3],
            "__event_time": number * SECOND,
            "__ingest_time": (number + number % 7 * 10) * SECOND,
            "__row_hash": number,
            "__event_id": number // 2,
        }
        for number in range(60)
    ]
    made = set_like(
        (
            AggregateColumn(
                "total", "sum", Input("amount", FLOAT64, None, None, None), Window(HOUR), None, FLOAT64
            ),
        )
    )
    asked = [(KEYS[number % 3], number * SECOND) for number in range(90)]
    expected = answers(made, rows, asked, as_known=True)
    monkeypatch.setattr(point_in_time, "_PAIRS", 3)
    assert answers(made, rows, asked, as_known=True) == expected
    check(made, rows, asked, as_known=True)

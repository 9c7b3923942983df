"""Hypothesis strategies for small logs of rows and the instants to ask about, all crowded on edges.

A log is small on purpose: a few entities, instants that lie on multiples of the windows and one
microsecond beside them, ties, ids that come again with other content, rows that became known late. What
an engine gets wrong is there rather than in volume.

`source_log(plan)` draws rows as a producer sends them, in the source's columns; `kernel_log(...)` rows as
they leave the steps, with the store's own columns; `instants(...)` where to ask about either. Draw
interactively:

    @given(data())
    def test(data):
        log = data.draw(source_log(plan))
        for t in data.draw(queries(plan, [row["timestamp"] for row in log])): ...
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

SECOND = 1_000_000
HOUR = 3600 * SECOND
ORIGIN = 1_767_225_600 * SECOND  # 2026-01-01T00:00Z
EPOCH = 0  # rows about 1970 have instants of both signs

FLOATS = (0.0, -0.0, 1.0, -1.0, 0.1, 0.2, 0.3, 2.0, 6.0, 10.0, 1e10, 1e10 + 1.0, 1e16, -1e16, 3.5e15)
HUGE = (1e140, -1e140, 1e100, 1.0)
"""Floats whose squares still fit; a variance over larger ones is past the largest float."""
SPECIAL = (math.nan, math.inf, -math.inf)
WHOLE = (0, 1, -1, 2, 7, 2**31, -(2**53) - 1)
TEXT = ("", "a", "b", "ab", "é", "\U0001f600", "00123")


def floats(*, special: bool = True) -> SearchStrategy[float]:
    """Return floats that tell a compensated sum from a plain one; at times huge, NaN or infinite."""
    kinds = [st.sampled_from(FLOATS), st.floats(-1000.0, 1000.0, width=32), st.sampled_from(HUGE)]
    return st.one_of(*kinds, st.sampled_from(SPECIAL)) if special else st.one_of(*kinds)


def values(kind: str, *, nulls: bool = True, special: bool = True) -> SearchStrategy[Any]:
    """Return values of a type by its name, as Python rows hold them; few, so that they repeat.

    int64 comes near its end at times, so that sums overflow.
    """
    if kind.startswith("float"):
        made: SearchStrategy[Any] = floats(special=special)
        if kind == "float32":
            made = st.one_of(st.integers(-50, 50).map(lambda number: number / 4), st.just(math.nan))
    elif kind.startswith(("int", "uint")):
        signed, bits = not kind.startswith("u"), int(kind.removeprefix("u").removeprefix("int"))
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        some = [number for number in (*WHOLE, low, high, high - 1) if low <= number <= high]
        made = st.one_of(st.integers(max(low, -9), 9), st.sampled_from(some))
    elif kind.startswith("decimal"):
        scale = int(kind.rstrip(")").split(",")[1])
        digits = int(kind.split("(")[1].split(",")[0])
        numbers = st.integers(-999, 999)
        if digits > 18:
            numbers = st.one_of(numbers, st.sampled_from([10**digits - 1, 1 - 10**digits, 10**digits // 3]))
        made = numbers.map(lambda number: Decimal(number).scaleb(-scale, Context(prec=80)))
    elif kind == "bool":
        made = st.booleans()
    elif kind == "string":
        made = st.sampled_from(TEXT)
    elif kind == "binary":
        made = st.sampled_from([text.encode() for text in TEXT] + [b"\x00", b"\xff"])
    elif kind == "date":
        made = st.integers(20_000, 20_005)
    elif kind == "timestamp":
        made = st.sampled_from([ORIGIN, ORIGIN + 1, ORIGIN - HOUR, EPOCH])
    elif kind.startswith("list<"):
        made = st.lists(values(kind[5:-1]), max_size=3)
    else:
        raise ValueError(f"no strategy for values of type {kind}")
    return st.one_of(st.none(), made, made, made) if nulls else made


def edges(spans: Iterable[int], origin: int = ORIGIN, *, reach: int = 3) -> SearchStrategy[int]:
    """Return instants at the origin plus sums of two multiples of spans, and one microsecond beside."""
    steps = sorted({span for span in spans if span} | {SECOND})
    multiple = st.builds(lambda span, times: span * times, st.sampled_from(steps), st.integers(0, reach))
    return st.builds(
        lambda first, second, beside: origin + first + second + beside,
        multiple,
        st.one_of(st.just(0), multiple),
        st.sampled_from([0, 0, 0, -1, 1]),
    )


def delays(spans: Iterable[int]) -> SearchStrategy[int]:
    """Return how much later than it happened a row becomes known: mostly at once, at times by a span."""
    steps = sorted({span for span in spans if span} | {SECOND})
    late = st.builds(lambda span, beside: max(0, span + beside), st.sampled_from(steps), st.integers(-1, 1))
    return st.one_of(st.just(0), st.just(0), st.just(1), late)


def spans(plan: Any) -> list[int]:
    """Return every duration of a set's plan that an edge may depend on."""
    found = {plan.ttl or 0}
    for column in plan.aggregates:
        window = column.window
        width = window.width or 0
        found |= {width, window.offset, width + window.offset, window.granularity or 0}
    return sorted(found - {0})


@st.composite
def kernel_log(
    draw: DrawFn,
    columns: Mapping[str, str | SearchStrategy[Any]],
    spans: Sequence[int],
    *,
    keys: Sequence[Any] = (b"a", b"b", b"c"),
    origin: int | None = None,
    ids: bool = True,
    order: bool = False,
    deleted: bool = False,
    max_rows: int = 24,
) -> list[dict[str, Any]]:
    """Return rows as they leave the steps: `columns` (types by name, or strategies) and the store's own.

    They come in no order. `__row_hash` is of the content, so that equal rows have equal hashes. With ids,
    some rows come again with other content, and some ids at another instant or entity. With `deleted` one
    in five is a deletion.
    """
    origin = draw(st.sampled_from([ORIGIN, ORIGIN, EPOCH])) if origin is None else origin
    content = {
        name: values(kind) if isinstance(kind, str) else kind for name, kind in sorted(columns.items())
    }
    instant, delay = edges(spans, origin), delays(spans)
    rows: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, max_rows))):
        again = rows[draw(st.integers(0, len(rows) - 1))] if rows and draw(st.integers(0, 3)) == 0 else None
        row = {name: draw(strategy) for name, strategy in content.items()}
        row["__key"] = draw(st.sampled_from(list(keys))) if again is None else again["__key"]
        row["__event_time"] = draw(instant) if again is None else again["__event_time"]
        row["__ingest_time"] = row["__event_time"] + draw(delay)
        if order:
            row["__order"] = draw(st.one_of(st.none(), st.integers(0, 2)))
        if ids:
            same = again is not None and draw(st.booleans())
            row["__event_id"] = again["__event_id"] if again and same else draw(st.integers(1, 6))
        if deleted:
            row["__deleted"] = draw(st.sampled_from([False, False, False, False, True]))
        row["__row_hash"] = _hash([row[name] for name in content] + [True] * row.get("__deleted", False))
        rows.append(row)
    return rows


@st.composite
def source_log(
    draw: DrawFn,
    plan: Any,
    *,
    given: Mapping[str, SearchStrategy[Any]] | None = None,
    keys: int = 3,
    origin: int = ORIGIN,
    max_rows: int = 24,
) -> list[dict[str, Any]]:
    """Return rows as a producer sends them, in the columns of the set's source, in no order.

    Key, time and id columns are made to collide; categories of `by:` are mostly the declared ones. `given`
    replaces a column's values: a key that steps make, for instance, is theirs alone. Every row has an
    event time, a key and an id: what the door refuses is not drawn.
    """
    source = plan.source
    kinds = {field.name: str(field.type) for field in source.schema}
    content = {name: values(kind) for name, kind in kinds.items()}
    for key in plan.keys:
        if key.column in kinds:
            content[key.column] = st.sampled_from(_keys(kinds[key.column], keys))
    for name, categories in _categories(plan).items():
        if name in kinds:
            content[name] = st.one_of(st.sampled_from(categories), content[name])
    content |= dict(given or {})
    every = spans(plan)
    instant, delay = edges(every, origin), delays(every)
    rows: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, max_rows))):
        row = {name: draw(strategy) for name, strategy in content.items()}
        again = rows[draw(st.integers(0, len(rows) - 1))] if rows and draw(st.integers(0, 3)) == 0 else None
        if source.event_time is not None:
            row[source.event_time] = draw(instant) if again is None else again[source.event_time]
            if source.ingest_time is not None:
                row[source.ingest_time] = row[source.event_time] + draw(delay)
        if again is not None:
            for key in plan.keys:
                if key.column in kinds:
                    row[key.column] = again[key.column]
        for name in source.event_id:
            same = again is not None and draw(st.booleans())
            row[name] = again[name] if again and same else _id(kinds[name], draw(st.integers(1, 6)))
        rows.append(row)
    return rows


@st.composite
def queries(draw: DrawFn, plan_or_spans: Any, event_times: Sequence[int], *, most: int = 8) -> list[int]:
    """Return instants where something changes: at rows, where windows, offsets and ttl end, and beside.

    `plan_or_spans` is a set's plan, or the durations themselves.
    """
    durations = [
        0,
        *(spans(plan_or_spans) if hasattr(plan_or_spans, "aggregates") else sorted(plan_or_spans)),
    ]
    places = sorted(set(event_times)) or [ORIGIN]
    instant = st.builds(
        lambda place, duration, beside: place + duration + beside,
        st.sampled_from(places),
        st.sampled_from(durations),
        st.sampled_from([0, 0, -1, 1]),
    )
    outside = st.sampled_from([places[0] - 1, places[-1] + 2 * max(durations) + 1])
    return draw(st.lists(st.one_of(instant, instant, instant, outside), min_size=1, max_size=most))


def schedules(rows: Sequence[Any]) -> SearchStrategy[list[Any]]:
    """Return the rows in some order, some of them again: what a stream may deliver."""
    if not rows:
        return st.just([])
    return st.lists(st.sampled_from(list(rows)), max_size=5).flatmap(
        lambda again: st.permutations([*rows, *again])
    )


def _categories(plan: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for column in plan.aggregates:
        if column.input.by is not None and column.input.value not in found.setdefault(column.input.by, []):
            found[column.input.by].append(column.input.value)
    return found


def _keys(kind: str, count: int) -> list[Any]:
    if kind == "string":
        return ["a", "b", "00123", "é"][:count]
    if kind == "binary":
        return [b"a", b"b", b"\x00"][:count]
    if kind == "bool":
        return [False, True]
    if kind.startswith("float"):
        return [float(number) for number in range(1, count + 1)]
    return list(range(1, count + 1))


def _id(kind: str, number: int) -> Any:
    return number if "int" in kind else f"e{number}"


def _hash(content: list[Any]) -> int:
    """Return 63 bits that depend on the content alone, the same in every run."""
    total = 0
    for byte in repr(content).encode():
        total = (total * 1_099_511_628_211 + byte) % 2**63
    return total

"""The edges of windows, of ttl and of the history, by hand: to the microsecond, before the epoch too."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from parity import compiled

from featurestore import instants
from featurestore.contracts import extension
from featurestore.errors import HistoryError
from featurestore.instants import HOUR, MINUTE, from_datetime
from featurestore.online.reader import VectorReader
from featurestore.online.writer import OnlineWriter
from featurestore.plans import BEGINNING, Window
from featurestore.rows.door import admit
from featurestore.rows.transform import transform

SPECS = """
kind: Entity
name: customer
---
kind: Source
name: orders
event_time: at
schema: {customer: string, at: timestamp, amount: float64}
---
kind: FeatureSet
name: spending
entities: [customer]
source: orders
ttl: 1h
history: 3h
steps: [{select: [amount]}]
aggregations:
  - {column: amount, functions: [sum], windows: [1h]}
---
kind: FeatureVector
name: spend
features: [spending.*]
"""

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
T = from_datetime(NOON)


@pytest.mark.parametrize(
    ("window", "t", "bounds"),
    [  # half-open, in microseconds
        (Window(10), 3, (-6, 4)),
        (Window(10, left_closed=True), 3, (-7, 3)),
        (Window(10, granularity=4), 3, (-7, 4)),  # floor(-7) is -8, which is out
        (Window(10, granularity=4), 14, (5, 15)),
        (Window(10, granularity=4), 13, (1, 14)),
        (Window(10, granularity=4), -3, (-15, -2)),  # floor(-13) is -16
        (Window(10, left_closed=True, granularity=4), -3, (-16, -3)),
        (Window(10, granularity=5), -5, (-14, -4)),  # -15 is a multiple
        (Window(10, offset=7), 3, (-13, -3)),
        (Window(None), 3, (BEGINNING, 4)),
        (Window(None, left_closed=True, offset=7), 3, (BEGINNING, -4)),
        (Window(10, left_closed=True, granularity=4, offset=7), 3, (-16, -4)),
    ],
)
def test_a_window_covers_what_the_contract_says(window: Window, t: int, bounds: tuple[int, int]) -> None:
    assert window.bounds(t) == bounds
    low, high = window.bounds(np.array([t]))
    assert (low.tolist(), high.tolist()) == ([bounds[0]], [bounds[1]])
    assert instants.ALWAYS > BEGINNING


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[VectorReader]:
    """Reads one customer with one row at noon, at 15:00."""
    project = compiled(SPECS)
    plan = project.sets["spending"]
    now = T + 3 * HOUR
    rows = pl.DataFrame(
        {"customer": ["c"], "at": [NOON], "amount": [5.0]}, schema_overrides={"at": pl.Datetime("us", "UTC")}
    )
    online = extension("online", "sqlite")({"kind": "sqlite", "path": str(tmp_path / "online.db")})
    writer = OnlineWriter(plan, online, "g", clock=lambda: T)
    writer.apply(
        transform(plan, admit(plan.source, rows, now=T).rows.with_columns(__partition=pl.lit("p"))).rows
    )
    yield VectorReader(project.vectors["spend"], online, lambda _: "g", clock=lambda: now)
    online.close()


@pytest.mark.parametrize(
    ("age", "amount", "status", "total"),
    [
        (timedelta(0), 5.0, "PRESENT", 5.0),
        (timedelta(microseconds=-1), None, "NOT_FOUND", 0.0),
        (timedelta(hours=1, microseconds=-1), 5.0, "PRESENT", 5.0),
        (timedelta(hours=1), None, "OUTSIDE_TTL", 0.0),
        (timedelta(hours=1, microseconds=1), None, "OUTSIDE_TTL", 0.0),
    ],
)
def test_a_row_counts_until_it_is_as_old_as_its_ttl(
    reader: VectorReader, age: timedelta, amount: float | None, status: str, total: float
) -> None:
    result = reader.read([{"customer": "c"}], as_of=from_datetime(NOON + age), now=T + HOUR)
    assert (result.rows, result.status) == ([[amount, total]], [[status, "PRESENT"]])


def test_the_history_is_answered_from_its_first_microsecond_on(reader: VectorReader) -> None:
    asked = [{"customer": "c"}]
    assert reader.read(asked, as_of=T).rows == [[5.0, 5.0]]
    with pytest.raises(HistoryError, match="outside the history"):
        reader.read(asked, as_of=T - 1)
    late = reader.read([*asked, *asked], as_of=[T, T - 1])
    assert [error is None for error in late.errors] == [True, False]
    assert late.status[1] == ["INVALID", "INVALID"]
    assert reader.read(asked, as_of=T + 3 * HOUR + 5 * MINUTE).rows == [[None, 0.0]]
    with pytest.raises(HistoryError, match="has not come yet"):
        reader.read(asked, as_of=T + 3 * HOUR + 5 * MINUTE + 1)


def test_rows_are_kept_as_long_as_an_instant_of_the_history_sees_them(tmp_path: Path) -> None:
    """With an hour of history and a window of one, the write at 14:30 needs nothing of before 12:20.

    Ten minutes are kept beyond what is promised. An instant whose window begins earlier is an error.
    """
    specs = SPECS.replace("ttl: 1h\nhistory: 3h\n", "history: 1h\n")
    project = compiled(specs.replace("{select: [amount]}", "{drop: [amount, at]}"))
    plan = project.sets["spending"]
    online = extension("online", "sqlite")({"kind": "sqlite", "path": str(tmp_path / "online.db")})
    now = [T]
    writer = OnlineWriter(plan, online, "g", clock=lambda: now[0])
    for place, (after, amount) in enumerate([(0, 5.0), (50, 7.0), (150, 1.0)]):
        now[0] = T + after * MINUTE
        at = NOON + timedelta(minutes=after)
        rows = pl.DataFrame(
            {"customer": ["c"], "at": [at], "amount": [amount], "__partition": ["p"], "__sequence": [place]},
            schema_overrides={"at": pl.Datetime("us", "UTC")},
        )
        writer.apply(transform(plan, admit(plan.source, rows, now=T).rows).rows)
    reader = VectorReader(
        project.vectors["spend"], online, lambda _: "g", clock=lambda: now[0], unbounded=True
    )

    def at_minute(minute: int, less: int = 0) -> tuple[list[float], str | None]:
        result = reader.read([{"customer": "c"}], as_of=T + minute * MINUTE - less)
        return result.rows[0], result.errors[0]

    assert at_minute(150) == ([1.0], None)
    assert at_minute(100) == ([7.0], None)
    assert at_minute(80) == ([7.0], None)
    values, error = at_minute(80, 1)
    assert values == [None]
    assert "is complete from 2026-03-01T13:20:00.000000Z on" in str(error)
    online.close()

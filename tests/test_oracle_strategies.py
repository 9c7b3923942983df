"""The strategies draw what they promise: rows that the door takes, crowded on the edges of windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from strategies import HOUR, ORIGIN, kernel_log, queries, source_log, spans

from featurestore.compiler import compile_project
from featurestore.plans import SetPlan
from featurestore.rows.door import admit
from featurestore.specs.loading import load_project

SPECS = Path(__file__).parent.parent / "specs"
LATER = ORIGIN + 1000 * 24 * HOUR
SEEK = settings(max_examples=5000, deadline=None, phases=[Phase.generate], derandomize=True)


def plan(project: str, name: str) -> SetPlan:
    return compile_project(load_project(SPECS / project, environ={})).sets[name]


TRANSACTIONS = plan("fraud", "transactions")
EVENTS = plan("fraud", "events")
LINES = plan("retail", "lines")


def frame(made: SetPlan, log: list[dict[str, Any]]) -> pl.DataFrame:
    """Return the log as a source's frame."""
    schema = {field.name: field.type.polars() for field in made.source.schema}
    return pl.DataFrame(log, schema=schema)


@pytest.mark.parametrize("made", [TRANSACTIONS, EVENTS], ids=lambda made: made.name)
@given(st.data())
@settings(deadline=None, max_examples=25)
def test_the_door_takes_every_row_of_a_log(made: SetPlan, data: st.DataObject) -> None:
    log = data.draw(source_log(made))
    admitted = admit(made.source, frame(made, log), now=LATER)
    assert (admitted.rows.height, admitted.rejected.height) == (len(log), 0)


@given(st.data())
@settings(deadline=None, max_examples=25)
def test_a_log_of_a_source_without_ids_has_its_columns(data: st.DataObject) -> None:
    for row in data.draw(source_log(LINES)):
        assert set(row) == {field.name for field in LINES.source.schema}
        assert row["CustomerID"] in (1.0, 2.0, 3.0)


def test_spans_are_those_of_windows_offsets_and_ttl() -> None:
    assert spans(TRANSACTIONS) == [2 * HOUR, 12 * HOUR, 24 * HOUR, 14 * 24 * HOUR]
    assert spans(EVENTS) == [24 * HOUR, 30 * 24 * HOUR]
    merchants = plan("fraud", "merchant_activity")
    assert spans(merchants) == [day * HOUR for day in (1, 24, 7 * 24, 30 * 24, 37 * 24)]


def _times(log: list[dict[str, Any]]) -> list[int]:
    return [row["__event_time"] for row in log]


LOG = kernel_log({"amount": "float64"}, [HOUR])
SITUATIONS = {
    "two rows exactly a window apart": lambda log: any(
        one - other == HOUR for one in _times(log) for other in _times(log)
    ),
    "two rows a microsecond less than a window apart": lambda log: any(
        one - other == HOUR - 1 for one in _times(log) for other in _times(log)
    ),
    "a tie": lambda log: len(set(_times(log))) < len(log),
    "one id with two contents": lambda log: any(
        one["amount"] != other["amount"]
        and all(one[name] == other[name] for name in ("__key", "__event_time", "__event_id"))
        for one in log
        for other in log
    ),
    "a row known a window late": lambda log: any(
        row["__ingest_time"] - row["__event_time"] == HOUR for row in log
    ),
    "a null": lambda log: any(row["amount"] is None for row in log),
    "a NaN": lambda log: any(row["amount"] is not None and row["amount"] != row["amount"] for row in log),
    "rows before 1970": lambda log: any(time < 0 for time in _times(log)),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_it_draws(situation: str) -> None:
    assert find(LOG, SITUATIONS[situation], settings=SEEK)


def test_queries_meet_the_ends_of_windows() -> None:
    drawn = queries([HOUR], [ORIGIN])
    for edge in (-1, 0, 1, HOUR - 1, HOUR, HOUR + 1):
        assert find(drawn, lambda instants, edge=edge: ORIGIN + edge in instants, settings=SEEK)

"""The door: times, order, identity and dead letters of admitted rows (DESIGN 3.1, 3.2, 3.8, 3.9, 3.14)."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.errors import SpecError
from featurestore.expressions import parse
from featurestore.instants import ALWAYS, HOUR, MINUTE, SECOND, from_datetime
from featurestore.keys import encode_key
from featurestore.plans import SourcePlan
from featurestore.rows import hashing, identity
from featurestore.rows.dead_letters import SCHEMA
from featurestore.rows.door import Admitted, admit
from featurestore.types import DataType, Field

NOW = from_datetime(datetime(2026, 11, 21, 12, tzinfo=UTC))
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SCHEMA_TYPES = {"id": "string", "at": "timestamp", "amount": "float64", "n": "int64"}


def source(types: dict[str, str] = SCHEMA_TYPES, **changes: Any) -> SourcePlan:
    plan: dict[str, Any] = {
        "name": "payments",
        "schema": tuple(Field(name, DataType.parse(kind)) for name, kind in types.items()),
        "event_time": "at",
        "ingest_time": None,
        "event_id": (),
        "order_by": None,
        "timezone": None,
        "delay": 0,
        "future": 5 * MINUTE,
        "max_bytes": 1 << 20,
        "cutover": None,
        "on_duplicate": "first",
        "deleted": None,
        "batch": None,
        "stream": None,
        "fingerprint": "f",
    }
    return SourcePlan(**{**plan, **changes})


def frame(rows: int = 1, **columns: Any) -> pl.DataFrame:
    plain = {"id": ["a"] * rows, "at": [NOON] * rows, "amount": [1.5] * rows, "n": [1] * rows}
    return pl.DataFrame({**plain, **columns})


def codes(admitted: Admitted) -> list[tuple[int, str, str]]:
    return admitted.rejected.select("sequence", "code", "message").rows()


def micros(series: pl.Series) -> list[int | None]:
    return series.to_physical().to_list()


def test_a_row_leaves_typed_with_the_stores_columns_in_their_order() -> None:
    plan = source(
        event_id=("id",), order_by="n", deleted=parse("amount < 0", {"amount": DataType("float64")})
    )
    found = admit(plan, frame(2, amount=[-1.0, 2.0], other=["x", "y"]), now=NOW)
    assert found.rows.columns == [
        *SCHEMA_TYPES,
        "__event_time",
        "__ingest_time",
        "__order",
        "__row_hash",
        "__event_id",
        "__deleted",
        "__partition",
        "__sequence",
    ]
    assert found.rows["__deleted"].to_list() == [True, False]
    assert found.rows["__order"].to_list() == [1, 1]
    assert found.rows["__sequence"].to_list() == [0, 1]
    assert found.rows["__partition"].to_list() == [None, None]
    assert found.rows["__event_time"].to_list() == [NOON, NOON]
    hashed = [
        identity.row_hash({"id": "a", "at": from_datetime(NOON), "amount": amount, "n": 1}, plan.schema)
        for amount in (-1.0, 2.0)
    ]
    assert found.rows["__row_hash"].to_list() == hashed
    assert found.rejected.schema == SCHEMA
    assert found.counts == {
        "rows": 2,
        "rejected": 0,
        "ambiguous_local_time": 0,
        "nonexistent_local_time": 0,
        "cutover": 0,
    }


def test_a_missing_column_names_itself_and_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"source 'payments': column 'amount' is .* Did you mean 'amounts'"):
        admit(source(), frame().rename({"amount": "amounts"}), now=NOW)


def test_a_bad_value_costs_its_row_and_says_which_and_where() -> None:
    text = frame(
        4,
        n=["1", "12.5", "3", "x"],
        amount=["1.5", "2", "much", "y"],
        at=["2026-11-20T12:00:00Z"] * 4,
        __partition=["p"] * 4,
        __sequence=[10, 11, 12, 13],
    )
    found = admit(source(), text, now=NOW)
    assert found.rows["__sequence"].to_list() == [10]
    assert codes(found) == [
        (11, "bad_value", "n: '12.5' is no int64"),
        (12, "bad_value", "amount: 'much' is no float64"),
        (13, "bad_value", "amount: 'y' is no float64"),
    ]
    assert found.rejected["partition"].to_list() == ["p"] * 3
    assert found.rejected["source"].to_list() == ["payments"] * 3
    assert found.rejected["feature_set"].to_list() == [None] * 3
    assert msgspec.json.decode(found.rejected["payload"][0]) == {
        "id": "a",
        "at": "2026-11-20T12:00:00Z",
        "amount": "2",
        "n": "12.5",
    }


def test_the_bytes_of_a_dead_letter_are_those_received() -> None:
    given_ = frame(at=[None]).with_columns(
        pl.Series("__payload", [b"{raw"]), pl.Series("__record_time", [NOW - HOUR])
    )
    found = admit(source(), given_, now=NOW)
    assert codes(found) == [(0, "null_event_time", "at is null")]
    assert found.rejected["payload"].to_list() == [b"{raw"]
    assert micros(found.rejected["ingest_time"]) == [NOW - HOUR]


def test_a_naive_text_is_refused_by_row_and_read_with_a_timezone() -> None:
    text = frame(2, at=["2026-07-20 12:00:00", "2026-07-20T12:00:00Z"])
    found = admit(source(), text, now=NOW)
    message = "at: '2026-07-20 12:00:00' has no time zone; write one, or declare timezone: on the source"
    assert codes(found) == [(0, "naive_timestamp", message)]
    local = admit(source(timezone="Europe/London"), text, now=NOW).rows["__event_time"]
    assert [value.hour for value in local] == [11, 12]


def test_what_the_clock_change_moved_is_counted() -> None:
    local = frame(3, at=[datetime(2024, 10, 27, 1, 30), datetime(2024, 3, 31, 1, 30), datetime(2024, 7, 1)])
    found = admit(source(timezone="Europe/London"), local, now=NOW)
    assert found.counts["ambiguous_local_time"] == found.counts["nonexistent_local_time"] == 1
    assert found.counts["rows"] == 3


def test_a_date_is_an_event_time_at_local_midnight() -> None:
    types = {"at": "date"}
    dates = pl.DataFrame({"at": [date(2024, 7, 1)]})
    with pytest.raises(SpecError, match="timezone"):
        admit(source(types), dates, now=NOW)
    found = admit(source(types, timezone="Europe/London"), dates, now=NOW).rows
    assert found["__event_time"].to_list() == [datetime(2024, 6, 30, 23, tzinfo=UTC)]
    assert found["at"].to_list() == [date(2024, 7, 1)]


def test_a_table_without_time_is_always_there() -> None:
    plan = source({"n": "int64"}, event_time=None, delay=HOUR)
    found = admit(plan, pl.DataFrame({"n": [1]}), now=NOW).rows
    assert micros(found["__event_time"]) == [ALWAYS]
    assert micros(found["__ingest_time"]) == [ALWAYS + HOUR]


def test_ingest_time_is_the_column_else_the_records_else_event_time_and_delay() -> None:
    t = from_datetime(NOON)
    types = {**SCHEMA_TYPES, "known": "timestamp"}
    known = [NOON + timedelta(hours=1), None, None]
    given_ = frame(3, known=known).with_columns(pl.Series("__record_time", [t + 1, t + 2, None]))
    found = admit(source(types, ingest_time="known", delay=7), given_, now=NOW).rows
    assert micros(found["__ingest_time"]) == [t + HOUR, t + 2, t + 7]
    batch = admit(source(delay=HOUR), frame(), now=NOW).rows
    assert micros(batch["__ingest_time"]) == [t + HOUR]


def test_an_event_from_the_future_is_a_dead_letter_past_the_margin() -> None:
    t = from_datetime(NOON)
    margin = 5 * MINUTE
    given_ = frame(3).with_columns(
        pl.Series("__record_time", [t - margin, t - margin - 1, None]), pl.Series("__partition", ["k"] * 3)
    )
    found = admit(source(), given_, now=0)
    assert found.rows["__sequence"].to_list() == [0, 2]
    message = "event_time is 5m1us after ingest_time; future: allows 5m"
    assert codes(found) == [(1, "future", message)]
    assert admit(source(), frame(at=[NOON + timedelta(days=9999)]), now=NOW).counts["rows"] == 1


def test_an_id_is_the_hash_of_its_parts_and_has_no_null_part() -> None:
    found = admit(source(event_id=("id", "n")), frame(3, id=["a", None, "a"], n=[1, 1, None]), now=NOW)
    assert codes(found) == [
        (1, "null_event_id", "event_id: id is null"),
        (2, "null_event_id", "event_id: n is null"),
    ]
    kinds = [DataType("string"), DataType("int64")]
    assert found.rows["__event_id"].to_list() == [identity.event_id(["a", 1], kinds)]
    assert encode_key(["a", 1], kinds) == b"s\0\0\0\x01ai" + (1).to_bytes(8, "big")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"event_id": ("amount",)}, "event_id: 'amount' is float64"),
        ({"order_by": "id"}, "order_by: 'id' is string"),
    ],
)
def test_ids_and_orders_of_unfit_types_are_the_authors_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        admit(source(**changes), frame(), now=NOW)


def test_deleted_is_false_where_null_and_overflow_rejects() -> None:
    types = {name: DataType.parse(kind) for name, kind in SCHEMA_TYPES.items()}
    plan = source(deleted=parse("n * 4611686018427387904 > 0", types))
    found = admit(plan, frame(4, n=[None, 1, 3, 0]), now=NOW)
    assert found.rows["__deleted"].to_list() == [False, True, False]
    assert [(row, code) for row, code, _ in codes(found)] == [(2, "overflow")]


def test_each_half_keeps_its_side_of_the_cutover() -> None:
    t = from_datetime(NOON)
    times = [NOON - timedelta(microseconds=1), NOON]
    batch = admit(source(cutover=t), frame(2, at=times), now=NOW)
    assert batch.rows["__sequence"].to_list() == [0]
    assert batch.counts["cutover"] == 1
    records = frame(2, at=times).with_columns(pl.Series("__record_time", [t - 1, t]))
    stream = admit(source(cutover=t), records, now=NOW)
    assert stream.rows["__sequence"].to_list() == [1]


def test_payloads_alone_are_decoded_as_json() -> None:
    lines = [
        b'{"id":"a","at":"2026-11-20T12:00:00Z","amount":1,"n":2}',
        b"{",
        b'{"id":"b","amount":1,"n":2}',
        b'{"id":"c","at":"2026-11-20T12:00:00Z","amount":"1"}',
    ]
    given_ = pl.DataFrame({"__payload": lines, "__partition": ["batch"] * 4, "__sequence": [5, 6, 7, 8]})
    found = admit(source(), given_, now=NOW)
    assert found.rows.select("id", "amount", "n", "__sequence").rows() == [("a", 1.0, 2, 5)]
    assert [(row, code) for row, code, _ in codes(found)] == [
        (6, "malformed"),
        (7, "null_event_time"),
        (8, "bad_type"),
    ]
    assert found.rejected["payload"].to_list() == lines[1:]
    assert found.counts["rejected"] == 3


def test_lines_that_a_file_source_could_not_read_are_dead_letters() -> None:
    given_ = pl.DataFrame({"__payload": [b"a,b,c"], "__malformed": ["line 3 has 3 fields, not 2"]})
    found = admit(source(), given_, now=NOW)
    assert codes(found) == [(0, "malformed", "line 3 has 3 fields, not 2")]
    assert found.rows.columns == admit(source(), frame(), now=NOW).rows.columns


ROWS = st.fixed_dictionaries(
    {
        "id": st.none() | st.text(max_size=3),
        "at": st.none()
        | st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)).map(lambda t: t.isoformat()),
        "amount": st.none() | st.floats().map(repr),
        "n": st.none() | st.integers(-(2**64), 2**64).map(str),
        "__record_time": st.none() | st.integers(NOW - HOUR, NOW + HOUR),
    }
)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ROWS, min_size=1, max_size=8))
def test_the_door_lets_its_own_output_through_unchanged(rows: list[dict[str, Any]]) -> None:
    plan = source(event_id=("id",), order_by="n", timezone="Europe/London", delay=SECOND)
    types = {"id": pl.String, "at": pl.String, "amount": pl.String, "n": pl.String, "__record_time": pl.Int64}
    once = admit(plan, pl.DataFrame(rows, schema=types), now=NOW)
    assert once.rows.height + once.rejected.height == len(rows)
    again = admit(plan, once.rows, now=NOW)
    assert again.rejected.height == 0
    assert again.rows.equals(once.rows)


def test_an_empty_frame_gives_the_same_columns() -> None:
    plan = source(event_id=("id",), order_by="n")
    full = admit(plan, frame(), now=NOW)
    none = admit(plan, frame().clear(), now=NOW)
    assert none.rows.schema == full.rows.schema
    assert none.rejected.schema == SCHEMA
    assert hashing.row_hash(none.rows, plan.schema).len() == 0

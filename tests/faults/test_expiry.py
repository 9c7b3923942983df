"""What is needed stays and what is not goes, whatever the clocks of the writers say.

Rows are written at any time, late and stamped ahead, by writers whose clocks are right, years behind or years
ahead. A reader whose clock is right is answered as the oracle says at every instant of the history; and a
write by a right clock leaves nothing of its entity that no such instant can reach.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import oracle
import polars as pl
import pytest
from faults.scale import LONG
from hypothesis import example, given
from hypothesis import strategies as st
from parity import INSTANT, check_cells, compiled, examples

from featurestore import instants, plans
from featurestore.contracts import OnlineStore, extension
from featurestore.instants import DAY, HOUR, MINUTE, SECOND
from featurestore.keys import SHARDS, shard_of
from featurestore.online import layout as layouts
from featurestore.online import nodes, tree
from featurestore.online.layout import MARGIN, ROOT, OnlineLayout, node_name
from featurestore.online.nodes import Directory, Leaf
from featurestore.online.reader import VectorReader
from featurestore.online.writer import OnlineWriter
from featurestore.plans import SetPlan
from featurestore.rows.door import admit
from featurestore.rows.transform import transform
from featurestore_connectors.embedded import EmbeddedServer
from featurestore_connectors.sqlite import SqliteOnlineStore

Row = dict[str, Any]
YEAR = 365 * DAY
T = 1_767_225_600_000_000  # 2026-01-01, before which nothing is written

BODIES = {
    "windows": "ttl: 30m\nhistory: 20m\n",
    "left": "closed: left\nttl: 1h\nhistory: 0s\n",
    "idle": "history: 10m\n",  # plain features without ttl: the newest row for ever
    "counted": "history: 1h\nsteps: [{drop: [amount, at, id, gone, seen]}]\n",
    "all": "history: all\n",
}
AGGREGATIONS = """aggregations:
  - {column: amount, functions: [sum, last, count_distinct], windows: [20m, 1h]}
  - {column: amount, name: shifted, functions: [count], windows: [30m], offset: 20m, granularity: 7m}
"""
LIFETIME = "  - {column: amount, name: ever, functions: [sum], windows: [lifetime]}\n"


def specs(body: str, *, ids: bool, deleted: bool, lifetime: bool = False) -> str:
    """Return a project of one set."""
    source = "event_id: id\n" if ids else ""
    source += 'deleted: "gone"\n' if deleted else ""
    return f"""kind: Entity
name: customer
---
kind: Source
name: orders
event_time: at
ingest_time: seen
future: 90m
{source}schema: {{id: string, customer: string, at: timestamp, seen: timestamp, amount: int64, gone: bool}}
---
kind: FeatureSet
name: spending
entities: [customer]
source: orders
{body}{AGGREGATIONS}{LIFETIME if lifetime else ""}---
kind: FeatureVector
name: spend
features: [spending.*]
"""


PROJECTS = {
    (name, ids, deleted): compiled(specs(body, ids=ids, deleted=deleted))
    for name, body in BODIES.items()
    for ids, deleted in [(False, False), (True, False), (True, True), (False, True)]
}
PROJECTS["lifetime", True, False] = compiled(specs(BODIES["windows"], ids=True, deleted=False, lifetime=True))


def frame(plan: SetPlan, rows: Sequence[Row], first: int) -> pl.DataFrame:
    """Return the rows, whose places begin at `first`, as the writer takes them."""
    instant_columns = ["at", "seen"]
    raw = pl.DataFrame(
        rows,
        schema={
            "id": pl.String,
            "customer": pl.String,
            "at": pl.Int64,
            "seen": pl.Int64,
            "amount": pl.Int64,
            "gone": pl.Boolean,
        },
    ).with_columns(pl.col(instant_columns).cast(INSTANT))
    placed = raw.with_columns(
        pl.lit("p").alias(plans.PARTITION),
        pl.int_range(first, first + pl.len(), dtype=pl.Int64).alias(plans.SEQUENCE),
    )
    admitted = admit(plan.source, placed, now=T)
    assert admitted.rejected.is_empty()
    return transform(plan, admitted.rows).rows


@dataclass(frozen=True)
class Write:
    """Rows that are written at an instant, by a clock that is off by `error`."""

    at: int
    error: int
    rows: list[Row]


@st.composite
def histories(draw: st.DrawFn, present: int | None) -> list[Write]:
    """Draw writes in the order of time; at the present, where that is given."""
    writes: list[Write] = []
    now = T if present is None else present
    for _ in range(draw(st.integers(1, 6))):
        if present is None:
            now += draw(st.sampled_from([0, 1, 10 * MINUTE, HOUR, HOUR + 1, 3 * HOUR, DAY, 400 * DAY]))
        rows = []
        for _ in range(draw(st.integers(1, 5))):
            seen = now - draw(st.sampled_from([0, 0, 0, 1, MINUTE, 30 * MINUTE, 5 * HOUR]))
            late = draw(st.sampled_from([0, 0, 1, 20 * MINUTE, HOUR, HOUR + 1, 3 * HOUR, 2 * DAY]))
            ahead = draw(st.sampled_from([0, 0, 0, 1, 30 * MINUTE, 90 * MINUTE]))
            rows.append(
                {
                    "id": draw(st.sampled_from("abcdef")),
                    "customer": draw(st.sampled_from("xy")),
                    "at": seen + ahead - late,
                    "seen": seen,
                    "amount": draw(st.one_of(st.none(), st.integers(-9, 9))),
                    "gone": draw(st.sampled_from([False, False, False, True])),
                }
            )
        writes.append(Write(now, draw(st.sampled_from([0, 0, DAY, YEAR, -DAY, -YEAR])), rows))
    return writes


def check_needed(
    store: OnlineStore, case: Any, generation: str, rows: list[Row], keys: dict[str, bytes], now: int
) -> None:
    """Compare what a right clock reads, at the edges of everything within the history, with the oracle."""
    plan = case.sets["spending"]
    reader = VectorReader(case.vectors["spend"], store, lambda _: generation, clock=lambda: now)
    oldest = now - (plan.history if plan.history is not None else 3 * DAY)
    spans = (0, 1, 20 * MINUTE, 30 * MINUTE, HOUR)
    edges = {oldest, now, *(row[plans.EVENT_TIME] + span for row in rows for span in spans)}
    times = sorted(t for t in edges if oldest <= t <= now)
    for customer, key in keys.items():
        mine = [row for row in rows if row["__key"] == key]
        result = reader.read([{"customer": customer}] * len(times), as_of=times)
        names = [field.name for field in result.columns]
        for t, values, error in zip(times, result.rows, result.errors, strict=True):
            assert error is None, (customer, t, error)
            check_cells(
                oracle.expected_cells(plan, mine, key, t),
                dict(zip(names, values, strict=True)),
                (customer, t - now),
            )


def fields_of(store: OnlineStore, generation: str, key: bytes) -> dict[bytes, bytes]:
    """Return all fields that an entity has, by the store's own means."""
    shard = shard_of(key)
    if isinstance(store, SqliteOnlineStore):
        with store._transaction("BEGIN") as connection:
            found = connection.execute(
                "SELECT name, value FROM entity JOIN field ON entity = id"
                " WHERE generation = ? AND shard = ? AND key = ?",
                (generation, shard, key),
            ).fetchall()
        return dict(found)
    with store._client._connected() as client:  # type: ignore[attr-defined]
        found_there: dict[bytes, bytes] = client.hgetall(name_of(store, generation, key))
    return found_there


def name_of(store: OnlineStore, generation: str, key: bytes) -> bytes:
    """Return the Redis key of an entity."""
    return f"{store._prefix}:{{{shard_of(key):02x}}}:{generation}:".encode() + key  # type: ignore[attr-defined]


def check_rest(store: OnlineStore, plan: SetPlan, generation: str, key: bytes, now: int) -> None:
    """Fail where an entity that was written as of `now` keeps what no instant of the history can reach."""
    layout = OnlineLayout.of(plan)
    fields = fields_of(store, generation, key)
    reached: set[bytes] = set()

    def walk(name: bytes, level: int) -> None:
        reached.add(name)
        node = nodes.decode(fields[name], layout)
        if isinstance(node, Directory):
            for number in node.slices.tolist():
                walk(node_name(level + 1, number), level + 1)

    walk(ROOT, -1)
    assert set(fields) == reached, "a field was left behind"
    if plan.history is None or plan.has_lifetime:
        return
    oldest = now - plan.history - MARGIN - plan.reach
    if plan.plain and plan.source.deleted is not None and plan.source.event_id:
        if plan.ttl is None:
            return  # any row may turn out to be the newest
        oldest = min(oldest, now - plan.history - MARGIN - plan.ttl)
    root = nodes.decode(fields[ROOT], layout)
    if isinstance(root, Leaf):
        old = {int(t) for t in root.times if t < oldest - 1}
    else:
        old = {int(n) for n in root.slices if (int(n) + 1) << layout.bits[0] < oldest - 1}
    # At most the instant, or the slice, of the newest row-level value before the history.
    assert len(old) <= (1 if plan.plain else 0), "what nothing can reach is still there"


CASES = st.sampled_from(sorted(PROJECTS))


def row_at(customer: str, at: int, seen: int, number: int = 1) -> Row:
    """Return a row by hand."""
    return {
        "id": f"{customer}{number}",
        "customer": customer,
        "at": at,
        "seen": seen,
        "amount": number,
        "gone": False,
    }


@example(  # next year's clock writes another entity, and records positions
    ("counted", True, False), [Write(T, 0, [row_at("x", T, T)]), Write(T, YEAR, [row_at("y", T, T)])], 512
)
@given(CASES, histories(None), st.sampled_from([1, 2, 512]))
@examples(1000 if LONG else 60)
def test_nothing_needed_goes_and_nothing_else_stays_in_sqlite(
    tmp_path_factory: pytest.TempPathFactory, name: Any, writes: list[Write], leaf_rows: int
) -> None:
    """Time passes, entities expire; each writer's clock is its machine's, so the store is wrong as well."""
    case = PROJECTS[name]
    plan = case.sets["spending"]
    path = tmp_path_factory.mktemp("online") / "online.db"
    clocks: dict[int, int] = {}

    def store_of(error: int) -> SqliteOnlineStore:
        return SqliteOnlineStore({"path": str(path)}, clock=lambda: clocks[error])

    errors = {0, *(write.error for write in writes)}
    stores = {error: store_of(error) for error in errors}
    writers = {e: OnlineWriter(plan, s, "g", clock=lambda e=e: clocks[e]) for e, s in stores.items()}  # type: ignore[misc]
    rows: list[Row] = []
    keys: dict[str, bytes] = {}
    newest: dict[int, int] = dict.fromkeys(errors, plans.BEGINNING)
    try:
        with mock.patch.object(tree, "LEAF_ROWS", leaf_rows):
            for write in writes:
                clocks.update({error: write.at + error for error in errors})
                made = frame(plan, write.rows, len(rows))
                writers[write.error].apply(made)
                rows += oracle.rows_of(made)
                writers[write.error].checkpoint({"p": len(rows)})
                keys |= {row["customer"]: row["__key"] for row in oracle.rows_of(made)}
                newest[write.error] = max([newest[write.error], *(row["seen"] for row in write.rows)])
                check_needed(stores[0], case, "g", rows, keys, write.at)
                if write.error >= 0:
                    for customer in {row["customer"] for row in write.rows}:
                        check_rest(stores[0], plan, "g", keys[customer], newest[write.error])
    finally:
        for store in stores.values():
            store.close()


@pytest.mark.redis
@given(CASES, st.data(), st.sampled_from([1, 2, 512]))
@examples(300 if LONG else 20)
def test_nothing_needed_goes_and_nothing_else_stays_in_redis(
    redis_url: str, name: Any, data: st.DataObject, leaf_rows: int
) -> None:
    """The server's clock is right: whatever a writer's says, it trims as of the server's at the latest."""
    case = PROJECTS[name]
    plan = case.sets["spending"]
    present = instants.now()
    writes = data.draw(histories(present))
    store: OnlineStore = extension("online", "redis")({"url": redis_url, "prefix": f"expiry{present}"})
    rows: list[Row] = []
    keys: dict[str, bytes] = {}
    try:
        with mock.patch.object(tree, "LEAF_ROWS", leaf_rows):
            for write in writes:
                made = frame(plan, write.rows, len(rows))
                OnlineWriter(plan, store, "g", clock=lambda w=write: instants.now() + w.error).apply(made)  # type: ignore[misc]
                rows += oracle.rows_of(made)
                keys |= {row["customer"]: row["__key"] for row in oracle.rows_of(made)}
                check_needed(store, case, "g", rows, keys, present)
                if write.error >= 0:
                    for customer in {row["customer"] for row in write.rows}:
                        check_rest(store, plan, "g", keys[customer], present)
    finally:
        store.drop("g")
        store.close()


@pytest.fixture
def redis_store(redis_url: str) -> Iterator[OnlineStore]:
    """A store in the session's server, under a prefix of its own."""
    store: OnlineStore = extension("online", "redis")({"url": redis_url, "prefix": f"terms{instants.now()}"})
    yield store
    store.drop("g")
    store.close()


@pytest.mark.redis
@pytest.mark.parametrize(
    ("name", "ahead", "expected"),
    [  # the longest of windows and ttl, the history, and twenty minutes
        ("windows", 0, HOUR + 20 * MINUTE + 20 * MINUTE),
        ("windows", 90 * MINUTE, HOUR + 20 * MINUTE + 20 * MINUTE + 90 * MINUTE),
        ("left", 0, HOUR + 20 * MINUTE),
        ("counted", 0, HOUR + HOUR + 20 * MINUTE),
        ("idle", 0, None),
        ("all", 0, None),
    ],
)
def test_an_entity_expires_its_reach_after_its_last_write_or_after_its_newest_row(
    redis_store: OnlineStore, name: str, ahead: int, expected: int | None
) -> None:
    plan = PROJECTS[name, True, False].sets["spending"]
    before = instants.now()
    OnlineWriter(plan, redis_store, "g").apply(frame(plan, [row_at("x", before + ahead, before)], 0))
    later = [row_at("x", before - MINUTE, before, 2)]  # renews the expiry, and does not shorten it
    OnlineWriter(plan, redis_store, "g").apply(frame(plan, later, 1))
    key = frame(plan, later, 1)["__key"][0]
    left = redis_store._client.execute([("PTTL", name_of(redis_store, "g", key))])[0]  # type: ignore[attr-defined]
    took = instants.now() - before
    if expected is None:
        assert left == -1
    else:
        assert expected - took <= left * 1000 + 1000 <= expected + 1000


@pytest.mark.redis
def test_a_set_with_a_lifetime_window_never_expires(redis_store: OnlineStore) -> None:
    plan = PROJECTS["lifetime", True, False].sets["spending"]
    rows = frame(plan, [row_at("x", T, T)], 0)
    OnlineWriter(plan, redis_store, "g").apply(rows)
    name = name_of(redis_store, "g", rows["__key"][0])
    assert redis_store._client.execute([("PTTL", name)]) == [-1]  # type: ignore[attr-defined]


@pytest.mark.redis
def test_entities_that_are_idle_leave_redis_by_themselves(
    start_server: Callable[..., EmbeddedServer], measured: Callable[..., None]
) -> None:
    """With windows and margins of a second; what stays are positions, so that a replay does nothing."""
    body = "ttl: 1s\nhistory: 1s\naggregations:\n  - {column: amount, functions: [sum], windows: [1s]}\n"
    text = specs("", ids=True, deleted=False).replace(AGGREGATIONS, body)
    plan = compiled(text).sets["spending"]
    server = start_server()
    store: OnlineStore = extension("online", "redis")({"url": server.url})
    client = store._client._connected()  # type: ignore[attr-defined]
    now = instants.now()
    rows = frame(plan, [row_at(f"c{number}", now, now) for number in range(500)], 0)
    with mock.patch.object(layouts, "MARGIN", SECOND):
        OnlineWriter(plan, store, "g").apply(rows)
        shards = sum(state.revision != b"" for state in store.shards("g", range(SHARDS)))
        assert client.dbsize() == 500 + shards
        full = client.info("memory")["used_memory"]
        deadline = time.monotonic() + 30
        while client.dbsize() > shards:
            assert time.monotonic() < deadline, "entities stay"
            time.sleep(0.05)
        assert OnlineWriter(plan, store, "g").apply(rows).duplicates == 500
        assert client.dbsize() == shards
    left = client.info("memory")["used_memory"]
    measured("idle entities expire", promised="only positions stay", entities=500, left=0, freed=full - left)
    store.close()
    server.kill()


def test_what_is_stamped_ahead_is_judged_by_when_the_broker_took_it() -> None:
    """Whatever a worker's clock says: its rows, and what it refuses, are the same a year later."""
    plan = PROJECTS["windows", True, False].sets["spending"]
    rows = [
        row_at("x", T + ahead, T, number) for number, ahead in enumerate((0, 90 * MINUTE, 90 * MINUTE + 1))
    ]
    unseen = [row | {"seen": None} for row in rows]
    raw = pl.DataFrame([*rows, *unseen], schema_overrides={"seen": pl.Int64}).with_columns(
        pl.col("at", "seen").cast(INSTANT),
        pl.lit("p").alias(plans.PARTITION),
        pl.int_range(6, dtype=pl.Int64).alias(plans.SEQUENCE),
        pl.lit(T).alias("__record_time"),
    )
    judged = [admit(plan.source, raw, now=T + error) for error in (0, YEAR, -YEAR)]
    for found in judged:
        assert found.rejected["sequence"].to_list() == [2, 5]
        assert found.rejected["code"].to_list() == ["future", "future"]
        assert found.rows.equals(judged[0].rows)
        assert found.rejected.equals(judged[0].rejected)


def test_an_instant_of_the_history_is_no_error_after_a_writer_with_a_clock_of_next_year(
    online_store: OnlineStore,
) -> None:
    case = PROJECTS["counted", True, False]
    plan = case.sets["spending"]
    now = instants.now()
    writer = OnlineWriter(plan, online_store, "g", clock=lambda: instants.now() + YEAR)
    for number, age in enumerate((0, 50 * MINUTE, 110 * MINUTE)):
        writer.apply(frame(plan, [row_at("x", now - age, now, number)], number))
    reader = VectorReader(case.vectors["spend"], online_store, lambda _: "g")
    result = reader.read([{"customer": "x"}], as_of=now - 55 * MINUTE)
    assert result.errors == [None]
    assert result.to_dicts()[0]["amount_sum_1h"] == 2

"""Redis loses writes where nobody is looking, or loses everything: it is noticed, told, and filled again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import shop
from faults.conftest import Measured
from faults.readings import reading
from faults.scale import LONG
from faults.test_redis_killed import (
    ASKED,
    STEADY,
    await_writes,
    caught_up,
    cut_tail,
    durable,
    log_file,
    prepare,
    steady,
    whole,
)
from faults.worker import working
from shop import HOUR_US
from strategies import ORIGIN
from streams import check, lag, send

from featurestore import FeatureStore
from featurestore.errors import StoreUnavailable
from featurestore_connectors.embedded import EmbeddedServer

StartServer = Callable[..., EmbeddedServer]

pytestmark = pytest.mark.redis

TIMES = 15 if LONG else 1
T = ORIGIN + HOUR_US


@pytest.fixture
def server(start_server: StartServer) -> Iterator[EmbeddedServer]:
    """A server that logs its writes."""
    server = durable(start_server)
    yield server
    server.kill()


def test_what_is_lost_while_the_stream_has_nothing_to_do(
    tmp_path: Path, server: EmbeddedServer, measured: Measured
) -> None:
    """No event comes that would touch the shards that went back: the stream looks at them by itself."""
    rng = random.Random(1)
    paid, visited = shop.make_log(21, 160)
    root = prepare(tmp_path, server.url, paid[:60])
    size = log_file(server).stat().st_size
    lost = 0
    with FeatureStore(root) as store, working(root, "local") as stream:
        send(store, "payments", paid[60:])
        send(store, "visits", visited)
        caught_up(store)
        with reading(root, "profile", ASKED, steady, as_of=T) as readings:
            for _ in range(TIMES):
                server.kill()
                lost += cut_tail(server, size, rng)
                server.start()
                caught_up(store)
            stream.stop()
            compared = whole(store, paid[:60], readings, 21)
    measured(
        "Redis loses writes while its stream is idle",
        promised="noticed within 5 s, repaired without an event",
        times=TIMES,
        bytes_lost=lost,
        values_compared=compared,
        wrong=0,
    )


def test_what_is_lost_while_no_stream_runs(
    tmp_path: Path, server: EmbeddedServer, measured: Measured
) -> None:
    """The one that starts afterwards never saw the higher positions; rows that were ingested are lost too."""
    rng = random.Random(2)
    paid, visited = shop.make_log(22, 200)
    root = prepare(tmp_path, server.url, paid[:60])
    size = log_file(server).stat().st_size
    lost = compared = 0
    for number in range(TIMES):
        with FeatureStore(root) as store:
            if number == 0:
                send(store, "payments", paid[60:150])
                send(store, "visits", visited)
                store.drain()
                store.ingest("payments", shop.frame("payments", paid[150:]))
            server.kill()
            lost += cut_tail(server, size, rng)
            server.start()
            with (
                working(root, "local") as stream,
                reading(root, "profile", ASKED, steady, as_of=T) as readings,
            ):
                caught_up(store)
                stream.stop()
                compared += whole(store, [*paid[:60], *paid[150:]], readings, 22)
    measured(
        "Redis loses writes while no stream runs",
        promised="a stream that starts later repairs streamed and ingested rows",
        times=TIMES,
        bytes_lost=lost,
        values_compared=compared,
        wrong=0,
    )


def test_ingested_rows_that_are_lost_come_back_with_the_next_ingest(
    tmp_path: Path, server: EmbeddedServer
) -> None:
    paid, _ = shop.make_log(23, 120)
    root = prepare(tmp_path, server.url, paid[:60])
    size = log_file(server).stat().st_size
    with FeatureStore(root) as store:
        frame = shop.frame("payments", paid[60:])
        store.ingest("payments", frame)
        server.kill()
        lost = cut_tail(server, size, random.Random(3))
        assert lost
        server.start()
        assert any(status["behind_online"] for status in store.status())
        reports = store.ingest("payments", frame)
        assert sum(report.rows_written for report in reports) == 0
        assert not any(status["behind_online"] for status in store.status())
        check(store, [*paid[:60], STEADY, *paid[60:]])


@pytest.mark.parametrize("brought_back_by", ["stream", "materialize", "ingest"])
def test_everything_is_lost(
    brought_back_by: str, tmp_path: Path, server: EmbeddedServer, measured: Measured
) -> None:
    """Readers get an error and never an empty window, until what serves is filled again."""
    redis = pytest.importorskip("redis")
    paid, visited = shop.make_log(24, 160)
    root = prepare(tmp_path, server.url, paid[:60])

    def flush() -> None:
        with redis.Redis.from_url(server.url) as admin:
            admin.flushall()

    with FeatureStore(root) as store:
        send(store, "payments", paid[60:])
        send(store, "visits", visited)
        if brought_back_by != "stream":
            store.drain()
        with (
            working(root, "local") if brought_back_by == "stream" else nullcontext(),
            reading(root, "profile", ASKED, steady, as_of=T) as readings,
        ):
            for _ in range(TIMES):
                caught_up(store)
                readings.await_answers()
                flush()
                if brought_back_by != "stream":
                    with pytest.raises(StoreUnavailable, match="lost its data"):
                        store.reader("profile").read([ASKED], as_of=T)
                if brought_back_by == "materialize":
                    store.materialize("payments")
                elif brought_back_by == "ingest":
                    store.ingest("payments", shop.frame("payments", [*paid[:60], STEADY]))
                if brought_back_by != "stream":
                    store.materialize("visits")
                readings.await_answers()
            caught_up(store)
        assert set(readings.errors) == {"unavailable"}
        store.drain()
        assert lag(store) == 0
        compared = check(store, [*paid[:60], STEADY], seed=24)
    measured(
        f"Redis loses everything; {brought_back_by} fills it again",
        promised="readers get `unavailable` from the first request on, never an empty window",
        times=TIMES,
        answers=readings.answers,
        errors=dict(readings.errors),
        values_compared=compared,
        wrong=0,
    )


def test_power_is_lost_just_after_a_new_generation_serves(
    tmp_path: Path, server: EmbeddedServer, measured: Measured
) -> None:
    """The registry's pointer moved; the store lost some of the filling and its mark."""
    rng = random.Random(5)
    paid, visited = shop.make_log(25, 160)
    root = prepare(tmp_path, server.url, paid[:60])
    with FeatureStore(root) as store:
        send(store, "payments", paid[60:])
        send(store, "visits", visited)
        store.drain()
        for _ in range(TIMES):
            size = log_file(server).stat().st_size
            store.materialize("spending")
            await_writes(server, size)
            server.kill()
            assert cut_tail(server, size, rng)
            server.start()
            with pytest.raises(StoreUnavailable, match="lost its data"):
                store.reader("profile").read([ASKED], as_of=T)
            with working(root, "local"), reading(root, "profile", ASKED, steady, as_of=T) as readings:
                readings.await_answers()
                caught_up(store)
            assert lag(store) == 0
            compared = check(store, [*paid[:60], STEADY], seed=25)
    measured(
        "Redis loses a generation that has just begun to serve",
        promised="readers get an error until it is filled; a stream fills it by itself",
        times=TIMES,
        values_compared=compared,
        wrong=0,
    )

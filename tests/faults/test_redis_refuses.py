"""A Redis that refuses: full, loading, a replica, evicting, another password. Waited for, or told at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shop
from faults.conftest import Measured
from faults.readings import reading
from faults.scale import LONG
from faults.test_redis_killed import ASKED, caught_up, durable, prepare, steady, whole
from faults.worker import Worker, working
from shop import HOUR_US
from strategies import ORIGIN
from streams import check, make_project, send

from featurestore import FeatureStore
from featurestore.errors import OperatorError, StoreUnavailable
from featurestore_connectors.embedded import EmbeddedServer

StartServer = Callable[..., EmbeddedServer]

redis = pytest.importorskip("redis", reason="redis-py is not installed")
pytestmark = pytest.mark.redis

TIMES = 10 if LONG else 1
T = ORIGIN + HOUR_US


def ask(server: EmbeddedServer, *command: Any) -> Any:
    with redis.Redis.from_url(server.url) as admin:
        return admin.execute_command(*command)


def await_log(worker: Worker, text: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while text not in worker.log:
        assert worker.poll() is None, worker.log
        assert time.monotonic() < deadline, worker.log
        time.sleep(0.02)


def test_a_full_server_is_waited_for(tmp_path: Path, start_server: StartServer, measured: Measured) -> None:
    """It takes no write until it has memory again; readers are answered all along."""
    server = start_server()
    paid, visited = shop.make_log(41, 160)
    root = prepare(tmp_path, server.url, paid[:60])
    each = 100 // TIMES
    with (
        FeatureStore(root) as store,
        working(root, "local") as stream,
        reading(root, "profile", ASKED, steady, as_of=T) as readings,
    ):
        send(store, "visits", visited)
        caught_up(store)
        for number in range(TIMES):
            said = stream.log.count("no memory left")
            ask(server, "CONFIG", "SET", "maxmemory", "1")
            send(store, "payments", paid[60 + number * each :][:each])
            deadline = time.monotonic() + 60
            while stream.log.count("no memory left") < said + 2:
                assert stream.poll() is None, stream.log
                assert time.monotonic() < deadline, stream.log
                time.sleep(0.02)
            readings.await_answers(10)
            ask(server, "CONFIG", "SET", "maxmemory", "0")
            caught_up(store)
        stream.stop()
        compared = whole(store, paid[:60], readings, 41)
    server.kill()
    assert not readings.errors
    measured(
        "Redis full (maxmemory, noeviction)",
        promised="the stream says so and tries again, readers are answered, nothing is lost",
        times=TIMES,
        answers=readings.answers,
        errors=dict(readings.errors),
        values_compared=compared,
        wrong=0,
    )


def test_a_server_that_loads_is_waited_for(
    tmp_path: Path, start_server: StartServer, measured: Measured
) -> None:
    """It reads its log for seconds after a crash, and answers LOADING to everybody."""
    server = durable(start_server)
    paid, visited = shop.make_log(42, 120)
    root = prepare(tmp_path, server.url, paid[:60])
    with (
        FeatureStore(root) as store,
        working(root, "local") as stream,
        reading(root, "profile", ASKED, steady, as_of=T) as readings,
    ):
        send(store, "visits", visited)
        caught_up(store)
        server.kill()
        slow = EmbeddedServer(
            server.directory,
            port=server.port,
            appendonly=True,
            arguments=["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"],
        )
        slow.start()
        send(store, "payments", paid[60:])
        caught_up(store)
        stream.stop()
        compared = whole(store, paid[:60], readings, 42)
    slow.kill()
    assert set(readings.errors) <= {"unavailable"}
    measured(
        "Redis answers LOADING while it reads its log",
        promised="waited for; readers get `unavailable`",
        errors=dict(readings.errors),
        values_compared=compared,
        wrong=0,
    )


def test_a_server_that_becomes_a_replica_is_waited_for(tmp_path: Path, start_server: StartServer) -> None:
    """As in a failover, between the old primary's end and the new one's beginning."""
    server, other = start_server(), start_server()
    paid, visited = shop.make_log(43, 120)
    root = prepare(tmp_path, server.url, paid[:60])
    ask(server, "CONFIG", "SET", "replica-serve-stale-data", "yes")
    with (
        FeatureStore(root) as store,
        working(root, "local") as stream,
        reading(root, "profile", ASKED, steady, as_of=T) as readings,
    ):
        send(store, "visits", visited)
        caught_up(store)
        ask(other, "CLIENT", "PAUSE", "60000")  # so that the replica keeps what it has
        ask(server, "REPLICAOF", "127.0.0.1", other.port)
        send(store, "payments", paid[60:])
        await_log(stream, "The server is a replica")
        with pytest.raises(OperatorError, match="is a replica"):
            store.ready()
        ask(server, "REPLICAOF", "NO", "ONE")
        caught_up(store)
        stream.stop()
        whole(store, paid[:60], readings, 43)
    server.kill()
    other.kill()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (("maxmemory-policy", "allkeys-lru"), "maxmemory-policy is allkeys-lru"),
        (("requirepass", "other"), "refuses the login"),
    ],
)
def test_a_server_that_would_lose_data_or_wants_another_password_ends_a_stream_at_once(
    setting: tuple[str, str], said: str, tmp_path: Path, start_server: StartServer
) -> None:
    server = start_server()
    paid, _ = shop.make_log(44, 80)
    root = prepare(tmp_path, server.url, paid[:60])
    ask(server, "CONFIG", "SET", *setting)
    worker = Worker(root, "local")
    assert worker.wait() == 1
    assert said in worker.log
    assert {"maxmemory-policy": "CONFIG SET", "requirepass": "user and password"}[setting[0]] in worker.log
    with FeatureStore(root) as store, pytest.raises(OperatorError, match=said) as caught:
        store.ingest("payments", shop.frame("payments", paid[60:]))
    assert not isinstance(caught.value, StoreUnavailable)
    server.kill()


def test_a_password_that_changes_ends_a_running_stream(tmp_path: Path, start_server: StartServer) -> None:
    server = start_server()
    paid, _ = shop.make_log(45, 80)
    root = prepare(tmp_path, server.url, paid[:60])
    worker = Worker(root, "local")
    with FeatureStore(root) as store:
        send(store, "payments", paid[60:])
        caught_up(store)
    ask(server, "CONFIG", "SET", "requirepass", "other")
    with redis.Redis.from_url(server.url, password="other") as admin:
        admin.client_kill_filter(_type="normal", skipme=True)
    assert worker.wait() == 1
    assert "refuses the login" in worker.log
    server.kill()


def test_no_server_at_all_is_waited_for_when_a_stream_starts(
    tmp_path: Path, start_server: StartServer
) -> None:
    server = start_server()
    paid, visited = shop.make_log(46, 100)
    root = make_project(tmp_path, {"kind": "redis", "url": server.url, "timeout": "1s"})
    with FeatureStore(root) as store:
        store.apply()
        server.kill()
        send(store, "payments", paid)
        send(store, "visits", visited)
        with working(root, "local") as stream:
            await_log(stream, "Redis does not answer")
            server.start()  # with nothing of what it held
            caught_up(store)
            stream.stop()
        with reading(root, "profile", ASKED, lambda _: None, as_of=T) as readings:
            readings.await_answers()
        store.drain()
        check(store, seed=46)
    server.kill()

"""Redis is killed while a stream writes and a reader asks: nothing, or its last second, is lost."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import shop
from faults.conftest import Measured
from faults.readings import Readings, reading
from faults.scale import LONG
from faults.worker import working
from shop import HOUR_US, Row
from strategies import ORIGIN
from streams import await_no_lag, check, lag, make_project, send

from featurestore import FeatureStore
from featurestore_connectors.embedded import EmbeddedServer

StartServer = Callable[..., EmbeddedServer]

pytestmark = pytest.mark.redis

KILLS = 60 if LONG else 3
FORMS = [("kept", "local"), ("lost", "local"), ("kept", "bytewax"), ("lost", "bytewax")]
FORMS = [(power, engine) for power, engine in FORMS if sys.version_info < (3, 13) or engine == "local"]
if not LONG:
    FORMS = [("kept", "local"), *FORMS[-1:]]
ROWS_PER_KILL = 15 if LONG else 60  # the oracle's time grows with their square
STEADY: Row = {
    "id": "steady",
    "customer": "steady",
    "shop": None,
    "at": ORIGIN,
    "known_at": ORIGIN,
    "amount": 12.5,
    "units": 3,
    "kind": "a",
}
ASKED = {"customer": "steady", "favourite": 1, "bonus": 1}


def steady(values: dict[str, Any]) -> None:
    """Judge what is said of a customer that no event of the stream is about: it never changes."""
    found = (values["amount_sum_2h"], values["units_sum_2h"], values["with_bonus"])
    assert found == (12.5, 3, 4), found


def durable(start_server: StartServer, **options: Any) -> EmbeddedServer:
    """Return a server that logs its writes."""
    return start_server(
        appendonly=True, arguments=["--appendfsync", "everysec", "--aof-load-truncated", "yes"], **options
    )


def prepare(tmp_path: Path, url: str, history: Sequence[Row]) -> Path:
    """Return a project whose payments' history is ingested, that of the steady customer included."""
    root = make_project(tmp_path, {"kind": "redis", "url": url, "timeout": "2s"})
    with FeatureStore(root) as store:
        store.apply()
        store.ingest("payments", shop.frame("payments", [*history, STEADY]))
    return root


def log_file(server: EmbeddedServer) -> Path:
    """Return the file that the server appends its writes to."""
    [found] = [path for path in server.directory.rglob("*.aof") if ".base." not in path.name]
    return found


def await_writes(server: EmbeddedServer, since: int, seconds: float = 60.0) -> None:
    """Return once the server has logged more than these bytes: the stream writes again."""
    deadline = time.monotonic() + seconds
    while log_file(server).stat().st_size <= since:
        assert time.monotonic() < deadline, "the stream writes nothing"
        time.sleep(0.01)


def cut_tail(server: EmbeddedServer, since: int, rng: random.Random) -> int:
    """Do what a loss of power does to a server that is down: its log ends anywhere after byte `since`."""
    path = log_file(server)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(rng.randint(since, size))
    return size - path.stat().st_size


def caught_up(store: FeatureStore, seconds: float = 90.0) -> None:
    """Return once the online store has all that the topics hold. It may be away, or lost, meanwhile."""
    await_no_lag(store, seconds, offline=False)


def whole(store: FeatureStore, history: Sequence[Row], readings: Readings, seed: int) -> int:
    """Assert that readers are served, and that both stores equal the oracle's; return the values compared."""
    readings.await_answers()
    store.drain()
    assert lag(store) == 0
    return check(store, [*history, STEADY], seed=seed)


@pytest.mark.parametrize(("power", "engine"), FORMS)
def test_killed_at_random_moments(
    power: str, engine: str, tmp_path: Path, start_server: StartServer, measured: Measured
) -> None:
    """kept: what it acknowledged is there. lost: the log's tail is cut at any byte."""
    rng = random.Random(f"{engine} {power}")
    server = durable(start_server)
    rows, visited = shop.make_log(11, 80 + KILLS * ROWS_PER_KILL)
    history, paid = rows[:80], rows[80:]
    root = prepare(tmp_path, server.url, history)
    lost = 0
    try:
        with (
            FeatureStore(root) as store,
            working(root, engine) as stream,
            reading(root, "profile", ASKED, steady, as_of=ORIGIN + HOUR_US) as readings,
        ):
            for kill in range(KILLS):
                size = log_file(server).stat().st_size
                send(store, "payments", paid[kill * ROWS_PER_KILL :][:ROWS_PER_KILL])
                send(store, "visits", visited[kill * 4 :][:4])
                await_writes(server, size)
                time.sleep(rng.uniform(0.0, 0.5))  # a random moment
                server.kill()
                if power == "lost":
                    lost += cut_tail(server, size, rng)
                time.sleep(rng.uniform(0.0, 0.2))
                server.start()
                if rng.random() < 0.5:
                    readings.await_answers()
            send(store, "visits", visited[KILLS * 4 :])
            caught_up(store)
            assert stream.poll() is None
            stream.stop()
            compared = whole(store, history, readings, 11)
    finally:
        server.kill()
    assert set(readings.errors) <= {"unavailable"}, readings.errors
    if power == "kept":
        assert "lost writes" not in stream.log
    measured(
        "Redis killed (append-only)" if power == "kept" else "Redis killed, the end of its log lost",
        promised="the stream goes on; nothing lost or doubled; readers get the value or `unavailable`",
        engine=engine,
        kills=KILLS,
        bytes_lost=lost,
        times_noticed=stream.log.count("lost writes"),
        answers=readings.answers,
        errors=dict(readings.errors),
        values_compared=compared,
        wrong=0,
    )

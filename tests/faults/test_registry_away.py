"""The registry or the online file is away or locked: streams and readers go on with what they know."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shop
from faults.conftest import Measured
from faults.readings import reading
from faults.scale import LONG
from faults.test_redis_killed import ASKED, STEADY, caught_up, steady
from faults.worker import Worker, working
from shop import HOUR_US
from strategies import ORIGIN
from streams import check, lag, make_project, send
from test_stream_engines import ENGINES

from featurestore import FeatureStore
from featurestore.online.writer import OnlineWriter

AWAY_SECONDS = 120.0 if LONG else 8.0
T = ORIGIN + HOUR_US


def prepare(tmp_path: Path, history: list[dict[str, Any]], **online: Any) -> Path:
    root = make_project(tmp_path, {"kind": "sqlite", **online})
    with FeatureStore(root) as store:
        store.apply()
        store.ingest("payments", shop.frame("payments", [*history, STEADY]))
    return root


def wait(condition: Callable[[], object], worker: Worker, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert worker.poll() is None, worker.log
        assert time.monotonic() < deadline, worker.log
        time.sleep(0.05)


@pytest.mark.parametrize("engine", ENGINES if LONG else ENGINES[:1])
def test_a_registry_that_is_away(engine: str, tmp_path: Path, measured: Measured) -> None:
    """Its file cannot be opened for a while; events go on coming, and are served."""
    paid, visited = shop.make_log(61, 160)
    root = prepare(tmp_path, paid[:60])
    file, aside = root / ".featurestore" / "registry.db", root / "registry-aside"
    with (
        FeatureStore(root) as store,
        working(root, engine) as stream,
        reading(root, "profile", ASKED, steady, as_of=T) as readings,
    ):
        send(store, "visits", visited)
        send(store, "payments", paid[60:80])
        caught_up(store)
        plan = store.catalog.feature_set("spending")
        writer = OnlineWriter(plan, store.environment.online, store.catalog.serving(plan))
        topic = store.environment.stream(plan.source)
        readings.await_answers()
        file.rename(aside)
        file.mkdir()  # where a file is expected: it cannot be opened
        began = time.monotonic()
        wait(lambda: "goes on with what it knew" in stream.log, stream)
        rows = paid[80:]
        while rows or time.monotonic() - began < AWAY_SECONDS:
            topic.append([(None, shop.message("payments", row)) for row in rows[:10]])
            del rows[:10]
            ends = topic.ends()
            wait(lambda: all(writer.lowest(name) >= end for name, end in ends.items()), stream)  # noqa: B023
            readings.await_answers()
        away = time.monotonic() - began
        file.rmdir()
        aside.rename(file)
        wait(lambda: "registry answers again" in stream.log, stream)
        stream.stop()
        assert lag(store) == 0
        compared = check(store, [*paid[:60], STEADY], seed=61)
    assert not readings.errors
    measured(
        "registry away",
        promised="streams and readers go on with what they know, say so once, and recover",
        engine=engine,
        seconds=round(away, 1),
        answers=readings.answers,
        errors=dict(readings.errors),
        times_said=stream.log.count("goes on with what it knew"),
        values_compared=compared,
        wrong=0,
    )


@pytest.mark.parametrize("which", ["registry.db", "online.db"])
def test_a_file_that_another_process_keeps_locked(which: str, tmp_path: Path, measured: Measured) -> None:
    """Readers are answered all along; what writes waits, says so, and goes on."""
    paid, visited = shop.make_log(62, 160)
    root = prepare(tmp_path, paid[:60], path=str(tmp_path / ".featurestore" / "online.db"), timeout="500ms")
    with (
        FeatureStore(root) as store,
        working(root, "local") as stream,
        reading(root, "profile", ASKED, steady, as_of=T) as readings,
    ):
        send(store, "visits", visited)
        caught_up(store)
        other = sqlite3.connect(root / ".featurestore" / which, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        send(store, "payments", paid[60:])
        if which == "online.db":
            wait(lambda: "Another process has been writing" in stream.log, stream)
        else:
            caught_up(store)
        readings.await_answers(20)
        held = time.monotonic() - began
        other.execute("ROLLBACK")
        other.close()
        caught_up(store)
        stream.stop()
        assert lag(store) == 0
        compared = check(store, [*paid[:60], STEADY], seed=62)
    assert not readings.errors
    measured(
        f"{which} locked by another process",
        promised="readers are answered, writers wait, say so and go on",
        seconds=round(held, 1),
        answers=readings.answers,
        errors=dict(readings.errors),
        values_compared=compared,
        wrong=0,
    )

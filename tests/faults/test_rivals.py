"""Two streams, or an ingest and a stream, on one feature set at once, in processes of their own, on Redis.

It does no harm. It costs throughput, which is measured, and whoever loses races says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import shop
from faults.conftest import Measured
from faults.scale import LONG
from faults.worker import Worker, working
from streams import check, lag, make_project, send

from featurestore import FeatureStore
from featurestore_connectors.embedded import EmbeddedServer

StartServer = Callable[..., EmbeddedServer]

EVENTS = 6_000 if LONG else 400
UNTIL_MET = 2_000  # one by one, until two streams have met; on a quiet machine the others may not do
PARTS = 10 if LONG else 2
WAIT_SECONDS = 300.0
STREAM = ("payments", "--json")
SAYS = "Another writer is at work on"

pytestmark = pytest.mark.redis


@pytest.fixture
def project(tmp_path: Path, start_server: StartServer) -> Path:
    """The shop's project on a Redis of its own, applied."""
    root = make_project(tmp_path / "project", {"kind": "redis", "url": start_server().url})
    with FeatureStore(root) as store:
        store.apply()
    return root


def caught_up(store: FeatureStore) -> None:
    """Return once all that the topics hold is online."""
    deadline = time.monotonic() + WAIT_SECONDS
    while lag(store, offline=False):
        assert time.monotonic() < deadline, "the streams do not get on"
        time.sleep(0.05)


def send_and_time(store: FeatureStore, rows: Sequence[shop.Row]) -> float:
    """Send rows in parts, each once the one before is online; return the seconds that it took."""
    began = time.monotonic()
    size = -(-len(rows) // PARTS)
    for first in range(0, len(rows), size):
        send(store, "payments", rows[first : first + size])
        caught_up(store)
    return time.monotonic() - began


def conflicts(stream: Worker) -> int:
    """Return how many races a stream that has ended lost over payments."""
    text = stream.log
    return int(json.loads(text[text.index("{") :])["streams"]["payments"].get("conflicts", 0))


def test_two_streams_on_the_same_sets(project: Path, measured: Measured) -> None:
    paid, _ = shop.make_log(7, 2 * EVENTS + UNTIL_MET)
    with FeatureStore(project) as store:
        with working(project, "local", *STREAM) as only:
            send(store, "payments", paid[:1])
            caught_up(store)
            alone = send_and_time(store, paid[1:EVENTS])
        assert conflicts(only) == 0
        with working(project, "local", *STREAM) as one, working(project, "local", *STREAM) as other:
            send(store, "payments", paid[EVENTS : EVENTS + 1])
            caught_up(store)
            together = send_and_time(store, paid[EVENTS + 1 : 2 * EVENTS])
            for row in paid[2 * EVENTS :]:
                if SAYS in one.log + other.log:
                    break
                send(store, "payments", [row])
                caught_up(store)
        store.drain()
        compared = check(store, sample=4)
    lost = conflicts(one) + conflicts(other)
    assert lost > 0, "they never met"
    assert SAYS in one.log + other.log
    measured(
        "two streams of the same sets at once",
        promised="no row lost, none counted twice; the loser says so; throughput suffers",
        events=2 * EVENTS,
        races_lost=lost,
        seconds_alone=round(alone, 1),
        seconds_together=round(together, 1),
        compared=compared,
        lost=0,
        doubled=0,
    )


def test_an_ingest_beside_a_stream(project: Path, measured: Measured) -> None:
    """History is ingested in files, while a stream applies events of the same entities all the time."""
    paid, _ = shop.make_log(8, 2 * EVENTS)
    history, events = paid[:EVENTS], paid[EVENTS:]
    (project / "data").mkdir()
    for number in range(4):
        part = shop.frame("payments", history[number::4])
        part.write_parquet(project / "data" / f"payments{number}.parquet")
    command = [sys.executable, "-m", "featurestore.cli", "ingest", "payments"]
    with FeatureStore(project) as store:
        with working(project, "local", *STREAM) as stream:
            ingest = subprocess.Popen(
                command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            for first in range(0, len(events), 20):
                send(store, "payments", events[first : first + 20])
            output, _ = ingest.communicate(timeout=WAIT_SECONDS)
            assert ingest.returncode == 0, output
        store.drain()
        compared = check(store, history, sample=4)
    measured(
        "an ingest beside a stream of the same sets",
        promised="no row lost, none counted twice; the loser says so",
        rows=len(history),
        events=len(events),
        races_lost_by_the_stream=conflicts(stream),
        the_ingest_lost_some=SAYS in output,
        compared=compared,
        lost=0,
        doubled=0,
    )

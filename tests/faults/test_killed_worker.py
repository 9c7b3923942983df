"""A stream worker that is killed, at whatever moment and however often, loses nothing and doubles nothing."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from brokers import KafkaBroker
from faults.conftest import Measured
from faults.judge import Judge
from faults.processes import ENGINES, Appending, Moments, Worker, await_caught_up
from faults.scale import LONG
from faults.traffic import Traffic, make_project

from featurestore import FeatureStore
from featurestore_connectors.embedded import EmbeddedServer

KILLS = 200 if LONG else 3
EVENTS = 1_000_000 if LONG else 6_000
CUSTOMERS, SHOPS = (20_000, 500) if LONG else (100, 10)


@pytest.mark.redis
@pytest.mark.parametrize("engine", ENGINES if LONG else ENGINES[1:])
def test_a_worker_over_the_log_that_is_killed_again_and_again(
    engine: str, tmp_path: Path, start_server: Callable[..., EmbeddedServer], measured: Measured
) -> None:
    online = {"kind": "redis", "url": start_server().url}
    killed_again_and_again(make_project(tmp_path, online), engine, 11, measured, "the log")


@pytest.mark.parametrize("engine", ENGINES if LONG else ENGINES[:1])
def test_a_worker_over_the_log_and_sqlite_that_is_killed_again_and_again(
    engine: str, tmp_path: Path, measured: Measured
) -> None:
    """SQLite's file is torn by nothing either."""
    root = make_project(tmp_path, {"kind": "sqlite"})
    killed_again_and_again(root, engine, 13, measured, "the log, SQLite", kills=KILLS // 4 or 2)


@pytest.mark.redis
@pytest.mark.kafka
@pytest.mark.parametrize("engine", ENGINES if LONG else ["local"])
def test_a_worker_over_kafka_that_is_killed_again_and_again(
    engine: str,
    tmp_path: Path,
    kafka: KafkaBroker,
    start_server: Callable[..., EmbeddedServer],
    measured: Measured,
) -> None:
    online = {"kind": "redis", "url": start_server().url}
    topic = kafka.create_topic(partitions=3)
    root = make_project(tmp_path, online, stream=kafka.config, topic=topic, partitions=None)
    killed_again_and_again(root, engine, 12, measured, "Kafka")


def killed_again_and_again(
    root: Path, engine: str, seed: int, measured: Measured, broker: str, kills: int = KILLS
) -> None:
    """Kill the project's worker at random moments while events come; compare all stores with the judge's."""
    rng = random.Random(seed)
    print(f"seed {seed}")
    events = EVENTS * kills // KILLS
    traffic = Traffic(seed, events, customers=CUSTOMERS, shops=SHOPS)
    moments: Counter[str] = Counter()
    begun = time.monotonic()
    with FeatureStore(root) as store:
        store.apply()
        with Appending(store, traffic) as producer:
            start_seconds = 2.0
            while moments.total() < kills:
                producer.allow((moments.total() + 1) / (kills + 1))
                worker = Worker.stream(root, engine)
                try:
                    moments[Moments(root, rng, start_seconds).await_one(worker)] += 1
                    worker.kill()
                finally:
                    worker.discard()
        worker = Worker.stream(root, engine)
        try:
            await_caught_up(store, worker)
            worker.stop()
        finally:
            worker.discard()
        verdict = Judge(traffic).check(store)
    measured(
        f"kill -9 of the stream's worker ({engine}, {broker})",
        promised="nothing is lost and nothing counts twice, online and offline",
        events=events,
        kills=kills,
        moments=dict(moments),
        lost=0,
        doubled=0,
        compared=vars(verdict),
        seconds=round(time.monotonic() - begun),
    )

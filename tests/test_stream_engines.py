"""Streams on both engines leave what the oracle says, online and offline, however they were interrupted.

What a stream makes of its rows, in whatever order they come, is in `conformance`.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import shop
from brokers import KafkaBroker, start_mock_broker
from streams import await_no_lag, check, lag, make_project, send, sent, streaming

from featurestore import FeatureStore
from featurestore_connectors.embedded import EmbeddedServer
from featurestore_engines.stream import local, pipeline

ENGINES = [
    "local",
    pytest.param("bytewax", marks=pytest.mark.skipif(sys.version_info >= (3, 13), reason="no wheel")),
]


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes streams read few records at a time, and commit often."""
    shrink(monkeypatch.setattr)


def shrink(setattr: Callable[[Any, str, Any], None]) -> None:
    """Make streams read few records at a time, and commit often."""
    setattr(local, "MAX_RECORDS", 9)
    setattr(pipeline, "FLUSH_ROWS", 40)
    setattr(pipeline, "FLUSH_SECONDS", 0.5)
    if sys.version_info < (3, 13):
        from featurestore_engines.stream import bytewax

        setattr(bytewax, "MAX_RECORDS", 9)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stream_stopped_and_resumed_at_random_points(
    engine: str, tmp_path: Path, online_config: dict[str, Any], small_steps: None
) -> None:
    rng = random.Random(3)
    paid, visited = shop.make_log(3, 200)
    root = make_project(tmp_path, online_config)
    with FeatureStore(root) as store:
        store.apply()
        while paid or visited:
            new = 0
            for source, rows in (("payments", paid), ("visits", visited)):
                part = rng.randint(1, 90)
                send(store, source, rows[:part])
                new += len(rows[:part])
                del rows[:part]
            with streaming(root, engine, workers=rng.choice([1, 2])) as running:
                running.await_records(min(rng.randint(1, 40), new))
        store.drain()
        assert lag(store) == 0
        check(store)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_streams_at_once_on_the_same_sets(
    engine: str, tmp_path: Path, online_config: dict[str, Any], small_steps: None
) -> None:
    paid, visited = shop.make_log(4, 160)
    root = make_project(tmp_path, online_config)
    with FeatureStore(root) as store:
        store.apply()
        with streaming(root, engine) as one, streaming(root, "local") as other:
            send(store, "payments", paid)
            send(store, "visits", visited)
            one.await_records(len(paid) + len(visited))
            other.await_records(len(paid) + len(visited))
        assert lag(store) == 0
        check(store)


@pytest.mark.parametrize("engine", ENGINES)
def test_batch_then_stream(
    engine: str, tmp_path: Path, online_config: dict[str, Any], small_steps: None
) -> None:
    """History by batch, then the topic, which repeats some of it; between, a late file, a new generation."""
    paid, visited = shop.make_log(5, 200)
    history, late, live = paid[:80], paid[80:110], paid[60:]
    root = make_project(tmp_path, online_config)
    with FeatureStore(root) as store:
        store.apply()
        (root / "data").mkdir()
        shop.frame("payments", history).write_parquet(root / "data" / "payments1.parquet")
        store.ingest("payments")
        send(store, "payments", live[:70])
        send(store, "visits", visited)
        with streaming(root, engine) as running:
            running.await_records(70)
            shop.frame("payments", late).write_parquet(root / "data" / "payments2.parquet")
            store.ingest("payments")
            store.materialize("spending")
            send(store, "payments", live[70:])
            running.await_records(len(live) + len(visited))
        store.drain()
        assert lag(store) == 0
        check(store, [*history, *late])
        assert store.ingest("payments")[0].rows_written == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stream_that_is_killed_and_resumed(
    engine: str, tmp_path: Path, online_config: dict[str, Any]
) -> None:
    """Killed where it stands, again and again, then run by the command until nothing is left."""
    paid, visited = shop.make_log(6, 240)
    rng = random.Random(6)
    root = make_project(tmp_path, online_config)
    with FeatureStore(root) as store:
        store.apply()
        send(store, "payments", paid)
        send(store, "visits", visited)
        for _ in range(3):
            process = subprocess.Popen(
                [sys.executable, __file__, str(root), engine], stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            wanted = rng.randint(1, 90)
            for number, line in enumerate(process.stdout):
                if int(line) >= wanted or number >= 15:  # 3 seconds: less than that is left
                    break
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL
        send(store, "payments", paid[:20])
        command = [sys.executable, "-m", "featurestore.cli", "stream", "--drain"]
        last = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
        assert last.returncode == 0, last.stderr
        assert lag(store) == 0
        check(store)


@pytest.mark.redis
@pytest.mark.parametrize("engine", ENGINES)
def test_a_redis_that_lost_its_last_writes_is_repaired(
    engine: str, tmp_path: Path, start_server: Callable[..., EmbeddedServer], small_steps: None
) -> None:
    """It is restarted with an older state; the stream that goes on brings back what was lost."""
    redis = pytest.importorskip("redis")
    server = start_server()
    paid, visited = shop.make_log(7, 200)
    root = make_project(tmp_path, {"kind": "redis", "url": server.url, "timeout": "2s"})
    with FeatureStore(root) as store:
        store.apply()
        with streaming(root, engine) as running:
            send(store, "payments", paid[:90])
            send(store, "visits", visited)
            running.await_records(90 + len(visited))
            with redis.Redis.from_url(server.url) as client:
                client.save()
            send(store, "payments", paid[90:-1])
            running.await_records(len(paid) - 1 + len(visited))
            server.kill()
            server.start()
            send(store, "payments", paid[-1:])
            await_no_lag(store)
        store.drain()
        assert lag(store) == 0
        check(store)
    server.kill()


@pytest.fixture
def broker() -> Iterator[KafkaBroker]:
    """A broker inside librdkafka."""
    made = start_mock_broker()
    yield made
    made.stop()


@pytest.mark.kafka
@pytest.mark.parametrize("engine", ENGINES)
def test_a_stream_from_kafka(
    engine: str,
    tmp_path: Path,
    broker: KafkaBroker,
    small_steps: None,
) -> None:
    paid, visited = shop.make_log(8, 200)
    names = {name: broker.create_topic() for name in ("payments", "visits")}
    root = make_project(tmp_path, {"kind": "sqlite"}, broker.config)
    specs = (root / "specs.yaml").read_text()
    for name, topic in names.items():
        specs = specs.replace(f"topic: {name}", f"topic: {topic}")
    (root / "specs.yaml").write_text(specs)
    with FeatureStore(root) as store:
        store.apply()
        send(store, "payments", paid[:120])
        with streaming(root, engine) as running:
            running.await_records(60)
        send(store, "visits", visited)
        with streaming(root, engine) as running:
            send(store, "payments", [*paid[120:], *paid[:30]])
            running.await_records(1)
        store.drain()
        assert lag(store) == 0
        assert len(sent(store, "payments")) == len(paid) + 30
        check(store)
    for topic in names.values():
        broker.assert_complete(topic)


def main(root: str, engine: str) -> None:
    """Stream a project in small steps, telling how many records went through."""
    shrink(setattr)
    local.POLL_SECONDS = 0.2  # slow enough to be killed half way

    def tell(counts: dict[str, dict[str, int]]) -> None:
        print(sum(found.get("records", 0) for found in counts.values()), flush=True)

    with FeatureStore(root) as store:
        store.stream(engine=engine, report=tell)


if __name__ == "__main__":
    main(*sys.argv[1:])

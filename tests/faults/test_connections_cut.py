"""The connection to Redis is cut at any byte, or goes silent: nothing doubles, nothing waits for ever."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import shop
from faults.conftest import Measured
from faults.proxy import CLOSE, RESET, SILENCE, TO_CLIENT, TO_SERVER, Proxy, proxied
from faults.readings import reading
from faults.scale import LONG
from faults.test_redis_killed import ASKED, STEADY, caught_up, steady, whole
from faults.worker import working
from shop import HOUR_US
from strategies import ORIGIN
from streams import make_project, send
from test_positions import PLAN, PROJECT, T, rows

from featurestore import FeatureStore
from featurestore.errors import StoreUnavailable
from featurestore.online.reader import VectorReader
from featurestore.online.writer import OnlineWriter
from featurestore_connectors.embedded import EmbeddedServer
from featurestore_connectors.redis import RedisOnlineStore

pytestmark = pytest.mark.redis

TIMEOUT = 0.3
CUTS = 1000 if LONG else 60  # of the some 3,550 bytes that a micro-batch takes


@pytest.fixture(scope="module")
def proxy(start_server: Callable[..., EmbeddedServer]) -> Iterator[Proxy]:
    """A proxy before a server."""
    server = start_server()
    with proxied(server.port) as made:
        yield made


def store_at(proxy: Proxy, prefix: str = "fs") -> RedisOnlineStore:
    return RedisOnlineStore(
        {"url": f"redis://127.0.0.1:{proxy.port}", "timeout": f"{int(TIMEOUT * 1000)}ms", "prefix": prefix}
    )


def test_cut_at_any_byte_of_a_micro_batch(proxy: Proxy, measured: Measured) -> None:
    """A writer reads and writes eight shards; the connection ends after byte n, one way or the other.

    Where the answer is lost the write has happened and the writer does not know. It begins anew, as a stream
    does, until it gets through; each row counts once.
    """
    customers = "abcdefgh"
    batch = rows(range(8), customers)
    store = store_at(proxy, "measure")
    aside = RedisOnlineStore({"url": f"redis://127.0.0.1:{proxy.upstream}", "prefix": "measure"})
    OnlineWriter(PLAN, store, "g").apply(batch, {"p": 8})
    proxy.bytes = {TO_SERVER: 0, TO_CLIENT: 0}
    OnlineWriter(PLAN, store, "h").apply(batch, {"p": 8})
    spans = dict(proxy.bytes)
    places = [(way, n) for way, span in spans.items() for n in range(span + 1)]
    rng = random.Random(1)
    chosen = rng.sample(places, CUTS)
    unknown = attempts = 0
    for number, (way, n) in enumerate(chosen):
        how = (RESET, CLOSE)[number % 2] if number % 60 else SILENCE
        generation = f"g{number}"
        proxy.cut(way, n, how)
        while True:
            attempts += 1
            began = time.monotonic()
            try:
                OnlineWriter(PLAN, store, generation).apply(batch, {"p": 8})
                break
            except StoreUnavailable:
                assert time.monotonic() - began < 20 * TIMEOUT
                states = aside.shards(generation, range(256))
                unknown += any(state.revision for state in states)
        reader = VectorReader(PROJECT.vectors["spend"], aside, lambda _, g=generation: g)
        values = [row[0] for row in reader.read([{"customer": c} for c in customers], as_of=T).rows]
        assert values == [10**place for place in range(8)], (way, n, how)
        aside.drop(generation)
    store.close()
    aside.close()
    assert unknown > 0, "no write's answer was ever lost"
    measured(
        "connection to Redis cut at any byte of a micro-batch",
        promised="what took effect without an answer is not applied again; nothing is lost",
        bytes=spans,
        cuts=len(chosen),
        attempts=attempts,
        written_without_an_answer=unknown,
        lost=0,
        doubled=0,
    )


def test_a_silent_server_keeps_nobody_waiting(proxy: Proxy, measured: Measured) -> None:
    """No byte comes and no connection ends: reading and writing end in time, and go on at once after it."""
    store = store_at(proxy, "silent")
    batch = rows(range(3), "abc")
    OnlineWriter(PLAN, store, "g").apply(batch, {"p": 3})
    reader = VectorReader(PROJECT.vectors["spend"], store, lambda _: "g")
    waited: dict[str, float] = {}

    def timed(name: str, call: Callable[[], object]) -> None:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            call()
        waited[name] = round(time.monotonic() - began, 2)

    async def together() -> None:
        await reader.read_async([{"customer": "a"}], as_of=T)  # a connection that is open when it happens
        proxy.freeze()
        began = time.monotonic()
        for _ in range(2):  # on the open connection, then on a new one
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await reader.read_async([{"customer": "a"}], as_of=T)
        waited["read_async"] = round((time.monotonic() - began) / 2, 2)
        proxy.thaw()
        assert (await reader.read_async([{"customer": "a"}], as_of=T)).rows == [[1]]

    proxy.freeze()
    timed("read", lambda: reader.read([{"customer": "a"}], as_of=T))
    timed("read again", lambda: reader.read([{"customer": "a"}], as_of=T))
    timed("write", lambda: OnlineWriter(PLAN, store, "g").apply(rows([3], "aaaa"), {"p": 4}))
    timed("ping", store.ping)
    proxy.thaw()
    assert reader.read([{"customer": "a"}], as_of=T).rows == [[1]]
    asyncio.run(together())
    store.close()
    assert max(waited.values()) < 4 * TIMEOUT, waited
    measured(
        "Redis silent (no answer, no reset)",
        promised="an error within the timeout; the first request after it is answered",
        timeout_seconds=TIMEOUT,
        waited_seconds=waited,
    )


def test_a_stream_whose_connections_are_cut_again_and_again(
    tmp_path: Path, start_server: Callable[..., EmbeddedServer], measured: Measured
) -> None:
    """Reset, half closed, silent and slow, at random bytes, while a stream writes and a reader asks."""
    rng = random.Random(5)
    cuts = 200 if LONG else 12
    made, visited = shop.make_log(13, 80 + (1200 if LONG else 300))
    history, paid = made[:80], made[80:]
    each = len(paid) // cuts
    server = start_server()
    with proxied(server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        root = make_project(tmp_path, {"kind": "redis", "url": url, "timeout": "300ms"})
        with (
            FeatureStore(root) as store,
        ):
            store.apply()
            store.ingest("payments", shop.frame("payments", [*history, STEADY]))
            with (
                working(root, "local") as stream,
                reading(root, "profile", ASKED, steady, as_of=ORIGIN + HOUR_US) as readings,
            ):
                for number in range(cuts):
                    way = rng.choice([TO_SERVER, TO_CLIENT])
                    proxy.delay = rng.choice([0.0, 0.0, 0.002])
                    proxy.cut(way, rng.randint(0, 20_000), rng.choice([RESET, CLOSE, SILENCE]))
                    send(store, "payments", paid[number * each :][:each])
                    assert proxy.fired.wait(60), "nothing went over the connection"
                proxy.delay = 0.0
                send(store, "payments", paid[cuts * each :])
                send(store, "visits", visited)
                caught_up(store)
                stream.stop()
                compared = whole(store, history, readings, 13)
    server.kill()
    assert set(readings.errors) <= {"unavailable"}
    assert readings.longest < 3.0
    measured(
        "connections to Redis reset, half closed, silent or slow at random bytes",
        promised="nothing lost or doubled; nobody waits longer than the timeout; readers recover at once",
        cuts=cuts,
        answers=readings.answers,
        errors=dict(readings.errors),
        longest_read_seconds=round(readings.longest, 2),
        values_compared=compared,
        wrong=0,
    )

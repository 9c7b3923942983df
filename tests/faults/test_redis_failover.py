"""A replica that lags is promoted; the old primary, whose history is longer, goes on as a zombie."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shop
from faults.conftest import Measured
from faults.proxy import Proxy, proxied
from faults.readings import reading
from faults.scale import LONG
from faults.test_redis_killed import ASKED, caught_up, prepare, steady, whole
from faults.worker import Worker, working
from shop import HOUR_US
from strategies import ORIGIN
from streams import send

from featurestore import FeatureStore
from featurestore_connectors.embedded import EmbeddedServer

StartServer = Callable[..., EmbeddedServer]

redis = pytest.importorskip("redis", reason="redis-py is not installed")
pytestmark = pytest.mark.redis

FAILOVERS = 25 if LONG else 2
EACH = 24
_SECONDS = 60.0


def ask(server: EmbeddedServer, *command: Any) -> Any:
    with redis.Redis.from_url(server.url) as admin:
        return admin.execute_command(*command)


def wait(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def offset(server: EmbeddedServer) -> int:
    """Return how many bytes of writes the server has in its history."""
    found = ask(server, "INFO", "replication")
    return int(found["slave_repl_offset" if found["role"] == "slave" else "master_repl_offset"])


def follow(replica: EmbeddedServer, link: Proxy, primary: EmbeddedServer) -> None:
    """Make a replica of the primary, over the link, that has all its writes."""
    link.turn(primary.port)
    ask(replica, "REPLICAOF", "127.0.0.1", link.port)
    wait(lambda: ask(replica, "INFO", "replication").get("master_link_status") == "up", "no link")
    wait(lambda: offset(replica) >= offset(primary), "the replica does not catch up")


def lagging(store: FeatureStore, primary: EmbeddedServer, link: Proxy, send_more: Callable[[], None]) -> int:
    """Stop the link, have the stream write, and return the offset from which on the replica lacks it all."""
    link.freeze()
    before = offset(primary)
    send_more()
    wait(lambda: offset(primary) > before + 2000, "the stream writes nothing")
    return before


@pytest.mark.parametrize("zombie", ["dead", "alive"])
def test_a_replica_that_lags_is_promoted(
    zombie: str, tmp_path: Path, start_server: StartServer, measured: Measured
) -> None:
    """dead: the primary is killed. alive: it lives on, and so do the connections that a stream has to it.

    Then a second stream starts, which only knows the promoted replica, beside the first, which goes on
    writing to the old primary until that one ends.
    """
    rng = random.Random(zombie)
    paid, visited = shop.make_log(31, 100 + FAILOVERS * EACH)
    at_once = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
    primary, replica = start_server(arguments=at_once), start_server(arguments=at_once)
    lost = written_to_zombies = 0
    with proxied(primary.port) as front, proxied(primary.port) as link:
        root = prepare(tmp_path, f"redis://127.0.0.1:{front.port}", paid[:100])
        follow(replica, link, primary)
        streams: list[Worker] = []
        with (
            FeatureStore(root) as store,
            working(root, "local") as stream,
            reading(root, "profile", ASKED, steady, as_of=ORIGIN + HOUR_US) as readings,
        ):
            streams.append(stream)
            send(store, "visits", visited)
            caught_up(store)
            for number in range(FAILOVERS):
                part = paid[100 + number * EACH :][:EACH]
                half = rng.randint(8, 16)
                before = lagging(store, primary, link, lambda part=part[:half]: send(store, "payments", part))
                lost += offset(primary) - before
                if zombie == "dead":
                    primary.kill()
                ask(replica, "REPLICAOF", "NO", "ONE")
                promoted = offset(replica)
                front.turn(replica.port, keep=zombie == "alive")
                if zombie == "alive":
                    zombies = offset(primary)
                    with working(root, "local") as second:
                        send(store, "payments", part[half:])
                        wait(lambda: offset(replica) > promoted, "nobody writes to what is served")  # noqa: B023
                        wait(lambda: offset(primary) > zombies, "the first stream left")  # noqa: B023
                        readings.await_answers()
                        streams.append(second)
                    written_to_zombies += offset(primary) - zombies
                    front.drop()
                    primary.kill()
                else:
                    send(store, "payments", part[half:])
                store.environment.online.close()
                caught_up(store)
                primary.start()
                link.thaw()
                link.drop()
                primary, replica = replica, primary
                follow(replica, link, primary)
            assert stream.poll() is None
            stream.stop()
            compared = whole(store, paid[:100], readings, 31)
    primary.kill()
    replica.kill()
    assert set(readings.errors) <= {"unavailable"}, readings.errors
    measured(
        f"a lagging replica of Redis promoted, the old primary {zombie}",
        promised="what the replica lacked is read again; a writer to the old primary harms nothing served",
        failovers=FAILOVERS,
        bytes_that_the_replica_lacked=lost,
        bytes_written_to_zombies=written_to_zombies,
        times_noticed=sum(worker.log.count("lost writes") for worker in streams),
        answers=readings.answers,
        errors=dict(readings.errors),
        values_compared=compared,
        wrong=0,
    )

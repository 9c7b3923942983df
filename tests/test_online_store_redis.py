"""What the Redis store adds to the contract: servers that fail, refuse, forget, or are many."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from featurestore.contracts import EntityColumns, EntityRead, EntityWrite, ShardState
from featurestore.errors import OperatorError, StoreUnavailable
from featurestore.keys import SHARDS

if TYPE_CHECKING:
    from redis import Redis

    from featurestore_connectors.embedded import EmbeddedServer
    from featurestore_connectors.redis import RedisOnlineStore

redis = pytest.importorskip("redis", reason="redis-py is not installed")
pytestmark = pytest.mark.redis

G = "g"
READ = [EntityRead(7, b"a", (b"s",))]


def store_at(url: str, **config: object) -> RedisOnlineStore:
    from featurestore_connectors.redis import RedisOnlineStore

    return RedisOnlineStore({"url": url, **config})


def put(store: RedisOnlineStore, expected: bytes, revision: bytes, value: bytes = b"1") -> bool:
    entity = EntityWrite(b"a", {b"s": value}, 60_000)
    return store.write(G, [(7, expected, revision, b"p", [entity])])[0]


@pytest.fixture
def server(start_server: Callable[..., EmbeddedServer]) -> Iterator[EmbeddedServer]:
    """A server of the test's own, to be changed, killed and started again."""
    server = start_server()
    yield server
    server.kill()


@pytest.fixture
def admin(server: EmbeddedServer) -> Iterator[Redis]:
    with redis.Redis.from_url(server.url) as client:
        yield client


def test_all_that_one_script_touches_has_the_shard_as_its_hash_tag(
    server: EmbeddedServer, admin: Redis
) -> None:
    store = store_at(server.url)
    entities = [EntityWrite(b"}{other}", {b"s": b"1"}, None), EntityWrite(b"", {b"s": b"1"}, None)]
    store.write(G, [(0xAB, b"", b"r", b"p", entities)])
    assert sorted(admin.keys()) == [b"fs:{ab}:g", b"fs:{ab}:g:", b"fs:{ab}:g:}{other}"]
    assert {redis.crc.key_slot(key) for key in admin.scan_iter()} == {redis.crc.key_slot(b"ab")}
    store.close()


def test_a_name_that_a_pattern_or_a_key_would_misread_is_refused(server: EmbeddedServer) -> None:
    store = store_at(server.url)
    for name in ("a:b", "a*", "", "a{b}", "a\n"):
        with pytest.raises(ValueError, match="cannot be part of a key"):
            store.read(name, READ)


def test_a_server_that_forgot_the_script_is_sent_it_again(server: EmbeddedServer, admin: Redis) -> None:
    store = store_at(server.url)
    assert put(store, b"", b"r1")
    admin.script_flush()
    answers = store.write(
        G, [(1, b"", b"r", b"p", []), (2, b"", b"r", b"p", []), (7, b"stale", b"r", b"p", [])]
    )
    assert answers == [True, True, False]
    store.close()


def test_one_answer_that_is_an_error_does_not_shift_the_others(server: EmbeddedServer, admin: Redis) -> None:
    store = store_at(server.url)
    put(store, b"", b"r1")
    admin.set(b"fs:{07}:g:wrong", b"text")
    mixed = [EntityRead(7, b"wrong", (b"s",)), *READ]
    with pytest.raises(OperatorError, match="WRONGTYPE"):
        store.read(G, mixed)
    assert store.read(G, READ) == [[b"1"]]

    async def read() -> list[list[bytes | None]]:
        with pytest.raises(OperatorError, match="WRONGTYPE"):
            await store.read_async(G, mixed)
        return await store.read_async(G, READ)

    assert asyncio.run(read()) == [[b"1"]]
    store.close()


def test_a_cancelled_read_leaves_no_answer_to_the_next(server: EmbeddedServer, admin: Redis) -> None:
    store = store_at(server.url, connections=1)
    put(store, b"", b"r1")
    value = bytes(5_000_000)
    store.write("big", [(0, b"", b"r", b"", [EntityWrite(b"b", {b"s": value}, None)])])

    async def read() -> None:
        for delay in range(20):
            task = asyncio.create_task(store.read_async("big", [EntityRead(0, b"b", (b"s",))]))
            for _ in range(delay):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await store.read_async(G, READ) == [[b"1"]]

    asyncio.run(read())
    store.close()


@pytest.mark.parametrize("connections", [1, 3])
def test_reads_of_one_loop_that_share_connections_each_get_their_own(
    server: EmbeddedServer, connections: int
) -> None:
    store = store_at(server.url, connections=connections)
    entities = [EntityWrite(b"%d" % number, {b"s": b"v%d" % number}, None) for number in range(300)]
    store.write(G, [(7, b"", b"r", b"", entities)])

    async def read(number: int) -> list[list[bytes | None]]:
        return await store.read_async(G, [EntityRead(7, b"%d" % n, (b"s",)) for n in (number, number + 1)])

    async def all_() -> list[list[list[bytes | None]]]:
        return await asyncio.gather(*(read(number) for number in range(299)))

    assert asyncio.run(all_()) == [[[b"v%d" % n], [b"v%d" % (n + 1)]] for n in range(299)]
    store.close()


def test_a_connection_that_the_server_closed_is_not_used_again(server: EmbeddedServer, admin: Redis) -> None:
    store = store_at(server.url)
    put(store, b"", b"r")
    assert store.read(G, READ) == [[b"1"]]
    for number in range(150):  # more than redis-py's pool would open
        if number % 50 == 0:
            time.sleep(0.05)
        admin.client_kill_filter(_type="normal", skipme=True)
        assert store.read(G, READ) == [[b"1"]]


def test_keys_and_fields_of_any_length_are_read_together(server: EmbeddedServer) -> None:
    store = store_at(server.url)
    keys = [b"a", b"a\r\n", b"\x00%b" * 5, b"\xff" * 300]
    for generation in ("g", "g+"):
        entities = [EntityWrite(key, {b"s": key, b"%s\r\n": b"2" + key}, None) for key in keys]
        assert store.write(generation, [(7, b"", b"r", b"p", entities)]) == [True]
    fields = [(b"s", b"x", b"%s\r\n"), (), (b"%s\r\n",), (b"s",)]
    reads = [EntityRead(7, key, names) for names in fields for key in keys]
    found = store.read_many([("g+", reads), ("g", reads), ("g+", reads[::-1])])
    values = [[{b"s": key, b"%s\r\n": b"2" + key}.get(name) for name in names] for _, key, names in reads]
    assert found == [values, values, values[::-1]]


def test_threads_share_a_store(server: EmbeddedServer) -> None:
    store = store_at(server.url)
    won: list[bytes] = []
    start = threading.Barrier(8)

    def race(name: bytes) -> None:
        start.wait()
        for turn in range(50):
            revision = store.shards(G, [7])[0].revision
            new = b"%s-%d" % (name, turn)
            if put(store, revision, new, value=new):
                won.append(revision)

    threads = [threading.Thread(target=race, args=(b"t%d" % number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == len(set(won)) >= 50  # no revision was followed twice
    assert store.read(G, READ) == [[store.shards(G, [7])[0].revision]]
    store.close()


def test_a_dead_server_is_unavailable_with_its_address_and_comes_back(
    server: EmbeddedServer, admin: Redis
) -> None:
    store = store_at(server.url)
    assert put(store, b"", b"r1")
    admin.save()
    server.kill()

    async def read() -> list[list[bytes | None]]:
        return await store.read_async(G, READ)

    for call in (lambda: store.read(G, READ), store.ping, lambda: put(store, b"r1", b"r2")):
        with pytest.raises(StoreUnavailable, match=f"redis://127.0.0.1:{server.port}") as caught:
            call()
        assert caught.value.retryable
    with pytest.raises(StoreUnavailable, match="does not answer"):
        asyncio.run(read())
    server.start()
    assert store.read(G, READ) == asyncio.run(read()) == [[b"1"]]
    assert put(store, b"r1", b"r2")
    store.close()


def test_a_server_that_keeps_silent_is_unavailable_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = store_at(f"redis://127.0.0.1:{silent.getsockname()[1]}", timeout="50ms")
        with pytest.raises(StoreUnavailable, match="does not answer"):
            store.read(G, READ)
        with pytest.raises(StoreUnavailable, match=r"nothing came within 0\.05 s"):
            asyncio.run(store.read_async(G, READ))
        store.close()


def test_a_wrong_password_is_the_operators_and_never_shown(server: EmbeddedServer, admin: Redis) -> None:
    admin.config_set("requirepass", "right")
    for url in (server.url, f"redis://:wrong-secret@127.0.0.1:{server.port}"):
        store = store_at(url)
        with pytest.raises(OperatorError, match="refuses the login") as caught:
            store.ping()
        assert not isinstance(caught.value, StoreUnavailable)
        assert "wrong-secret" not in str(caught.value)
        with pytest.raises(OperatorError, match="refuses the login"):
            asyncio.run(store.read_async(G, READ))
        store.close()
    store = store_at(f"redis://:right@127.0.0.1:{server.port}/3")
    store.ping()
    store.close()


def test_ping_refuses_a_server_that_evicts(server: EmbeddedServer, admin: Redis) -> None:
    store = store_at(server.url)
    store.ping()
    admin.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(OperatorError, match=r"allkeys-lru.*CONFIG SET maxmemory-policy noeviction"):
        store.ping()
    store.close()


def test_ping_passes_a_server_that_keeps_its_settings_to_itself(server: EmbeddedServer, admin: Redis) -> None:
    admin.acl_setuser(
        "app", enabled=True, passwords=["+pw"], keys=["fs:*"], commands=["+@all", "-info", "-config"]
    )
    store = store_at(f"redis://app:pw@127.0.0.1:{server.port}")
    store.ping()
    store.close()


def test_ping_refuses_a_replica(server: EmbeddedServer, admin: Redis) -> None:
    store = store_at(server.url)
    admin.replicaof("127.0.0.1", "1")
    with pytest.raises(OperatorError, match="replica"):
        store.ping()
    with pytest.raises(StoreUnavailable):
        put(store, b"", b"r1")
    store.close()


def test_a_full_server_takes_no_part_of_a_write(server: EmbeddedServer, admin: Redis) -> None:
    store = store_at(server.url)
    put(store, b"", b"r1")
    admin.config_set("maxmemory", 1)
    many = [EntityWrite(b"k%d" % number, {b"s": b"2", b"t": None}, 1) for number in range(10)]
    with pytest.raises(StoreUnavailable, match="no memory left"):
        store.write(G, [(7, b"r1", b"r2", b"p2", many)])
    admin.config_set("maxmemory", 0)
    assert store.shards(G, [7]) == [ShardState(b"r1", b"p")]
    assert store.statistics(G)["entities"] == 1
    store.close()


def test_what_was_laid_and_never_taken_expires_unseen(server: EmbeddedServer, admin: Redis) -> None:
    """A server that is full half way, as one that is gone, leaves no part of first fields for ever."""
    store = store_at(server.url)
    keys = [b"k%d" % number for number in range(50_000)]
    arrays = [pa.array(each, pa.large_binary()) for each in (keys, [b"v" * 300] * len(keys))]
    write = (7, b"", b"r1", b"p", EntityColumns(arrays[0], b"s", arrays[1], None))
    admin.config_set("maxmemory", admin.info("memory")["used_memory"] + 5_000_000)
    with pytest.raises(StoreUnavailable, match="no memory left"):
        store.write("g+", [write])
    [laid] = admin.keys()
    assert 0 < admin.pttl(laid) <= 600_000
    assert redis.crc.key_slot(laid) == redis.crc.key_slot(b"07")
    assert store.shards("g+", [7]) == [ShardState(b"", b"")]
    assert store.read("g+", [EntityRead(7, b"k0", (b"s",))]) == [[None]]
    admin.config_set("maxmemory", 0)
    again = (7, b"", b"r2", *write[3:])
    assert store.write("g+", [again]) == [True]
    assert admin.ttl("fs:{07}:g+*") == -1
    assert store.write("g+", [again]) == [False]
    assert sorted(admin.keys()) == sorted([laid, b"fs:{07}:g+", b"fs:{07}:g+*"])
    store.close()


def test_a_server_that_is_busy_with_a_script_is_unavailable_until_it_is_done(
    server: EmbeddedServer, admin: Redis
) -> None:
    admin.config_set("busy-reply-threshold", 1)
    store = store_at(server.url, timeout="10s")
    put(store, b"", b"r1")

    def spin() -> None:
        with pytest.raises(redis.exceptions.RedisError), redis.Redis.from_url(server.url) as other:
            other.eval("while true do end", 0)

    thread = threading.Thread(target=spin)
    thread.start()

    def ask() -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            store.shards(G, [7])

    with pytest.raises(StoreUnavailable, match="takes no commands now: BUSY"):
        ask()
    admin.script_kill()
    thread.join()
    assert store.shards(G, [7])[0].revision == b"r1"
    store.close()


def test_a_server_that_takes_no_more_clients_is_unavailable_until_it_does(
    server: EmbeddedServer, admin: Redis
) -> None:
    admin.config_set("maxclients", 1)
    store = store_at(server.url)
    with pytest.raises(StoreUnavailable, match="max number of clients"):
        store.shards(G, [7])
    admin.config_set("maxclients", 100)
    assert store.shards(G, [7]) == [ShardState(b"", b"")]
    store.close()


def test_a_server_that_cannot_save_is_unavailable_to_writers(server: EmbeddedServer, admin: Redis) -> None:
    """Its disk is full, say: it refuses writes until a save succeeds, and goes on answering reads."""
    store = store_at(server.url)
    put(store, b"", b"r1")
    (server.directory / "dump.rdb").mkdir()  # a file cannot take its place
    admin.config_set("save", "3600 1000000")
    admin.bgsave()
    deadline = time.monotonic() + 10
    while admin.info("persistence")["rdb_last_bgsave_status"] == "ok":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(StoreUnavailable, match="takes no commands now: MISCONF"):
        store.write(G, [(7, b"r1", b"r2", b"p2", [])])
    assert store.shards(G, [7])[0].revision == b"r1"
    admin.config_set("save", "")
    assert store.write(G, [(7, b"r1", b"r2", b"p2", [])]) == [True]
    store.close()


def test_an_event_loops_connections_end_with_it(server: EmbeddedServer, admin: Redis) -> None:
    store = store_at(server.url)
    before = len(admin.client_list())

    async def read() -> int:
        await asyncio.gather(*(store.read_async(G, READ) for _ in range(10)))
        return len(admin.client_list())

    assert asyncio.run(read()) > before
    assert not store._client._loops

    async def close() -> None:
        await store.read_async(G, READ)
        await store.aclose()
        await store.aclose()
        assert not store._client._loops

    asyncio.run(close())


@pytest.fixture(scope="module")
def cluster_url(start_server: Callable[..., EmbeddedServer]) -> str:
    """Three servers with a third of the slots each."""
    servers = [start_server(arguments=["--cluster-enabled", "yes"]) for _ in range(3)]
    clients = [redis.Redis.from_url(server.url) for server in servers]
    for number, client in enumerate(clients):
        first, last = number * 16384 // 3, (number + 1) * 16384 // 3 - 1
        client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        client.execute_command("CLUSTER MEET", "127.0.0.1", servers[0].port)
    done = threading.Event()
    for _ in range(600):
        if all(client.cluster("INFO")["cluster_state"] == "ok" for client in clients):
            break
        done.wait(0.05)
    else:
        pytest.skip("a cluster of three servers did not form within 30 s")
    for client in clients:
        client.close()
    return servers[1].url


def test_a_cluster_holds_every_shard_where_its_slot_is(cluster_url: str) -> None:
    store = store_at(cluster_url, cluster=True)
    store.ping()
    entities = [EntityWrite(b"a", {b"s": b"1", b"t": b"2"}, 60_000), EntityWrite(b"b", {b"s": b"3"}, None)]
    everywhere = range(SHARDS)
    assert all(store.write(G, [(shard, b"", b"r1", b"p%d" % shard, entities) for shard in everywhere]))
    assert store.write(G, [(7, b"r0", b"r2", b"", entities), (8, b"r1", b"r2", b"p", [])]) == [False, True]
    reads = [EntityRead(shard, key, (b"t", b"s")) for shard in everywhere for key in (b"b", b"a")]
    expected = [[None, b"3"], [b"2", b"1"]] * SHARDS
    assert store.read(G, reads) == expected
    assert asyncio.run(store.read_async(G, reads)) == expected
    found = store.read_for_write(
        G,
        {
            s: [EntityRead(s, b"a", (b"s", b"x")), EntityRead(s, b"a", ()), EntityRead(s, b"c", (b"s",))]
            for s in (9, 200)
        },
    )
    assert found == {s: (ShardState(b"r1", b"p%d" % s), [[b"1", None], [], [None]]) for s in (9, 200)}
    assert store.shards(G, [8, 255]) == [ShardState(b"r2", b"p"), ShardState(b"r1", b"p255")]
    assert store.statistics(G)["entities"] == 2 * SHARDS
    many = {b"e%d" % number: b"%d" % number for number in range(9_000)}
    assert store.write("g2", [(0, b"", b"r", b"", [EntityWrite(b"m", many, None)])]) == [True]
    whole = store.read_for_write("g2", {0: [EntityRead(0, b"m", tuple(many))]})
    assert whole[0][1] == [list(many.values())]
    store.drop(G)
    assert store.statistics(G) == {"entities": 0, "bytes": 0}
    assert store.shards(G, [8]) == [ShardState(b"", b"")]
    assert store.statistics("g2")["entities"] == 1
    store.close()

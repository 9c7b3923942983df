"""What every online store keeps to (featurestore.contracts.OnlineStore), on each kind in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import pyarrow as pa
import pytest

from featurestore import instants
from featurestore.contracts import (
    EntityColumns,
    EntityRead,
    EntityWrite,
    OnlineStore,
    ShardState,
    lasting,
)

G = "transactions-3f2a91"
EMPTY = ShardState(b"", b"")


def put(
    store: OnlineStore,
    key: bytes,
    fields: Mapping[bytes, bytes | None],
    *,
    shard: int = 7,
    generation: str = G,
    expire_ms: int | None = None,
) -> None:
    """Write one entity, whatever the shard's revision is."""
    state = store.shards(generation, [shard])[0]
    revision = b"%d" % (int(state.revision or b"0") + 1)
    entity = EntityWrite(key, fields, expire_ms)
    assert store.write(generation, [(shard, state.revision, revision, b"", [entity])]) == [True]


def get(
    store: OnlineStore, key: bytes, *fields: bytes, shard: int = 7, generation: str = G
) -> list[bytes | None]:
    return store.read(generation, [EntityRead(shard, key, fields)])[0]


def wait_until_gone(store: OnlineStore, key: bytes, field: bytes) -> None:
    deadline = time.monotonic() + 10
    while get(store, key, field) != [None]:
        assert time.monotonic() < deadline, "it never expired"


def test_a_read_returns_what_was_written_in_the_order_asked_for(online_store: OnlineStore) -> None:
    put(online_store, b"a", {b"s": b"1", b"e1": b"2"})
    put(online_store, b"b", {b"s": b"3"}, shard=255)
    reads = [EntityRead(255, b"b", (b"s",)), EntityRead(7, b"a", (b"e1", b"s", b"e1"))]
    assert online_store.read(G, reads) == [[b"3"], [b"2", b"1", b"2"]]


def test_what_is_absent_is_none(online_store: OnlineStore) -> None:
    put(online_store, b"a", {b"s": b"1"})
    assert get(online_store, b"a", b"t", b"s") == [None, b"1"]
    assert get(online_store, b"b", b"s", b"t") == [None, None]
    assert get(online_store, b"a", b"s", shard=8) == [None]


def test_nothing_asked_for_is_nothing_returned(online_store: OnlineStore) -> None:
    put(online_store, b"a", {b"s": b"1"})
    assert online_store.read(G, []) == []
    assert online_store.read_many([]) == []
    assert online_store.read_many([(G, []), (G, [])]) == [[], []]
    assert online_store.read(G, [EntityRead(7, b"a", ()), EntityRead(7, b"a", (b"s",))]) == [[], [b"1"]]
    assert online_store.shards(G, []) == []
    assert online_store.read_for_write(G, {}) == {}
    assert online_store.write(G, []) == []


def test_an_empty_value_is_a_value(online_store: OnlineStore) -> None:
    put(online_store, b"a", {b"s": b""})
    assert get(online_store, b"a", b"s") == [b""]


def test_keys_fields_and_values_are_any_bytes(online_store: OnlineStore) -> None:
    every = bytes(range(256))
    keys = [every, b"\x00", b"}{", b"{00}:x", b":", b"a:b", b"*", b"\r\n$3", "ключ".encode()]
    for number, key in enumerate(keys):
        put(online_store, key, {every: b"%d" % number + every})
    found = online_store.read(G, [EntityRead(7, key, (every,)) for key in keys])
    assert found == [[b"%d" % number + every] for number in range(len(keys))]


def test_a_large_value_comes_back_whole(online_store: OnlineStore) -> None:
    value = bytes(range(256)) * 20_000
    put(online_store, b"a", {b"s": value})
    assert get(online_store, b"a", b"s") == [value]


def test_an_entity_takes_many_fields_at_once(online_store: OnlineStore) -> None:
    names = [b"e%d" % number for number in range(12_345)]
    put(online_store, b"a", {name: name for name in names})
    assert get(online_store, b"a", *names) == names
    put(online_store, b"a", dict.fromkeys(names[:-1]))
    assert get(online_store, b"a", names[0], names[-2], names[-1]) == [None, None, names[-1]]
    state = online_store.read_for_write(G, {7: [EntityRead(7, b"a", tuple(names))]})[7]
    assert state[1] == [[None] * 12_344 + [names[-1]]]


def test_a_write_touches_only_the_fields_that_it_names(online_store: OnlineStore) -> None:
    put(online_store, b"a", {b"s": b"1", b"t": b"2", b"u": b"3"})
    put(online_store, b"a", {b"s": b"4", b"t": None, b"v": None})
    assert get(online_store, b"a", b"s", b"t", b"u", b"v") == [b"4", None, b"3", None]


def test_an_entity_whose_fields_are_all_deleted_vanishes(online_store: OnlineStore) -> None:
    put(online_store, b"a", {b"s": b"1", b"t": b"2"}, expire_ms=60_000)
    put(online_store, b"a", {b"s": None, b"t": None}, expire_ms=60_000)
    assert get(online_store, b"a", b"s") == [None]
    assert online_store.statistics(G)["entities"] == 0


def test_an_entity_without_fields_does_not_come_into_being(online_store: OnlineStore) -> None:
    put(online_store, b"a", {})
    put(online_store, b"b", {b"s": None}, expire_ms=60_000)
    assert online_store.statistics(G) == {"entities": 0, "bytes": 0}


def test_an_entity_expires_by_the_wall_clock(online_store: OnlineStore) -> None:
    put(online_store, b"a", {b"s": b"1"}, expire_ms=1)
    put(online_store, b"b", {b"s": b"1"}, expire_ms=60_000)
    put(online_store, b"c", {b"s": b"1"}, expire_ms=None)
    wait_until_gone(online_store, b"a", b"s")
    assert get(online_store, b"b", b"s") == get(online_store, b"c", b"s") == [b"1"]
    assert online_store.statistics(G)["entities"] == 2


def test_every_write_renews_the_expiry_of_the_whole_entity(online_store: OnlineStore) -> None:
    put(online_store, b"a", {b"s": b"1", b"t": b"1"}, expire_ms=60_000)
    put(online_store, b"a", {b"t": b"2"}, expire_ms=1)
    wait_until_gone(online_store, b"a", b"s")
    assert get(online_store, b"a", b"t") == [None]


def test_a_write_without_expiry_takes_the_expiry_away(online_store: OnlineStore) -> None:
    put(online_store, b"a", {b"s": b"1"}, expire_ms=500)
    put(online_store, b"a", {b"t": b"1"}, expire_ms=None)
    put(online_store, b"canary", {b"s": b"1"}, expire_ms=500)
    wait_until_gone(online_store, b"canary", b"s")
    assert get(online_store, b"a", b"s", b"t") == [b"1", b"1"]


def test_one_that_expires_between_a_read_and_its_write_is_a_lost_race(online_store: OnlineStore) -> None:
    """Its root would come back without the slices that the write does not name."""
    made = EntityWrite(b"a", {b"s": b"1", b"t": b"1"}, 1)
    assert online_store.write(G, [(7, b"", b"r1", b"p", [made])]) == [True]
    wait_until_gone(online_store, b"a", b"s")
    changed = [
        EntityWrite(b"b", {b"s": b"2"}, None),
        EntityWrite(b"a", {b"s": b"2"}, 60_000, existed=True, newest=instants.now()),
    ]
    assert online_store.write(G, [(7, b"r1", b"r2", b"q", changed)]) == [False]
    assert online_store.read(G, [EntityRead(7, b"b", (b"s",))]) == [[None]]
    assert online_store.shards(G, [7])[0].positions == b"p"
    again = EntityWrite(b"a", {b"s": b"2"}, 60_000, existed=False)
    assert online_store.write(G, [(7, b"r1", b"r2", b"q", [again])]) == [True]
    assert online_store.read(G, [EntityRead(7, b"a", (b"s", b"t"))]) == [[b"2", None]]


def test_an_expired_entity_comes_back_with_nothing_of_its_past(online_store: OnlineStore) -> None:
    put(online_store, b"a", {b"s": b"1", b"t": b"1"}, expire_ms=1)
    wait_until_gone(online_store, b"a", b"s")
    put(online_store, b"a", {b"s": b"2"}, expire_ms=60_000)
    assert get(online_store, b"a", b"s", b"t") == [b"2", None]


@pytest.mark.parametrize("expire_ms", [0, -5])
def test_an_expiry_of_nothing_is_gone_at_once(online_store: OnlineStore, expire_ms: int) -> None:
    put(online_store, b"a", {b"s": b"1"}, expire_ms=expire_ms)
    assert get(online_store, b"a", b"s") == [None]


def test_an_expiry_past_every_calendar_is_kept(online_store: OnlineStore) -> None:
    put(online_store, b"a", {b"s": b"1"}, expire_ms=2**63)
    assert get(online_store, b"a", b"s") == [b"1"]


def test_a_shard_begins_with_an_empty_revision_and_keeps_what_is_written(online_store: OnlineStore) -> None:
    assert online_store.shards(G, [0, 255]) == [EMPTY, EMPTY]
    written = online_store.write(G, [(0, b"", b"r1", b"p\x00", []), (255, b"", b"r2", b"q", [])])
    assert written == [True, True]
    assert online_store.shards(G, [255, 1, 0]) == [
        ShardState(b"r2", b"q"),
        EMPTY,
        ShardState(b"r1", b"p\x00"),
    ]


def test_a_stale_revision_leaves_everything_untouched(online_store: OnlineStore) -> None:
    first = EntityWrite(b"a", {b"s": b"1", b"t": b"1"}, None)
    assert online_store.write(G, [(7, b"", b"r1", b"p1", [first])]) == [True]
    late = [EntityWrite(b"a", {b"s": b"2", b"t": None}, 1), EntityWrite(b"b", {b"s": b"2"}, None)]
    for expected in (b"", b"r0", b"r1\x00", b"R1"):
        assert online_store.write(G, [(7, expected, b"r2", b"p2", late)]) == [False]
    assert online_store.shards(G, [7]) == [ShardState(b"r1", b"p1")]
    assert get(online_store, b"a", b"s", b"t") == [b"1", b"1"]
    assert get(online_store, b"b", b"s") == [None]


def test_a_revision_expected_of_a_new_shard_is_stale(online_store: OnlineStore) -> None:
    assert online_store.write(G, [(7, b"r0", b"r1", b"p", [EntityWrite(b"a", {b"s": b"1"}, None)])]) == [
        False
    ]
    assert online_store.shards(G, [7]) == [EMPTY]


def test_each_shard_of_a_write_stands_for_itself(online_store: OnlineStore) -> None:
    online_store.write(G, [(1, b"", b"r1", b"p1", [])])
    one = [EntityWrite(b"a", {b"s": b"1"}, None)]
    answer = online_store.write(
        G,
        [(0, b"", b"x", b"px", one), (1, b"stale", b"x", b"px", one), (2, b"", b"x", b"px", one)],
    )
    assert answer == [True, False, True]
    assert [get(online_store, b"a", b"s", shard=shard) for shard in (0, 1, 2)] == [[b"1"], [None], [b"1"]]
    assert [state.positions for state in online_store.shards(G, [0, 1, 2])] == [b"px", b"p1", b"px"]


def test_of_two_writes_of_one_shard_in_one_call_the_second_is_stale(online_store: OnlineStore) -> None:
    first, second = EntityWrite(b"a", {b"s": b"1"}, None), EntityWrite(b"a", {b"s": b"2"}, None)
    assert online_store.write(G, [(7, b"", b"r1", b"", [first]), (7, b"", b"r2", b"", [second])]) == [
        True,
        False,
    ]
    assert get(online_store, b"a", b"s") == [b"1"]


def columns(*entities: tuple[bytes, bytes]) -> EntityColumns:
    keys, values = zip(*entities, strict=True)
    return EntityColumns(pa.array(keys, pa.large_binary()), b"s", pa.array(values, pa.large_binary()), None)


@pytest.mark.parametrize("generation", [G, lasting(G)])
def test_columns_are_written_as_their_entities_one_by_one(online_store: OnlineStore, generation: str) -> None:
    many = [(b"k%d" % n, b"v" * (n % 300)) for n in range(2500)]  # more than one command has
    writes = [
        (7, b"", b"r1", b"p1", columns(*many)),
        (8, b"", b"r1", b"p1", columns((b"\xff\r\n", b"\r\n"))),
    ]
    assert online_store.write(generation, writes) == [True, True]
    reads = [EntityRead(7, key, (b"s", b"t")) for key, _ in many] + [EntityRead(8, b"\xff\r\n", (b"s",))]
    assert online_store.read(generation, reads) == [[value, None] for _, value in many] + [[b"\r\n"]]
    assert online_store.shards(generation, [7, 8]) == [ShardState(b"r1", b"p1")] * 2
    assert online_store.statistics(generation)["entities"] == 2501


@pytest.mark.parametrize("generation", [G, lasting(G)])
def test_columns_of_a_shard_that_was_written_meanwhile_leave_it_as_it_is(
    online_store: OnlineStore, generation: str
) -> None:
    put(online_store, b"a", {b"s": b"1"}, generation=generation)
    late = columns((b"a", b"2"), (b"b", b"2"))
    again = columns((b"a", b"3"))
    writes = [(7, b"", b"r2", b"p", late), (8, b"", b"r2", b"p", late), (8, b"", b"r3", b"p", again)]
    assert online_store.write(generation, writes) == [False, True, False]
    assert get(online_store, b"a", b"s", generation=generation) == [b"1"]
    assert get(online_store, b"b", b"s", generation=generation) == [None]
    assert get(online_store, b"a", b"s", shard=8, generation=generation) == [b"2"]
    assert online_store.statistics(generation)["entities"] == 3


def test_a_read_for_write_returns_each_shards_state_and_fields(online_store: OnlineStore) -> None:
    entities = [EntityWrite(b"a", {b"s": b"1"}, None), EntityWrite(b"b", {b"s": b"2", b"t": b""}, None)]
    online_store.write(G, [(7, b"", b"r1", b"p1", entities), (9, b"", b"r2", b"p2", [])])
    reads = {
        7: [EntityRead(7, b"a", (b"s", b"t")), EntityRead(7, b"a", ()), EntityRead(7, b"b", (b"t", b"s"))],
        8: [EntityRead(8, b"c", (b"s",))],
        9: [],
    }
    assert online_store.read_for_write(G, reads) == {
        7: (ShardState(b"r1", b"p1"), [[b"1", None], [], [b"", b"2"]]),
        8: (EMPTY, [[None]]),
        9: (ShardState(b"r2", b"p2"), []),
    }


def test_generations_know_nothing_of_each_other(online_store: OnlineStore) -> None:
    put(online_store, b"a", {b"s": b"1"}, generation="g")
    put(online_store, b"a", {b"s": b"2"}, generation="g2")
    requests = [(name, [EntityRead(7, b"a", (b"s",))]) for name in ("g2", "g", "g22")]
    assert online_store.read_many(requests) == [[[b"2"]], [[b"1"]], [[None]]]
    assert online_store.shards("g22", [7]) == [EMPTY]


def test_a_dropped_generation_is_gone_and_the_others_stay(online_store: OnlineStore) -> None:
    entities = [EntityWrite(b"k%d" % number, {b"s": b"1"}, None) for number in range(2500)]
    online_store.write("g", [(shard, b"", b"r", b"p", entities[shard::5]) for shard in range(5)])
    put(online_store, b"k0", {b"s": b"2"}, generation="g2")
    online_store.drop("g")
    assert online_store.statistics("g") == {"entities": 0, "bytes": 0}
    assert online_store.shards("g", [0, 4]) == [EMPTY, EMPTY]
    assert get(online_store, b"k0", b"s", shard=0, generation="g") == [None]
    assert get(online_store, b"k0", b"s", generation="g2") == [b"2"]
    online_store.drop("g")


def test_statistics_count_entities_and_their_bytes(online_store: OnlineStore) -> None:
    entities = [EntityWrite(b"k%d" % number, {b"s": bytes(1000)}, None) for number in range(300)]
    online_store.write(G, [(7, b"", b"r", b"p", entities)])
    put(online_store, b"other", {b"s": b"1"}, generation="other")
    found = online_store.statistics(G)
    assert found["entities"] == 300
    assert 300_000 < found["bytes"] < 450_000


def test_asynchronous_reads_return_the_same_in_any_loop(online_store: OnlineStore) -> None:
    put(online_store, b"a", {b"s": b"1"})
    put(online_store, b"a", {b"s": b"2"}, generation="g2")
    reads = [EntityRead(7, b"a", (b"s", b"t")), EntityRead(7, b"b", (b"s",))]

    async def read() -> None:
        many = await asyncio.gather(*(online_store.read_async(G, reads) for _ in range(200)))
        assert many == [[[b"1", None], [None]]] * 200
        assert await online_store.read_many_async([(G, reads), ("g2", reads[:1]), ("g3", [])]) == [
            [[b"1", None], [None]],
            [[b"2", None]],
            [],
        ]

    asyncio.run(read())
    asyncio.run(read())


def test_a_closed_store_opens_again_when_used(online_store: OnlineStore) -> None:
    put(online_store, b"a", {b"s": b"1"})
    online_store.close()
    online_store.close()
    assert get(online_store, b"a", b"s") == [b"1"]


def test_a_store_that_answers_passes_its_ping(online_store: OnlineStore) -> None:
    online_store.ping()

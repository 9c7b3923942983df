"""Positions by hand: what lies below one is there, what lies behind it is not, in every shard and table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import orders
import polars as pl
import pytest
from orders import PLAN, PROJECT, T

from featurestore import plans, tables
from featurestore.cases.topic import Topic
from featurestore.contracts import OnlineStore, extension
from featurestore.online.reader import VectorReader
from featurestore.online.writer import OnlineWriter, StoreWentBack
from featurestore_engines.batch.materialize import fill
from featurestore_engines.stream.local import ENGINE, Loop
from featurestore_engines.stream.pipeline import commit


def rows(sequences: Sequence[int], customers: str = "aaaaaa", partition: str = "p") -> pl.DataFrame:
    """Return the rows at these places: that at place n is worth 10**n."""
    return orders.rows(
        [customers[n] for n in sequences], [10**n for n in sequences], list(sequences), partition
    )


@pytest.fixture
def online(tmp_path: Path) -> Iterator[OnlineStore]:
    """An empty store."""
    store: OnlineStore = extension("online", "sqlite")(
        {"kind": "sqlite", "path": str(tmp_path / "online.db")}
    )
    yield store
    store.close()


@pytest.fixture
def writer(online: OnlineStore) -> OnlineWriter:
    """A writer of the generation `g`."""
    return OnlineWriter(PLAN, online, "g")


def total(online: OnlineStore, customer: str = "a") -> Any:
    """Return what a customer's rows are worth."""
    reader = VectorReader(PROJECT.vectors["spend"], online, lambda _: "g")
    return reader.read([{"customer": customer}], as_of=T).rows[0][0]


def reached(writer: OnlineWriter) -> dict[str, int]:
    """Return the positions of the one shard that has any."""
    [found] = [positions for positions in writer.positions().values() if positions]
    return found


def test_rows_below_a_position_are_dropped_and_those_from_it_on_applied(
    online: OnlineStore, writer: OnlineWriter
) -> None:
    assert writer.apply(rows([0, 1]), {"p": 2}).rows == 2
    done = writer.apply(rows([1, 2, 3]), {"p": 4})
    assert (done.rows, done.duplicates) == (2, 1)
    assert total(online) == 1111
    assert reached(writer) == {"p": 4}


def test_a_replay_changes_nothing_and_lowers_no_position(online: OnlineStore, writer: OnlineWriter) -> None:
    writer.apply(rows([0, 1, 2, 3]), {"p": 4})
    assert writer.apply(rows([0, 1]), {"p": 2}).rows == 0
    assert reached(writer) == {"p": 4}
    assert writer.apply(rows([2, 3]), {"p": 4}).rows == 0
    assert total(online) == 1111


def test_partitions_have_positions_of_their_own(online: OnlineStore, writer: OnlineWriter) -> None:
    writer.apply(rows([0, 1, 2]), {"p": 3})
    writer.apply(rows([3], partition="q"), {"q": 4})
    assert reached(writer) == {"p": 3, "q": 4}
    assert total(online) == 1111


def test_without_positions_that_of_each_partition_is_behind_its_last_row(writer: OnlineWriter) -> None:
    both = pl.concat([rows([0, 1]), rows([4], partition="q")])
    writer.apply(both)
    assert reached(writer) == {"p": 2, "q": 5}


def test_what_some_shard_still_needs_is_where_reading_begins(writer: OnlineWriter) -> None:
    writer.apply(rows([0, 1]), {"p": 2})
    assert writer.lowest("p") == 0
    writer.checkpoint({"p": 2})
    assert writer.lowest("p") == 2
    writer.checkpoint({"p": 1})
    assert writer.lowest("p") == 2


class Interrupted:
    """A store that lets somebody else in, once, between what a writer reads and what it writes."""

    def __init__(self, store: OnlineStore, other: Callable[[], object]) -> None:
        self._store = store
        self._other: Callable[[], object] | None = other

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read_for_write(self, *asked: Any) -> Any:
        found = self._store.read_for_write(*asked)
        if self._other is not None:
            other, self._other = self._other, None
            other()
        return found


@pytest.mark.parametrize("before", [[], [0]])
def test_a_write_on_what_is_no_longer_there_is_done_again(
    online: OnlineStore, writer: OnlineWriter, before: list[int]
) -> None:
    """Between its reading and its writing another one wrote the shard: both rows count, once."""
    if before:
        writer.apply(rows(before))

    def rival() -> None:
        OnlineWriter(PLAN, online, "g").apply(rows([2], partition="q"))

    late = OnlineWriter(PLAN, cast(OnlineStore, Interrupted(online, rival)), "g")
    done = late.apply(rows([1]), {"p": 2})
    assert (done.rows, done.conflicts) == (1, 1)
    assert total(online) == 110 + len(before)
    assert reached(writer) == {"p": 2, "q": 3}


def test_a_writer_says_that_the_store_went_back(online: OnlineStore, writer: OnlineWriter) -> None:
    writer.apply(rows([0, 1]), {"p": 2})
    assert reached(writer) == {"p": 2}
    online.drop("g")
    with pytest.raises(StoreWentBack, match="lost writes"):
        writer.apply(rows([2]), {"p": 3})


def test_a_writer_misses_its_own_last_write(online: OnlineStore, writer: OnlineWriter) -> None:
    """It has not read the shard since: what it wrote itself is what it knows."""
    writer.apply(rows([0]), {"p": 1})
    writer.apply(rows([1]), {"p": 2})
    online.drop("g")
    OnlineWriter(PLAN, online, "g").apply(rows([0]), {"p": 1})  # as the store was between the two
    with pytest.raises(StoreWentBack, match="lost writes"):
        writer.apply(rows([2]), {"p": 3})


def test_a_checkpoint_that_is_lost_is_missed(online: OnlineStore, writer: OnlineWriter) -> None:
    writer.checkpoint({"p": 5})
    online.drop("g")
    with pytest.raises(StoreWentBack, match="lost writes"):
        writer.checkpoint({"p": 5})


def test_looking_at_all_positions_does_not_forget_what_was_seen(
    online: OnlineStore, writer: OnlineWriter
) -> None:
    """A stream looks once per partition as it opens them; a store may go back in between."""
    writer.checkpoint({"p": 5})
    assert writer.lowest("p") == 5
    online.drop("g")
    with pytest.raises(StoreWentBack, match="lost writes"):
        writer.lowest("q")


def test_a_generation_is_filled_from_where_its_last_shard_is(
    tmp_path: Path, online: OnlineStore, writer: OnlineWriter
) -> None:
    """The shard of `a` has both rows; that of `b`, none."""
    table = extension("offline", "delta")({"kind": "delta", "path": str(tmp_path / "t")}, tmp_path).table("t")
    made = rows([0, 1, 2], "aab", tables.BATCH)
    table.append(None, made.to_arrow(compat_level=pl.CompatLevel.oldest()), {tables.BATCH: 3})
    writer.apply(made.filter(pl.col("customer") == "a"), {tables.BATCH: 2})
    filled = fill(PLAN, table, writer)
    assert (filled.rows, filled.duplicates) == (1, 2)
    assert (total(online), total(online, "b")) == (11, 100)


def test_a_commit_adds_the_rows_that_the_table_lacks(tmp_path: Path) -> None:
    table = extension("offline", "delta")({"kind": "delta", "path": str(tmp_path / "t")}, tmp_path).table("t")
    assert commit(table, rows([0, 1, 2]), {"p": 3}) == 3
    assert commit(table, rows([1, 2, 3, 4]), {"p": 5}) == 2
    assert commit(table, rows([3, 4]), {"p": 5}) == 0
    assert commit(table, rows([0, 1], partition="q"), {"q": 2}) == 2
    snapshot = table.snapshot()
    assert snapshot is not None
    found = table.lazy(snapshot).select(plans.PARTITION, plans.SEQUENCE).collect().rows()
    assert sorted(found) == [*(("p", n) for n in range(5)), ("q", 0), ("q", 1)]


def test_a_stream_goes_on_where_the_store_that_is_furthest_behind_needs_it(
    tmp_path: Path, online: OnlineStore, writer: OnlineWriter
) -> None:
    """It ends after its rows are online, before they are committed: the next one commits all of them."""
    said = [f'{{"customer": "a", "at": "2026-01-01T00:00:00Z", "amount": {10**n}}}' for n in range(3)]
    topic = Topic([(T, text.encode()) for text in said])
    offline = extension("offline", "delta")({"kind": "delta", "path": str(tmp_path / "t")}, tmp_path)
    tables_ = [offline.table(name) for name in ("rows", "landing", "dead")]
    job = ENGINE.job(PLAN.source, [(PLAN, tables_[0], (writer,))], *tables_[1:])
    with Loop(job, topic) as loop:
        assert loop.step() == 3
    assert (total(online), tables_[0].snapshot()) == (111, None)
    ENGINE.drain(job, topic)
    assert total(online) == 111
    assert [table.rows(table.snapshot()) for table in tables_] == [3, 3, 0]

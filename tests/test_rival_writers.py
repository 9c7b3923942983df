"""Writers of the same shards at once: all of them get through, and the one that loses races says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import orders
import polars as pl
import pytest
from orders import PLAN, PROJECT, T

from featurestore.contracts import EntityRead, OnlineStore, extension
from featurestore.errors import StoreUnavailable
from featurestore.online.reader import VectorReader
from featurestore.online.rivals import SAY_SECONDS, Rivals
from featurestore.online.writer import OnlineWriter, Outraced

CUSTOMERS = [f"c{number}" for number in range(40)]


def ordered(amount: int, partition: str, first: int = 0) -> pl.DataFrame:
    """Return one order of every customer."""
    count = len(CUSTOMERS)
    return orders.rows(CUSTOMERS, [amount] * count, range(first, first + count), partition)


class Busy:
    """A store in which, while someone reads more than `free` shards to write them, all are written."""

    def __init__(self, store: OnlineStore, rival: Callable[[], object], free: int) -> None:
        self._store = store
        self._rival = rival
        self._free = free

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read_for_write(self, generation: str, reads: Mapping[int, Sequence[EntityRead]]) -> Any:
        found = self._store.read_for_write(generation, reads)
        if len(reads) > self._free:
            self._rival()
        return found


@pytest.fixture
def online(tmp_path: Path) -> OnlineStore:
    store: OnlineStore = extension("online", "sqlite")({"path": str(tmp_path / "online.db")})
    return store


def test_a_writer_of_many_shards_gets_through_beside_one_that_never_rests(online: OnlineStore) -> None:
    """Nobody could ever write 40 shards at once here; one by one they are."""
    written = 0

    def rival() -> None:
        nonlocal written
        OnlineWriter(PLAN, online, "g").apply(ordered(1, "stream", written))
        written += len(CUSTOMERS)

    writer = OnlineWriter(PLAN, cast(OnlineStore, Busy(online, rival, free=1)), "g")
    done = writer.apply(ordered(1000, "batch"))
    assert done.rows == len(CUSTOMERS)
    assert done.conflicts > 0
    reader = VectorReader(PROJECT.vectors["spend"], online, lambda _: "g")
    asked = [{"customer": customer} for customer in CUSTOMERS]
    expected = 1000 + written // len(CUSTOMERS)
    assert [row[0] for row in reader.read(asked, as_of=T).rows] == [expected] * len(CUSTOMERS)


def test_who_loses_every_race_is_told_so_and_may_try_again(
    online: OnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream takes it for a store that does not answer: it waits, and goes on from where it was."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    first = 0

    def rival() -> None:
        nonlocal first
        OnlineWriter(PLAN, online, "g").apply(ordered(1, "stream", first))
        first += len(CUSTOMERS)

    writer = OnlineWriter(PLAN, cast(OnlineStore, Busy(online, rival, free=0)), "g")
    with pytest.raises(Outraced, match="won 200 races") as raised:
        writer.apply(ordered(1000, "batch").head(1))
    assert isinstance(raised.value, StoreUnavailable)


def test_the_loser_says_so_at_once_and_then_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    rivals = Rivals("'spending' (generation g)", clock=lambda: now)
    with caplog.at_level(logging.WARNING):
        rivals.note(5, 0)
        assert not caplog.messages
        now = 2.0
        rivals.note(3, 2)
        rivals.note(10, 1)
        now += SAY_SECONDS - 1
        rivals.note(10, 1)
        now += 1
        rivals.note(10, 1)
    assert [message.partition(" shard")[0] for message in caplog.messages] == [
        "Another writer is at work on 'spending' (generation g): in 2 s, 2 of 10",
        "Another writer is at work on 'spending' (generation g): in 60 s, 3 of 33",
    ]

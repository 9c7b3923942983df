"""Shards that nobody has written are written from columns, and hold what single writes would make."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from featurestore import FeatureStore, plans
from featurestore.contracts import EntityColumns, EntityRead, OnlineStore
from featurestore.keys import SHARDS
from featurestore.online import first, writer
from featurestore.online.layout import ROOT
from featurestore.online.writer import Applied, OnlineWriter
from featurestore.plans import SetPlan
from featurestore.rows.door import admit
from featurestore.rows.transform import transform

SPECS = """
kind: Entity
name: customer
type: string
---
kind: Source
name: profiles
event_time: at
schema: {customer: string, at: timestamp, order: int64, id: string, age: int64, size: float32, share: float64,
         is_known: bool, born: date, seen: timestamp, city: string}
IDS
---
kind: FeatureSet
name: profile
entities: [customer]
source: profiles
TTL
"""
NOW = datetime(2026, 11, 21, tzinfo=UTC)
ROWS = 600


@pytest.fixture(params=["", "ttl: 30d", "history: all"])
def ttl(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["", "order_by: order", "event_id: id"])
def plan(tmp_path: Path, request: pytest.FixtureRequest, ttl: str) -> Iterator[SetPlan]:
    (tmp_path / "featurestore.yaml").write_text("project: first\nonline: {kind: sqlite}\n")
    (tmp_path / "specs.yaml").write_text(SPECS.replace("IDS", request.param).replace("TTL", ttl))
    with FeatureStore(tmp_path) as store:
        yield store.compiled().sets["profile"]


def rows(plan: SetPlan, number: int = ROWS, *, twice: int = 0) -> pl.DataFrame:
    """Return rows of as many customers, every ninth value null; the first `twice` customers have two."""
    raw = pl.DataFrame(
        [
            {
                "customer": f"C{n % number}",
                "at": NOW - timedelta(seconds=n),
                "order": n,
                "id": f"I{n}",
                "age": None if n % 9 == 0 else n * n * n - 1000,
                "size": None if n % 9 == 1 else n / 8,
                "share": None if n % 9 == 2 else n / 7,
                "is_known": None if n % 9 == 3 else n % 2 == 0,
                "born": None if n % 9 == 4 else NOW.date() - timedelta(days=n),
                "seen": None if n % 9 == 5 else NOW - timedelta(microseconds=n),
                "city": None if n % 9 == 6 else "x" * (n % 300),
            }
            for n in range(number + twice)
        ]
    ).with_columns(pl.lit("p").alias(plans.PARTITION))
    return transform(plan, admit(plan.source, raw, now=0).rows).rows


def filled(
    plan: SetPlan, store: OnlineStore, generation: str, frame: pl.DataFrame
) -> tuple[Applied, list[list[bytes | None]]]:
    """Return what a writer says of the rows, and the roots of their entities."""
    made = OnlineWriter(plan, store, generation, clock=lambda: int(NOW.timestamp() * 1e6))
    applied = made.apply(frame, {"p": frame.height})
    keys = frame.select(plans.SHARD, plans.KEY).unique().sort(plans.KEY).iter_rows()
    return applied, store.read(generation, [EntityRead(shard, key, (ROOT,)) for shard, key in keys])


def generation_of(plan: SetPlan, name: str, ttl: str) -> str:
    return name if ttl.startswith("ttl") else f"{name}+"


def test_first_rows_are_the_bytes_that_single_writes_make(
    plan: SetPlan, ttl: str, online_store: OnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = rows(plan, twice=20)
    applied, slow = filled(plan, online_store, generation_of(plan, "slow", ttl), frame)
    monkeypatch.setattr(writer, "_MANY", 1)
    single = first.FirstRows(first_layout(plan), frame, range(SHARDS))
    assert 100 < sum(len(portion) for portion in single.portions()) < ROWS
    quick, found = filled(plan, online_store, generation_of(plan, "quick", ttl), frame)
    assert None not in [root for [root] in found]
    assert decoded(plan, found) == decoded(plan, slow)
    assert (quick.rows, quick.entities, quick.duplicates) == (applied.rows, applied.entities, 0)


def first_layout(plan: SetPlan) -> writer.OnlineLayout:
    return writer.OnlineLayout.of(plan)


def decoded(plan: SetPlan, roots: list[list[bytes | None]]) -> list[str]:
    """Return the nodes as text; of a float32 the bytes may differ, the value not."""
    import msgspec

    from featurestore.online import nodes

    result = []
    for [root] in roots:
        assert root is not None
        node = nodes.decode(root, first_layout(plan))
        plain = [None if item is None else msgspec.msgpack.decode(item) for item in node.plain]
        result.append(repr((node, plain)).replace(repr(node.plain), ""))
    return result


def test_what_others_have_begun_is_left_to_them(
    plan: SetPlan, ttl: str, online_store: OnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that another writer began between the look and the write is read again, and nothing is lost."""
    monkeypatch.setattr(writer, "_MANY", 1)
    frame = rows(plan)
    generation = generation_of(plan, "g", ttl)
    is_first, write = [True], online_store.write

    def late(name: str, writes: list) -> list[bool]:  # type: ignore[type-arg]
        if is_first[0] and isinstance(writes[0][4], EntityColumns):
            is_first[0] = False
            OnlineWriter(plan, online_store, generation).apply(frame[:300], {"p": 300})
        return write(name, writes)

    monkeypatch.setattr(online_store, "write", late)
    applied, roots = filled(plan, online_store, generation, frame)
    assert not is_first[0]
    assert applied.conflicts > 0
    assert None not in [root for [root] in roots]
    assert (applied.rows, applied.duplicates) == (frame.height - 300, 300)


def test_rows_again_are_duplicates(
    plan: SetPlan, ttl: str, online_store: OnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_MANY", 1)
    frame = rows(plan)
    generation = generation_of(plan, "g", ttl)
    filled(plan, online_store, generation, frame)
    again, _ = filled(plan, online_store, generation, frame)
    assert (again.rows, again.duplicates) == (0, frame.height)

"""An online store and an offline table in memory: the contracts, and nothing that costs time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from featurestore import plans
from featurestore.contracts import EntityRead, EntityWrite, ShardState, Snapshot

Write = tuple[int, bytes, bytes, bytes, Sequence[EntityWrite]]


class MemoryOnline:
    """Bytes by (generation, key, field), written shard by shard if the revision is the expected one."""

    def __init__(self) -> None:
        self.fields: dict[tuple[str, bytes], dict[bytes, bytes]] = {}
        self._shards: dict[tuple[str, int], ShardState] = {}

    def read(self, generation: str, reads: Sequence[EntityRead]) -> list[list[bytes | None]]:
        return [[self._entity(generation, r.key).get(name) for name in r.fields] for r in reads]

    def read_many(
        self, requests: Sequence[tuple[str, Sequence[EntityRead]]]
    ) -> list[list[list[bytes | None]]]:
        return [self.read(generation, reads) for generation, reads in requests]

    def shards(self, generation: str, shards: Sequence[int]) -> list[ShardState]:
        return [self._shards.get((generation, shard), ShardState(b"", b"")) for shard in shards]

    def read_for_write(
        self, generation: str, reads: Mapping[int, Sequence[EntityRead]]
    ) -> dict[int, tuple[ShardState, list[list[bytes | None]]]]:
        [*states] = self.shards(generation, list(reads))
        return {
            shard: (state, self.read(generation, found))
            for (shard, found), state in zip(reads.items(), states, strict=True)
        }

    def write(self, generation: str, writes: Sequence[Write]) -> list[bool]:
        done = []
        for shard, expected, revision, positions, entities in writes:
            fits = self.shards(generation, [shard])[0].revision == expected
            done.append(fits)
            if not fits:
                continue
            self._shards[generation, shard] = ShardState(revision, positions)
            for entity in entities:
                stored = self.fields.setdefault((generation, entity.key), {})
                for name, data in entity.fields.items():
                    if data is None:
                        stored.pop(name, None)
                    else:
                        stored[name] = data
        return done

    def _entity(self, generation: str, key: bytes) -> dict[bytes, bytes]:
        return self.fields.get((generation, key), {})


class MemoryTable:
    """One version of a feature set's rows."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self._rows = rows

    def snapshot(self) -> Snapshot | None:
        return Snapshot(0, None)

    def positions(self, snapshot: Snapshot | None) -> dict[str, int]:
        return {}

    def rows(self, snapshot: Snapshot) -> int:
        return self._rows.height

    def ranges(self, snapshot: Snapshot, rows: int) -> list[tuple[int, int]]:
        """Return several ranges whatever the size, so that every case goes through them."""
        return [(0, 64), (64, 128), (128, 255), (255, 256)]

    def lazy(
        self,
        snapshot: Snapshot,
        columns: Sequence[str] | None = None,
        *,
        shards: tuple[int, int] | None = None,
        event_times: tuple[int, int] | None = None,
        **_: Any,
    ) -> pl.LazyFrame:
        query = self._rows.lazy()
        if shards is not None:
            query = query.filter(pl.col(plans.SHARD).is_between(*shards, closed="left"))
        if event_times is not None:
            at = pl.col(plans.EVENT_TIME).to_physical()
            query = query.filter(at.is_between(*event_times, closed="left"))
        return query if columns is None else query.select(columns)

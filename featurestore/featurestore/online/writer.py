"""The online writer: rows into entities' state, shard by shard, each applied exactly once.

The protocol of a shard (DESIGN 7): read its revision and positions, then its entities; drop rows below
the positions; write entities, positions and a fresh random revision in one atomic step, if the revision
is still the one that was read. A writer that loses the race reads again and finds what was applied.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from featurestore import instants
from featurestore.contracts import EntityColumns, EntityRead, EntityWrite, OnlineStore, ShardState
from featurestore.errors import StoreUnavailable
from featurestore.keys import SHARDS
from featurestore.online import leaves, nodes
from featurestore.online.layout import ROOT, OnlineLayout, node_names
from featurestore.online.rivals import Rivals
from featurestore.online.tree import Update
from featurestore.plans import BEGINNING, INGEST_TIME, SHARD, SetPlan

if TYPE_CHECKING:
    import polars as pl

    from featurestore.online.first import Block
    from featurestore.online.frames import EntityBatch
    from featurestore.online.nodes import Leaf

_ENTITIES = 4096  # entities read and written at once
_AT_ONCE = 2
_MANY = 4096  # rows from which on it pays to look for shards that nobody has written yet
_ATTEMPTS = 200
_LONGEST_PAUSE = 0.05  # seconds

Positions = dict[str, int]
"""Partition to the next sequence to apply."""


class StoreWentBack(StoreUnavailable):
    """A store whose positions are lower than they were: a restart or a failover lost its last writes.

    What it lost must be read again: start from `OnlineWriter.lowest`.
    """

    code = "store_went_back"


class Outraced(StoreUnavailable):
    """A shard that others wrote before this writer every time it tried. A stream waits and goes on."""

    code = "outraced"


class _Overtaken(Exception):
    """A shard changed while a change of it was made: the write would lose its race."""


@dataclass
class _Deep:
    """An entity whose state may have more fields than a root: its new rows, and the fields that were read."""

    entity: int
    shard: int
    key: bytes
    rows: Leaf
    fields: dict[bytes, bytes | None]


@dataclass
class Applied:
    """What one call did: rows applied, rows that were there already, entities written, races lost."""

    rows: int = 0
    duplicates: int = 0
    entities: int = 0
    conflicts: int = 0

    def add(self, more: Applied) -> None:
        """Add what another call did."""
        self.rows += more.rows
        self.duplicates += more.duplicates
        self.entities += more.entities
        self.conflicts += more.conflicts


def encode_positions(positions: Mapping[str, int]) -> bytes:
    """Return the bytes of a shard's positions."""
    return msgspec.msgpack.encode(dict(positions))


@lru_cache(1024)
def decode_positions(data: bytes) -> Positions:
    """Return a shard's positions, which nobody changes; none where nothing was written.

    Shards have few different ones, and each batch reads and writes hundreds of shards.
    """
    return msgspec.msgpack.decode(data, type=Positions) if data else {}


MARK = EntityRead(0, b"generation", (b"filled",))
"""What is read of `mark_of(generation)`: whether it was filled, and has not been lost since."""


def mark_of(generation: str) -> str:
    """Return the generation beside a generation that holds nothing but the note that it is filled."""
    return f"{generation}/mark"


def is_marked(store: OnlineStore, generation: str) -> bool:
    """Tell whether a generation was filled in this store, and has not been lost since."""
    return store.read(mark_of(generation), [MARK])[0][0] is not None


def lost(plan: SetPlan) -> StoreUnavailable:
    """Return the error that the online store lacks the generation which serves a set."""
    return StoreUnavailable(
        f"The online store lacks what serves '{plan.name}': it lost its data, or is another.",
        hint=f"A running stream fills it again by itself; else run: featurestore materialize {plan.name}",
    )


def mark(store: OnlineStore, generation: str) -> None:
    """Note in the store itself that the generation is filled."""
    done = [False]
    while not done[0]:
        [(state, _)] = store.read_for_write(mark_of(generation), {MARK.shard: [MARK]}).values()
        change = EntityWrite(MARK.key, {MARK.fields[0]: b"1"}, None)
        write = (MARK.shard, state.revision, _revision(), state.positions, [change])
        done = store.write(mark_of(generation), [write])


class OnlineWriter:
    """Writes one feature set's generation. Several writers, anywhere, may write the same one at once.

    What no instant of the history needs is trimmed as of the earlier of two clocks: this process's, and the
    store server's. Where the store has none, the newest ingest time that came along stands for it. So no
    clock that runs ahead takes anything; one that is behind keeps more for a while.

    `keep_all` keeps rows of all time, whatever the set's history: for scratch stores.
    """

    def __init__(
        self,
        plan: SetPlan,
        store: OnlineStore,
        generation: str,
        *,
        clock: Callable[[], int] = instants.now,
        keep_all: bool = False,
    ) -> None:
        self._layout = OnlineLayout.of(plan)
        self._store = store
        self._generation = generation
        self._clock = clock
        self._keep_all = keep_all
        self._seen: dict[int, Positions] = {}
        self._newest = BEGINNING
        self._expire_ms = None if keep_all else self._layout.expire_ms()
        self._rivals = Rivals(f"'{plan.name}' (generation {generation})")
        self._saw_mark = False

    @property
    def generation(self) -> str:
        """The generation that is written."""
        return self._generation

    def mark(self) -> None:
        """Note in the store that the generation is filled, where that is not noted."""
        if not is_marked(self._store, self._generation):
            mark(self._store, self._generation)
        self._saw_mark = True

    def watch(self) -> None:
        """Raise StoreWentBack where the store has lost anything that this writer saw or wrote in it."""
        self.positions()
        marked = is_marked(self._store, self._generation)
        if self._saw_mark and not marked:
            raise StoreWentBack(
                f"The generation of '{self._layout.plan.name}' is no longer marked as filled:"
                " the online store has lost its data.",
                hint="It is filled again; check the store's persistence (appendonly).",
            )
        self._saw_mark = marked

    def positions(self) -> dict[int, Positions]:
        """Return every shard's positions as the store has them now. Raises StoreWentBack."""
        seen = dict(self._seen)  # of before the reading: other threads go on writing
        found = {}
        for shard, state in enumerate(self._store.shards(self._generation, range(SHARDS))):
            found[shard] = self._compared(shard, state, seen.get(shard, {}))
            self._seen.setdefault(shard, found[shard])
        return found

    def lowest(self, partition: str) -> int:
        """Return the sequence from which some shard still needs the partition."""
        return min(positions.get(partition, 0) for positions in self.positions().values())

    def apply(self, rows: pl.DataFrame, positions: Mapping[str, int] | None = None) -> Applied:
        """Apply transformed rows, and record how far their partitions have been read.

        The frame holds all rows of each partition between the position last recorded and `positions`
        (default: behind the last row of each partition). Raises StoreUnavailable; StoreWentBack when a
        shard has lower positions than this writer knows of; Outraced when others win every race.
        """
        from featurestore.online.frames import entity_batch

        applied = Applied()
        if rows.is_empty():
            return applied
        if positions is not None:
            rows = self._begin(rows, positions, applied)
            if rows.is_empty():
                return applied
        batch = entity_batch(self._layout, rows)
        self._newest = max(self._newest, int(batch.rows.ingest.max()))
        if positions is None:
            ends = np.zeros(len(batch.partitions), np.int64)
            np.maximum.at(ends, batch.partition, batch.sequence + 1)
            positions = dict(zip(batch.partitions, ends.tolist(), strict=True))
        by_shard: dict[int, list[int]] = {}
        for entity, shard in enumerate(batch.shards.tolist()):
            by_shard.setdefault(shard, []).append(entity)
        chunks = _chunks(by_shard)
        each = partial(self._apply, batch, by_shard, positions)
        if len(chunks) == 1:
            applied.add(each(chunks[0]))
            return applied
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # while one waits for the store, another one works
            for done in pool.map(each, chunks):
                applied.add(done)
        return applied

    def _apply(
        self,
        batch: EntityBatch,
        by_shard: Mapping[int, Sequence[int]],
        positions: Mapping[str, int],
        shards: Sequence[int],
    ) -> Applied:
        """Apply the rows of some shards, until every race is won."""
        applied = Applied()
        pending, attempt = list(shards), 0
        while pending:
            size = max(1, len(shards) >> attempt)
            lost = []
            for first in range(0, len(pending), size):
                group = {shard: by_shard[shard] for shard in pending[first : first + size]}
                lost += self._write(batch, group, positions, applied)
            pending, attempt = lost, attempt + 1
            self._give_way(pending, attempt)
        return applied

    def _begin(self, rows: pl.DataFrame, positions: Mapping[str, int], applied: Applied) -> pl.DataFrame:
        """Write the shards that nobody has written yet from columns, where that can be; return other rows."""
        blank = [shard for shard in range(SHARDS) if not self._seen.get(shard)]
        if rows.height < _MANY or not blank:
            return rows
        from featurestore.online import first

        if not first.fits(self._layout):
            return rows
        self._newest = max(self._newest, int(rows[INGEST_TIME].to_physical().max()))  # type: ignore[arg-type]
        states = dict(zip(blank, self._store.shards(self._generation, blank), strict=True))
        now = self._present(list(states.values()))
        unwritten = [shard for shard, state in states.items() if not state.revision]
        found = first.FirstRows(self._layout, rows, unwritten)
        write = partial(self._write_first, positions, now)
        begun: list[int] = []
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for shards, done in pool.map(lambda part: write(found.blocks(part)), found.portions()):
                begun += shards
                applied.add(done)
        is_done = rows[SHARD].is_in(begun)
        return rows.clear() if is_done.all() else rows.filter(~is_done)

    def _write_first(
        self, positions: Mapping[str, int], now: int, blocks: Sequence[Block]
    ) -> tuple[list[int], Applied]:
        """Write shards that nobody has written yet; return those that nobody has written meanwhile."""
        writes = []
        for block in blocks:
            expire_ms = self._expire_ms
            ends = None
            if expire_ms is not None:
                ends = [expire_ms + max(0, time - now) // 1000 for time in block.newest]
            changes = EntityColumns(block.keys, ROOT, block.leaves, ends, self._newest)
            writes.append((block.shard, b"", _revision(), encode_positions(positions), changes))
        written = self._store.write(self._generation, writes)
        begun = [write for write, ok in zip(writes, written, strict=True) if ok]
        for write in begun:
            self._seen[write[0]] = dict(positions)
        lost = len(writes) - len(begun)
        self._rivals.note(len(begun), lost)
        rows_begun = sum(len(write[4]) for write in begun)
        return [write[0] for write in begun], Applied(rows_begun, 0, rows_begun, lost)

    def checkpoint(self, positions: Mapping[str, int], shards: Sequence[int] = range(SHARDS)) -> int:
        """Record the positions in those of the shards that have lower ones, without touching entities.

        Every row below the positions must have been applied before. Returns how many races were lost.
        """
        pending, attempt, conflicts = list(shards), 0, 0
        while pending:
            states = self._store.shards(self._generation, pending)
            writes = []
            for shard, state in zip(pending, states, strict=True):
                known = self._known(shard, state)
                raised = _raised(known, positions)
                if raised != known:
                    writes.append((shard, state.revision, _revision(), encode_positions(raised), ()))
            done = self._store.write(self._generation, writes) if writes else []
            for write, ok in zip(writes, done, strict=True):
                if ok:
                    self._seen[write[0]] = decode_positions(write[3])
            pending = [write[0] for write, ok in zip(writes, done, strict=True) if not ok]
            self._rivals.note(len(writes) - len(pending), len(pending))
            conflicts += len(pending)
            attempt += 1
            self._give_way(pending, attempt)
        return conflicts

    def _give_way(self, lost: Sequence[int], attempt: int) -> None:
        """Wait a moment, if races were lost, so that the next try meets others at another moment.

        `apply` then writes ever fewer shards at once: between reading and writing one there is little time
        for others, however much they write, so nobody is kept from writing for ever.
        """
        if not lost:
            return
        if attempt >= _ATTEMPTS:
            raise Outraced(
                f"Other writers of '{self._layout.plan.name}' won {attempt} races for shard {lost[0]}.",
                hint="Run fewer streams and ingests of this feature set at once.",
            )
        time.sleep(random.uniform(0, min(0.001 * 2**attempt, _LONGEST_PAUSE)))

    def _write(
        self,
        batch: EntityBatch,
        shards: Mapping[int, Sequence[int]],
        positions: Mapping[str, int],
        applied: Applied,
    ) -> list[int]:
        """Read, change and write shards (each with its entities); return those that lost the race."""
        reads = {
            shard: [EntityRead(shard, batch.keys[e], (ROOT,)) for e in of] for shard, of in shards.items()
        }
        stored = self._store.read_for_write(self._generation, reads)
        now = self._present([state for state, _ in stored.values()])
        floors = None if self._keep_all else self._layout.floors(now)
        known = {shard: self._known(shard, state) for shard, (state, _) in stored.items()}
        fresh, sizes = _fresh(batch, shards, known)
        changed = self._changes(batch, shards, stored, fresh, sizes, floors, now)
        writes, counts, lost = [], [], []
        revision = _revision()
        raised: dict[bytes, tuple[Positions, bytes]] = {}  # by the positions that a shard has
        for shard, entities in shards.items():
            found = [changed[entity] for entity in entities if entity in changed]
            changes = [change for change in found if change is not None]
            if len(changes) < len(found):
                lost.append(shard)
                continue
            rows = sum(sizes[entity] for entity in entities)
            every = int(batch.starts[entities[-1] + 1] - batch.starts[entities[0]])
            count = Applied(rows, every - rows, len(changes))
            state = stored[shard][0]
            if state.positions not in raised:
                ends = _raised(known[shard], positions)
                raised[state.positions] = ends, encode_positions(ends)
            ends, encoded = raised[state.positions]
            if changes or ends != known[shard]:
                writes.append((shard, state.revision, revision, encoded, changes))
                counts.append(count)
            else:
                applied.duplicates += count.duplicates
        written = self._store.write(self._generation, writes)
        for write, count, ok in zip(writes, counts, written, strict=True):
            if ok:
                self._seen[write[0]] = decode_positions(write[3])
                applied.rows += count.rows
                applied.duplicates += count.duplicates
                applied.entities += count.entities
            else:
                lost.append(write[0])
        applied.conflicts += len(lost)
        self._rivals.note(sum(written), len(lost))
        return lost

    def _known(self, shard: int, state: ShardState) -> Positions:
        """Return the shard's positions, which never go back while the store keeps what it acknowledged."""
        known = self._seen[shard] = self._compared(shard, state, self._seen.get(shard, {}))
        return known

    def _compared(self, shard: int, state: ShardState, seen: Positions) -> Positions:
        known = decode_positions(state.positions)
        if known is not seen and any(known.get(name, 0) < end for name, end in seen.items()):
            raise StoreWentBack(
                f"Shard {shard} of '{self._layout.plan.name}' has lost writes that it had acknowledged.",
                hint="They are read again from the source; check the store's persistence (appendfsync).",
            )
        return known

    def _present(self, states: Sequence[ShardState]) -> int:
        """Return an instant that is not after the present: see the class."""
        told = [self._newest if state.now is None else state.now for state in states]
        return min(self._clock(), *told)

    def _changes(
        self,
        batch: EntityBatch,
        shards: Mapping[int, Sequence[int]],
        stored: Mapping[int, tuple[ShardState, Sequence[Sequence[bytes | None]]]],
        fresh: np.ndarray,
        sizes: Mapping[int, int],
        floors: tuple[int, int] | None,
        now: int,
    ) -> dict[int, EntityWrite | None]:
        """Return the write of each entity that has fresh rows; None where its shard was written meanwhile."""
        places = [
            (entity, shard, root)
            for shard, entities in shards.items()
            for entity, [root] in zip(entities, stored[shard][1], strict=True)
            if sizes[entity]
        ]
        if not places:
            return {}
        rows = batch.rows.take(fresh)
        starts = np.cumsum([0, *(sizes[entity] for entity, _, _ in places)])
        found = leaves.grow(self._layout, [root for _, _, root in places], rows, starts, floors)
        changes: dict[int, EntityWrite | None] = {}
        deep: list[_Deep] = []
        for number, ((entity, shard, root), made) in enumerate(zip(places, found, strict=True)):
            if made is None:
                mine = rows.take(np.arange(starts[number], starts[number + 1]))
                deep.append(_Deep(entity, shard, batch.keys[entity], mine, {ROOT: root}))
            else:
                change = self._change(batch.keys[entity], {ROOT: made.data}, root, made.newest, now)
                changes[entity] = change
        states = {shard: state for shard, (state, _) in stored.items()}
        overtaken = self._read_below(deep, states)
        for item in deep:
            try:
                if item.shard in overtaken:
                    raise _Overtaken
                changes[item.entity] = self._updated(item, states[item.shard], floors, now)
            except _Overtaken:
                changes[item.entity] = None
        return changes

    def _read_below(self, deep: Sequence[_Deep], states: Mapping[int, ShardState]) -> set[int]:
        """Read the nodes below directories that rows may change; return the shards written meanwhile.

        Level by level: whether there is anything below a node, it tells itself.
        """
        directories = {
            item.entity: np.zeros(0, np.int64) for item in deep if nodes.is_directory(item.fields[ROOT])
        }
        overtaken: set[int] = set()
        for level in range(len(self._layout.bits)):
            asked: dict[int, list[tuple[_Deep, np.ndarray]]] = {}
            for item in deep:
                if item.entity in directories and item.shard not in overtaken:
                    numbers = self._layout.slices(level, item.rows.times, directories[item.entity])
                    if len(numbers):
                        asked.setdefault(item.shard, []).append((item, numbers))
            if not asked:
                break
            directories = {}
            reads = {
                shard: [EntityRead(shard, item.key, tuple(node_names(level, n))) for item, n in each]
                for shard, each in asked.items()
            }
            for shard, (state, values) in self._store.read_for_write(self._generation, reads).items():
                if state.revision != states[shard].revision:
                    overtaken.add(shard)
                    continue
                for (item, numbers), read, found in zip(asked[shard], reads[shard], values, strict=True):
                    item.fields |= zip(read.fields, found, strict=True)
                    is_directory = [nodes.is_directory(data) for data in found]
                    if any(is_directory):
                        directories[item.entity] = numbers[is_directory]
        return overtaken

    def _updated(
        self, item: _Deep, state: ShardState, floors: tuple[int, int] | None, now: int
    ) -> EntityWrite:
        def fetch(names: Sequence[bytes]) -> Sequence[bytes | None]:
            more = EntityRead(item.shard, item.key, tuple(names))
            found, [values] = self._store.read_for_write(self._generation, {item.shard: [more]})[item.shard]
            if found.revision != state.revision:  # written since; or after a failover another server answers
                raise _Overtaken
            return values

        update = Update(self._layout, item.fields, floors, fetch)
        fields = update.apply(item.rows)
        return self._change(item.key, fields, item.fields[ROOT], update.newest, now)

    def _change(
        self, key: bytes, fields: Mapping[bytes, bytes | None], root: bytes | None, newest: int, now: int
    ) -> EntityWrite:
        expire_ms = self._expire_ms
        if expire_ms is not None:
            expire_ms += max(0, newest - now) // 1000
        return EntityWrite(key, fields, expire_ms, root is not None, self._newest)


def _fresh(
    batch: EntityBatch, shards: Mapping[int, Sequence[int]], known: Mapping[int, Positions]
) -> tuple[np.ndarray, dict[int, int]]:
    """Return the rows of these shards' entities from the positions on, and how many each entity has."""
    entities = np.fromiter(chain.from_iterable(shards.values()), np.int64)
    begins = batch.starts[entities]
    rows = batch.starts[entities + 1] - begins
    index = np.repeat(begins - (np.cumsum(rows) - rows), rows) + np.arange(rows.sum())
    of = np.repeat(np.arange(len(entities)), rows)
    floors = [[known[shard].get(name, 0) for name in batch.partitions] for shard in shards]
    shard = np.repeat(np.arange(len(shards)), [len(each) for each in shards.values()])
    done = np.array(floors, np.int64)[shard[of], batch.partition[index]]
    is_fresh = batch.sequence[index] >= done
    counts = np.bincount(of[is_fresh], minlength=len(entities))
    return index[is_fresh], dict(zip(entities.tolist(), counts.tolist(), strict=True))


def _raised(known: Positions, positions: Mapping[str, int]) -> Positions:
    return known | {name: max(known.get(name, 0), end) for name, end in positions.items()}


def _revision() -> bytes:
    return secrets.token_bytes(12)


def _chunks(by_shard: Mapping[int, Sequence[int]]) -> list[list[int]]:
    """Return the shards in groups of a bounded number of entities."""
    chunks: list[list[int]] = []
    size = _ENTITIES
    for shard, entities in by_shard.items():
        if size + len(entities) > _ENTITIES:
            chunks.append([])
            size = 0
        chunks[-1].append(shard)
        size += len(entities)
    return chunks

"""What the core asks of engines and connectors, and how it finds them.

Stores hold bytes and sources hand out bytes or Arrow; what they mean is the core's. Implementations
register under the entry-point groups `featurestore.online`, `featurestore.offline`,
`featurestore.stream`, `featurestore.batch`, `featurestore.engines` and `featurestore.serving`, by kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from featurestore.errors import MissingExtra, SpecError, did_you_mean

if TYPE_CHECKING:
    import polars
    import pyarrow

    from featurestore.types import Field


class EntityRead(NamedTuple):
    """Fields of one entity's hash to read. `key` is the canonical key."""

    shard: int
    key: bytes
    fields: tuple[bytes, ...]


@dataclass(frozen=True)
class EntityWrite:
    """Fields of one entity's hash to set, or with None to delete, and its expiry from now.

    `existed` is whether it was there when it was read, None where nobody looked. `newest` is the ingest time
    of the newest row that the writer knows of, in microseconds: a second witness of the present, for a store
    whose clock is only the machine's.
    """

    key: bytes
    fields: Mapping[bytes, bytes | None]
    expire_ms: int | None
    existed: bool | None = None
    newest: int | None = None


@dataclass(frozen=True)
class EntityColumns(Sequence[EntityWrite]):
    """Writes of entities that nobody has written before, of one field each, as columns.

    A store may take the columns, or the writes one by one. `expire_ms` is one for each, or None for all.
    """

    keys: pyarrow.LargeBinaryArray
    field: bytes
    values: pyarrow.LargeBinaryArray
    expire_ms: list[int] | None
    newest: int | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[EntityWrite]:
        """Yield the writes."""
        each: Iterable[int | None] = repeat(None, len(self)) if self.expire_ms is None else self.expire_ms
        for key, value, ms in zip(self.keys.to_pylist(), self.values.to_pylist(), each, strict=True):
            yield EntityWrite(key, {self.field: value}, ms, False, self.newest)

    def __getitem__(self, place: Any) -> Any:
        """Return a write, or those of a slice."""
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        expire_ms = None if self.expire_ms is None else self.expire_ms[place]
        fields = {self.field: self.values[place].as_py()}
        return EntityWrite(self.keys[place].as_py(), fields, expire_ms, False, self.newest)


_LASTING = "+"


def lasting(generation: str) -> str:
    """Return the name of a generation whose entities never expire: a store may keep many in one place."""
    return generation + _LASTING


def is_lasting(generation: str) -> bool:
    """Tell whether the entities of a generation never expire."""
    return generation.endswith(_LASTING)


@dataclass(frozen=True)
class ShardState:
    """A shard's revision (random, renewed by every write; b"" before the first) and its positions.

    `now` is the present by the clock of the store's own server, in microseconds, where it was read to be
    written; None of a store that has no other clock than its caller.
    """

    revision: bytes
    positions: bytes
    now: int | None = field(default=None, compare=False)


class OnlineStore(Protocol):
    """Bytes by (generation, shard, key, field), with one atomic write per shard (DESIGN 7).

    Raises StoreUnavailable when the server does not answer. Safe to use from several threads.
    """

    def read(self, generation: str, reads: Sequence[EntityRead]) -> list[list[bytes | None]]:
        """Return each read's fields, in order, None where absent, in one round trip."""

    async def read_async(self, generation: str, reads: Sequence[EntityRead]) -> list[list[bytes | None]]:
        """The same, without blocking the event loop."""

    def read_many(
        self, requests: Sequence[tuple[str, Sequence[EntityRead]]]
    ) -> list[list[list[bytes | None]]]:
        """Return what `read` would for each (generation, reads), all in one round trip."""

    async def read_many_async(
        self, requests: Sequence[tuple[str, Sequence[EntityRead]]]
    ) -> list[list[list[bytes | None]]]:
        """The same, without blocking the event loop."""

    def shards(self, generation: str, shards: Sequence[int]) -> list[ShardState]:
        """Return the states of shards, in order, in one round trip."""

    def read_for_write(
        self, generation: str, reads: Mapping[int, Sequence[EntityRead]]
    ) -> dict[int, tuple[ShardState, list[list[bytes | None]]]]:
        """Return per shard its state and the fields; the state is read before the fields.

        What has expired may be there still, or not: whole, or not at all.
        """

    def write(
        self,
        generation: str,
        writes: Sequence[tuple[int, bytes, bytes, bytes, Sequence[EntityWrite]]],
    ) -> list[bool]:
        """Write shards, each (shard, expected revision, new revision, positions, entities), atomically.

        A shard whose revision is no longer the expected one, or one of whose entities is no longer there
        though it `existed`, is left alone: False in its place.
        """

    def drop(self, generation: str) -> None:
        """Delete all that the generation holds."""

    def statistics(self, generation: str) -> dict[str, int]:
        """Return `entities` and `bytes` (estimated where the server offers no exact figure)."""

    def ping(self) -> None:
        """Raise StoreUnavailable unless the store answers; OperatorError where it would lose data."""

    def close(self) -> None:
        """Release connections."""


class Record(NamedTuple):
    """One message of a stream as received. Times are UTC microseconds; `value` None is a tombstone."""

    sequence: int
    time: int | None
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True)
class RecordBatch:
    """Consecutive records of one partition. `next_sequence` is where reading goes on."""

    partition: str
    records: Sequence[Record]
    next_sequence: int


class StreamReader(Protocol):
    """Reads one partition from a sequence on. Not thread-safe."""

    partition: str

    def poll(self, max_records: int, timeout: float) -> RecordBatch | None:
        """Return up to `max_records`, or None when nothing came within `timeout` seconds."""

    def end(self) -> int:
        """Return the sequence after the last record there is now (the high watermark)."""

    def close(self) -> None:
        """Release the connection."""


class StreamSource(Protocol):
    """A topic: named partitions of ordered records. Partition names tell the cluster and the topic's id."""

    def partitions(self) -> list[str]:
        """Return the partitions' names, in order."""

    def ends(self) -> dict[str, int]:
        """Return by partition the sequence after its last record, asked of the broker at once for all."""

    def reader(self, partition: str, sequence: int | None) -> StreamReader:
        """Return a reader from `sequence` on; None is the earliest. A lost range is an OperatorError."""

    def begin(self, partition: str, start: str | int) -> int:
        """Return where reading begins for `earliest`, `latest`, or an instant of record time (microseconds).

        Of an instant, that of the first record at or after it; without one, the end.
        """

    def append(self, records: Sequence[tuple[bytes | None, bytes]]) -> list[tuple[str, int]]:
        """Append (key, value) pairs durably; return each one's partition and sequence.

        Raises NotAcknowledged, which tells them apart, where some are not known to be stored.
        """

    def show_applied(self, positions: Mapping[str, int], group: str) -> None:
        """Show by partition what every store has applied, where the broker's tools look for it.

        Under `group`, unless the options name another. Never read back; never raises.
        """

    def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True)
class BatchInput:
    """One immutable piece of a batch source: a file's name and the digest of its bytes."""

    name: str
    digest: str
    rows: int | None = None
    detail: dict[str, Any] = field(default_factory=dict)


class BatchSource(Protocol):
    """The batch half of a source: inputs, each read in order and out of core."""

    def inputs(self) -> list[BatchInput]:
        """Return what there is now, in the order to read it. A path that matches nothing is an error."""

    def read(self, item: BatchInput, skip: int, batch_rows: int) -> Iterator[pyarrow.RecordBatch]:
        """Yield the input's rows from number `skip` on, columns as stored, in a stable order."""


@dataclass(frozen=True)
class Snapshot:
    """A version of an offline table and the positions in it. Opaque `handle` is the table's own."""

    version: int
    handle: Any


@dataclass(frozen=True)
class Forgotten:
    """What retention took from a table: rows known `before` an instant, and how far in each partition.

    `positions` has, by partition, the sequence behind the last row that went: below it rows may be missing.
    """

    before: int
    positions: Mapping[str, int]


class OfflineTable(Protocol):
    """Rows of one feature set (or of landing or dead letters), appended with positions."""

    def snapshot(self) -> Snapshot | None:
        """Return the newest version; None before the first commit."""

    def position(self, snapshot: Snapshot | None, partition: str) -> int:
        """Return the sequence after the last one applied of `partition`; 0 before the first."""

    def positions(self, snapshot: Snapshot | None) -> dict[str, int]:
        """Return the positions of all partitions in the version."""

    def append(
        self, snapshot: Snapshot | None, rows: pyarrow.Table | polars.DataFrame, positions: Mapping[str, int]
    ) -> Snapshot | None:
        """Commit rows and positions on exactly `snapshot`; None when another commit came first."""

    def files(self, snapshot: Snapshot) -> list[str]:
        """Return the paths of the Parquet files of the version."""

    def rows(self, snapshot: Snapshot) -> int:
        """Return how many rows the version holds."""

    def ranges(self, snapshot: Snapshot, rows: int) -> list[tuple[int, int]]:
        """Return ranges of shards, half-open and in order, to read the version by, of some `rows` rows each.

        Of more where the layout does not let a range be read without reading others.
        """

    def lazy(
        self,
        snapshot: Snapshot,
        columns: Sequence[str] | None = None,
        *,
        shards: tuple[int, int] | None = None,
        cut: Mapping[str, int] | None = None,
        since: Mapping[str, int] | None = None,
        event_times: tuple[int, int] | None = None,
        schema: Sequence[Field] = (),
    ) -> polars.LazyFrame:
        """Return the version's rows, as a Polars query.

        `shards` and `event_times` (microseconds) are half-open; `cut` bounds each partition's sequence from
        above, `since` from below, and only the partitions that they name have rows.
        """

    def compact(self) -> dict[str, int]:
        """Rewrite closed days into files by month and bucket, sorted by entity and time; return counts.

        They are `files_read`, `files_written`, `rows`, and `abandoned`: 1 where another rewrite came first.
        """

    def forget(self, before: int) -> dict[str, int]:
        """Delete rows that became known before the day of `before`; return `files`, `rows`, `abandoned`."""

    def forgotten(self, snapshot: Snapshot | None) -> Forgotten | None:
        """Return what `forget` took so far; None where it took nothing."""

    def vacuum(self, older_than: int) -> int:
        """Delete files that no version needs since `older_than` microseconds; return how many."""


class OfflineStore(Protocol):
    """Named offline tables."""

    def table(self, name: str) -> OfflineTable:
        """Return the table of that name; it comes into being with its first commit."""

    def tables(self) -> list[str]:
        """Return the names of the tables that exist."""


_EXTRAS = {"redis": "redis", "kafka": "kafka", "bytewax": "bytewax", "http": "serve", "spark": "spark"}


def extension(group: str, kind: str) -> Any:
    """Return what is registered as `kind` under `featurestore.<group>`.

    Raises SpecError when nothing is, MissingExtra when its package is not installed.
    """
    found = {point.name: point for point in entry_points(group=f"featurestore.{group}")}
    if kind not in found:
        raise SpecError(f"There is no {group} kind '{kind}'.", hint=did_you_mean(kind, found))
    try:
        return found[kind].load()
    except ImportError as error:
        if (error.name or "").startswith("featurestore"):
            raise
        raise MissingExtra(f"The {group} kind '{kind}' ({error.name})", _EXTRAS.get(kind, "all")) from error

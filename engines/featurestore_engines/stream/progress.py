"""How far a source's stream is in this process: what is read, what is applied, and whether it moves."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock

from featurestore import instants
from featurestore.contracts import RecordBatch

IN_FLIGHT_RECORDS = 200_000
IN_FLIGHT_BYTES = 64 * 1024 * 1024


@dataclass
class _Partition:
    """`applied` and `reached` are sequences; `pending` the oldest times of batches that are in flight."""

    applied: int
    reached: int
    pending: deque[int] = field(default_factory=deque)
    records: int = 0
    bytes: int = 0
    behind_since: int | None = None


class Progress:
    """Batches read and not applied yet, by partition. Safe to use from several threads.

    It bounds what is in flight: `may_read` says no while the process holds enough records or bytes, so
    that the broker keeps the rest. A partition with nothing in flight may always read.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._partitions: dict[str, _Partition] = {}
        self._opening: set[str] = set()
        self._goals: dict[str, int] | None = None
        self.is_running = False
        self.trouble: str | None = None
        self.waiting = 0
        self.moved_at = time.monotonic()

    def restart(self) -> None:
        """Note that the source is opened anew."""
        self.is_running = False
        self.moved_at = time.monotonic()

    def expect(self, partition: str) -> None:
        """Note that this process is to read the partition."""
        with self._lock:
            self._opening.add(partition)

    def begin(self, partition: str, position: int) -> None:
        """Note that this process reads the partition from the position on."""
        with self._lock:
            self.is_running = True
            self._opening.discard(partition)
            self._partitions[partition] = _Partition(position, position)

    def forget(self) -> None:
        """Forget what was read before: it is opened anew, here or by another process."""
        with self._lock:
            self._opening = set()
            self._partitions = {}

    def is_open(self) -> bool:
        """Tell whether all partitions that are this process's are being read."""
        with self._lock:
            return self.is_running and not self._opening

    def read(self, batch: RecordBatch) -> int:
        """Note that a batch is in flight; return its bytes."""
        size = sum(map(len, filter(None, [record.value for record in batch.records])))
        times = [record.time for record in batch.records if record.time is not None]
        oldest = min(times, default=instants.now())
        with self._lock:
            part = self._partitions[batch.partition]
            part.reached = batch.next_sequence
            part.pending.append(oldest)
            part.records += len(batch.records)
            part.bytes += size
        return size

    def may_read(self, partition: str) -> bool:
        """Tell whether the partition may read on, or what is in flight is enough."""
        with self._lock:
            if not self._partitions[partition].pending:
                return True
            parts = self._partitions.values()
            return (
                sum(part.records for part in parts) < IN_FLIGHT_RECORDS
                and sum(part.bytes for part in parts) < IN_FLIGHT_BYTES
            )

    def applied(self, partition: str) -> None:
        """Note that all that was read of the partition is applied online."""
        with self._lock:
            part = self._partitions[partition]
            part.applied = part.reached
            part.pending.clear()
            part.records = part.bytes = 0
        self.moved()

    def moved(self) -> None:
        """Note that the loop goes round."""
        self.is_running = True
        self.moved_at = time.monotonic()
        if self.is_open():
            self.trouble = None

    def failed(self, trouble: str) -> None:
        """Note why nothing is applied at the moment; the stream waits, and lives."""
        self.moved_at = time.monotonic()
        self.trouble = trouble

    def in_flight(self) -> tuple[int, int]:
        """Return the records and bytes that are read and not applied."""
        with self._lock:
            parts = list(self._partitions.values())
        return sum(part.records for part in parts), sum(part.bytes for part in parts)

    def lag(self, ends: Mapping[str, int]) -> dict[str, tuple[int, float]]:
        """Return by partition of this process the events not applied, and the age of the oldest in seconds.

        Of records that are not read yet the age is counted from when they were first seen.
        """
        now = instants.now()
        result = {}
        with self._lock:
            for name, part in self._partitions.items():
                end = ends.get(name, part.reached)
                part.behind_since = (part.behind_since or now) if end > part.reached else None
                oldest = part.pending[0] if part.pending else part.behind_since
                seconds = 0.0 if oldest is None else max(now - oldest, 0) / instants.SECOND
                result[name] = (max(end - part.applied, 0), seconds)
        return result

    def behind(self, ends: Mapping[str, int]) -> int:
        """Return how many records are missing of what there was when this was first asked."""
        with self._lock:
            if self._goals is None:
                self._goals = dict(ends)
            return sum(
                max(end - self._partitions[name].applied, 0)
                for name, end in self._goals.items()
                if name in self._partitions
            )

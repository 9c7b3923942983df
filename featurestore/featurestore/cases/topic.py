"""A topic in memory, whose records carry the times that a case gives them."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event

from featurestore.contracts import Record, RecordBatch

PARTITION = "cases:0"


class Topic:
    """A StreamSource of one partition. `exhausted` is set once a reader has asked for more than there is."""

    def __init__(self, records: Sequence[tuple[int, bytes]]) -> None:
        self._records = [Record(place, time, None, value) for place, (time, value) in enumerate(records)]
        self.exhausted = Event()

    def partitions(self) -> list[str]:
        """Return the one partition."""
        return [PARTITION]

    def reader(self, partition: str, sequence: int | None) -> TopicReader:
        """Return a reader from `sequence` on."""
        return TopicReader(partition, self._records, sequence or 0, self.exhausted)

    def append(self, records: Sequence[tuple[bytes | None, bytes]]) -> list[tuple[str, int]]:
        """Append records without a key, known at their places' numbers; nothing here does."""
        start = len(self._records)
        self._records += [Record(start + i, None, key, value) for i, (key, value) in enumerate(records)]
        return [(PARTITION, start + i) for i in range(len(records))]

    def close(self) -> None:
        """Release nothing."""


class TopicReader:
    """Reads the partition."""

    def __init__(self, partition: str, records: list[Record], start: int, exhausted: Event) -> None:
        self.partition = partition
        self._records = records
        self._next = start
        self._exhausted = exhausted

    def poll(self, max_records: int, timeout: float) -> RecordBatch | None:  # noqa: ARG002 - nothing comes
        """Return the next records; None, and say so, at the end."""
        part = self._records[self._next : self._next + max_records]
        if not part:
            self._exhausted.set()
            return None
        self._next += len(part)
        return RecordBatch(self.partition, part, self._next)

    def end(self) -> int:
        """Return the sequence after the last record."""
        return len(self._records)

    def close(self) -> None:
        """Release nothing."""

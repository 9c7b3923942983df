"""Rows put aside by group: in memory up to so many bytes, the others in a temporary file."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa


class Spill:
    """Rows of one schema by the number of their group; each group's can be taken once, after `close`.

    `width` is roughly how many bytes a row takes.
    """

    def __init__(self, path: Path, schema: pa.Schema, memory: int) -> None:
        self._path = path
        self._schema = schema
        self._memory = memory
        self._held: defaultdict[int, list[pa.RecordBatch]] = defaultdict(list)
        self._bytes = 0
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._written: defaultdict[int, list[int]] = defaultdict(list)
        self._batches = 0
        self._rows: defaultdict[int, int] = defaultdict(int)
        self._reader: pa.ipc.RecordBatchFileReader | None = None
        self._lock = threading.Lock()
        self.width = 0

    def add(self, rows: pa.Table, counts: list[tuple[int, int]]) -> None:
        """Put rows aside; `counts` has the groups in the order of the rows, and how many each has."""
        if not rows.num_rows:
            return
        [whole] = rows.combine_chunks().to_batches()
        done = 0
        for group, count in counts:
            self._held[group].append(whole.slice(done, count))
            self._rows[group] += count
            done += count
        self._bytes += rows.nbytes
        self.width = max(self.width, rows.nbytes // rows.num_rows)
        if self._bytes > self._memory:
            self.flush()

    def flush(self) -> None:
        """Bring what is held in memory to the disk."""
        if not self._held:
            return
        if self._writer is None:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_file(self._path, self._schema, options=options)
        for group in sorted(self._held):
            self._writer.write_batch(pa.concat_batches(self._held.pop(group)))
            self._written[group].append(self._batches)
            self._batches += 1
        self._bytes = 0

    def close(self) -> None:
        """Add no more."""
        if self._writer is not None:
            self._writer.close()
            self._reader = pa.ipc.open_file(pa.OSFile(str(self._path)))

    def size(self, group: int) -> int:
        """Return roughly how many bytes a group's rows take."""
        return self._rows[group] * self.width

    def take(self, group: int) -> Iterator[pa.RecordBatch]:
        """Yield a group's rows; any number of threads may."""
        for number in self._written.pop(group, ()):
            assert self._reader is not None
            with self._lock:
                batch = self._reader.get_batch(number)
            yield batch
        yield from self._held.pop(group, ())

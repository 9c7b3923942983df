"""The files of one partition of the embedded log: segments, their sparse index, and the mark.

A partition is a folder::

    mark                        (segment, sequence, size): what is durable; also the writers' lock
    00000000000000000000.log    records from sequence 0 on
    00000000000000000000.index  (sequence, offset) of a record every 256 KiB of that segment
    00000000000000418112.log    the next segment, named by its first sequence

A segment is a 16-byte header (magic, version, first sequence) and records::

    length  crc32  time  key length  value length  key  value       little endian
    u32     u32    i64   i32         i32                            -1: null

`length` counts what follows the CRC, and the CRC covers it. A record's sequence is its number.

**Commit.** Under an exclusive lock on the mark: write, fsync, move the mark. Readers never pass the mark,
so they see only records that survive a power cut, and a bad CRC before it is damage, not a torn write.
What lies past the mark is what a killed writer left, or, when a power cut took the mark back, records
that were acknowledged: the next one to open or write (`recover`) keeps the whole records, cuts the torn
one off, and moves the mark. A commit that fails cuts off what it wrote.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import threading
import time
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from featurestore.errors import OperatorError, StoreUnavailable

RECORD = struct.Struct("<IIqii")
BODY = 8
"""Bytes of a record before what its CRC covers."""

SEGMENT_BYTES = 64 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
HEADER = struct.Struct("<6sHQ")
_MAGIC = b"FSTLOG"
_VERSION = 1
_MARK = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQI")
_SEGMENT_NAME = re.compile(r"(\d{20})\.log$")

_sync = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True)
class Mark:
    """How far a partition is durable: `size` bytes of segment `base`, up to `sequence` (exclusive)."""

    base: int
    sequence: int
    size: int


@dataclass
class Chunk:
    """Encoded records that are written together; `tickets` of one append share its outcome."""

    data: bytes
    count: int


@dataclass
class Ticket:
    """One append that waits for its commit: afterwards `first` is its first sequence, or `error` is set."""

    chunks: Sequence[Chunk]
    first: int = -1
    error: OperatorError | None = None
    done: bool = False


def encode(time_us: int, key: bytes | None, value: bytes | None) -> bytes:
    """Return one record's bytes."""
    body = (key or b"") + (value or b"")
    lengths = (-1 if key is None else len(key), -1 if value is None else len(value))
    covered = RECORD.pack(0, 0, time_us, *lengths)[BODY:] + body
    return struct.pack("<II", len(covered), zlib.crc32(covered)) + covered


def chunked(records: Sequence[bytes]) -> list[Chunk]:
    """Return encoded records joined into chunks of about 256 KiB."""
    chunks: list[Chunk] = []
    start = size = 0
    for number, record in enumerate(records):
        size += len(record)
        if size >= CHUNK_BYTES or number == len(records) - 1:
            chunks.append(Chunk(b"".join(records[start : number + 1]), number + 1 - start))
            start, size = number + 1, 0
    return chunks


def whole_records(data: bytes) -> tuple[int, int]:
    """Return how many valid records `data` begins with, and the offset after them."""
    count = at = 0
    view = memoryview(data)
    while at + RECORD.size <= len(data):
        length, crc, _, key, value = RECORD.unpack_from(data, at)
        stop = at + BODY + length
        if length != RECORD.size - BODY + max(key, 0) + max(value, 0) or stop > len(data):
            break
        if zlib.crc32(view[at + BODY : stop]) != crc:
            break
        count, at = count + 1, stop
    return count, at


def segment_path(folder: Path, base: int) -> Path:
    """Return the path of the segment whose first sequence is `base`."""
    return folder / f"{base:020d}.log"


def index_path(folder: Path, base: int) -> Path:
    """Return the path of that segment's sparse index."""
    return folder / f"{base:020d}.index"


def segments(folder: Path) -> list[int]:
    """Return the first sequences of the segments that there are, ascending."""
    found = (_SEGMENT_NAME.match(name) for name in os.listdir(folder))
    return sorted(int(match[1]) for match in found if match)


def indexed_offset(folder: Path, base: int, sequence: int) -> tuple[int, int]:
    """Return (sequence, offset) of the nearest record at or before `sequence` that the index knows."""
    best = (base, HEADER.size)
    try:
        data = index_path(folder, base).read_bytes()
    except FileNotFoundError:
        return best
    for at in range(0, len(data) - _ENTRY.size + 1, _ENTRY.size):
        known, offset, crc = _ENTRY.unpack_from(data, at)
        if crc == zlib.crc32(data[at : at + 16]) and best[0] < known <= sequence:
            best = (known, offset)
    return best


def check_header(data: bytes, base: int, path: Path) -> None:
    """Raise OperatorError unless `data` begins as segment `base` of a format that we read."""
    magic, version, first = HEADER.unpack_from(data) if len(data) >= HEADER.size else (b"", 0, -1)
    if magic != _MAGIC or first != base:
        raise OperatorError(f"{path} is no segment of a log.", hint="Restore the file from a backup.")
    if version > _VERSION:
        raise OperatorError(
            f"{path} has format {version}; this release reads up to {_VERSION}.",
            hint="Use the release that wrote it, or a later one.",
        )


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class MarkFile:
    """The mark of a partition: read by anyone, moved by who holds the lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "mark"
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def load(self) -> Mark | None:
        """Return the mark; None where there is none yet, or none that is whole."""
        data = os.pread(self._handle, _MARK.size, 0)
        if len(data) < _MARK.size:
            return None
        base, sequence, size, crc = _MARK.unpack(data)
        return Mark(base, sequence, size) if crc == zlib.crc32(data[:24]) else None

    def read(self) -> Mark:
        """Return the mark of a partition that was recovered; a write under way is waited for."""
        for _ in range(1000):
            mark = self.load()
            if mark is not None:
                return mark
            time.sleep(0.001)
        raise OperatorError(f"{self.path} cannot be read.", hint="Delete that file: it is rebuilt.")

    def store(self, mark: Mark, *, durable: bool = False) -> None:
        """Move the mark. Only `durable` waits for the disk: `recover` finds what a lost mark knew."""
        data = struct.pack("<QQQ", mark.base, mark.sequence, mark.size)
        os.pwrite(self._handle, data + struct.pack("<I", zlib.crc32(data)), 0)
        if durable:
            os.fsync(self._handle)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the partition's lock against other processes (and other handles of this one)."""
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        try:
            self.check_alive()
            yield
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_UN)

    def check_alive(self) -> None:
        """Raise OperatorError when the file at our path is no longer the one that we hold open."""
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self.path).st_ino == os.fstat(self._handle).st_ino:
                return
        raise OperatorError(
            f"{self.path.parent} was deleted or recreated while it was in use.",
            hint="Restart what reads and writes it; its positions belong to the log that is gone.",
        )

    def close(self) -> None:
        """Release the handle."""
        os.close(self._handle)


class PartitionWriter:
    """Appends to one partition, durably. Safe for several threads here and several processes."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self.segment_bytes = segment_bytes
        self.mark = MarkFile(folder)
        self._base = -1
        self._segment = -1
        self._indexed = (-1, 0)
        self._waiting: list[Ticket] = []
        self._queue = threading.Lock()
        self._commit = threading.Lock()

    def append(self, chunks: Sequence[Chunk]) -> int:
        """Return the first sequence of the chunks' records, once they are on the disk.

        Threads that wait share one fsync. Raises StoreUnavailable when the disk refuses.
        """
        ticket = Ticket(chunks)
        with self._queue:
            self._waiting.append(ticket)
        with self._commit:
            if not ticket.done:
                with self._queue:
                    tickets, self._waiting = self._waiting, []
                self._write(tickets)
        if ticket.error is not None:
            raise ticket.error
        return ticket.first

    def _write(self, tickets: Sequence[Ticket]) -> None:
        error: OperatorError | None = OperatorError(
            f"{self.folder}: the append was interrupted.",
            hint="Whether its records are stored is unknown: read the end of the log.",
        )
        try:
            with self.mark.locked():
                start = self.recover()
                try:
                    self._write_chunks(start, tickets)
                except OSError:
                    self._cut(start)
                    raise
            error = None
        except OSError as problem:
            error = StoreUnavailable(
                f"{self.folder}: the log cannot be written ({problem}); nothing was stored.",
                hint="Free space or mend the disk, then append again.",
            )
        except OperatorError as problem:
            error = problem
        finally:
            for ticket in tickets:
                ticket.done, ticket.error = True, error

    def _write_chunks(self, mark: Mark, tickets: Sequence[Ticket]) -> None:
        starts = []
        for ticket in tickets:
            ticket.first = mark.sequence
            for chunk in ticket.chunks:
                if mark.size > HEADER.size and mark.size + len(chunk.data) > self.segment_bytes:
                    _sync(self._open(mark.base))
                    mark = self._create(mark.sequence)
                _write_all(self._open(mark.base), chunk.data, mark.size)
                starts.append(mark)
                mark = Mark(mark.base, mark.sequence + chunk.count, mark.size + len(chunk.data))
        _sync(self._open(mark.base))
        self.mark.store(mark)
        self._note(starts)

    def settle(self) -> Mark:
        """Return the mark after making what lies past it readable or cutting it off."""
        try:
            with self._commit, self.mark.locked():
                return self.recover()
        except OSError as problem:
            raise StoreUnavailable(
                f"{self.folder}: what a writer left behind cannot be settled ({problem}).",
                hint="Free space or mend the disk; then try again.",
            ) from problem

    def recover(self) -> Mark:
        """Return the mark, brought up to all whole records that there are. The lock must be held."""
        mark = self.mark.load()
        if mark is not None and self._is_clean(mark):
            return mark
        bases = segments(self.folder)
        if mark is None:
            base = bases[-1] if bases else 0
            if not bases or self._size(base) < HEADER.size:
                start = self._create(base)
                self.mark.store(start, durable=True)
                return start
            mark = Mark(base, base, HEADER.size)
        elif mark.base not in bases or self._size(mark.base) < mark.size:
            raise OperatorError(
                f"{segment_path(self.folder, mark.base)} is shorter than what was acknowledged "
                f"({mark.size} bytes, up to record {mark.sequence}).",
                hint="Restore the file from a backup.",
            )
        mark = self._extend(mark, [base for base in bases if base > mark.base])
        self.mark.store(mark, durable=True)
        return mark

    def _extend(self, mark: Mark, later: list[int]) -> Mark:
        while True:
            path = segment_path(self.folder, mark.base)
            handle = self._open(mark.base)
            check_header(os.pread(handle, HEADER.size, 0), mark.base, path)
            data = os.pread(handle, self._size(mark.base) - mark.size, mark.size)
            count, stop = whole_records(data)
            mark = Mark(mark.base, mark.sequence + count, mark.size + stop)
            if later and later[0] == mark.sequence and stop == len(data):
                base = later.pop(0)
                if self._size(base) >= HEADER.size:
                    mark = Mark(base, base, HEADER.size)
                    continue
                segment_path(self.folder, base).unlink()
            if later:
                raise OperatorError(
                    f"{path} is damaged at byte {mark.size} (record {mark.sequence}); later segments exist.",
                    hint="Restore the file from a backup.",
                )
            os.ftruncate(handle, mark.size)
            os.fsync(handle)
            return mark

    def _is_clean(self, mark: Mark) -> bool:
        following = segment_path(self.folder, mark.sequence)
        return self._size(mark.base) == mark.size and (mark.base == mark.sequence or not following.exists())

    def _size(self, base: int) -> int:
        try:
            return os.stat(segment_path(self.folder, base)).st_size
        except FileNotFoundError:
            return -1

    def _create(self, base: int) -> Mark:
        path = segment_path(self.folder, base)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(handle, HEADER.pack(_MAGIC, _VERSION, base))
            os.fsync(handle)
        finally:
            os.close(handle)
        sync_folder(self.folder)
        return Mark(base, base, HEADER.size)

    def _open(self, base: int) -> int:
        if self._base != base:
            handle = os.open(segment_path(self.folder, base), os.O_RDWR | os.O_CLOEXEC)
            self._forget()
            self._base, self._segment = base, handle
        return self._segment

    def _note(self, starts: Sequence[Mark]) -> None:
        """Add committed records to the index, one per 256 KiB: hints, which nothing waits for."""
        for mark in starts:
            if mark.base != self._indexed[0]:
                self._indexed = mark.base, indexed_offset(self.folder, mark.base, 1 << 63)[1]
            if mark.size - self._indexed[1] < CHUNK_BYTES:
                continue
            data = struct.pack("<QQ", mark.sequence, mark.size)
            data += struct.pack("<I", zlib.crc32(data))
            with contextlib.suppress(OSError), open(index_path(self.folder, mark.base), "ab") as file:
                file.truncate(file.tell() // _ENTRY.size * _ENTRY.size)
                file.write(data)
            self._indexed = mark.base, mark.size

    def _cut(self, mark: Mark) -> None:
        """Take back what was written past the mark; what cannot be is `recover`'s."""
        self._forget()
        with contextlib.suppress(OSError):
            for base in segments(self.folder):
                if base > mark.base:
                    segment_path(self.folder, base).unlink()
            os.truncate(segment_path(self.folder, mark.base), mark.size)

    def truncate_before(self, sequence: int) -> int:
        """Return the earliest sequence left, after deleting the segments that lie wholly before it."""
        with self._commit, self.mark.locked():
            self.recover()
            bases = segments(self.folder)
            keep = max(bisect_right(bases, sequence) - 1, 0)
            for base in bases[:keep]:
                segment_path(self.folder, base).unlink()
                index_path(self.folder, base).unlink(missing_ok=True)
            sync_folder(self.folder)
            return bases[keep]

    def close(self) -> None:
        """Release the handles."""
        with self._commit:
            self._forget()
            self.mark.close()

    def _forget(self) -> None:
        if self._segment >= 0:
            os.close(self._segment)
        self._base = self._segment = -1


def _write_all(handle: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, at)
        view, at = view[written:], at + written

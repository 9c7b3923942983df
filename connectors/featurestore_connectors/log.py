"""The embedded log: topics in a folder, for a laptop, tests, and wherever no broker is wanted.

A topic is a folder: `log.json` (a random id, the number of partitions) and one folder per partition (see
`segments`). Any number of processes append and read at once, without a server. The folder must be on a
local disk (`flock`, `fsync`). A topic comes into being when it is first used; one that is deleted and
used again has another id, and so other partition names.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import secrets
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_intdigest

from featurestore import instants
from featurestore.contracts import Record, RecordBatch
from featurestore.errors import NotAcknowledged, OperatorError, RequestError, SpecError, StoreUnavailable
from featurestore_connectors.segments import (
    BODY,
    HEADER,
    RECORD,
    SEGMENT_BYTES,
    Mark,
    MarkFile,
    PartitionWriter,
    check_header,
    chunked,
    encode,
    indexed_offset,
    segment_path,
    segments,
    sync_folder,
)

_FORMAT = 1
_READ_BYTES = 1024 * 1024
_MAX_RECORD = 64 * 1024 * 1024
_WAIT_SECONDS = (0.001, 0.02)


class LogStream:
    """One topic of the log: a `contracts.StreamSource`. Safe to use from several threads.

    `config` is the project's `stream:` ({path}), `topic_options` the source's (`partitions`, 1 unless
    given; it may be raised later, never lowered). Partitions are named `log:<id>/<topic>/<n>`; a record
    goes to the partition that the xxh3 of its key gives, one without a key to each in turn.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: str,
        topic_options: Mapping[str, Any] | None = None,
        *,
        clock: Callable[[], int] = instants.now,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        options = dict(topic_options or {})
        wanted = options.pop("partitions", None)
        if options:
            raise SpecError(
                f"topic '{topic}': a log has no option '{next(iter(options))}'.", hint="It has: partitions."
            )
        if wanted is not None and (not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1):
            raise SpecError(f"topic '{topic}': partitions: {wanted} is no number of partitions.")
        if not config.get("path") or topic in ("", ".", "..") or "/" in topic:
            raise SpecError(f"topic '{topic}': a log needs a path: and a topic that can name a folder.")
        self.topic = topic
        self.folder = Path(config["path"]).expanduser() / topic
        self._clock = clock
        self._turn = itertools.count(secrets.randbelow(1 << 16))
        try:
            self._id, count = _open_topic(self.folder, wanted)
            self._writers = [PartitionWriter(self.folder / str(n), segment_bytes) for n in range(count)]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreUnavailable(
                    f"{self.folder}: the log cannot be made ({error}).", hint="Free space; then try again."
                ) from error
            raise OperatorError(
                f"{self.folder}: the log cannot be opened ({error}).",
                hint="Give this user read and write access to the folder.",
            ) from error
        self._names = [f"log:{self._id}/{topic}/{number}" for number in range(count)]

    def partitions(self) -> list[str]:
        """Return the partitions' names, in order. Raises OperatorError when the log was recreated."""
        _check_same(self.folder, self._id)
        return list(self._names)

    def ends(self) -> dict[str, int]:
        """Return by partition the sequence after the last durable record."""
        return {
            name: writer.settle().sequence
            for name, writer in zip(self.partitions(), self._writers, strict=True)
        }

    def reader(self, partition: str, sequence: int | None) -> LogReader:
        """Return a reader from `sequence` on; None is the earliest.

        Raises OperatorError for a partition that is not of this log, for a sequence whose records
        retention has deleted, and for one after the end.
        """
        writer = self._writer(partition)
        end = writer.settle().sequence
        start = segments(writer.folder)[0]
        if sequence is None:
            sequence = start
        if sequence < start:
            raise _lost(partition, sequence, start)
        if sequence > end:
            raise OperatorError(
                f"{partition} ends at {end}, before the position {sequence} that was applied: "
                "the log's files were replaced by older ones.",
                hint="Restore the newest files, or delete the topic's folder and send its records again.",
            )
        return LogReader(partition, writer.folder, self._id, sequence)

    def begin(self, partition: str, start: str | int) -> int:
        """Return where reading begins for `earliest`, `latest`, or an instant of record time (microseconds).

        The clock of a log's records may go back: of an instant, it is the first record at or after it.
        """
        writer = self._writer(partition)
        end = writer.settle().sequence
        if start == "latest":
            return end
        sequence = segments(writer.folder)[0]
        if start == "earliest":
            return sequence
        reader = self.reader(partition, sequence)
        try:
            while sequence < end:
                batch = reader.poll(end - sequence, 0.0)
                if batch is None:
                    break
                for record in batch.records:
                    if record.time is not None and record.time >= int(start):
                        return record.sequence
                sequence = batch.next_sequence
            return end
        finally:
            reader.close()

    def show_applied(self, positions: Mapping[str, int], group: str) -> None:
        """Do nothing: a log has no tools that would look for it."""

    def append(self, records: Sequence[tuple[bytes | None, bytes | None]]) -> list[tuple[str, int]]:
        """Append (key, value) pairs and return each one's partition and sequence, once they are on the disk.

        A value of None is a tombstone. Records of one partition stay in order. Raises RequestError for a
        record over 64 MiB, StoreUnavailable when the disk refuses; then what the message names was not
        stored.
        """
        now = self._clock()
        split: dict[int, list[bytes]] = {}
        places: list[tuple[int, int]] = []
        for key, value in records:
            if len(key or b"") + len(value or b"") > _MAX_RECORD:
                raise RequestError(f"topic '{self.topic}': a record may have at most {_MAX_RECORD} bytes.")
            number = (next(self._turn) if key is None else xxh3_64_intdigest(key)) % len(self._writers)
            mine = split.setdefault(number, [])
            places.append((number, len(mine)))
            mine.append(encode(now, key, value))
        first: dict[int, int] = {}
        for number, encoded in sorted(split.items()):
            try:
                first[number] = self._writers[number].append(chunked(encoded))
            except OperatorError as error:
                if not first and not isinstance(error, StoreUnavailable):
                    raise
                stored = ", ".join(self._names[done] for done in first) or "none"
                raise NotAcknowledged(
                    f"{error.message} Partitions whose records were stored before that: {stored}.",
                    [(self._names[n], first[n] + offset) if n in first else None for n, offset in places],
                    {},
                    hint=error.hint,
                ) from error
        return [(self._names[number], first[number] + offset) for number, offset in places]

    def truncate_before(self, partition: str, sequence: int) -> int:
        """Delete the segments that lie wholly before `sequence`; return the earliest sequence left."""
        return self._writer(partition).truncate_before(sequence)

    def close(self) -> None:
        """Release the files."""
        for writer in self._writers:
            writer.close()

    def _writer(self, partition: str) -> PartitionWriter:
        if partition not in self._names:
            raise OperatorError(
                f"There is no partition {partition}: topic '{self.topic}' at {self.folder} has "
                f"{self._names[0]} to /{len(self._names) - 1}. A log that was recreated has another id.",
                hint="Restore the log, or run featurestore accept-topic with the source.",
            )
        return self._writers[self._names.index(partition)]


class LogReader:
    """Reads one partition of a log: a `contracts.StreamReader`. Not thread-safe."""

    def __init__(self, partition: str, folder: Path, log_id: str, sequence: int) -> None:
        self.partition = partition
        self._folder = folder
        self._id = log_id
        self._mark = MarkFile(folder)
        self._sequence = sequence
        self._base = -1
        self._handle = -1
        self._offset = 0
        self._buffer = b""
        self._at = 0

    def poll(self, max_records: int, timeout: float) -> RecordBatch | None:
        """Return up to `max_records` (of about 1 MiB), or None when nothing came within `timeout` seconds.

        Raises OperatorError on damage, when retention overtook the reader, when the log was recreated.
        """
        deadline = time.monotonic() + timeout
        pause, longest = _WAIT_SECONDS
        while True:
            mark = self._mark.read()
            if self._sequence < mark.sequence:
                records: list[Record] = []
                while not records:
                    needed = self._take(records, min(max_records, mark.sequence - self._sequence))
                    if not records:
                        self._fill(mark, needed)
                return RecordBatch(self.partition, records, self._sequence)
            left = deadline - time.monotonic()
            if left <= 0:
                _check_same(self._folder.parent, self._id)
                self._mark.check_alive()
                return None
            time.sleep(min(pause, left))
            pause = min(pause * 2, longest)

    def end(self) -> int:
        """Return the sequence after the last durable record."""
        return self._mark.read().sequence

    def close(self) -> None:
        """Release the files."""
        self._mark.close()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _take(self, records: list[Record], limit: int) -> int:
        """Move up to `limit` whole records out of the buffer; return the bytes that the next one needs."""
        buffer, at, sequence = self._buffer, self._at, self._sequence
        size, view, unpack, crc32 = len(buffer), memoryview(buffer), RECORD.unpack_from, zlib.crc32
        needed = RECORD.size
        for _ in range(limit):
            if at + RECORD.size > size:
                break
            length, crc, record_time, key_length, value_length = unpack(buffer, at)
            body = at + RECORD.size
            value_at = body + (key_length if key_length > 0 else 0)
            stop = value_at + (value_length if value_length > 0 else 0)
            if length == stop - at - BODY and stop > size:
                needed = stop - at
                break
            if length != stop - at - BODY or crc32(view[at + BODY : stop]) != crc:
                if sequence > self._sequence:
                    break  # first hand out what is whole
                raise self._damaged(sequence)
            key = buffer[body:value_at] if key_length >= 0 else None
            value = buffer[value_at:stop] if value_length >= 0 else None
            records.append(Record(sequence, record_time, key, value))
            sequence, at = sequence + 1, stop
        self._at, self._sequence = at, sequence
        return needed

    def _fill(self, mark: Mark, needed: int) -> None:
        """Read on in the file, or change to the next one. The caller knows that there is more."""
        if self._handle < 0:
            self._enter()
            return
        size = mark.size if mark.base == self._base else os.fstat(self._handle).st_size
        rest = self._buffer[self._at :]
        if self._offset >= size and mark.base != self._base and not rest:
            os.close(self._handle)
            self._handle = -1
            self._buffer, self._at = b"", 0
            return
        data = os.pread(self._handle, min(max(_READ_BYTES, needed), size - self._offset), self._offset)
        if not data:
            raise self._damaged(self._sequence)
        self._offset += len(data)
        self._buffer, self._at = rest + data, 0

    def _enter(self) -> None:
        """Open the segment that holds the next record, at that record."""
        bases = segments(self._folder)
        base = max((base for base in bases if base <= self._sequence), default=None)
        if base is None:
            _check_same(self._folder.parent, self._id)
            raise _lost(self.partition, self._sequence, bases[0] if bases else self.end())
        if base == self._base:
            raise self._damaged(self._sequence)
        path = segment_path(self._folder, base)
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _lost(self.partition, self._sequence, segments(self._folder)[0]) from None
        check_header(os.pread(self._handle, HEADER.size, 0), base, path)
        self._base = base
        wanted = self._sequence
        self._sequence, self._offset = indexed_offset(self._folder, base, wanted)
        self._buffer, self._at = b"", 0
        mark = self._mark.read()
        while self._sequence < wanted:
            needed = self._take([], wanted - self._sequence)
            if self._sequence < wanted:
                self._fill(mark, needed)

    def _damaged(self, sequence: int) -> OperatorError:
        return OperatorError(
            f"{segment_path(self._folder, self._base)}: record {sequence} of {self.partition} is damaged.",
            hint="Restore the file from a backup, or delete the topic's folder and send its records again.",
        )


def _lost(partition: str, sequence: int, start: int) -> OperatorError:
    return OperatorError(
        f"{partition}: records {sequence} to {start - 1} were deleted by retention before they were read.",
        hint=f"Restore them, or go on from {start}: featurestore accept-topic, with the source.",
    )


def _read_topic(folder: Path) -> tuple[str, int] | None:
    try:
        text = (folder / "log.json").read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = json.loads(text)
        if found["format"] == _FORMAT:
            return str(found["id"]), int(found["partitions"])
        reason = f"has format {found['format']}; this release reads {_FORMAT}"
    except (ValueError, KeyError, TypeError):
        reason = "cannot be read"
    raise OperatorError(f"{folder / 'log.json'} {reason}.", hint="Restore the file or upgrade.")


def _check_same(folder: Path, log_id: str) -> None:
    found = _read_topic(folder)
    if found is None or found[0] != log_id:
        raise OperatorError(
            f"The log at {folder} was {'deleted' if found is None else 'recreated'} while it was in use.",
            hint="Restart what reads and writes it; its positions belong to the log that is gone.",
        )


def _open_topic(folder: Path, wanted: int | None) -> tuple[str, int]:
    """Return the topic's id and number of partitions, creating or widening it where needed."""
    missing = [made for made in (folder, *folder.parents) if not made.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        found = _read_topic(folder)
        if found is None or found[1] < (wanted or 1):
            found = (found[0] if found else secrets.token_hex(8)), wanted or 1
            _write_topic(folder, *found)
    finally:
        os.close(handle)
    if wanted is not None and found[1] > wanted:
        raise SpecError(
            f"topic '{folder.name}' has {found[1]} partitions, more than partitions: {wanted}.",
            hint=f"Write partitions: {found[1]}; a log's partitions never become fewer.",
        )
    return found


def _write_topic(folder: Path, log_id: str, count: int) -> None:
    for number in range(count):
        (folder / str(number)).mkdir(exist_ok=True)
    draft = folder / "log.json.new"
    with open(draft, "w") as file:
        json.dump({"format": _FORMAT, "id": log_id, "partitions": count}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, folder / "log.json")
    sync_folder(folder)
    sync_folder(folder.parent)

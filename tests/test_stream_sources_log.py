"""The embedded log keeps what it acknowledged: kills, torn writes, damage, full disks, many processes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from featurestore.errors import OperatorError, RequestError, SpecError
from featurestore_connectors.log import LogStream

WRITE_NUMBERS = """
import random, sys
from featurestore_connectors.log import LogStream
source = LogStream({"path": sys.argv[1]}, "events", segment_bytes=1 << 20)
[partition] = source.partitions()
end = source.reader(partition, None).end()
number = 0
if end:
    number = int(source.reader(partition, end - 1).poll(1, 0).records[0].value.split()[0]) + 1
while True:
    count = random.randint(1, 300)
    fresh = range(number, number + count)
    source.append([(None, b"%d %s" % (at, b"x" * random.randint(0, 2000))) for at in fresh])
    number += count
    print(number, flush=True)
"""

WRITE_NAMED = """
import json, sys
from featurestore_connectors.log import LogStream
path, name = sys.argv[1:]
source = LogStream({"path": path}, "events", segment_bytes=1 << 14)
places = []
for number in range(0, 600, 3):
    records = [(None, b"%s %d" % (name.encode(), at)) for at in range(number, number + 3)]
    places += [sequence for _, sequence in source.append(records)]
print(json.dumps(places))
"""

FILL_THE_DISK = """
import json, resource, sys
from featurestore.errors import StoreUnavailable
from featurestore_connectors.log import LogStream
source = LogStream({"path": sys.argv[1]}, "events")
stored = []
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
try:
    while True:
        stored += [at for _, at in source.append([(None, b"%d" % len(stored) + b" " * 6_000)] * 3)]
except StoreUnavailable as error:
    message = str(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
after = source.append([(None, b"after")])[0][1]
print(json.dumps([stored, after, message]))
"""


def open_log(path: Path, segment_bytes: int = 1 << 20) -> LogStream:
    return LogStream({"path": str(path)}, "events", segment_bytes=segment_bytes)


def values(source: LogStream, start: int | None = None) -> list[bytes | None]:
    """Return all values there are, checking that sequences follow one another."""
    [partition] = source.partitions()
    reader = source.reader(partition, start)
    found: list[bytes | None] = []
    expected = start
    while (batch := reader.poll(10_000, 0.0)) is not None:
        for record in batch.records:
            assert expected is None or record.sequence == expected
            expected = record.sequence + 1
            found.append(record.value)
    reader.close()
    return found


def fill(source: LogStream, count: int, size: int = 100) -> None:
    """Append `count` records one by one: their number, padded to `size` bytes."""
    for number in range(count):
        source.append([(None, (b"%d" % number).ljust(size))])


def run(script: str, *arguments: str) -> Any:
    """Return what a process running the script prints, as JSON."""
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True)
    return json.loads(done.stdout)


def segment_files(path: Path) -> list[Path]:
    return sorted((path / "events" / "0").glob("*.log"))


def test_a_killed_writer_loses_nothing_acknowledged_and_repeats_nothing(tmp_path: Path) -> None:
    tailed: list[int] = []
    stop = threading.Event()

    def tail() -> None:
        source = open_log(tmp_path)
        reader = source.reader(source.partitions()[0], 0)
        while not stop.is_set() or len(tailed) < reader.end():
            batch = reader.poll(500, 0.05)
            tailed.extend(
                int((record.value or b"").split()[0]) for record in (batch.records if batch else ())
            )
        reader.close()
        source.close()

    tailing = threading.Thread(target=tail)
    tailing.start()
    chance = random.Random(7)
    for _ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE_NUMBERS, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        printed = [writer.stdout.readline() for _ in range(chance.randint(1, 30))]
        writer.send_signal(signal.SIGKILL)
        printed += writer.stdout.read().splitlines(keepends=True)
        writer.wait()
        writer.stdout.close()
        acknowledged = max(int(line) for line in printed if line.endswith("\n"))
        source = open_log(tmp_path)
        numbers = [int((value or b"").split()[0]) for value in values(source)]
        source.close()
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= acknowledged
    stop.set()
    tailing.join()
    assert tailed == numbers


def test_a_torn_record_is_never_read_and_the_next_append_takes_its_place(tmp_path: Path) -> None:
    source = open_log(tmp_path / "whole")
    source.append([(b"k", b"first"), (b"k", b"second")])
    source.close()
    [segment] = segment_files(tmp_path / "whole")
    record = segment.read_bytes()[-(24 + 1 + 6) :]
    assert record.endswith(b"ksecond")
    for cut in range(1, len(record)):
        path = tmp_path / str(cut)
        shutil.copytree(tmp_path / "whole", path)
        with open(segment_files(path)[0], "ab") as file:
            file.write(record[:cut])
        source = open_log(path)
        assert values(source) == [b"first", b"second"]
        assert source.append([(b"k", b"third")])[0][1] == 2
        assert values(source) == [b"first", b"second", b"third"]
        source.close()


def test_a_tail_of_garbage_or_zeros_is_cut_off(tmp_path: Path) -> None:
    for number, tail in enumerate((b"\x00" * 100, b"\xff" * 100, random.Random(1).randbytes(5000))):
        source = open_log(tmp_path / str(number))
        source.append([(None, b"first")])
        source.close()
        with open(segment_files(tmp_path / str(number))[0], "ab") as file:
            file.write(tail)
        source = open_log(tmp_path / str(number))
        assert values(source) == [b"first"]
        source.append([(None, b"second")])
        assert values(source) == [b"first", b"second"]
        source.close()


def test_a_reader_that_was_open_all_along_never_sees_a_torn_record(tmp_path: Path) -> None:
    source = open_log(tmp_path)
    source.append([(None, b"first")])
    reader = source.reader(source.partitions()[0], 0)
    [segment] = segment_files(tmp_path)
    with open(segment, "ab") as file:
        file.write(segment.read_bytes()[16:-1])
    batch = reader.poll(10, 0.0)
    assert batch is not None
    assert [record.value for record in batch.records] == [b"first"]
    assert reader.poll(10, 0.0) is None
    source.append([(None, b"second")])
    batch = reader.poll(10, 0.0)
    assert batch is not None
    assert [record.value for record in batch.records] == [b"second"]
    reader.close()
    source.close()


@pytest.mark.parametrize("mark", ["lost", "stale", "garbled"])
def test_records_are_found_again_when_a_power_cut_took_the_mark_back(tmp_path: Path, mark: str) -> None:
    source = open_log(tmp_path, segment_bytes=2000)
    fill(source, 30)
    path = tmp_path / "events" / "0" / "mark"
    stale = path.read_bytes()
    fill(source, 70)
    source.close()
    assert len(segment_files(tmp_path)) > 5
    if mark == "lost":
        path.unlink()
    else:
        path.write_bytes(stale if mark == "stale" else b"garbled")
    source = open_log(tmp_path, segment_bytes=2000)
    expected = [(b"%d" % number).ljust(100) for number in [*range(30), *range(70)]]
    assert values(source) == expected
    assert source.append([(None, b"next")])[0][1] == 100
    source.close()


def test_a_damaged_record_is_an_error_and_not_a_value(tmp_path: Path) -> None:
    source = open_log(tmp_path)
    fill(source, 3)
    [segment] = segment_files(tmp_path)
    data = bytearray(segment.read_bytes())
    data[16 + 124 + 60] ^= 1
    segment.write_bytes(bytes(data))
    reader = source.reader(source.partitions()[0], 0)
    batch = reader.poll(10, 0.0)
    assert batch is not None
    assert [record.sequence for record in batch.records] == [0]
    for _ in range(2):
        with pytest.raises(OperatorError, match=r"record 1 of .* is damaged"):
            reader.poll(10, 0.0)
    reader.close()
    source.close()


def test_a_file_shorter_than_what_was_acknowledged_is_an_error(tmp_path: Path) -> None:
    source = open_log(tmp_path)
    fill(source, 3)
    [segment] = segment_files(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-1])
    with pytest.raises(OperatorError, match=r"shorter than what was acknowledged .*up to record 3"):
        source.append([(None, b"")])
    with pytest.raises(OperatorError, match="shorter"):
        source.reader(source.partitions()[0], 0)
    source.close()


def test_two_writing_processes_share_a_log(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE_NAMED, str(tmp_path), name], stdout=subprocess.PIPE, text=True
        )
        for name in ("left", "right")
    ]
    placed = [json.loads(writer.communicate()[0]) for writer in writers]
    source = open_log(tmp_path)
    stored = values(source, 0)
    source.close()
    assert len(stored) == 1200
    assert sorted(placed[0] + placed[1]) == list(range(1200))
    for name, sequences in zip((b"left", b"right"), placed, strict=True):
        assert [stored[at] for at in sequences] == [b"%s %d" % (name, number) for number in range(600)]


def test_a_full_disk_is_unavailable_and_stores_nothing_of_the_append(tmp_path: Path) -> None:
    stored, after, message = run(FILL_THE_DISK, str(tmp_path))
    assert stored == list(range(len(stored)))
    assert stored
    assert after == len(stored)
    assert "nothing was stored" in message
    source = open_log(tmp_path)
    assert len(values(source, 0)) == len(stored) + 1
    source.close()


def test_segments_roll_and_any_sequence_can_be_opened(tmp_path: Path) -> None:
    source = open_log(tmp_path, segment_bytes=2000)
    [partition] = source.partitions()
    tail = source.reader(partition, None)
    fill(source, 100)
    files = segment_files(tmp_path)
    assert len(files) == 7  # 16 + 124 * 16 = 2000 bytes
    assert all(file.stat().st_size <= 2000 for file in files)
    for start in range(101):
        assert values(source, start) == [(b"%d" % number).ljust(100) for number in range(start, 100)]
    seen: list[int] = []
    while (batch := tail.poll(1000, 0.0)) is not None:
        seen += [record.sequence for record in batch.records]
    assert seen == list(range(100))
    tail.close()
    source.close()


def test_the_sparse_index_leads_to_the_right_record(tmp_path: Path) -> None:
    source = LogStream({"path": str(tmp_path)}, "events")
    [partition] = source.partitions()
    for start in range(0, 30_000, 1000):
        source.append([(None, (b"%d" % at).ljust(at % 300 + 10)) for at in range(start, start + 1000)])
    assert (tmp_path / "events" / "0" / f"{0:020d}.index").stat().st_size >= 20 * 10
    for start in [0, 1, *range(999, 30_000, 1999), 29_999]:
        reader = source.reader(partition, start)
        batch = reader.poll(1, 0.0)
        reader.close()
        assert batch is not None
        assert batch.records[0].sequence == start
        assert int(batch.records[0].value or b"") == start
    source.close()


def test_a_record_larger_than_a_read_comes_back(tmp_path: Path) -> None:
    source = open_log(tmp_path)
    large = random.Random(2).randbytes(5_000_000)
    source.append([(None, b"before"), (None, large), (None, b"after")])
    assert values(source, 0) == [b"before", large, b"after"]
    assert values(source, 2) == [b"after"]
    source.close()


def test_a_record_beyond_the_limit_is_the_callers_error(tmp_path: Path) -> None:
    source = open_log(tmp_path)
    with pytest.raises(RequestError, match="at most 67108864 bytes"):
        source.append([(None, b"fine"), (None, bytes(64 * 1024 * 1024 + 1))])
    assert values(source) == []
    source.close()


def test_retention_drops_whole_segments_and_keeps_the_rest(tmp_path: Path) -> None:
    source = open_log(tmp_path, segment_bytes=2000)
    [partition] = source.partitions()
    fill(source, 100)
    behind = source.reader(partition, 0)
    assert source.truncate_before(partition, 40) == 32
    assert values(source) == [(b"%d" % number).ljust(100) for number in range(32, 100)]
    assert values(source, 32)[0] == b"32".ljust(100)
    assert source.reader(partition, None).end() == 100
    with pytest.raises(OperatorError, match=r"records 31 to 31 were deleted by retention") as error:
        source.reader(partition, 31)
    assert "from 32" in str(error.value)
    with pytest.raises(OperatorError, match=r"records 0 to 31 were deleted by retention"):
        behind.poll(10, 0.0)
    assert source.truncate_before(partition, 10_000) == 96
    assert source.append([(None, b"next")])[0][1] == 100
    behind.close()
    source.close()


def test_a_recreated_log_has_another_id_and_stops_who_used_the_old_one(tmp_path: Path) -> None:
    source = open_log(tmp_path)
    [old] = source.partitions()
    source.append([(None, b"old")])
    reader = source.reader(old, 1)
    shutil.rmtree(tmp_path / "events")
    with pytest.raises(OperatorError, match="deleted"):
        reader.poll(1, 0.0)
    with pytest.raises(OperatorError, match="deleted or recreated"):
        source.append([(None, b"lost")])
    fresh = open_log(tmp_path)
    [new] = fresh.partitions()
    assert new != old
    assert new.startswith("log:")
    assert new.endswith("/events/0")
    with pytest.raises(OperatorError, match="recreated"):
        reader.poll(1, 0.0)
    with pytest.raises(OperatorError, match="recreated"):
        source.append([(None, b"lost")])
    with pytest.raises(OperatorError, match="recreated"):
        source.partitions()
    with pytest.raises(OperatorError, match="another id"):
        fresh.reader(old, 0)
    assert values(fresh) == []
    for opened in (reader, source, fresh):
        opened.close()


def test_a_key_goes_to_the_partition_that_its_xxh3_gives(tmp_path: Path) -> None:
    source = LogStream({"path": str(tmp_path)}, "events", {"partitions": 5})
    keys = [b"key %d" % number for number in range(50)]
    names = source.partitions()
    assert [name for name, _ in source.append([(key, b"") for key in keys])] == [
        names[xxh3_64_intdigest(key) % 5] for key in keys
    ]
    without = [name for name, _ in source.append([(None, b"")] * 10)]
    assert sorted(without) == sorted(names * 2)
    source.close()


def test_partitions_can_be_raised_and_never_lowered(tmp_path: Path) -> None:
    config = {"path": str(tmp_path)}
    one = LogStream(config, "events")
    one.append([(None, b"kept")])
    four = LogStream(config, "events", {"partitions": 4})
    assert four.partitions()[:1] == one.partitions()
    assert len(four.partitions()) == 4
    assert len(LogStream(config, "events").partitions()) == 4
    with pytest.raises(SpecError, match="has 4 partitions, more than partitions: 2"):
        LogStream(config, "events", {"partitions": 2})
    assert [record.value for record in _first(four)] == [b"kept"]


@pytest.mark.parametrize(
    ("topic", "options"), [("..", {}), ("a/b", {}), ("t", {"partitions": 0}), ("t", {"partition": 1})]
)
def test_what_cannot_be_a_log_is_refused(tmp_path: Path, topic: str, options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="topic"):
        LogStream({"path": str(tmp_path)}, topic, options)


def test_record_times_are_the_clocks_microseconds(tmp_path: Path) -> None:
    source = LogStream({"path": str(tmp_path)}, "events", clock=lambda: 1_795_232_654_935_123)
    source.append([(None, b"x")])
    assert [record.time for record in _first(source)] == [1_795_232_654_935_123]
    source.close()


def test_throughput(tmp_path: Path) -> None:
    """200,000 records of 200 bytes. `pytest -rP` shows the numbers; the floors hold on any disk."""
    source = LogStream({"path": str(tmp_path)}, "events")
    records = [(b"key %d" % number, b"x" * 200) for number in range(200_000)]
    started = time.perf_counter()
    for at in range(0, len(records), 1000):
        source.append(records[at : at + 1000])
    appended = time.perf_counter()
    reader = source.reader(source.partitions()[0], None)
    count = 0
    while (batch := reader.poll(10_000, 0.0)) is not None:
        count += len(batch.records)
    done = time.perf_counter()
    reader.close()
    source.close()
    assert count == 200_000
    append, read = 200_000 / (appended - started), 200_000 / (done - appended)
    print(f"append {append:,.0f} records/s in batches of 1000, read {read:,.0f} records/s")
    assert append > 20_000
    assert read > 50_000


def _first(source: LogStream) -> Any:
    batch = source.reader(source.partitions()[0], 0).poll(100, 0.0)
    assert batch is not None
    return batch.records

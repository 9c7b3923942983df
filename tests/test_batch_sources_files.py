"""Files as batch sources: found, digested, read in order and resumed (DESIGN 3.8, 3.12)."""

from __future__ import annotations

import bz2
import gzip
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import deltalake
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from featurestore.contracts import BatchInput, BatchSource
from featurestore.errors import OperatorError, SpecError
from featurestore_connectors.files import FileSource


def source(root: Path, kind: str, path: str, **options: Any) -> FileSource:
    return FileSource({"kind": kind, "path": path, "options": options}, root)


def rows(
    found: BatchSource, item: BatchInput, skip: int = 0, batch_rows: int = 1000, **kwargs: Any
) -> list[dict[str, Any]]:
    batches = list(found.read(item, skip, batch_rows, **kwargs))
    assert all(0 < batch.num_rows <= batch_rows for batch in batches)
    return [row for batch in batches for row in batch.to_pylist()]


def parquet(path: Path, numbers: range, group: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"n": list(numbers), "t": [f"{n:05}" for n in numbers]})
    pq.write_table(table, path, row_group_size=group)


def test_a_glob_gives_files_by_path_with_the_digest_of_their_bytes(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        parquet(tmp_path / "data" / f"{name}.parquet", range(2))
    (tmp_path / "data" / "notes.txt").write_text("x")
    items = source(tmp_path, "parquet", "data/*.parquet").inputs()
    assert [item.name for item in items] == ["data/a.parquet", "data/b.parquet", "data/c.parquet"]
    content = (tmp_path / "data" / "a.parquet").read_bytes()
    assert items[0].digest == xxhash.xxh3_128_hexdigest(content) == items[1].digest
    assert items[0].rows == 2


def test_a_folder_and_two_stars_reach_below(tmp_path: Path) -> None:
    for name in ("x/a.parquet", "y/z/b.parquet", "_tmp/c.parquet", "y/.hidden.parquet"):
        parquet(tmp_path / name, range(1))
    assert [i.name for i in source(tmp_path, "parquet", ".").inputs()] == ["x/a.parquet", "y/z/b.parquet"]
    assert len(source(tmp_path, "parquet", "y/**/*.parquet").inputs()) == 1
    outside = source(tmp_path / "x", "parquet", str(tmp_path / "y" / "z" / "*.parquet")).inputs()
    assert [item.name for item in outside] == [(tmp_path / "y" / "z" / "b.parquet").as_posix()]


def test_a_path_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"path: 'none/\*.csv' matches no file.*looked for as"):
        source(tmp_path, "csv", "none/*.csv").inputs()


def test_unknown_options_and_remote_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"'delimeter' is no option of csv. Did you mean 'delimiter'"):
        source(tmp_path, "csv", "x.csv", delimeter=";")
    with pytest.raises(SpecError, match="no local path"):
        source(tmp_path, "parquet", "s3://bucket/x.parquet")


@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
def test_reading_resumes_at_any_row_with_any_size_of_batch(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "parquet":
        parquet(path, range(10))
    elif kind == "csv":
        path.write_text("n,t\n" + "".join(f"{n},{n:05}\n" for n in range(10)))
    else:
        path.write_text("".join(f'{{"n": {n}}}\n' for n in range(10)))
    found = source(tmp_path, kind, f"x.{kind}")
    (item,) = found.inputs()
    everything = rows(found, item)
    assert len(everything) == 10
    for skip in range(12):
        for batch_rows in (1, 3, 4, 100):
            assert rows(found, item, skip, batch_rows) == everything[skip:]


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    parquet(tmp_path / "x.parquet", range(2))
    (tmp_path / "x.csv").write_text("n,t\n1,a\n")
    for kind, first in (("parquet", {"t": "00000"}), ("csv", {"t": "a"})):
        found = source(tmp_path, kind, f"x.{kind}")
        assert rows(found, found.inputs()[0], columns=["t", "other"])[0] == first


def test_csv_is_text_and_empty_is_null_unless_quoted(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('id,a,b\n00123,,""\n1.50,"x,\ny","say ""hi"""\nNA,null,NaN\n', "utf-8")
    found = source(tmp_path, "csv", "x.csv")
    assert rows(found, found.inputs()[0]) == [
        {"id": "00123", "a": None, "b": ""},
        {"id": "1.50", "a": "x,\ny", "b": 'say "hi"'},
        {"id": "NA", "a": "null", "b": "NaN"},
    ]


def test_csv_options(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("# made by hand\n1;'ü;';NA\n".encode("latin-1"))
    found = source(
        tmp_path,
        "csv",
        "x.csv",
        delimiter=";",
        quote="'",
        header=False,
        columns=["a", "b", "c"],
        skip_rows=1,
        encoding="latin-1",
        nulls=["NA"],
    )
    assert rows(found, found.inputs()[0]) == [{"a": "1", "b": "ü;", "c": None}]
    with pytest.raises(SpecError, match="needs columns:"):
        rows(source(tmp_path, "csv", "x.csv", header=False), found.inputs()[0])


def test_a_csv_line_of_another_width_comes_last_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n3\n4,5\n6,7,8\n")
    found = source(tmp_path, "csv", "x.csv")
    (item,) = found.inputs()
    bad = [
        {"__payload": b"3", "__malformed": "line 3 has 1 fields, not 2"},
        {"__payload": b"6,7,8", "__malformed": "line 5 has 3 fields, not 2"},
    ]
    assert rows(found, item) == [{"a": "1", "b": "2"}, {"a": "4", "b": "5"}, *bad]
    assert rows(found, item, skip=3) == bad[1:]
    assert rows(found, item, skip=4) == []


def test_compressed_text_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"a\n1\n"))
    (tmp_path / "x.json.bz2").write_bytes(bz2.compress(b'{"a":1}\n'))
    csv, lines = source(tmp_path, "csv", "."), source(tmp_path, "json", ".")
    assert rows(csv, csv.inputs()[0]) == [{"a": "1"}]
    assert rows(lines, lines.inputs()[0]) == [{"__payload": b'{"a":1}'}]


def test_empty_files_have_no_rows(tmp_path: Path) -> None:
    for name in ("x.csv", "x.json"):
        (tmp_path / name).write_text("")
        found = source(tmp_path, name[2:], name)
        assert rows(found, found.inputs()[0]) == []
    (tmp_path / "y.csv").write_text("a,b\n")
    found = source(tmp_path, "csv", "y.csv")
    assert rows(found, found.inputs()[0]) == []


def test_json_lines_skip_blank_ones_and_need_no_last_newline(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'\n{"a":1}\r\n\n {"a":2} \n{"a":3}')
    found = source(tmp_path, "json", "x.jsonl")
    lines = [row["__payload"] for row in rows(found, found.inputs()[0])]
    assert lines == [b'{"a":1}', b'{"a":2}', b'{"a":3}']


def test_a_json_array_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('[{"a": 1}]')
    found = source(tmp_path, "json", "x.json")
    with pytest.raises(OperatorError, match=r"one object a line. Convert it"):
        rows(found, found.inputs()[0])


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_broken_file_is_the_operators_error(tmp_path: Path, kind: str) -> None:
    (tmp_path / f"x.{kind}").write_bytes(b"a\n\xff\xfe\n")
    found = source(tmp_path, kind, f"x.{kind}")
    with pytest.raises(OperatorError, match=f"x.{kind}"):
        rows(found, found.inputs()[0])


def test_a_file_that_changes_between_listing_and_reading_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a\n1\n")
    found = source(tmp_path, "csv", "x.csv")
    (item,) = found.inputs()
    path.write_text("a\n2\n")
    os.utime(path, ns=(1, 1))
    with pytest.raises(OperatorError, match="changed while it was read"):
        rows(found, item)
    assert found.inputs()[0].digest != item.digest


def delta(path: Path, numbers: list[int], mode: Any = "append", **options: Any) -> None:
    data = pa.table({"n": numbers, "day": [f"d{n % 2}" for n in numbers]})
    deltalake.write_deltalake(path, data, mode=mode, **options)


def numbers_of(found: FileSource) -> list[int]:
    return sorted(row["n"] for item in found.inputs() for row in rows(found, item))


def test_delta_files_come_in_the_order_of_their_commits(tmp_path: Path) -> None:
    for number in (5, 3, 4):
        delta(tmp_path / "t", [number])
    found = source(tmp_path, "delta", "t")
    assert [row["n"] for item in found.inputs() for row in rows(found, item)] == [5, 3, 4]
    assert [item.digest for item in found.inputs()] == [item.digest for item in found.inputs()]


def test_the_columns_that_a_delta_table_is_partitioned_by_are_read(tmp_path: Path) -> None:
    delta(tmp_path / "t", [1, 2], partition_by=["day"])
    found = source(tmp_path, "delta", "t")
    read = [row for item in found.inputs() for row in rows(found, item)]
    assert sorted(read, key=lambda row: row["n"]) == [{"n": 1, "day": "d1"}, {"n": 2, "day": "d0"}]
    later = source(tmp_path, "delta", "t", from_version=0)
    assert sorted(later.inputs(), key=repr) == sorted(found.inputs(), key=repr)
    assert rows(later, later.inputs()[0], columns=["day"])[0].keys() == {"day"}


def test_a_compacted_delta_table_has_the_inputs_that_it_had(tmp_path: Path) -> None:
    delta(tmp_path / "t", [1])
    delta(tmp_path / "t", [2])
    found = source(tmp_path, "delta", "t")
    before = found.inputs()
    deltalake.DeltaTable(tmp_path / "t").optimize.compact()
    assert found.inputs() == before
    delta(tmp_path / "t", [3])
    assert found.inputs()[:2] == before
    assert numbers_of(found) == [1, 2, 3]


def test_a_delta_table_that_lost_rows_is_refused_and_read_from_a_version_on(tmp_path: Path) -> None:
    delta(tmp_path / "t", [1, 2])
    deltalake.DeltaTable(tmp_path / "t").delete("n = 1")
    delta(tmp_path / "t", [3])
    with pytest.raises(SpecError, match=r"not append-only: version 1 .* \{from_version: 1\}"):
        source(tmp_path, "delta", "t").inputs()
    assert numbers_of(source(tmp_path, "delta", "t", from_version=1)) == [2, 3]


def test_a_vacuumed_file_that_was_not_read_is_an_error(tmp_path: Path) -> None:
    delta(tmp_path / "t", [1])
    delta(tmp_path / "t", [2])
    table = deltalake.DeltaTable(tmp_path / "t")
    table.optimize.compact()
    table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    found = source(tmp_path, "delta", "t")
    with pytest.raises(OperatorError, match="vacuumed before it was ingested"):
        numbers_of(found)
    assert numbers_of(source(tmp_path, "delta", "t", from_version=2)) == [1, 2]


def test_no_delta_table_and_a_log_that_was_cleaned_up(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="'t' is no Delta table"):
        source(tmp_path, "delta", "t").inputs()
    delta(tmp_path / "t", [1])
    delta(tmp_path / "t", [2])
    deltalake.DeltaTable(tmp_path / "t").create_checkpoint()
    (tmp_path / "t" / "_delta_log" / f"{0:020}.json").unlink()
    with pytest.raises(SpecError, match="begins after version 0"):
        source(tmp_path, "delta", "t").inputs()
    assert numbers_of(source(tmp_path, "delta", "t", from_version=1)) == [1, 2]


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    pl.DataFrame({"at": [at], "f": [0.5], "l": [[1]]}).write_parquet(tmp_path / "x.parquet")
    found = source(tmp_path, "parquet", "x.parquet")
    assert rows(found, found.inputs()[0]) == [{"at": at, "f": 0.5, "l": [1]}]

"""Frames as batch sources: the digest is of the values, whichever library holds them (DESIGN 3.8)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from featurestore.errors import RequestError
from featurestore.rows.frames import FrameSource, to_polars

DATA: dict[str, list[Any]] = {
    "n": [1, None, 3],
    "x": [0.5, float("nan"), None],
    "t": ["a", None, ""],
    "at": [datetime(2026, 1, 1, tzinfo=UTC), None, None],
    "l": [[1], [], None],
}


def digest(frame: Any) -> str:
    return FrameSource(frame).inputs()[0].digest


def test_the_same_values_have_the_same_digest() -> None:
    frame = pl.DataFrame(DATA)
    expected = digest(frame)
    assert digest(frame.to_arrow()) == expected
    assert digest(frame.lazy()) == expected
    assert digest(pl.concat([frame[:1], frame[1:]], rechunk=False)) == expected
    narrow = frame.with_columns(pl.col("n").cast(pl.Int8), pl.col("t").cast(pl.Categorical))
    assert digest(narrow) == expected
    assert digest(pa.RecordBatch.from_pylist([{"n": 1}])) == digest(pl.DataFrame({"n": [1]}))


@pytest.mark.parametrize(
    "other",
    [
        {"n": [1, None, 4]},
        {"n": [1, 3, None]},
        {"n": [1.0, None, 3.0]},
        {"n": ["1", None, "3"]},
        {"m": [1, None, 3]},
        {"n": [1, None, 3], "m": [None, None, None]},
        {"n": [1, None]},
        {"n": [Decimal(1), None, Decimal(3)]},
    ],
)
def test_other_values_names_or_types_have_another(other: dict[str, list[Any]]) -> None:
    assert digest(pl.DataFrame(other)) != digest(pl.DataFrame({"n": [1, None, 3]}))


def test_pandas_reads_as_its_values_with_nan_for_missing() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": [1, 2], "x": [0.5, float("nan")], "t": ["a", None]}, index=[7, 7])
    assert digest(frame) == digest(pl.DataFrame({"n": [1, 2], "x": [0.5, None], "t": ["a", None]}))
    with pytest.raises(RequestError, match="mixed or unknown"):
        FrameSource(pandas.DataFrame({"o": [1, "a", object()]}))


@pytest.mark.parametrize("lazy", [False, True])
def test_reading_resumes_at_any_row(lazy: bool) -> None:
    frame = pl.DataFrame({"n": list(range(10)), "m": list(range(10))})
    found = FrameSource(frame.lazy() if lazy else frame, "mine")
    (item,) = found.inputs()
    assert (item.name, item.rows) == ("mine", 10)
    for skip in range(12):
        for batch_rows in (1, 3, 100):
            batches = list(found.read(item, skip, batch_rows, columns=["n"]))
            assert all(0 < batch.num_rows <= batch_rows for batch in batches)
            assert [row for batch in batches for row in batch.to_pylist()] == [
                {"n": n} for n in range(skip, 10)
            ]
    found.close()


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(RequestError, match="dict is no frame"):
        FrameSource({"a": [1]})


def test_two_columns_of_one_name_are_refused() -> None:
    pandas = pytest.importorskip("pandas")
    twice = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    for frame in (twice, twice.to_batches()[0], pandas.DataFrame([[1, 2]], columns=["a", "a"])):
        for read in (FrameSource, to_polars):
            with pytest.raises(RequestError, match=r"The frame has the column 'a' 2 times\. Drop or rename"):
                read(frame)


def test_types_that_the_door_never_takes_still_have_digests() -> None:
    frame = pl.DataFrame({"s": [{"a": 1}, None]})
    assert digest(frame) != digest(pl.DataFrame({"s": [{"a": 2}, None]}))


@pytest.mark.parametrize(
    "column",
    [
        pl.Series([[1.0, 2.0], None], dtype=pl.Array(pl.Float32, 2)),
        pl.Series([[[1.0, 2.0], None], None], dtype=pl.List(pl.Array(pl.Float32, 2))),
        pl.Series([[[1.0]], None], dtype=pl.Array(pl.Array(pl.Float64, 1), 1)),
        pl.Series([[{"a": 1}], None]),
        pl.Series([[timedelta(1)], None]),
        pl.Series([["a", None], None], dtype=pl.List(pl.Categorical)),
    ],
    ids=lambda column: str(column.dtype),
)
def test_columns_of_lists_of_any_kind_have_a_digest_of_their_values(column: pl.Series) -> None:
    frame = pl.DataFrame({"a": column})
    assert digest(frame) == digest(frame.clone())
    assert digest(frame) != digest(frame[:1])


def test_fixed_size_arrays_have_the_digest_of_lists() -> None:
    lists = pl.Series([[1.0, 2.0], None], dtype=pl.List(pl.Float64))
    assert digest(pl.DataFrame({"a": lists})) == digest(
        pl.DataFrame({"a": lists.cast(pl.Array(pl.Float64, 2))})
    )

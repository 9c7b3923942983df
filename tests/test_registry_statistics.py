"""Statistics of batches merge to the statistics of all rows together."""

from __future__ import annotations

import functools
import math
import statistics as reference
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.registry.statistics import BINS, Statistics, describe, merge
from featurestore.types import DataType, Field


def of(values: list[Any], kind: str = "float64") -> Statistics:
    declared = DataType.parse(kind)
    frame = pl.DataFrame({"x": pl.Series("x", values, dtype=declared.polars())})
    return describe(frame, [Field("x", declared)])["x"]


def test_the_statistics_of_a_few_values_by_hand() -> None:
    found = of([1.0, 2.0, 4.0, None, math.nan, math.inf])
    assert (found.rows, found.nulls, found.infinite, found.values) == (6, 1, 2, 3)
    assert (found.min, found.max) == (1.0, 4.0)
    assert found.mean == pytest.approx(7 / 3)
    assert found.std == pytest.approx(reference.stdev([1, 2, 4]))
    assert found.null_share == pytest.approx(1 / 6)
    assert found.histogram is not None
    # 20 bins from 1 to 4: the finest power of two is 1/4, since an eighth would take 25
    assert found.histogram.edges[:3] == [1.0, 1.25, 1.5]
    assert [place for place, count in enumerate(found.histogram.counts) if count] == [0, 4, 12]


def test_negative_values_and_edges_fall_into_the_bin_that_begins_at_them() -> None:
    found = of([-10.0, -0.5, -0.0, 0.0, 9.0]).histogram
    assert found is not None
    assert found.exponent == 0
    counts = dict(zip(found.edges, found.counts, strict=False))
    assert {edge: count for edge, count in counts.items() if count} == {-10.0: 1, -1.0: 1, 0.0: 2, 9.0: 1}


def test_equal_values_have_no_deviation_and_one_bin() -> None:
    found = of([0.1] * 1000)
    assert found.std == pytest.approx(0, abs=1e-15)
    assert found.histogram is not None
    assert found.histogram.counts == (1000,) + (0,) * (BINS - 1)
    assert found.histogram.edges[0] <= 0.1 < found.histogram.edges[1]


@pytest.mark.parametrize(
    ("kind", "values", "least", "greatest"),
    [
        ("int64", [2**63 - 1, -(2**63), None], -(2**63), 2**63 - 1),
        ("uint64", [2**64 - 1, 0], 0, 2**64 - 1),
        ("bool", [True, False, True], 0.0, 1.0),
        ("decimal(10,2)", [Decimal("1.25"), Decimal("-3.50")], -3.5, 1.25),
        ("date", [date(1970, 1, 3), date(1969, 12, 31), None], -1, 2),
        ("timestamp", [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), None], 1_000_000, 1_000_000),
        ("string", ["a", None], None, None),
        ("list<int64>", [[1], None], None, None),
        ("float64", [1e308, -1e308], -1e308, 1e308),
        ("float64", [1e308, 1e308, math.inf], 1e308, 1e308),
        ("float64", [5e-324, -5e-324, 1e308], -5e-324, 1e308),
        ("float64", [], None, None),
        ("float64", [None, math.nan], None, None),
        ("int64", [None, None], None, None),
        ("date", [None], None, None),
    ],
)
def test_each_type_has_what_applies_to_it(kind: str, values: list[Any], least: Any, greatest: Any) -> None:
    found = of(values, kind)
    assert (found.rows, found.nulls) == (len(values), values.count(None))
    assert (found.min, found.max) == (least, greatest)
    numbers = DataType.parse(kind).is_number or kind == "bool"
    assert (found.histogram is not None) == (numbers and least is not None)
    if found.histogram is not None:
        assert sum(found.histogram.counts) == found.values
    assert Statistics.from_json(found.to_json()) == found
    found.summary()


FLOATS = st.one_of(
    st.none(),
    st.floats(width=64),
    st.floats(-100, 100),
    st.integers(-20, 20).map(float),
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 0.1]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(FLOATS, max_size=12), min_size=1, max_size=5))
def test_merged_batches_are_all_rows_together(batches: list[list[float | None]]) -> None:
    merged = functools.reduce(merge, (of(batch) for batch in batches))
    backwards = functools.reduce(lambda a, b: merge(b, a), (of(batch) for batch in reversed(batches)))
    together = of([value for batch in batches for value in batch])
    for found in (merged, backwards):
        assert (found.rows, found.nulls, found.infinite) == (together.rows, together.nulls, together.infinite)
        assert (found.min, found.max) == (together.min, together.max)
        assert found.histogram == together.histogram
        if found.mean is not None and together.mean is not None:
            scale = max(abs(together.min or 0), abs(together.max or 0))
            assert found.mean == pytest.approx(together.mean, rel=1e-9, abs=1e-12 * scale + 1e-300)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=8), min_size=2, max_size=4))
def test_merged_integers_keep_exact_bounds_and_bins(batches: list[list[int]]) -> None:
    merged = functools.reduce(merge, (of(batch, "int64") for batch in batches))
    together = of([value for batch in batches for value in batch], "int64")
    assert (merged.min, merged.max) == (together.min, together.max)
    assert merged.histogram == together.histogram


def test_more_values_than_are_looked_at_at_once_have_the_statistics_of_all() -> None:
    values = [math.nan if n % 1000 == 0 else float(n) for n in range(40_000)]
    found = of(values)
    kept = [value for value in values if not math.isnan(value)]
    assert (found.infinite, found.min, found.max) == (40, 1.0, 39_999.0)
    assert found.mean == pytest.approx(reference.fmean(kept), rel=1e-12)
    assert found.std == pytest.approx(reference.stdev(kept), rel=1e-12)
    assert found.histogram is not None
    # 20 bins of 2048 from 0 on; each but the last is full but for its share of NaN
    assert found.histogram.edges[1] == 2048.0
    assert found.histogram.counts[0] == 2047 - 2
    assert sum(found.histogram.counts) == len(kept)


def test_variance_does_not_cancel_far_from_zero() -> None:
    values = [1e9 + n for n in range(1000)]
    merged = functools.reduce(merge, (of(values[n : n + 50]) for n in range(0, 1000, 50)))
    assert merged.std == pytest.approx(reference.stdev(range(1000)), rel=1e-9)

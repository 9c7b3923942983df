"""Statistics of a feature's values, mergeable batch by batch.

A histogram has 20 bins whose width is a power of two and whose edges are multiples of it: the finest
such grid on which 20 bins reach from the least value to the greatest. Grids of two batches nest, so merging
adds up bins of the finer one and never splits one: the merged counts are those of all the values together,
whatever the batches and their order. Means and squared deviations merge by Chan, Golub and LeVeque (1979).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from featurestore.types import Field

if TYPE_CHECKING:
    import polars

Numbers: TypeAlias = npt.NDArray[np.float64]

BINS = 20
_BLOCK = 16_384  # numbers that stay in the second-level cache
_FEW = 4096  # integers this near each other are counted one by one
_FINEST = -1000  # the exponent of the narrowest bins there are
_DIGITS = 40  # bins are never narrower than the greatest magnitude over 2**40


@dataclass(frozen=True)
class Histogram:
    """Counts of values in [(start + i) * 2**exponent, (start + i + 1) * 2**exponent), i from 0 to 19."""

    exponent: int
    start: int
    counts: tuple[int, ...]

    @property
    def edges(self) -> list[float]:
        """The 21 edges of the bins; one past the largest float is that."""
        return [_edge(self.start + i, self.exponent) for i in range(BINS + 1)]


@dataclass(frozen=True)
class Statistics:
    """What is known of a feature's values. Numbers and booleans have all of it, dates and timestamps
    min and max (days, microseconds), other types counts only.

    `rows` counts all; `nulls` and `infinite` (NaN among them) are left out of the rest. `squares` is the
    sum of squared deviations from `mean`; both are None where they overflow.
    """

    rows: int
    nulls: int
    infinite: int = 0
    mean: float | None = None
    squares: float | None = None
    min: float | int | None = None
    max: float | int | None = None
    histogram: Histogram | None = None

    @property
    def values(self) -> int:
        """How many values are neither null, infinite nor NaN."""
        return self.rows - self.nulls - self.infinite

    @property
    def null_share(self) -> float:
        """Nulls per row; 0 without rows."""
        return self.nulls / self.rows if self.rows else 0.0

    @property
    def std(self) -> float | None:
        """The sample's standard deviation; None for fewer than two values."""
        if self.squares is None or self.values < 2:
            return None
        return math.sqrt(self.squares / (self.values - 1))

    def summary(self) -> dict[str, Any]:
        """Return the count, null share, mean, std, min, max and histogram, for people and JSON."""
        shown = self.histogram
        return {
            "count": self.rows,
            "null_share": self.null_share,
            "mean": self.mean,
            "std": self.std,
            "min": self.min,
            "max": self.max,
            "histogram": None if shown is None else {"edges": shown.edges, "counts": list(shown.counts)},
        }

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Statistics:
        """Return the statistics that `to_json` wrote."""
        drawn = document["histogram"]
        histogram = drawn and Histogram(drawn["exponent"], drawn["start"], tuple(drawn["counts"]))
        return Statistics(**{**document, "histogram": histogram})


def describe(frame: polars.DataFrame, fields: Sequence[Field]) -> dict[str, Statistics]:
    """Return the statistics of the fields' columns in a frame."""
    return {field.name: _describe(frame[field.name], field) for field in fields}


def _describe(column: polars.Series, field: Field) -> Statistics:

    found = Statistics(rows=len(column), nulls=column.null_count())
    if field.type.name in ("date", "timestamp"):
        whole = column.drop_nulls().to_physical()
        return replace(found, min=whole.min(), max=whole.max())  # type: ignore[arg-type]
    if not (field.type.is_number or field.type.name == "bool"):
        return found
    parts = _parts(column.drop_nulls(), field)
    with np.errstate(over="ignore", invalid="ignore"):
        sizes, sums, lows, highs = zip(*map(_outline, parts()), strict=True)
        total = float(np.sum(sums))
    found = replace(found, infinite=len(column) - found.nulls - sum(sizes))
    if not found.values:
        return found
    mean = total / found.values
    low, high = min(lows), max(highs)
    exponent = _exponent(low, high)
    start = _bin(low, exponent)
    counts = np.zeros(BINS, np.int64)
    squares = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for numbers, often in parts():
            counts += np.bincount(_bins(numbers, exponent) - start, often, BINS).astype(np.int64)
            numbers -= mean
            np.square(numbers, out=numbers)
            squares += float(numbers.sum() if often is None else numbers @ often)
    is_bounded = math.isfinite(mean) and math.isfinite(squares)
    is_whole = field.type.is_integer
    return replace(
        found,
        mean=mean if is_bounded else None,
        squares=squares if is_bounded else None,
        min=int(column.min()) if is_whole else low,  # type: ignore[arg-type]
        max=int(column.max()) if is_whole else high,  # type: ignore[arg-type]
        histogram=Histogram(exponent, start, tuple(counts.tolist())),
    )


_Part: TypeAlias = tuple[Numbers, Numbers | None]
"""Finite numbers, and how often each occurs (None: once)."""


def _parts(present: polars.Series, field: Field) -> Callable[[], Iterator[_Part]]:
    """Return what yields the finite numbers: few different ones once, others so many as stay in a cache."""
    import polars as pl

    if len(present) and (field.type.is_integer or field.type.name == "bool"):
        least, greatest = int(present.min()), int(present.max())  # type: ignore[arg-type]
        if greatest - least < _FEW:
            places = present - least if field.type.name == "uint64" else present.cast(pl.Int64) - least
            often = np.bincount(places.to_numpy().astype(np.intp))
            distinct = np.flatnonzero(often)
            numbers = np.array([least + place for place in distinct.tolist()], np.float64)
            return lambda: iter([(numbers.copy(), often[distinct].astype(np.float64))])
    values = (present.cast(pl.Float64) if field.type.name == "decimal" else present).to_numpy()
    return lambda: _blocks(values)


def _blocks(values: npt.NDArray[Any]) -> Iterator[_Part]:
    for start in range(0, max(1, len(values)), _BLOCK):
        block = values[start : start + _BLOCK].astype(np.float64)
        yield block if np.isfinite(block.sum()) else block[np.isfinite(block)], None


def _outline(part: _Part) -> tuple[int, float, float, float]:
    """Return how many, their sum, the least and the greatest."""
    numbers, often = part
    if not len(numbers):
        return 0, 0.0, math.inf, -math.inf
    size, total = (len(numbers), numbers.sum()) if often is None else (int(often.sum()), numbers @ often)
    return size, float(total), float(numbers.min()), float(numbers.max())


def _bins(numbers: Numbers, exponent: int) -> npt.NDArray[np.int64]:
    scaled = numbers * 2.0**-exponent if abs(exponent) < 900 else np.ldexp(numbers, -exponent)
    bins = np.floor(scaled)
    if exponent > 0:
        bins[(scaled == 0) & (numbers < 0)] = -1  # too small to be told from 0 on this scale
    return bins.astype(np.int64)


def _edge(number: int, exponent: int) -> float:
    try:
        return math.ldexp(number, exponent)
    except OverflowError:
        return math.copysign(sys.float_info.max, number)


def _bin(value: float, exponent: int) -> int:
    scaled = math.ldexp(value, -exponent)
    return -1 if scaled == 0 and value < 0 else math.floor(scaled)


def _exponent(low: float, high: float) -> int:
    """Return the exponent of the finest grid on which 20 bins reach from `low` to `high`."""
    magnitude = max(abs(low), abs(high))
    exponent = max(_FINEST, math.frexp(magnitude)[1] - _DIGITS) if magnitude else _FINEST
    while _bin(high, exponent) - _bin(low, exponent) >= BINS:
        exponent += 1
    return exponent


def merge(one: Statistics, other: Statistics) -> Statistics:
    """Return the statistics of both batches' values together."""
    merged = Statistics(
        rows=one.rows + other.rows,
        nulls=one.nulls + other.nulls,
        infinite=one.infinite + other.infinite,
        min=_extreme(min, one.min, other.min),
        max=_extreme(max, one.max, other.max),
    )
    if one.histogram is None or other.histogram is None:
        full = one if one.histogram is not None else other
        return replace(merged, mean=full.mean, squares=full.squares, histogram=full.histogram)
    mean, squares = _moments(one, other)
    low, high = float(merged.min), float(merged.max)  # type: ignore[arg-type]
    return replace(
        merged,
        mean=mean,
        squares=squares,
        histogram=_merge_histograms(one.histogram, other.histogram, low, high),
    )


def _moments(one: Statistics, other: Statistics) -> tuple[float | None, float | None]:
    if one.mean is None or one.squares is None or other.mean is None or other.squares is None:
        return None, None
    step = other.mean - one.mean
    share = other.values / (one.values + other.values)
    mean = one.mean + step * share
    squares = one.squares + other.squares + step * step * one.values * share
    return (mean, squares) if math.isfinite(squares) else (None, None)


def _extreme(choose: Any, one: float | None, other: float | None) -> Any:
    return other if one is None else one if other is None else choose(one, other)


def _merge_histograms(one: Histogram, other: Histogram, low: float, high: float) -> Histogram:
    exponent = _exponent(low, high)
    start = _bin(low, exponent)
    counts = [0] * BINS
    for part in (one, other):
        for place, count in enumerate(part.counts):
            if count:
                counts[((part.start + place) >> (exponent - part.exponent)) - start] += count
    return Histogram(exponent, start, tuple(counts))

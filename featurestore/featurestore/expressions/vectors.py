"""Python and numpy functions over Polars columns, for what Polars computes otherwise than Python."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from featurestore.expressions.runtime import Overflow
from featurestore.types import DataType


def physical(series: pl.Series) -> pl.Series:
    """Return the column as row values have it: timestamps in microseconds, dates in days, in lists too."""
    leaf: Any = series.dtype
    while isinstance(leaf, pl.List):
        leaf = leaf.inner
    return series.to_physical() if leaf in (pl.Datetime, pl.Date) else series


def column(values: list[Any], kind: DataType) -> pl.Series:
    """Return row values as a column of a type."""
    if kind.name in ("timestamp", "date"):
        return pl.Series(values, dtype=pl.Int64).cast(kind.polars())
    if kind.name == "list" and kind.item is not None:
        return _lists(values, kind.item)
    return pl.Series(values, dtype=kind.polars())


def _lists(values: list[list[Any] | None], item: DataType) -> pl.Series:
    """Return lists as a column. By way of Arrow: Polars looks at each list by itself, 20 times as long."""
    import pyarrow as pa

    items = column(list(itertools.chain.from_iterable(held for held in values if held)), item)
    ends = np.zeros(len(values) + 1, np.int64)
    np.cumsum([len(held) if held else 0 for held in values], out=ends[1:])
    missing = pa.array([held is None for held in values], pa.bool_())
    made = pa.LargeListArray.from_arrays(pa.array(ends), items.to_arrow(), mask=missing)
    return pl.Series(made, dtype=pl.List(item.polars()))


def values(function: Callable[..., Any], kind: DataType, *arguments: pl.Expr) -> pl.Expr:
    """Return the function's value of each row: null where an argument is null, or where it overflows."""

    def or_null(*parts: Any) -> Any:
        try:
            return function(*parts)
        except Overflow:
            return None

    def run(batch: Sequence[pl.Series]) -> pl.Series:
        lists = _level([physical(series).to_list() for series in batch])
        try:
            return column(_apply(function, lists), kind)
        except Overflow:
            return column(_apply(or_null, lists), kind)

    return pl.map_batches(list(arguments), run, return_dtype=kind.polars(), is_elementwise=True)


def _level(lists: list[list[Any]]) -> list[list[Any]]:
    """Return lists of one length: a constant comes as a list of one."""
    height = min(len(held) for held in lists) if [] in lists else max(len(held) for held in lists)
    return [held * height if len(held) == 1 else held for held in lists]


def _apply(function: Callable[..., Any], lists: list[list[Any]]) -> list[Any]:
    """Return the function's value of each row, None where an argument is None."""
    if len(lists) == 1:
        return [None if x is None else function(x) for x in lists[0]]
    if len(lists) == 2:
        first, second = lists
        return [
            None if x is None or y is None else function(x, y) for x, y in zip(first, second, strict=True)
        ]
    return [None if None in parts else function(*parts) for parts in zip(*lists, strict=True)]


def arrays(function: Callable[..., Any], *arguments: pl.Expr) -> pl.Expr:
    """Return a numpy function of float64 columns; null where an argument is null."""

    def run(batch: Sequence[pl.Series]) -> pl.Series:
        held = [series.is_not_null() for series in batch]
        result = pl.Series(function(*(series.fill_null(0.0).to_numpy() for series in batch)))
        valid = functools.reduce(lambda a, b: a & b, held)
        return result.set(~valid, None) if not valid.all() else result

    return pl.map_batches(list(arguments), run, return_dtype=pl.Float64, is_elementwise=True)


def quotient(a: pl.Expr, b: pl.Expr) -> pl.Expr:
    """Return a / b of float64; null where b is 0.

    By numpy: Polars multiplies by the reciprocal of a single divisor, which is another number.
    """
    return pl.when(b != 0).then(arrays(_divide, a, b))


def _divide(a: Any, b: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.divide(a, b)


@functools.cache
def native_agrees(name: str) -> bool:
    """Return whether Polars' `log` or `exp` gives the same bits as Python's `math` on this machine.

    Both call the C library where Polars is linked to it, which a sample of values shows.
    """
    spread = np.random.default_rng(7)
    function: Callable[[float], float]
    if name == "log":
        sample = np.concatenate([spread.uniform(0, 10, 4000), np.exp(spread.uniform(-700, 700, 4000))])
        function = math.log
    else:
        sample = np.concatenate([spread.uniform(-700, 700, 4000), spread.normal(size=4000)])
        function = math.exp
    polars = pl.DataFrame({"x": sample}).select(getattr(pl.col("x"), name)()).to_series().to_numpy()
    python = np.array([function(x) for x in sample.tolist()])
    return bool((polars.view(np.int64) == python.view(np.int64)).all())

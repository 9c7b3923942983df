"""Exact sums of columns, whatever their size and order."""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext
from fractions import Fraction

import polars as pl


def exact_sum(values: pl.Series) -> Fraction:
    """Return the sum of finite numbers, without nulls. Of floats it is rounded once (`math.fsum`)."""
    if values.dtype.is_float():
        numbers = values.cast(pl.Float64).to_list()
        try:
            return Fraction(math.fsum(numbers))
        except OverflowError:  # on the way, or at the end
            return sum(map(Fraction, numbers), Fraction(0))
    if isinstance(values.dtype, pl.Decimal):
        with localcontext(Context(prec=100)):
            return Fraction(sum(values.to_list(), Decimal(0)))
    if values.dtype == pl.UInt64:
        halves = [values // 2**32, values % 2**32]
        high, low = (half.cast(pl.Int64).to_numpy() for half in halves)
    else:
        whole = values.cast(pl.Int64).to_numpy()
        high, low = whole >> 32, whole & 0xFFFFFFFF
    return Fraction((int(high.sum()) << 32) + int(low.sum()))

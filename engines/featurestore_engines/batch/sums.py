"""Exact sums of columns, whatever their size and order."""

from __future__ import annotations

from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl


def exact_sum(values: pl.Series) -> Fraction:
    """Return the sum of finite numbers, without nulls. Integers, booleans, floats and decimals are exact.

    A float64 is a whole number times a power of two: those of one power are summed as whole numbers.
    """
    if isinstance(values.dtype, pl.Decimal):
        with localcontext(Context(prec=100)):
            return Fraction(sum(values.to_list(), Decimal(0)))
    if values.dtype.is_float():
        return _float_sum(values.cast(pl.Float64).to_numpy())
    if values.dtype == pl.UInt64:
        halves = [values // 2**32, values % 2**32]
        high, low = (half.cast(pl.Int64).to_numpy() for half in halves)
    else:
        whole = values.cast(pl.Int64).to_numpy()
        high, low = whole >> 32, whole & 0xFFFFFFFF
    return Fraction((int(high.sum()) << 32) + int(low.sum()))


def _float_sum(values: Any) -> Fraction:
    if not len(values):
        return Fraction(0)
    mantissa, exponent = np.frexp(values)
    order = np.argsort(exponent, kind="stable")
    exponent = exponent[order]
    whole = np.ldexp(mantissa[order], 53).astype(np.int64)
    starts = np.flatnonzero(np.diff(exponent, prepend=exponent[0] - 1))
    highs, lows = np.add.reduceat(whole >> 32, starts), np.add.reduceat(whole & 0xFFFFFFFF, starts)
    total = Fraction(0)
    for power, high, low in zip(exponent[starts].tolist(), highs.tolist(), lows.tolist(), strict=True):
        total += ((high << 32) + low) * Fraction(2) ** (power - 53)
    return total

"""Double-double arithmetic on numpy arrays: a value is an unevaluated sum hi + lo of two float64.

About 106 bits of precision, so that sums are rounded once, at the end. The algorithms are Knuth's and
Dekker's, as given in Hida, Li and Bailey, "Library for Double-Double and Quad-Double Arithmetic"
(2007). Where hi is not finite, lo is 0 and hi follows IEEE 754.
"""

from __future__ import annotations

import numpy as np

from featurestore.aggregates.arrays import Array

_SPLITTER = 134217729.0  # 2**27 + 1


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return (rounded a + b, the exact error of that rounding)."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = a + b
        part = total - a
        error = (a - (total - part)) + (b - part)
    return total, _finite(total, error)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """Return (rounded a * b, the exact error of that rounding)."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        product = a * b
        a_high, a_low = _split(a)
        b_high, b_low = _split(b)
        error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, np.where(np.isfinite(error), error, 0.0)


def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the double-double a + b."""
    high, error = two_sum(a[0], b[0])
    low, low_error = two_sum(a[1], b[1])
    high, error = _quick(high, error + low)
    return _quick(high, error + low_error)


def multiply(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the double-double a * b."""
    high, error = two_product(a[0], b[0])
    with np.errstate(over="ignore", invalid="ignore"):
        error = error + (a[0] * b[1] + a[1] * b[0])
    return _quick(high, error)


def divide(a: tuple[Array, Array], b: Array) -> tuple[Array, Array]:
    """Return the double-double a / b for whole numbers b > 0 that float64 holds."""
    with np.errstate(over="ignore", invalid="ignore"):
        quotient = a[0] / b
        product, error = two_product(quotient, b)
        rest = ((a[0] - product) - error) + a[1]
        return _quick(quotient, _finite(quotient, rest / b))


def _split(a: Array) -> tuple[Array, Array]:
    scaled = a * _SPLITTER
    high = scaled - (scaled - a)
    return high, a - high


def _quick(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a + b normalised, where |a| >= |b|."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = a + b
        error = b - (total - a)
    return total, _finite(total, error)


def _finite(total: Array, error: Array) -> Array:
    return np.where(np.isfinite(total), error, 0.0)

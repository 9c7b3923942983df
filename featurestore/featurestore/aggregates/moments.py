"""States of powers of numbers: what variance, skewness and kurtosis need."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from featurestore.aggregates import doubledouble, ranges
from featurestore.aggregates.arrays import Array, Partial
from featurestore.aggregates.carriers import pairs
from featurestore.aggregates.states import Count, Extreme, Fixed, FloatSum, exact_sums

_AT_ONCE = 4_000_000  # rows copied at once
_NONE = -2000  # the exponent of deviations that are all 0


class Moments(Fixed):
    """Count, sum, sum of squares (both double-double), least and greatest: what variance needs.

    The square's rounding error is kept, so that the variance holds for means far above the deviation;
    least equal to greatest makes it 0.
    """

    name = "moments"
    dtypes = ("<i8", "<f8", "<f8", "<f8", "<f8", "<f8", "<f8")

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        top, rest = pairs(values)
        squares = doubledouble.two_product(top, top)
        sums: tuple[Array, ...] = (top,)
        if rest is not None:  # integers and decimals past 2**53: nothing of their squares may be lost
            cross = doubledouble.two_product(top * 2.0, rest)
            squares, sums = (*squares, *cross, rest * rest), (top, rest)  # type: ignore[assignment]
        least = Extreme("f8", False).reduce(top, low, high)[1]
        greatest = Extreme("f8", True).reduce(top, low, high)[1]
        return (
            *Count().reduce(values, low, high),
            *exact_sums(low, high, *sums),
            *exact_sums(low, high, *squares),
            least,
            greatest,
        )

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        count, found = Count().combine((states[0],), low, high), states[0] > 0
        sums = FloatSum().combine(states[1:3], low, high)
        squares = FloatSum().combine(states[3:5], low, high)
        least = Extreme("f8", False).combine((found, states[5]), low, high)[1]
        greatest = Extreme("f8", True).combine((found, states[6]), low, high)[1]
        return (*count, *sums, *squares, least, greatest)

    def merge(self, a: Partial, b: Partial) -> Partial:
        sums = doubledouble.add((a[1], a[2]), (b[1], b[2]))
        squares = doubledouble.add((a[3], a[4]), (b[3], b[4]))
        has_a, has_b = a[0] > 0, b[0] > 0
        least = Extreme("f8", False).merge((has_a, a[5]), (has_b, b[5]))[1]
        greatest = Extreme("f8", True).merge((has_a, a[6]), (has_b, b[6]))[1]
        return (a[0] + b[0], *sums, *squares, least, greatest)


class CentralMoments(Fixed):
    """Count, mean (double-double), and the sums of the second to fourth powers of deviations from it.

    Deviations are divided by 2**exponent, so that no power leaves the range of float64; the mean is kept to
    some 32 digits, so that the deviations between the means of two states are exact to the last digit. The
    merge is Pébay's, "Formulas for Robust, One-Pass Parallel Computation of Covariances and Arbitrary-Order
    Statistical Moments" (Sandia, 2008). NaN and infinities make all of it NaN.
    """

    name = "central_moments"
    dtypes = ("<i8", "<f8", "<f8", "<i8", "<f8", "<f8", "<f8")

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        top, rest = pairs(values)
        if rest is None:
            rest = np.zeros(len(values))
        sizes = np.maximum(high - low, 0)
        if ranges.overlap(int(sizes.sum()), len(values), len(low)):
            ones = np.ones(len(values), np.int64)
            odd = np.where(np.isfinite(top), 0.0, np.nan)
            rows = (ones, top + odd, rest, _NONE * ones, odd, odd, odd)
            return ranges.fold(rows, low, high, self.merge, self.empty)
        result = self.empty(len(low))
        for part in copied(sizes):
            made = self._expanded(top, rest, low[part], sizes[part])
            for column, items in zip(result, made, strict=True):
                column[part] = items
        return result

    @staticmethod
    def _expanded(top: Array, rest: Array, low: Array, sizes: Array) -> Partial:
        """Return the states of ranges that hold rows, from a copy of each range's own."""
        index, starts, owner = expand(low, sizes)
        x, count = top[index], sizes.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            middle = np.add.reduceat(x / count[owner], starts)
            middle = np.clip(middle, np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts))
            away = (x - middle[owner]) + rest[index]
            furthest = np.maximum.reduceat(np.abs(away), starts)
            exponent = np.where(furthest == 0.0, _NONE, np.frexp(furthest)[1])
            d = np.ldexp(away, -exponent[owner])
            squares = d * d
            s1, s2, s3, s4 = (
                np.add.reduceat(item, starts) for item in (d, squares, squares * d, squares * squares)
            )
            e = s1 / count  # how far the middle lies from the mean
            second = s2 - e * s1
            third = s3 - 3 * e * s2 + 2 * e * e * s1
            fourth = s4 - 4 * e * s3 + 6 * e * e * s2 - 3 * e * e * e * s1
        high, error = doubledouble.two_sum(middle, np.ldexp(e, exponent))
        return sizes, high, error, exponent, second, third, fourth

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        return ranges.fold(states, low, high, self.merge, self.empty)

    def merge(self, a: Partial, b: Partial) -> Partial:
        size_a, size_b = a[0].astype(np.float64), b[0].astype(np.float64)
        size = np.where(a[0] + b[0] > 0, size_a + size_b, 1.0)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            apart = doubledouble.add((b[1], b[2]), (-a[1], -a[2]))
            spread = np.frexp(apart[0])[1].astype(np.int64)
            exponent = np.maximum(np.maximum(a[3], b[3]), np.where(apart[0] == 0.0, _NONE, spread))
            d = np.ldexp(apart[0] + apart[1], -exponent)
            a2, a3, a4 = (np.ldexp(a[i], (i - 2) * (a[3] - exponent)) for i in (4, 5, 6))
            b2, b3, b4 = (np.ldexp(b[i], (i - 2) * (b[3] - exponent)) for i in (4, 5, 6))
            p, q = size_a / size, size_b / size
            second = a2 + b2 + d * d * size_a * q
            third = a3 + b3 + d * d * d * size_a * q * (p - q) + 3 * d * (p * b2 - q * a2)
            fourth = (
                a4
                + b4
                + d**4 * size_a * q * (p * p - p * q + q * q)
                + 6 * d * d * (p * p * b2 + q * q * a2)
                + 4 * d * (p * b3 - q * a3)
            )
            step = doubledouble.divide(doubledouble.multiply(apart, (size_b, np.zeros(len(size_b)))), size)
            mean = doubledouble.add((a[1], a[2]), step)
        merged = (a[0] + b[0], *mean, exponent, second, third, fourth)
        only_a, only_b = b[0] == 0, a[0] == 0
        return tuple(
            np.where(only_a, x, np.where(only_b, y, both)) for x, y, both in zip(a, b, merged, strict=True)
        )


def expand(low: Array, sizes: Array) -> tuple[Array, Array, Array]:
    """Return the rows of ranges one after another, where each range starts among them, and whose each is."""
    starts = np.cumsum(sizes) - sizes
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return np.arange(len(owner)) + (low - starts)[owner], starts, owner


def copied(sizes: Array) -> Iterator[Array]:
    """Yield the numbers of the ranges that hold rows, in parts whose rows together fit in memory."""
    held = np.flatnonzero(sizes > 0)
    if len(held):
        cuts = np.flatnonzero(np.diff(np.cumsum(sizes[held]) // _AT_ONCE)) + 1
        yield from np.split(held, cuts)

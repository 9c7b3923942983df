"""Exact sums over ranges, from prefix sums of integers.

A float64 is a whole number times a power of two. Each value is cut into 32-bit limbs on one common
grid, and each limb is summed in int64, which is exact for up to 2**31 rows; so is the difference of two
prefix sums. The result is rounded once, in double-double: a long accumulator after Kulisch, laid out
as arrays. Its cost per range does not depend on the range's length, and nothing can drift.
"""

from __future__ import annotations

import numpy as np

from featurestore.aggregates import doubledouble
from featurestore.aggregates.arrays import Array

MAX_LIMBS = 8
_LIMB = np.uint64(32)
_MASK = np.uint64(0xFFFFFFFF)


class RangeSums:
    """Sums over ranges of an array of finite float64, or of a pair of them (hi + lo each)."""

    def __init__(self, parts: tuple[Array, ...], limbs: int, exponent: int) -> None:
        self._exponent = exponent
        size = len(parts[0])
        self._prefix = [np.zeros(size + 1, np.int64) for _ in range(limbs)]
        for part in parts:
            self._add(part)
        for prefix in self._prefix:
            np.cumsum(prefix, out=prefix)

    @classmethod
    def build(cls, *parts: Array) -> RangeSums | None:
        """Return the sums of the parts' elementwise total; None where the exponents lie too far apart."""
        low, high = 2000, -2000
        for part in parts:
            mantissa, exponent = np.frexp(part)
            exponent = exponent[mantissa != 0.0]
            if len(exponent):
                low, high = min(low, int(exponent.min()) - 53), max(high, int(exponent.max()))
        if low > high:
            low = high = 0
        limbs = (high - low) // 32 + 2
        return cls(parts, limbs, low) if limbs <= MAX_LIMBS else None

    def _add(self, part: Array) -> None:
        mantissa, exponent = np.frexp(part)
        whole = np.ldexp(np.abs(mantissa), 53).astype(np.uint64)
        shift = np.where(mantissa != 0.0, exponent - 53 - self._exponent, 0)
        first, bits = shift >> 5, (shift & 31).astype(np.uint64)
        low = whole << bits
        high = np.where(bits > 0, whole >> ((np.uint64(64) - bits) & np.uint64(63)), np.uint64(0))
        sign = np.where(part < 0, -1, 1)
        pieces = [(low & _MASK), (low >> _LIMB), high]
        signed = [piece.astype(np.int64) * sign for piece in pieces]
        for number, prefix in enumerate(self._prefix):
            for step, piece in enumerate(signed):
                here = first == number - step
                if here.all():
                    prefix[1:] += piece
                elif here.any():
                    prefix[1:] += np.where(here, piece, 0)

    def total(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Return the double-double sum of each range [low, high)."""
        result = (np.zeros(len(low)), np.zeros(len(low)))
        for number in range(len(self._prefix) - 1, -1, -1):
            limb = self._prefix[number][high] - self._prefix[number][low]
            scale = self._exponent + 32 * number
            for piece in ((limb >> 32) * 2.0**32, (limb & 0xFFFFFFFF).astype(np.float64)):
                with np.errstate(over="ignore"):
                    result = doubledouble.add(result, (np.ldexp(piece, scale), np.zeros(len(low))))
        return result

"""Exact sums over ranges, from prefix sums of integers.

A float64 is a whole number times a power of two. Each value is cut into limbs, whole numbers on grids that
get finer by one step from limb to limb; each limb is summed in int64, which is exact as a limb has so few
bits that no sum of all rows overflows; so is the difference of two prefix sums. The result is rounded once,
in double-double: a long accumulator after Kulisch, laid out as arrays. Its cost per range does not depend on
the range's length, and nothing can drift.
"""

from __future__ import annotations

import numpy as np

from featurestore.aggregates import doubledouble
from featurestore.aggregates.arrays import Array

MAX_LIMBS = 8


class RangeSums:
    """Sums over ranges of an array of finite float64, or of several of them (each row the sum of its parts).

    Limb k of a value is a whole number of 2**(exponent - k * bits).
    """

    def __init__(self, prefixes: list[Array], exponent: int, bits: int) -> None:
        self._prefixes = prefixes
        self._exponent = exponent
        self._bits = bits

    @classmethod
    def build(cls, *parts: Array) -> RangeSums | None:
        """Return the sums of the parts' elementwise total; None where the exponents lie too far apart."""
        size = len(parts[0])
        bits = 61 - (size * len(parts)).bit_length()
        greatest = max(max(float(p.max(initial=0.0)), -float(p.min(initial=0.0))) for p in parts)
        exponent = int(np.frexp(greatest)[1]) - bits
        rests = [np.ldexp(part, -exponent) for part in parts]
        if exponent > 0:  # what is very small beside the greatest may have been lost
            pairs = zip(parts, rests, strict=True)
            if not all(np.array_equal(np.ldexp(rest, exponent), part) for part, rest in pairs):
                return None
        prefixes: list[Array] = []
        while not prefixes or any(rest.any() for rest in rests):
            if len(prefixes) == MAX_LIMBS:
                return None
            prefix = np.zeros(size + 1, np.int64)
            for rest in rests:
                whole = np.rint(rest)
                prefix[1:] += whole.astype(np.int64)
                rest -= whole  # exact: the two differ by half at most
                rest *= 2.0**bits
            np.cumsum(prefix, out=prefix)
            prefixes.append(prefix)
        return cls(prefixes, exponent, bits)

    def total(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Return the double-double sum of each range [low, high)."""
        result: tuple[Array, Array] | None = None
        for number in range(len(self._prefixes) - 1, -1, -1):
            limb = self._prefixes[number][high] - self._prefixes[number][low]
            top = limb.astype(np.float64)
            rest = (limb - top.astype(np.int64)).astype(np.float64)
            scale = 2.0 ** (-self._bits * number)
            scaled = (top * scale, rest * scale)
            result = scaled if result is None else doubledouble.add(scaled, result)
        assert result is not None
        with np.errstate(over="ignore"):
            total, rest = np.ldexp(result[0], self._exponent), np.ldexp(result[1], self._exponent)
        return total, np.where(np.isfinite(total), rest, 0.0)

"""States that depend on when rows happened: sums that decay, and the instants of the edges."""

from __future__ import annotations

import numpy as np

from featurestore.aggregates import ranges
from featurestore.aggregates.arrays import Array, Partial
from featurestore.aggregates.carriers import pairs
from featurestore.aggregates.moments import copied, expand
from featurestore.aggregates.states import Edge, Fixed

_OVERLAP = 32  # rows in all ranges together per row, beyond which a tree over the rows is cheaper
_GONE = 4096  # halvings after which nothing is left of any float

Fade = tuple[Array, Array]
"""Factors from above a half to 1, and powers of two, that are multiplied with values."""


class EdgeTime(Edge):
    """The event time of the first or the last value."""

    timed = True

    def __init__(self, last: bool) -> None:
        super().__init__("<i8", last)
        self.name = f"{'last' if last else 'first'}_time"

    def reduce(self, values: Array, low: Array, high: Array, times: Array | None = None) -> Partial:
        return super().reduce(values if times is None else times, low, high)


class Decayed(Fixed):
    """The instant of the newest value, the sum of values as they have decayed until then, and of weights.

    A value weighs 2**-(age / half_life). All weights are at most 1, whatever is merged with what, so that
    nothing overflows: forward decay with a landmark that moves, after Cormode et al., "Forward Decay: A
    Practical Time Decay Model for Streaming Systems" (ICDE 2009). Without values the weight is 0.
    """

    timed = True
    dtypes = ("<i8", "<f8", "<f8")

    def __init__(self, half_life: int) -> None:
        self.half_life = half_life
        self.name = f"decayed:{half_life}"

    def reduce(self, values: Array, low: Array, high: Array, times: Array | None = None) -> Partial:
        assert times is not None
        numbers = pairs(values)[0]
        sizes = np.maximum(high - low, 0)
        if int(sizes.sum()) > _OVERLAP * (len(values) + 16 * len(low)):
            rows = (times, numbers, np.ones(len(values)))
            return ranges.fold(rows, low, high, self.merge, self.empty)
        newest, total, weight = self.empty(len(low))
        for part in copied(sizes):
            index, starts, owner = expand(low[part], sizes[part])
            newest[part] = times[high[part] - 1]
            fade = fade_of(newest[part][owner] - times[index], self.half_life)
            with np.errstate(over="ignore", invalid="ignore"):
                total[part] = np.add.reduceat(faded(numbers[index], fade), starts)
            weight[part] = np.add.reduceat(weight_of(fade), starts)
        return newest, total, weight

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        return ranges.fold(states, low, high, self.merge, self.empty)

    def merge(self, a: Partial, b: Partial) -> Partial:
        only_a, only_b = b[2] == 0.0, a[2] == 0.0
        newest = np.where(only_a, a[0], np.where(only_b, b[0], np.maximum(a[0], b[0])))
        fade_a = fade_of(np.where(only_b, 0, newest - a[0]), self.half_life)
        fade_b = fade_of(np.where(only_a, 0, newest - b[0]), self.half_life)
        with np.errstate(over="ignore", invalid="ignore"):
            total = faded(a[1], fade_a) + faded(b[1], fade_b)
        return newest, total, faded(a[2], fade_a) + faded(b[2], fade_b)


def fade_of(age: Array, half_life: int) -> Fade:
    """Return 2**-(age / half_life) for ages in microseconds, none below 0, within a few units of 2**-53.

    As a fraction and a power of two, which apart stay exact where their product leaves the normal floats.
    """
    halvings, rest = np.divmod(age, half_life)
    return np.exp2(rest / -half_life), -np.minimum(halvings, _GONE)


def weight_of(fade: Fade) -> Array:
    """Return the weight that a fade is."""
    with np.errstate(under="ignore"):
        return np.ldexp(*fade)


def faded(values: Array, fade: Fade) -> Array:
    """Return values times their weights; infinities and NaN stay, however little they weigh."""
    with np.errstate(invalid="ignore", under="ignore"):
        return np.where(np.isfinite(values), np.ldexp(values * fade[0], fade[1]), values)

"""States that depend on when rows happened: sums that decay, and the instants of the edges."""

from __future__ import annotations

import numpy as np

from featurestore.aggregates import ranges
from featurestore.aggregates.arrays import Array, Partial
from featurestore.aggregates.carriers import pairs
from featurestore.aggregates.moments import copied, expand
from featurestore.aggregates.states import Edge, Fixed

_GONE = 4096  # halvings after which nothing is left of any float


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
        if ranges.overlap(int(sizes.sum()), len(values), len(low)):
            rows = (times, numbers, np.ones(len(values)))
            return ranges.fold(rows, low, high, self.merge, self.empty)
        newest, total, weight = self.empty(len(low))
        for part in copied(sizes):
            index, starts, owner = expand(low[part], sizes[part])
            newest[part] = times[high[part] - 1]
            ages = newest[part][owner] - times[index]
            with np.errstate(over="ignore", invalid="ignore"):
                total[part] = np.add.reduceat(faded(numbers[index], ages, self.half_life), starts)
            weight[part] = np.add.reduceat(faded(np.ones(len(ages)), ages, self.half_life), starts)
        return newest, total, weight

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        return ranges.fold(states, low, high, self.merge, self.empty)

    def merge(self, a: Partial, b: Partial) -> Partial:
        only_a, only_b = b[2] == 0.0, a[2] == 0.0
        newest = np.where(only_a, a[0], np.where(only_b, b[0], np.maximum(a[0], b[0])))
        age_a = np.where(only_b, 0, newest - a[0])
        age_b = np.where(only_a, 0, newest - b[0])
        with np.errstate(over="ignore", invalid="ignore"):
            total = faded(a[1], age_a, self.half_life) + faded(b[1], age_b, self.half_life)
        return newest, total, faded(a[2], age_a, self.half_life) + faded(b[2], age_b, self.half_life)


def faded(values: Array, ages: Array, half_life: int) -> Array:
    """Return values times 2**-(age / half_life), within a few units of 2**-53; ages, from 0, in microseconds.

    Halved last, so that a large value times a weight too small for a float loses nothing. Infinities and
    NaN stay, however little they weigh.
    """
    halvings, rest = np.divmod(ages, half_life)
    with np.errstate(invalid="ignore", under="ignore"):
        result = np.ldexp(values * np.exp2(rest / -half_life), -np.minimum(halvings, _GONE))
        return np.where(np.isfinite(values), result, values)

"""Reduction of ranges of partial states, in order, by a binary tree built from the leaves up.

A range costs as many merges as the logarithm of its length, whatever the merge is; no state is ever
subtracted. Where a state may be merged twice with the same effect, two merges do (`doubled`).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from featurestore.aggregates.arrays import Array, Partial, put, take

Merge = Callable[[Partial, Partial], Partial]


OVERLAP = 32
"""How many rows all ranges may hold together, per row there is, before a tree over the rows is cheaper."""


def overlap(total: int, rows: int, asked: int) -> bool:
    """Tell whether so many ranges hold so many rows in all that a tree over the rows is cheaper."""
    return total > OVERLAP * (rows + 16 * asked)


def fold(partial: Partial, low: Array, high: Array, merge: Merge, empty: Callable[[int], Partial]) -> Partial:
    """Return one state per range [low, high) of `partial`, merged left to right.

    `merge` takes two partials of one length, the earlier first; `empty(n)` returns n neutral states.
    """
    low, high = low.copy(), np.maximum(low, high)
    left, right = empty(len(low)), empty(len(low))
    level = partial
    offset = int(low.min(initial=0)) if len(low) else 0
    if len(low) and len(level[0]):
        offset = int(low.min()) & ~1
        level = take(level, slice(offset, int(high.max())))
        low -= offset
        high = high - offset
    active = np.flatnonzero(low < high)
    while len(active):
        odd = active[(low[active] & 1) == 1]
        if len(odd):
            put(left, odd, merge(take(left, odd), take(level, low[odd])))
            low[odd] += 1
        odd = active[((high[active] & 1) == 1) & (low[active] < high[active])]
        if len(odd):
            high[odd] -= 1
            put(right, odd, merge(take(level, high[odd]), take(right, odd)))
        low[active] >>= 1
        high[active] >>= 1
        active = active[low[active] < high[active]]
        if len(active):
            level = _halve(level, merge)
    return merge(left, right)


def doubled(values: Array, low: Array, high: Array, pick: np.ufunc) -> Array:
    """Return `pick` (maximum, minimum) over each range [low, high) of values, none of them empty.

    Two overlapping runs of a power of two cover a range. A sparse table holds the runs' picks; of it, one
    power at a time is there.
    """
    result = np.empty(len(low), values.dtype)
    power = np.frexp((high - low).astype(np.float64))[1] - 1  # the greatest with 2**power <= length
    order = np.argsort(power, kind="stable")
    cuts = np.searchsorted(power[order], np.arange(int(power.max(initial=0)) + 2))
    for level, (start, end) in enumerate(pairwise(cuts.tolist())):
        asked = order[start:end]
        result[asked] = pick(values[low[asked]], values[high[asked] - (1 << level)])
        if end < len(order):
            values = pick(values[: -(1 << level)], values[1 << level :])
    return result


def _halve(level: Partial, merge: Merge) -> Partial:
    size = len(level[0]) & ~1
    merged = merge(take(level, slice(0, size, 2)), take(level, slice(1, size, 2)))
    if size == len(level[0]):
        return merged
    last = take(level, slice(size, None))
    return tuple(np.concatenate([a, b]) for a, b in zip(merged, last, strict=True))

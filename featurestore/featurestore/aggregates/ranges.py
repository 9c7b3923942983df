"""Reduction of ranges of partial states, in order, by a binary tree built from the leaves up.

A range costs as many merges as the logarithm of its length, whatever the merge is; no state is ever
subtracted.
"""

from __future__ import annotations

from collections.abc import Callable

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


def _halve(level: Partial, merge: Merge) -> Partial:
    size = len(level[0]) & ~1
    merged = merge(take(level, slice(0, size, 2)), take(level, slice(1, size, 2)))
    if size == len(level[0]):
        return merged
    last = take(level, slice(size, None))
    return tuple(np.concatenate([a, b]) for a, b in zip(merged, last, strict=True))

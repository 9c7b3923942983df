"""Entity and time of rows as one whole number each, by which they are sorted, merged and searched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featurestore.aggregates.arrays import Array


@dataclass(frozen=True)
class Places:
    """`numbers` are code * span + (time - first): they rise as rows do in the order of entity and time."""

    numbers: Array
    first: int
    span: int

    @staticmethod
    def of(codes: Array, times: Array, entities: int) -> Places | None:
        """Return the places of rows; None where 63 bits do not hold them. Codes are below `entities`."""
        if not len(times):
            return Places(np.zeros(0, np.int64), 0, 1)
        first = int(times.min())
        span = int(times.max()) - first + 2
        if entities * span > 2**62:
            return None
        return Places(codes * span + (times - first), first, span)

    def search(self, codes: Array, instants: Array) -> Array:
        """Return per (code, instant) the number of the entity's first row at or after the instant."""
        clipped = np.clip(instants - self.first, 0, self.span - 1)
        return np.asarray(np.searchsorted(self.numbers, codes * self.span + clipped), np.int64)


def order_by_time(codes: Array, times: Array, entities: int) -> Array | None:
    """Return the stable order by code, then time; None where they are in it.

    What consists of a few sorted runs, as files that were compacted do, is merged rather than sorted: the
    stable sort goes by the runs that it finds.
    """
    places = Places.of(codes, times, entities)
    if places is None:
        return np.lexsort((times, codes))
    numbers = places.numbers
    return None if (numbers[1:] >= numbers[:-1]).all() else np.argsort(numbers, kind="stable")

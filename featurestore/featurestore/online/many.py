"""Aggregates of many entities, the rows of each of which are one leaf: all are computed at once.

The general path (`view`) makes arrays of every entity, and finds its windows one by one. Here the leaves'
bytes are joined, the rows before each edge of a window are counted for all entities together, and the same
algebra follows, so both give the same values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featurestore.aggregates.arrays import Array
from featurestore.aggregates.inputs import RowParts
from featurestore.aggregates.layout import AllFinished, Values
from featurestore.online.layout import OnlineLayout
from featurestore.online.packed import PackedLeaf


class ManyRows:
    """Reads the outputs of a layout from leaves."""

    def __init__(self, layout: OnlineLayout) -> None:
        self._aggregates = layout.aggregates
        self._parts = layout.parts
        self._dtypes = layout.parts.dtypes()

    @staticmethod
    def of(layout: OnlineLayout) -> ManyRows | None:
        """Return what reads this layout; None where not all that leaves hold are numbers that count."""
        parts = layout.parts
        is_plain = not (layout.has_deleted or parts.conditions or parts.categories)
        return ManyRows(layout) if is_plain and "object" not in parts.dtypes() else None

    def read(self, leaves: Sequence[PackedLeaf], instants: Sequence[int]) -> AllFinished:
        """Return the outputs' values and validity, one per leaf, at its instant.

        Each leaf has rows, and each column of it a value in every row.
        """
        times = np.frombuffer(b"".join([leaf.times for leaf in leaves]), "<i8")
        sizes = np.array([len(leaf.times) >> 3 for leaf in leaves])
        valid = np.ones(len(times), bool)
        columns = [
            (np.frombuffer(b"".join([leaf.columns[number][1] for leaf in leaves]), dtype), valid)
            for number, dtype in enumerate(self._dtypes)
        ]
        parts = RowParts(tuple(columns), (), ())
        at = np.array(instants, np.int64)
        low, high = self._ranges(times, sizes, at)
        inputs = [
            Values.of(*self._parts.input(number, parts, len(times)), times)
            for number in range(len(self._aggregates.inputs))
        ]
        states = [
            (values := inputs[use.input]).reduce(use.state, values.rank(low), values.rank(high))
            for use in self._aggregates.uses
        ]
        return self._aggregates.finish_all(states, at)

    def _ranges(self, times: Array, sizes: Array, at: Array) -> tuple[Array, Array]:
        """Return where each window's rows of each leaf start and end, window by window."""
        starts = np.cumsum(sizes) - sizes
        is_one = bool((at == at[0]).all())
        counted: dict[int, Array] = {}

        def before(edges: Array) -> Array:
            """Return where the rows start that are not before each leaf's edge."""
            first = int(edges[0])
            if not is_one:
                return starts + np.add.reduceat(times < np.repeat(edges, sizes), starts, dtype=np.int64)
            if first not in counted:
                counted[first] = starts + np.add.reduceat(times < first, starts, dtype=np.int64)
            return counted[first]

        bounds = [window.bounds(at) for window in self._aggregates.windows]
        low = np.concatenate([before(edges) for edges, _ in bounds])
        return low, np.concatenate([before(edges) for _, edges in bounds])

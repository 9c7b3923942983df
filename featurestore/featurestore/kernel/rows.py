"""Rows of entities as sorted arrays: what the kernel and the online writer work on.

Sorted by entity, then by the order of rows (DESIGN 3.2): event time, order_by, ingest time, row hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from featurestore.aggregates.arrays import Array
from featurestore.aggregates.layout import Values
from featurestore.kernel.places import Places


@dataclass(frozen=True)
class InputColumn:
    """An input's value for every row, and where it counts (None: everywhere)."""

    values: Array
    valid: Array | None

    def compressed(self, times: Array, deleted: Array | None = None) -> Values:
        """Return the values that count, with the ranks of the rows among them; `times` are the rows'."""
        if deleted is None:
            return Values.of(self.values, self.valid, times)
        return Values.of(self.values, ~deleted if self.valid is None else self.valid & ~deleted, times)


@dataclass(frozen=True)
class EntityRows:
    """Rows of entities 0 … entities-1, sorted; times in microseconds.

    `index` is each row's number in the frame that it came from. `order`, `ids` and `deleted` are None where
    the source declares none. A deleted row retracts its id or, where there are no ids, ends its entity.
    """

    entities: int
    codes: Array
    times: Array
    ingest: Array
    hashes: Array
    order: Array | None
    ids: Array | None
    index: Array
    inputs: tuple[InputColumn, ...]
    deleted: Array | None = None

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def places(self) -> Places | None:
        """Entity and time of each row as one number; None where they do not fit in one."""
        return Places.of(self.codes, self.times, self.entities)

    def take(self, index: Array, codes: Array | None = None, entities: int | None = None) -> EntityRows:
        """Return the rows at `index`, optionally as rows of other entities. They are not sorted anew."""
        return EntityRows(
            self.entities if entities is None else entities,
            self.codes[index] if codes is None else codes,
            self.times[index],
            self.ingest[index],
            self.hashes[index],
            None if self.order is None else self.order[index],
            None if self.ids is None else self.ids[index],
            self.index[index],
            tuple(
                InputColumn(c.values[index], None if c.valid is None else c.valid[index]) for c in self.inputs
            ),
            None if self.deleted is None else self.deleted[index],
        )

    def sorted(self) -> EntityRows:
        """Return the rows in order."""
        keys = [self.hashes, self.ingest, self.times, self.codes]
        if self.order is not None:
            keys.insert(2, self.order)
        order = np.lexsort(keys)
        return self.take(order)

    @property
    def ends(self) -> bool:
        """Whether a deleted row ends its entity: it and all before it count nowhere."""
        return self.deleted is not None and self.ids is None

    def distinct(self, replace: bool) -> EntityRows:
        """Return the rows, of those with one (entity, event time, id) only the first, or the last.

        The first is one that retracts the id, where there is any: it stays, so that the id is known.
        """
        if self.ids is None or len(self) < 2:
            return self
        ties = (self.codes[1:] == self.codes[:-1]) & (self.times[1:] == self.times[:-1])
        if not ties.any():
            return self
        tied = np.flatnonzero(np.append(ties, False) | np.append(False, ties))
        sequence = -tied if replace else tied
        keys = [sequence, self.ids[tied], self.times[tied], self.codes[tied]]
        if self.deleted is not None and not replace:
            keys.insert(1, ~self.deleted[tied])
        order = tied[np.lexsort(keys)]
        repeat = (
            (self.codes[order[1:]] == self.codes[order[:-1]])
            & (self.times[order[1:]] == self.times[order[:-1]])
            & (self.ids[order[1:]] == self.ids[order[:-1]])
        )
        if not repeat.any():
            return self
        keep = np.ones(len(self), bool)
        keep[order[1:][repeat]] = False
        return self.take(np.flatnonzero(keep))

    def newest(self, starts: Array, after: Array) -> tuple[Array, Array]:
        """Return the last row that counts of each range [starts, after), and whether there is one."""
        last = after - 1
        found = after > starts
        if self.deleted is None or not len(self):
            return last, found
        if self.ends:
            return last, found & ~self.deleted[last]
        counts = np.where(self.deleted, -1, np.arange(len(self)))
        last = np.where(found, np.maximum.accumulate(counts)[last], -1)
        return last, last >= starts

    def begin(self, starts: Array, after: Array) -> Array:
        """Return where the rows of each range [starts, after) begin that no deleted row in it ends."""
        assert self.deleted is not None
        if not len(self):
            return starts
        ended = np.maximum.accumulate(np.where(self.deleted, np.arange(1, len(self) + 1), 0))
        return np.maximum(starts, np.where(after > starts, ended[after - 1], 0))


def concatenate(parts: Sequence[EntityRows]) -> EntityRows:
    """Return the rows of all parts, one after another; they share their shape and their entities."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]

    def joined(arrays: list[Array | None]) -> Array | None:
        present = [a for a in arrays if a is not None]
        return np.concatenate(present) if len(present) == len(parts) else None

    inputs = []
    for columns in zip(*(part.inputs for part in parts), strict=True):
        valid = None
        if any(column.valid is not None for column in columns):
            valid = np.concatenate(
                [np.ones(len(c.values), bool) if c.valid is None else c.valid for c in columns]
            )
        inputs.append(InputColumn(np.concatenate([c.values for c in columns]), valid))
    return EntityRows(
        first.entities,
        np.concatenate([p.codes for p in parts]),
        np.concatenate([p.times for p in parts]),
        np.concatenate([p.ingest for p in parts]),
        np.concatenate([p.hashes for p in parts]),
        joined([p.order for p in parts]),
        joined([p.ids for p in parts]),
        np.concatenate([p.index for p in parts]),
        tuple(inputs),
        joined([p.deleted for p in parts]),
    )

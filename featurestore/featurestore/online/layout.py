"""The layout of an entity's online state: a tree over time whose node names follow from instants.

The root, field `s`, holds all rows while they are few. Beyond `LEAF_ROWS` a node becomes a directory:
one tile per slice of time, each slice's rows in a child field named by level and slice number. Slice
widths are powers of two microseconds, a factor of `FAN_OUT` apart, so the fields on the way to an instant
are known before anything is read, and one round trip fetches every edge of every window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from featurestore.aggregates.arrays import Array
from featurestore.aggregates.inputs import PartsPlan
from featurestore.aggregates.layout import Layout
from featurestore.instants import DAY, MINUTE
from featurestore.plans import BEGINNING, SetPlan, seen_until

FORMAT = 3
ROOT = b"s"
LEAF_ROWS = 512
FAN_OUT_BITS = 6
LEVELS = 4
LIFETIME = 4096 * DAY
"""What slices are sized for where a window looks back to the first row."""
MARGIN = 10 * MINUTE
"""How much longer than asked rows are kept, for clocks that differ and events stamped ahead."""


@dataclass(frozen=True)
class OnlineLayout:
    """A feature set's online layout. `bits[level]` is the binary logarithm of the level's slice width."""

    plan: SetPlan
    aggregates: Layout
    parts: PartsPlan
    bits: tuple[int, ...]

    @staticmethod
    def of(plan: SetPlan) -> OnlineLayout:
        """Return the layout of a feature set."""
        aggregates = Layout.of(plan.aggregates)
        span = max(plan.reach + (plan.history or 0), LIFETIME if plan.has_lifetime else DAY)
        top = (span >> FAN_OUT_BITS).bit_length()
        bits = tuple(top - FAN_OUT_BITS * level for level in range(LEVELS) if top >= FAN_OUT_BITS * level)
        return OnlineLayout(plan, aggregates, PartsPlan.of(aggregates.inputs), bits)

    @cached_property
    def has_order(self) -> bool:
        """Whether rows carry a rank of the source's order_by column."""
        return self.plan.source.order_by is not None

    @cached_property
    def has_ids(self) -> bool:
        """Whether rows carry the hash of an event id."""
        return bool(self.plan.source.event_id)

    @cached_property
    def has_deleted(self) -> bool:
        """Whether rows may be deleted: retract their id or, without ids, end their entity."""
        return self.plan.source.deleted is not None

    @cached_property
    def ends(self) -> bool:
        """Whether a deleted row ends its entity: it and all before it count nowhere."""
        return self.has_deleted and not self.has_ids

    @cached_property
    def has_plain(self) -> bool:
        """Whether the set has row-level features."""
        return bool(self.plan.plain)

    @property
    def lasts(self) -> bool:
        """Whether an entity, once written, never ceases to matter."""
        return self.expire_ms() is None

    def edges(self, t: int) -> list[int]:
        """Return the distinct instants at which a read at `t` cuts the rows."""
        edges = {seen_until(t, self.plan.left_closed)} if self.has_plain else set()
        for window in self.aggregates.windows:
            edges.update(window.bounds(t))
            if self.ends:
                edges.add(seen_until(t, window.left_closed))
        edges.discard(BEGINNING)  # before any row, and never within a slice
        return sorted(edges)

    def read_fields(self, t: int, with_base: bool = False) -> tuple[bytes, ...]:
        """Return the fields that answer any question at `t`: the root, and the ways to each edge.

        With a base row also the way to the rows at `t`, among which it may be.
        """
        edges = {*self.edges(t), t} if with_base else self.edges(t)
        names = {node_name(level, edge >> bits) for edge in edges for level, bits in enumerate(self.bits)}
        return (ROOT, *names)

    def slices(self, level: int, times: Array, above: Array) -> Array:
        """Return the slices of a level that have instants, in order: those in slices `above` of the next.

        The root's children are in no other.
        """
        found = np.unique(times >> self.bits[level])
        return found[np.isin(found >> FAN_OUT_BITS, above)] if level else found

    def floors(self, now: int) -> tuple[int, int] | None:
        """Return (rows, plain): event times before which rows, and row-level values, are not needed.

        `now` may be any instant that is not after the present: an earlier one keeps more.

        The newest row-level value before the floor is. None where all rows are kept: the history is, a
        lifetime window counts them, or any row may turn out to be the newest once those after it are
        retracted, however late.
        """
        if self.plan.history is None or self.plan.has_lifetime:
            return None
        plain = now - self.plan.history - MARGIN
        rows = plain - self.plan.reach
        if self.has_plain and self.has_deleted and not self.ends:
            if self.plan.ttl is None:
                return None
            plain -= self.plan.ttl
        return min(rows, plain), plain - self.plan.left_closed

    def expire_ms(self) -> int | None:
        """Return how long after its last write an entity can still matter; None: for ever.

        A row that is stamped after the write matters for as long after its own instant.
        """
        plan = self.plan
        if plan.history is None or plan.has_lifetime or (self.has_plain and plan.ttl is None):
            return None
        return (max(plan.reach, plan.ttl or 0) + plan.history + 2 * MARGIN) // 1000


def node_names(level: int, numbers: Array) -> list[bytes]:
    """Return the field names of slices of a level."""
    return [node_name(level, number) for number in numbers.tolist()]


def node_name(level: int, number: int) -> bytes:
    """Return the field name of slice `number` of a level."""
    return bytes([level]) + number.to_bytes(8, "big", signed=True)

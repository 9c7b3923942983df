"""The point-in-time kernel: newest rows and windows of entities, each at its own instant.

One implementation for plain features and all aggregations, over sorted arrays. A query that must not
see some of its entity's rows (`as_known`), or must see one more (the base row), is answered by the same
code over its own copy of the rows; all others share theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from featurestore.aggregates.arrays import Array, Partial
from featurestore.aggregates.functions import Finished
from featurestore.aggregates.layout import Layout
from featurestore.aggregates.states import Extreme
from featurestore.kernel.places import order_by_time
from featurestore.kernel.rows import EntityRows, concatenate
from featurestore.plans import seen_until

_PAIRS = 8_000_000  # rows copied at once for queries that have their own


@dataclass(frozen=True)
class Rules:
    """How a feature set is read: closed side and ttl of plain features, and which copy of an id counts."""

    layout: Layout
    left_closed: bool = False
    ttl: int | None = None
    replace: bool = False


@dataclass(frozen=True)
class Answer:
    """Per query: the frame's row of the newest visible row (-1: none), expired or not, and aggregates."""

    row: Array
    expired: Array
    aggregates: list[Finished]


def evaluate(
    rows: EntityRows,
    codes: Array,
    instants: Array,
    rules: Rules,
    *,
    as_known: bool = False,
    extra: EntityRows | None = None,
) -> Answer:
    """Return what each query (entity code, instant) sees. Queries may come in any order.

    `rows` are sorted, copies of one id included. A code of -1 is an entity without rows. `extra` holds
    rows to add: its `codes` are query numbers, at most one row each, stamped with the query's instant, seen
    unless its id is there already.
    """
    order = order_by_time(codes, instants, rows.entities)
    if order is None:
        order = np.arange(len(codes))
    codes, instants = codes[order], instants[order]
    counted = rows.distinct(rules.replace)
    answer = _shared(counted, codes, instants, rules)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    unseen = np.zeros(0, np.int64)
    if extra is not None:
        extra = extra.take(np.arange(len(extra)), codes=rank[extra.codes], entities=len(codes))
        unseen = _unseen(counted, codes, extra)
    if as_known and len(rows):
        low, high = _newest_range(rows, codes, instants, rules)
        flagged = np.flatnonzero(_hides(rows, low, high, instants))
        plain = replace(rules, layout=Layout.of(()))
        for part in _parts(flagged, high[flagged] - low[flagged]):
            made = _private(rows, part, low, high, instants, plain, as_known, extra)
            answer.row[part], answer.expired[part] = made.row, made.expired
    for number, window in enumerate(rules.layout.windows if as_known or len(unseen) else ()):
        starts, ends = window.bounds(instants)
        low, high = search(rows, codes, starts), search(rows, codes, ends)
        if rows.ends and window.offset:  # what ended the entity after the window counts too
            high = search(rows, codes, seen_until(instants, window.left_closed))
        differs = _hides(rows, low, high, instants) if as_known else np.zeros(len(codes), bool)
        differs[unseen[(starts[unseen] <= instants[unseen]) & (instants[unseen] < ends[unseen])]] = True
        flagged = np.flatnonzero(differs)
        layout, places = rules.layout.only(number)
        for part in _parts(flagged, high[flagged] - low[flagged]):
            made = _private(rows, part, low, high, instants, replace(rules, layout=layout), as_known, extra)
            for place, (values, found) in zip(places, made.aggregates, strict=True):
                answer.aggregates[place][0][part] = values
                answer.aggregates[place][1][part] = found
    return Answer(
        answer.row[rank],
        answer.expired[rank],
        [(values[rank], found[rank]) for values, found in answer.aggregates],
    )


def search(rows: EntityRows, codes: Array, instants: Array) -> Array:
    """Return per (code, instant) the number of the entity's first row at or after the instant.

    Fastest when sorted by code and instant. An unknown code (-1) gets an empty range.
    """
    places = rows.places
    if places is not None:
        return places.search(codes, instants)
    first = int(rows.times.min())
    span = int(rows.times.max()) - first + 2
    clipped = np.clip(instants - first, 0, span - 1)
    block = max(1, 2**62 // span)
    result = np.zeros(len(codes), np.int64)
    for start in range(0, rows.entities, block):  # so that (entity, time) fits in 63 bits
        low, high = np.searchsorted(rows.codes, [start, start + block])
        chosen = np.flatnonzero((codes >= start) & (codes < start + block))
        keys = (rows.codes[low:high] - start) * span + (rows.times[low:high] - first)
        result[chosen] = low + np.searchsorted(keys, (codes[chosen] - start) * span + clipped[chosen])
    return result


def _shared(rows: EntityRows, codes: Array, instants: Array, rules: Rules) -> Answer:
    """Answer queries, sorted by code and instant, that see all rows up to their instant."""
    after = search(rows, codes, seen_until(instants, rules.left_closed))
    starts = np.searchsorted(rows.codes, codes)
    newest, found = rows.newest(starts, after)
    newest = np.where(found, newest, 0)
    expired = np.zeros(len(codes), bool)
    if rules.ttl is not None and len(rows):
        expired = found & (rows.times[newest] <= instants - rules.ttl)
    row = np.where(found, rows.index[newest] if len(rows) else -1, -1)
    layout = rules.layout
    edges: dict[int, tuple[Array, Array]] = {}
    positions: dict[tuple[int | None, ...], Array] = {}
    begins: dict[bool, Array] = {}
    for number, window in enumerate(layout.windows):
        low, high = window.bounds(instants)
        width = None if window.width is None else window.width + window.offset
        left = (width, window.left_closed, window.granularity or 0)
        right = (window.offset, window.left_closed)
        if left not in positions:
            positions[left] = search(rows, codes, low)
        if right not in positions:
            positions[right] = search(rows, codes, high)
        low_at, high_at = positions[left], positions[right]
        if rows.ends:
            closed = window.left_closed
            if closed not in begins:
                begins[closed] = rows.begin(starts, search(rows, codes, seen_until(instants, closed)))
            low_at = np.minimum(np.maximum(low_at, begins[closed]), high_at)
        edges[number] = (low_at, high_at)
    inputs = [column.compressed(rows.times, rows.deleted) for column in rows.inputs]
    cache: dict[tuple[int, int], Partial] = {}
    for number, use in enumerate(layout.uses):
        values = inputs[use.input]
        lows = np.concatenate([values.rank(edges[w][0]) for w in use.windows])
        highs = np.concatenate([values.rank(edges[w][1]) for w in use.windows])
        states = values.reduce(use.state, lows, highs)
        for place, w in enumerate(use.windows):
            part = slice(place * len(codes), (place + 1) * len(codes))
            cache[number, w] = tuple(column[part] for column in states)
    return Answer(row, expired, layout.finish(lambda use, window: cache[use, window], instants))


def _hides(rows: EntityRows, low: Array, high: Array, instants: Array) -> Array:
    """Tell which ranges hold a row that was not known at the query's instant."""
    if not len(rows):
        return np.zeros(len(low), bool)
    _, latest = Extreme("<i8", True).reduce(rows.ingest, low, high)
    return (low < high) & (latest > instants)


def _newest_range(rows: EntityRows, codes: Array, instants: Array, rules: Rules) -> tuple[Array, Array]:
    """Return the rows [low, high) that decide each query's newest known row: it, its ties, and later ones.

    Where rows retract ids, what is newest may be any row; only a ttl bounds how far back it lies.
    """
    high = search(rows, codes, seen_until(instants, rules.left_closed))
    low = high.copy()
    starts = np.searchsorted(rows.codes, codes)
    if rows.deleted is not None and not rows.ends:
        oldest = starts if rules.ttl is None else search(rows, codes, instants - rules.ttl)
        return np.minimum(oldest, high), high
    newest = high - 1
    looking = np.flatnonzero(newest >= starts)
    while len(looking):
        unknown = rows.ingest[newest[looking]] > instants[looking]
        looking = looking[unknown]
        newest[looking] -= 1
        looking = looking[newest[looking] >= starts[looking]]
    there = newest >= starts
    low[~there] = starts[~there]
    low[there] = search(rows, codes[there], rows.times[newest[there]])
    return low, high


def _unseen(rows: EntityRows, codes: Array, extra: EntityRows) -> Array:
    """Return the queries whose extra row is not among the entity's rows, by event time and id."""
    if rows.ids is None or extra.ids is None or not len(rows):
        return extra.codes
    entity = codes[extra.codes]
    at, end = search(rows, entity, extra.times), search(rows, entity, extra.times + 1)
    seen = np.zeros(len(extra), bool)
    active = np.flatnonzero(at < end)
    while len(active):
        seen[active] |= rows.ids[at[active]] == extra.ids[active]
        at[active] += 1
        active = active[(at[active] < end[active]) & ~seen[active]]
    return extra.codes[~seen]


def _parts(flagged: Array, sizes: Array) -> Iterator[Array]:
    """Yield the flagged queries in parts whose rows fit in memory together."""
    if len(flagged):
        cuts = np.flatnonzero(np.diff(np.cumsum(sizes) // _PAIRS)) + 1
        yield from np.split(flagged, cuts)


def _private(
    rows: EntityRows,
    queries: Array,
    low: Array,
    high: Array,
    instants: Array,
    rules: Rules,
    as_known: bool,
    extra: EntityRows | None,
) -> Answer:
    """Answer queries over their own copies of the rows, without what they must not see."""
    sizes = high[queries] - low[queries]
    owner = np.repeat(np.arange(len(queries)), sizes)
    index = (
        np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(low[queries], sizes)
    )
    if as_known:
        known = rows.ingest[index] <= instants[queries][owner]
        owner, index = owner[known], index[known]
    parts = [rows.take(index, codes=owner, entities=len(queries))]
    if extra is not None:
        place = np.searchsorted(queries, extra.codes)
        mine = np.flatnonzero(
            (place < len(queries)) & (queries[np.minimum(place, len(queries) - 1)] == extra.codes)
        )
        own = extra.take(mine, codes=place[mine], entities=len(queries))
        own = own.take(np.flatnonzero(np.isin(own.codes, _unseen(parts[0], np.arange(len(queries)), own))))
        parts.append(replace(own, index=np.full(len(own), -1, np.int64)))
    copies = concatenate(parts).sorted().distinct(rules.replace)
    return _shared(copies, np.arange(len(queries)), instants[queries], rules)

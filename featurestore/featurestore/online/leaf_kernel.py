"""Leaves that grow, compiled: what `leaves.grow` does for columns of numbers, without the interpreter's lock.

The bytes of a leaf are read and written here as `nodes.leaf_bytes` has them. Imported where it is used alone,
for numba takes half a second to import; what is compiled is kept on the disk where that can be written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from featurestore.aggregates.arrays import Array
from featurestore.aggregates.inputs import RowParts
from featurestore.online.layout import FORMAT
from featurestore.online.nodes import Leaf
from featurestore.plans import BEGINNING
from featurestore.rows.compiling import compiled

_ITEMS = 13  # of the array that a leaf is
_HEADER = 5  # the most bytes that come before bytes, or before an array's items
_DROPPED = -(1 << 62)


def grow_all(
    roots: Sequence[bytes | None],
    rows: Leaf,
    starts: Array,
    floors: tuple[int, int] | None,
    *,
    has_plain: bool,
    replaces: bool,
    limit: int,
) -> tuple[list[bytes], list[int]]:
    """Return each entity's root with its new rows, b"" where there is none to make here, and its newest time.

    See `leaves.grow`. No column's values are objects; a leaf has `limit` rows at most.
    """
    stored = [root or b"" for root in roots]
    fixed = [rows.times, rows.ingest, rows.hashes]
    fixed += [column for column in (rows.order, rows.ids) if column is not None]
    shape = [
        rows.order is not None,
        rows.ids is not None,
        has_plain,
        replaces,
        len(rows.parts.columns),
        limit,
    ]
    fixed += [values for values, _ in rows.parts.columns]
    flags = [*(valid for _, valid in rows.parts.columns), *rows.parts.conditions]
    categories = rows.parts.categories
    plain = rows.plain if has_plain else []
    text = b"".join(filter(None, plain))
    begins = np.cumsum([0, *map(len, stored)])
    new = len(rows) * (8 * len(fixed) + 2 * len(categories) + _HEADER)
    most = (
        limit + (limit // 8 + 1) * len(flags) + 2 * _HEADER * (len(fixed) + len(flags) + len(categories) + 8)
    )
    out = np.empty(int(begins[-1]) + len(text) + new + most * len(roots), np.uint8)
    ends, newest = np.zeros(len(roots) + 1, np.int64), np.zeros(len(roots), np.int64)
    _grow_all(
        np.frombuffer(b"".join(stored), np.uint8), begins, np.ascontiguousarray(starts, np.int64),
        np.stack([column.view("<i8") for column in fixed]),
        np.array(flags, np.bool_).reshape(len(flags), len(rows)),
        np.array(categories, np.int16).reshape(len(categories), len(rows)),
        np.frombuffer(text, np.uint8),
        np.cumsum([0, *(0 if item is None else len(item) for item in plain)]),
        np.array([item is not None for item in plain], np.bool_),
        np.array(shape, np.int64), np.array(floors or (), np.int64), out, ends, newest,
    )  # fmt: skip
    places, view = ends.tolist(), out.data
    made = [view[low:high].tobytes() for low, high in pairwise(places)]
    return made, newest.tolist()


def ready() -> Callable[..., tuple[list[bytes], list[int]]]:
    """Return `grow_all`, compiled."""
    none = np.zeros(0, "<i8")
    rows = Leaf(none, none, none, None, None, RowParts((), (), ()), [])
    grow_all([], rows, np.zeros(1, np.int64), None, has_plain=False, replaces=False, limit=1)
    return grow_all


@compiled
def _word(data: Any, at: Any) -> Any:
    """Return the int64 whose eight bytes, the lowest first, begin at a place."""
    value = np.uint64(0)
    for place in range(8):
        value |= np.uint64(data[at + place]) << np.uint64(8 * place)
    return np.int64(value)


@compiled
def _big(data: Any, at: Any, size: Any) -> Any:
    """Return the unsigned number of some bytes, the highest first."""
    value = np.uint64(0)
    for place in range(size):
        value = (value << np.uint64(8)) | np.uint64(data[at + place])
    return np.int64(value)


@compiled
def _whole(data: Any, at: Any) -> Any:
    """Return a MessagePack integer, and where it ends."""
    tag = np.int64(data[at])
    if tag < 0x80:
        return tag, at + 1
    if tag >= 0xE0:
        return tag - 256, at + 1
    if tag >= 0xD0:
        size = 1 << (tag - 0xD0)
        value = _big(data, at + 1, size)
        shift = 64 - 8 * size
        return (value << shift) >> shift, at + 1 + size
    size = 1 << (tag - 0xCC)
    return _big(data, at + 1, size), at + 1 + size


@compiled
def _bytes(data: Any, at: Any) -> Any:
    """Return how many bytes there are, -1 for nil, and where they begin."""
    tag = np.int64(data[at])
    if tag == 0xC0:
        return np.int64(-1), at + 1
    size = 1 << (tag - 0xC4)
    return _big(data, at + 1, size), at + 1 + size


@compiled
def _array(data: Any, at: Any) -> Any:
    """Return how many items an array has, and where they begin."""
    tag = np.int64(data[at])
    if tag < 0xA0:
        return tag - 0x90, at + 1
    size = 2 if tag == 0xDC else 4
    return _big(data, at + 1, size), at + 1 + size


@compiled
def _put_big(out: Any, at: Any, value: Any, size: Any) -> Any:
    for place in range(size):
        out[at + place] = (np.uint64(value) >> np.uint64(8 * (size - 1 - place))) & np.uint64(0xFF)
    return at + size


@compiled
def _put_whole(out: Any, at: Any, value: Any) -> Any:
    if -32 <= value < 128:
        out[at] = value & 0xFF
        return at + 1
    if value >= 0:
        power = 0 if value < 1 << 8 else 1 if value < 1 << 16 else 2 if value < 1 << 32 else 3
        out[at] = 0xCC + power
    else:
        power = 0 if value >= -(1 << 7) else 1 if value >= -(1 << 15) else 2 if value >= -(1 << 31) else 3
        out[at] = 0xD0 + power
    return _put_big(out, at + 1, value, 1 << power)


@compiled
def _put_header(out: Any, at: Any, size: Any) -> Any:
    """Write what comes before bytes."""
    power = 0 if size < 1 << 8 else 1 if size < 1 << 16 else 2
    out[at] = 0xC4 + power
    return _put_big(out, at + 1, size, 1 << power)


@compiled
def _put_array(out: Any, at: Any, size: Any) -> Any:
    if size < 16:
        out[at] = 0x90 | size
        return at + 1
    out[at] = 0xDC if size < 1 << 16 else 0xDD
    return _put_big(out, at + 1, size, 2 if size < 1 << 16 else 4)


@compiled
def _copy(out: Any, at: Any, data: Any, begin: Any, size: Any) -> Any:
    for place in range(size):
        out[at + place] = data[begin + place]
    return at + size


@compiled
def _bit(data: Any, at: Any, place: Any) -> Any:
    return (data[at + (place >> 3)] >> (7 - (place & 7))) & 1


@compiled
def _not_before(times: Any, size: Any, instant: Any) -> Any:
    """Return how many of the first times are before an instant."""
    low, high = 0, size
    while low < high:
        middle = (low + high) >> 1
        if times[middle] < instant:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _comes_first(fixed: Any, row: Any, data: Any, columns: Any, j: Any, has_order: Any) -> Any:
    """Tell whether a new row comes before a stored one: by time, order, ingest time and hash."""
    for number in (0, 3, 1, 2):
        if number != 3 or has_order:
            new, old = fixed[number, row], _word(data, columns[number] + 8 * j)
            if new != old:
                return new < old
    return False


@compiled
def _put_flags(
    out: Any, at: Any, fresh: Any, data: Any, bits: Any, source: Any, old: Any, kept: Any, begin: Any,
    count: Any, may_be_nil: Any,
) -> Any:  # fmt: skip
    """Write the flags of stored rows from `old` to `kept`, and of those of `source` from `begin` on."""
    if may_be_nil:
        every = True
        if bits >= 0:
            for place in range(old, kept):
                every &= _bit(data, bits, place) == 1
        for place in range(begin, count):
            each = source[place]
            every &= (bits < 0 or _bit(data, bits, each) == 1) if each >= 0 else fresh[~each]
        if every:
            out[at] = 0xC0
            return at + 1
    total = kept - old + count - begin
    size = (total + 7) >> 3
    at = _put_header(out, at, size)
    for place in range(size):
        out[at + place] = 0
    number = 0
    for place in range(old, kept):
        if bits < 0 or _bit(data, bits, place) == 1:
            out[at + (number >> 3)] |= 0x80 >> (number & 7)
        number += 1
    for place in range(begin, count):
        each = source[place]
        if (bits < 0 or _bit(data, bits, each) == 1) if each >= 0 else fresh[~each]:
            out[at + (number >> 3)] |= 0x80 >> (number & 7)
        number += 1
    return at + size


@compiled
def _grow_all(
    data: Any, begins: Any, starts: Any,
    fixed: Any, flags: Any, categories: Any, plain: Any, plain_begins: Any, has: Any,
    shape: Any, floors: Any, out: Any, ends: Any, newest: Any,
) -> None:  # fmt: skip
    """Write each entity's leaf to `out`, behind one another, up to `ends`; as far as there is none, nothing.

    `shape`: whether rows have an order, ids, row-level features, whether newer rows replace those of their
    id; how many value columns there are; the most rows of a leaf. `floors` has none or two.
    """
    has_order, has_ids, has_plain, replaces = shape[0] > 0, shape[1] > 0, shape[2] > 0, shape[3] > 0
    values, limit = shape[4], shape[5]
    lead = 3 + shape[0] + shape[1]
    conditions = len(flags) - values
    columns = np.zeros(lead + values + len(categories), np.int64)
    bits = np.zeros(len(flags), np.int64)  # where the stored ones begin; -1: all are set
    source = np.zeros(limit, np.int64)  # of each row: its place in the stored leaf, or ~ that among new ones
    times = np.zeros(limit, np.int64)
    at_plain = np.zeros(limit, np.int64)  # of stored rows
    size_plain = np.zeros(limit, np.int64)
    shown = np.zeros(limit, np.bool_)  # of each row: whether it has row-level features
    end = np.int64(0)
    for entity in range(len(starts) - 1):
        ends[entity] = end
        at, stop = begins[entity], begins[entity + 1]
        low, high = starts[entity], starts[entity + 1]
        size, floor, hidden = np.int64(0), np.int64(0), np.int64(0)
        has_floor = False
        bits[:values] = -1
        if at < stop:
            if data[at] != 0x90 | _ITEMS or data[at + 1] != FORMAT or data[at + 2] != 0:
                continue
            at += 3
            if data[at] == 0xC0:
                at += 1
            else:
                floor, at = _whole(data, at)
                has_floor = True
            for number in range(5):  # times, ingest, hashes, order, ids
                length, at = _bytes(data, at)
                if number == 0:
                    size = length >> 3
                if length >= 0:
                    columns[number - (number == 4 and not has_order)] = at
                    at += length
            _, at = _array(data, at)
            for number in range(values):
                length, at = _bytes(data, at + 1)
                if length >= 0:
                    bits[number] = at
                    at += length
                length, at = _bytes(data, at)
                columns[lead + number] = at
                at += length
            _, at = _array(data, at)
            for number in range(conditions):
                length, at = _bytes(data, at)
                bits[values + number] = at
                at += length
            _, at = _array(data, at)
            for number in range(len(categories)):
                length, at = _bytes(data, at)
                columns[lead + values + number] = at
                at += length
            hidden, at = _whole(data, at + 1)
            items, at = _array(data, at)
            if size + high - low > limit or hidden + items > size:
                continue
            for place in range(hidden):
                size_plain[place] = -1
            for place in range(hidden, hidden + items):
                length, at = _bytes(data, at)
                size_plain[place], at_plain[place] = length, at
                at += max(length, 0)
        elif high - low > limit:
            continue

        # What comes before the first new row stays; the others and the new ones are merged.
        for place in range(size):
            times[place] = _word(data, columns[0] + 8 * place)
            source[place] = place
        kept = _not_before(times, size, fixed[0, low])
        count, j, row = kept, kept, low
        if kept == size:
            for row in range(low, high):
                source[count] = ~row
                count += 1
        else:
            total = size + high - low
            back, j, row = total - 1, size - 1, high - 1
            while row >= low:  # from the end: stored places that are overwritten were moved before
                if j >= kept and _comes_first(fixed, row, data, columns, j, has_order):
                    source[back] = j
                    j -= 1
                else:
                    source[back] = ~row
                    row -= 1
                back -= 1
            count = total
        for place in range(kept, count):
            each = source[place]
            times[place] = _word(data, columns[0] + 8 * each) if each >= 0 else fixed[0, ~each]
        if has_ids:
            number, found, first = lead - 1, kept, kept
            while first < count:
                last = first + 1
                while last < count and times[last] == times[first]:
                    last += 1
                for place in range(first, last):
                    each = source[place]
                    mine = _word(data, columns[number] + 8 * each) if each >= 0 else fixed[number, ~each]
                    stands = True
                    begin, past = (place + 1, last) if replaces else (first, place)
                    for rival in range(begin, past):
                        other = source[rival]
                        if other == _DROPPED:
                            continue
                        its = (
                            _word(data, columns[number] + 8 * other) if other >= 0 else fixed[number, ~other]
                        )
                        stands &= its != mine
                    if not stands:
                        source[place] = _DROPPED
                first = last
            for place in range(kept, count):
                if source[place] != _DROPPED:
                    source[found], times[found] = source[place], times[place]
                    found += 1
            count = found

        # Row-level features that no instant of the history can see, and rows before the floor.
        if has_plain:
            for place in range(count):
                each = source[place]
                shown[place] = size_plain[each] >= 0 if each >= 0 else has[~each]
        cut = np.int64(0)
        if len(floors):
            telling = np.int64(-1)
            trimmed = False
            if has_plain:
                telling = _not_before(times, count, floors[1] + 1) - 1
                while telling >= 0 and not shown[telling]:
                    telling -= 1
                if telling > 0:
                    for place in range(_not_before(times, count, times[telling])):
                        trimmed |= shown[place]
                        shown[place] = False
            cut = _not_before(times, count, floors[0])
            if cut and telling >= 0 and times[telling] < floors[0]:
                if _not_before(times, count, times[telling] + 1) != cut:
                    continue
                cut = _not_before(times, count, times[telling])
            if cut or trimmed:
                floor = max(floors[0], floor if has_floor and floor else floors[0])
                has_floor = True
        old = min(cut, kept)
        fresh = max(cut, kept)

        size = count - cut
        out[end], out[end + 1], out[end + 2] = 0x90 | _ITEMS, FORMAT, 0
        end += 3
        if has_floor:
            end = _put_whole(out, end, floor)
        else:
            out[end] = 0xC0
            end += 1
        for number in range(5 + values):
            if (number == 3 and not has_order) or (number == 4 and not has_ids):
                out[end] = 0xC0
                end += 1
                continue
            column = number
            if number >= 4:
                column = number - 5 + lead if number > 4 else lead - 1
            if number >= 5:
                if number == 5:
                    end = _put_array(out, end, values)
                out[end] = 0x92
                end = _put_flags(
                    out, end + 1, flags[column - lead], data, bits[column - lead], source, old, kept, fresh,
                    count, True,
                )  # fmt: skip
            end = _put_header(out, end, 8 * size)
            end = _copy(out, end, data, columns[column] + 8 * old, 8 * (kept - old))
            for place in range(fresh, count):
                each = source[place]
                if each >= 0:
                    end = _copy(out, end, data, columns[column] + 8 * each, 8)
                else:
                    word = np.uint64(fixed[column, ~each])
                    for byte in range(8):
                        out[end + byte] = (word >> np.uint64(8 * byte)) & np.uint64(0xFF)
                    end += 8
        if not values:
            end = _put_array(out, end, 0)
        end = _put_array(out, end, conditions)
        for number in range(values, values + conditions):
            end = _put_flags(
                out, end, flags[number], data, bits[number], source, old, kept, fresh, count, False
            )
        end = _put_array(out, end, len(categories))
        for number in range(len(categories)):
            column = columns[lead + values + number]
            end = _put_header(out, end, 2 * size)
            end = _copy(out, end, data, column + 2 * old, 2 * (kept - old))
            for place in range(fresh, count):
                each = source[place]
                if each >= 0:
                    end = _copy(out, end, data, column + 2 * each, 2)
                else:
                    code = np.int64(categories[number, ~each])
                    out[end], out[end + 1] = code & 0xFF, (code >> 8) & 0xFF
                    end += 2
        out[end] = 0x92
        end += 1
        if has_plain:
            first = cut
            while first < count and not shown[first]:
                first += 1
            end = _put_whole(out, end, first - cut)
            end = _put_array(out, end, count - first)
            for place in range(first, count):
                each = source[place]
                if not shown[place]:
                    out[end] = 0xC0
                    end += 1
                elif each >= 0:
                    end = _put_header(out, end, size_plain[each])
                    end = _copy(out, end, data, at_plain[each], size_plain[each])
                else:
                    length = plain_begins[~each + 1] - plain_begins[~each]
                    end = _put_header(out, end, length)
                    end = _copy(out, end, plain, plain_begins[~each], length)
        else:
            out[end], out[end + 1] = 0, 0x90
            end += 2
        out[end] = 0xC0
        end += 1
        newest[entity] = times[count - 1] if cut < count else BEGINNING
    ends[len(starts) - 1] = end

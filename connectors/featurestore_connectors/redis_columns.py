"""Entities' fields as Redis commands, packed from columns without a Python object per entity."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.contracts import EntityColumns

_FIELDS = 1000  # that one command has, so that others' commands are answered between


def hsets(place: bytes, columns: EntityColumns) -> list[bytes]:
    """Return the packed commands that set each entity's field, behind its key, in a hash."""
    words = [
        _dollars(columns.keys, len(columns.field)),
        columns.keys,
        pa.scalar(columns.field + b"\r\n", pa.large_binary()),
        _dollars(columns.values),
        columns.values,
        pa.scalar(b"\r\n", pa.large_binary()),
    ]
    joined = pc.binary_join_element_wise(*words, pa.scalar(b"", pa.large_binary()))
    found = []
    for start in range(0, len(joined), _FIELDS):
        part = joined[start : start + _FIELDS]
        _, offsets, data = part.buffers()
        first, *_, last = np.frombuffer(offsets, np.int64)[part.offset : part.offset + len(part) + 1]
        head = b"*%d\r\n$4\r\nHSET\r\n$%d\r\n%b\r\n" % (2 * len(part) + 2, len(place), place)
        found.append(head + memoryview(data)[first:last])
    return found


def _dollars(words: pa.LargeBinaryArray, more: int = 0) -> pa.LargeBinaryArray:
    """Return what comes before each word in a command, were it longer by `more`."""
    distinct, which = np.unique(pc.binary_length(words).to_numpy(), return_inverse=True)
    heads = [b"$%d\r\n" % (length + more) for length in distinct.tolist()]
    return pa.array(heads, pa.large_binary()).take(pa.array(which))

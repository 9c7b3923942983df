"""Bodies in Arrow: read where they are sound and, once inflated, no larger than another body may be.

A few bytes can stand for gigabytes, by compression or by rows of nulls. What a message would take is in its
head (Arrow's format, `Message.fbs`: FlatBuffers), and is added up before anything is inflated.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from featurestore.errors import RequestError
from featurestore_serving.failures import too_large

if TYPE_CHECKING:
    import pyarrow

_ROW_BYTES = 16  # that a row counts for at least, be it of nulls
_DICTIONARY, _RECORDS = 2, 3  # the types of messages that hold buffers
_U16, _U32, _I32, _I64 = (struct.Struct(f"<{code}") for code in "HIiq")
_PLAIN = -1  # the length of a buffer that compression left as it was


def read_table(body: bytes, limit: int) -> pyarrow.Table:
    """Return the table of an Arrow IPC stream.

    Raises TooLarge where it inflates to more than `limit` bytes, RequestError where it is none, or unsound.
    """
    import pyarrow as pa

    try:
        if _inflated(body) > limit:
            raise too_large(limit)
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
        table.validate(full=True)  # offsets and text are taken on trust from here on
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RequestError(
            f"The body is no Arrow IPC stream: {error}.", hint="Send the bytes of pyarrow.ipc.new_stream."
        ) from error
    return table


def _inflated(body: bytes) -> int:
    """Return how many bytes the stream's buffers take, at 16 a row at least."""
    import pyarrow as pa

    total = 0
    for message in pa.ipc.MessageReader.open_stream(body):
        head = memoryview(message.metadata)
        root: int = _U32.unpack_from(head)[0]
        kind = head[at] if (at := _field(head, root, 1)) else 0
        found = _table(head, root, 2)
        if kind == _DICTIONARY and found:
            found = _table(head, found, 1)
        if kind in (_DICTIONARY, _RECORDS) and found:
            rows = _I64.unpack_from(head, at)[0] if (at := _field(head, found, 0)) else 0
            total += max(_buffers(head, found, memoryview(message.body or b"")), rows * _ROW_BYTES)
    return total


def _buffers(head: memoryview, batch: int, data: memoryview) -> int:
    """Return the bytes of a batch's buffers; of compressed ones, those that their first 8 bytes tell."""
    vector = _table(head, batch, 2)
    if not vector:
        return 0
    is_compressed = _field(head, batch, 3) is not None
    total = 0
    for number in range(_U32.unpack_from(head, vector)[0]):
        offset, length = struct.unpack_from("<qq", head, vector + 4 + 16 * number)
        if is_compressed and length >= _I64.size and 0 <= offset <= len(data) - _I64.size:
            inflated = _I64.unpack_from(data, offset)[0]
            length = length if inflated == _PLAIN else inflated
        total += max(length, 0)
    return total


def _field(head: memoryview, table: int, number: int) -> int | None:
    """Return where a table's field is; None where it has its default."""
    directory = table - _I32.unpack_from(head, table)[0]
    if 4 + 2 * number >= _U16.unpack_from(head, directory)[0]:
        return None
    offset: int = _U16.unpack_from(head, directory + 4 + 2 * number)[0]
    return table + offset if offset else None


def _table(head: memoryview, table: int, number: int) -> int | None:
    """Return where the table or vector is that a field points to; None where there is none."""
    at = _field(head, table, number)
    return None if at is None else at + int(_U32.unpack_from(head, at)[0])

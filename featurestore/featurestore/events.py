"""What callers push, as one JSON object each: dictionaries, JSON, lines of it, files, and frames."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from featurestore.errors import RequestError

if TYPE_CHECKING:
    import pyarrow

_ROWS = 8192  # of a frame that are Python objects at once
_LINES = (".ndjson", ".jsonl", ".json")
FRAMES = (".parquet", ".arrow", ".arrows", ".feather", ".ipc")
"""How the names of files end whose rows are events."""
_encode = msgspec.json.Encoder().encode


class Refused(RequestError):
    """An event that the door does not admit; `code` is the dead letter's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def payloads(events: Any) -> Iterator[bytes | Refused]:
    """Yield each event's JSON, or why there is none, holding few of them at once.

    `events` is an iterable of dictionaries, JSON bytes or text; bytes with one JSON object per line (lines
    without anything are none); a file that is open for reading bytes, of such lines; the path of a file
    (.ndjson, .jsonl, .json by lines, .parquet, .arrow); or a Polars, pandas or Arrow frame, or an Arrow
    RecordBatchReader, whose rows are events. A value that JSON cannot carry refuses its event. Raises
    RequestError where it is none of these.
    """
    if isinstance(events, bytes | bytearray | memoryview):
        yield from _lines(io.BytesIO(events))
    elif isinstance(events, str | Path):
        yield from _of_file(Path(events))
    elif isinstance(events, Mapping):
        yield _payload(events)
    elif isinstance(events, io.IOBase):
        yield from _lines(events)
    elif _is_frame(events):
        yield from _rows(_batches(events))
    elif isinstance(events, Iterable):
        for event in events:
            yield _payload(event)
    else:
        raise RequestError(
            f"{type(events).__name__} holds no events.",
            hint="Pass rows, JSON lines, a frame, or the path of a file.",
        )


def _lines(file: Iterable[bytes]) -> Iterator[bytes]:
    for line in file:
        if stripped := line.strip():
            yield stripped


def _of_file(path: Path) -> Iterator[bytes | Refused]:
    try:
        if path.suffix in _LINES:
            with path.open("rb") as file:
                yield from _lines(file)
        elif path.suffix in FRAMES:
            yield from _rows(_frame_file(path))
        else:
            raise RequestError(
                f"'{path}' is no file of events.", hint="Give a .ndjson, .parquet or .arrow file, or rows."
            )
    except OSError as error:
        raise RequestError(f"The file cannot be read: {error}.", where=str(path)) from error


def _frame_file(path: Path) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as parquet:
                yield from parquet.iter_batches(_ROWS)
            return
        with pa.memory_map(str(path)) as source:
            if source.read(6) == b"ARROW1":  # a file, which ends with an index; else a stream
                reader = pa.ipc.open_file(source)
                for number in range(reader.num_record_batches):
                    yield reader.get_batch(number)
            else:
                source.seek(0)
                yield from pa.ipc.open_stream(source)
    except pa.ArrowInvalid as error:
        raise RequestError(f"The file cannot be read: {error}.", where=str(path)) from error


def _is_frame(events: Any) -> bool:
    package = type(events).__module__.partition(".")[0]
    return package in ("polars", "pandas", "pyarrow") or hasattr(events, "__arrow_c_stream__")


def _batches(frame: Any) -> Any:
    """Return an iterable of the frame's Arrow batches."""
    import polars as pl
    import pyarrow as pa

    from featurestore.rows.frames import to_polars

    if isinstance(frame, pa.RecordBatchReader):
        return frame
    if isinstance(frame, pl.DataFrame | pl.LazyFrame) or type(frame).__module__.startswith("pandas"):
        found: pa.Table = to_polars(frame).to_arrow(compat_level=pl.CompatLevel.oldest())
        return found.to_batches()
    if isinstance(frame, pa.Table):
        return frame.to_batches()
    if isinstance(frame, pa.RecordBatch):
        return [frame]
    return pa.RecordBatchReader.from_stream(frame)


def _rows(batches: Iterable[pyarrow.RecordBatch]) -> Iterator[bytes | Refused]:
    import polars as pl

    for batch in batches:
        try:
            frame = pl.DataFrame(pl.from_arrow(batch))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError) as error:
            raise RequestError(
                f"The frame's columns cannot be read: {error}.",
                hint="Give each its own name, and a plain type.",
            ) from error
        for start in range(0, frame.height, _ROWS):
            for row in frame.slice(start, _ROWS).iter_rows(named=True):
                yield _payload(row)


def _payload(event: Any) -> bytes | Refused:
    """Return an event as JSON, or why it has none."""
    if isinstance(event, bytes | Refused):
        return event
    if isinstance(event, str):
        return event.encode(errors="surrogatepass")  # half a pair is no UTF-8, which the door refuses
    if isinstance(event, Mapping):
        for name, value in event.items():
            if type(value) not in _SAYABLE and (unsayable := _not_finite(value)) is not None:
                return Refused("malformed", f"{name}: JSON has no {unsayable}; send null")
    try:
        return _encode(event)
    except (TypeError, ValueError) as error:
        return Refused("malformed", f"no JSON: {error}")


_SAYABLE = frozenset({str, int, bool, type(None), bytes})


def _not_finite(value: Any) -> float | None:
    """Return a NaN or an infinity that a value is or holds; None where there is none."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next((found for item in value if (found := _not_finite(item)) is not None), None)
    return value if isinstance(value, float) and not math.isfinite(value) else None

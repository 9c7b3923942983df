"""The dead-letter table: what was refused, with its bytes, its position and the reason (DESIGN 3.14)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import polars as pl

from featurestore.plans import PARTITION, SEQUENCE

PAYLOAD = "__payload"  # binary: the record's bytes as received
RECORD_TIME = "__record_time"  # int64, microseconds: the broker's or the log's time of a record
MALFORMED = "__malformed"  # string: why a payload could not be read at all; set by sources of files

KEPT = 4096
"""How many bytes of a payload over `max_bytes:` are kept."""

SCHEMA = pl.Schema(
    {
        "source": pl.String(),
        "feature_set": pl.String(),
        "partition": pl.String(),
        "sequence": pl.Int64(),
        "ingest_time": pl.Datetime("us", "UTC"),
        "code": pl.String(),
        "message": pl.String(),
        "payload": pl.Binary(),
    }
)
DEAD_LETTER = SCHEMA


def empty() -> pl.DataFrame:
    """Return a dead-letter table without rows."""
    return pl.DataFrame(schema=SCHEMA)


def letters(
    source: str,
    feature_set: str | None,
    positions: pl.DataFrame,
    ingest_time: pl.Series,
    codes: Sequence[str],
    messages: Sequence[str],
    payload: pl.Series | Sequence[bytes | None],
) -> pl.DataFrame:
    """Return dead letters of the rows whose `__partition` and `__sequence` are in `positions`."""
    return pl.DataFrame(
        {
            "source": pl.Series([source], dtype=pl.String).new_from_index(0, positions.height),
            "feature_set": pl.Series([feature_set], dtype=pl.String).new_from_index(0, positions.height),
            "partition": positions[PARTITION],
            "sequence": positions[SEQUENCE],
            "ingest_time": ingest_time,
            "code": codes,
            "message": messages,
            "payload": payload,
        },
        schema=SCHEMA,
    )


def payloads(frame: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """Return the bytes of each row: as received where there, else its columns as a JSON object."""
    if PAYLOAD in frame.columns:
        return frame[PAYLOAD]
    present = frame.select(_with_all_floats(frame[name]) for name in columns if name in frame.columns)
    return pl.Series(PAYLOAD, [_encode(row) for row in present.iter_rows(named=True)], dtype=pl.Binary)


def _with_all_floats(column: pl.Series) -> pl.Series:
    """Return the column; as text where it has floats that JSON cannot say, such as NaN."""
    if column.dtype.is_float() and not column.is_finite().fill_null(True).all():
        return column.cast(pl.String)
    return column


def _encode(row: dict[str, Any]) -> bytes:
    return msgspec.json.encode(row, enc_hook=str)

"""The generated payments and events, read back from the folder that `generate.py` has filled."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from featurestore.errors import RequestError
from featurestore.instants import MINUTE, SECOND, format_duration, format_instant, now

_LATE = timedelta(minutes=10)


def streamed(data: Path, topic: str) -> pl.DataFrame:
    """Return the events of a topic as they arrived, those that came twice included."""
    path = data / f"stream/{topic}.ndjson"
    if not path.stat().st_size:
        raise RequestError(f"No {topic} came in the last day.", hint="Ask for more of them.")
    times = pl.col("timestamp", "received_at").str.to_datetime(time_zone="UTC")
    return pl.read_ndjson(path).with_columns(times)


def last_day(data: Path) -> pl.DataFrame:
    """Return the payments of the stream, each once, the newest last."""
    rows = streamed(data, "transactions").unique("transaction_id", keep="first", maintain_order=True)
    return rows.sort("timestamp", maintain_order=True)


def payments(data: Path) -> pl.DataFrame:
    """Return every payment once, in the order of their arrival."""
    history = pl.read_parquet(data / "transactions/*.parquet")
    both = pl.concat([history, last_day(data).select(history.columns)])
    return both.sort("received_at").unique("transaction_id", keep="first", maintain_order=True)


def lateness(rows: pl.DataFrame) -> str:
    """Return in words how many rows are late or repeated. The first column is their id."""
    delay = rows.select(pl.col("received_at") - pl.col("timestamp")).to_series()
    late = delay.filter(delay > _LATE)
    longest = late.dt.total_microseconds().max()
    repeated = rows.height - rows.to_series().n_unique()
    words = f"{late.len():,} more than 10 minutes late"
    if isinstance(longest, int):
        words += f" (up to {format_duration(longest // SECOND * SECOND)})"
    return f"{words}, {repeated:,} a second time"


def made_now(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a payment like this one as a request carries it: made now, what became of it not yet known."""
    known = {name: value for name, value in row.items() if name not in ("fraud", "received_at")}
    return {**known, "transaction_id": f"N{number:09d}", "timestamp": format_instant(now())}


def takeovers(customers: list[str]) -> list[dict[str, Any]]:
    """Return what precedes most frauds, minutes ago, for each customer: a new device and a new password."""
    t = now()
    return [
        {
            "event_id": f"N{number:09d}",
            "source": customer,
            "timestamp": format_instant(t - ago * MINUTE),
            "event": event,
            "device": "new",
            "received_at": format_instant(t),
        }
        for number, (customer, event, ago) in enumerate(
            (customer, *what) for customer in customers for what in (("login", 9), ("password_change", 5))
        )
    ]


def as_frame(requests: list[dict[str, Any]]) -> pl.DataFrame:
    """Return requests as rows for a training set."""
    return pl.DataFrame(requests).with_columns(
        pl.col("timestamp").str.to_datetime(time_zone="UTC"),
        fraud=pl.lit(None, pl.Int64),
        received_at=pl.lit(None, pl.Datetime("us", "UTC")),
    )

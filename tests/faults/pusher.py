"""A process that pushes payments, and says of each push what was acknowledged, until it is killed.

    python pusher.py FOLDER FIRST SEED

It numbers its payments from FIRST on. A line of its output is what one push returned: the numbers and places.
"""

from __future__ import annotations

import json
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from featurestore import FeatureStore

START = datetime(2026, 3, 1, tzinfo=UTC)
CUSTOMERS = 50


def payment(number: int) -> dict[str, Any]:
    """Return the payment of that number."""
    at = START + timedelta(milliseconds=number)  # a day holds more than any run sends
    return {
        "id": f"p{number}",
        "customer": number % CUSTOMERS,
        "at": at,
        "seen": at,
        "amount": float(number % 7),
        "shop": "abc"[number % 3],
    }


def pushed(events: list[dict[str, Any]], kind: int) -> Any:
    """Return the events as one of the things that a push takes."""
    if kind == 0:
        return events
    if kind == 1:
        return pl.DataFrame(events)
    return b"\n".join(json.dumps(event, default=datetime.isoformat).encode() for event in events)


def main(root: Path, first: int, seed: int) -> None:
    """Push until killed."""
    rng = random.Random(seed)
    with FeatureStore(root) as store:
        while True:
            count = rng.choice([1, 3, 40, 700])
            numbers = range(first, first + count)
            report = store.push("payments", pushed([payment(n) for n in numbers], rng.randrange(3)))
            assert not report.refused, report.refused
            said = [(numbers[item["index"]], item["partition"], item["sequence"]) for item in report.accepted]
            print(json.dumps(said), flush=True)
            first += count


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

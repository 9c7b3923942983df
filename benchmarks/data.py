"""Events and labels from seeded generators: as many as asked for, of uniform or Zipf-skewed entities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks.harness import SEED

BEGIN = 1_767_225_600_000_000  # 2026-01-01, in microseconds
DAY = 86_400_000_000
DAYS = 90
CHUNK = 10_000_000


def entities(rng: np.random.Generator, rows: int, number: int, skew: str) -> npt.NDArray[np.int64]:
    """Return an entity (0 … number - 1) per row: `uniform`, or `zipf`, where the n-th has a share of 1/n."""
    if skew == "uniform":
        return rng.integers(0, number, rows)
    shares = np.cumsum(1 / np.arange(1, number + 1))
    names = np.random.default_rng(SEED).permutation(number)  # so that hot entities are no neighbours
    return names[np.searchsorted(shares, rng.random(rows) * shares[-1])]


def write_events(folder: Path, rows: int, number: int, skew: str = "uniform", days: int = DAYS) -> None:
    """Write rows of `customer`, `at`, `amount`, `items` in the order of time, a file for every 10 million.

    Amounts are lognormal with two decimals, as money is. Nothing is written where all is there.
    """
    files = -(-rows // CHUNK)
    done = folder / "done"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(files):
        rng = np.random.default_rng([SEED, file])
        size = min(CHUNK, rows - file * CHUNK)
        span = days * DAY // files
        at = np.sort(rng.integers(BEGIN + file * span, BEGIN + (file + 1) * span, size))
        pl.DataFrame(
            {
                "customer": entities(rng, size, number, skew),
                "at": pl.Series(at).cast(pl.Datetime("us", "UTC")),
                "amount": np.round(rng.lognormal(3.0, 1.0, size), 2),
                "items": rng.integers(1, 20, size),
            }
        ).write_parquet(folder / f"events-{file:03}.parquet")
    done.touch()


def write_labels(path: Path, rows: int, number: int, skew: str = "uniform", days: int = DAYS) -> None:
    """Write questions: `row` (0, 1, …), `customer`, `event_timestamp`, in no order."""
    if path.exists():
        return
    rng = np.random.default_rng([SEED, 1_000_000])
    pl.DataFrame(
        {
            "row": np.arange(rows),
            "customer": entities(rng, rows, number, skew),
            "event_timestamp": pl.Series(rng.integers(BEGIN, BEGIN + days * DAY, rows)).cast(
                pl.Datetime("us", "UTC")
            ),
        }
    ).write_parquet(path)

"""What an expert would write by hand for work 2: sort events and questions, then walk them with two pointers.

Polars reads and sorts on all cores; the walk is compiled, and runs on all cores over ranges of entities. Sums
are running ones from which what leaves is subtracted (they drift; the expert does not care), maxima come from
a queue that only falls. Nothing of the store's contract (ids, ties, late rows, nulls) is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
import polars as pl

CHUNKS = 64
SPAN = 1 << 43  # microseconds, more than the events span: 100 days


def join(files: str, labels: pl.DataFrame, windows: Mapping[str, int]) -> pl.DataFrame:
    """Return `row`, amount, items and sum, count, max, avg of amount per window."""
    # packed into one number: Polars sorts by that several times as fast as by two columns
    events = (
        pl.scan_parquet(files)
        .select("customer", pl.col("at").to_physical(), "amount", "items")
        .with_columns(place=pl.col("customer") * SPAN + (pl.col("at") - pl.col("at").min()))
        .sort("place")
        .drop("place")
        .collect()
    )
    asked = (
        labels.select("row", "customer", pl.col("event_timestamp").to_physical())
        .with_columns(
            place=pl.col("customer") * SPAN + (pl.col("event_timestamp") - pl.col("event_timestamp").min())
        )
        .sort("place")
    )
    codes, times = events["customer"].to_numpy(), events["at"].to_numpy()
    wanted, instants = asked["customer"].to_numpy(), asked["event_timestamp"].to_numpy()
    widths = np.array(list(windows.values()))
    newest = np.empty(asked.height, np.int64)
    shape = (len(widths), asked.height)
    sums, counts, greatest = np.empty(shape), np.empty(shape, np.int64), np.empty(shape)
    # chunks of questions that begin where an entity does
    cuts = np.linspace(0, asked.height, CHUNKS + 1).astype(np.int64)
    cuts[1:-1] = np.searchsorted(wanted, wanted[cuts[1:-1]])
    starts = np.searchsorted(codes, wanted[np.minimum(cuts[:-1], asked.height - 1)])
    _walk(
        codes, times, events["amount"].to_numpy(), wanted, instants, widths, cuts, starts,
        newest, sums, counts, greatest,
    )  # fmt: skip
    index = pl.Series(newest)
    index = index.set(index < 0, None)
    columns = {"amount": events["amount"].gather(index), "items": events["items"].gather(index)}
    for number, name in enumerate(windows):
        count = pl.Series(counts[number])
        empty = count == 0
        columns[f"amount_sum_{name}"] = pl.Series(sums[number])
        columns[f"amount_count_{name}"] = count
        columns[f"amount_max_{name}"] = pl.Series(greatest[number]).set(empty, None)
        columns[f"amount_avg_{name}"] = (pl.Series(sums[number]) / count).set(empty, None)
    return pl.DataFrame({"row": asked["row"], **columns})


@numba.njit(parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def _walk(
    codes: Any, times: Any, values: Any, wanted: Any, instants: Any, widths: Any, cuts: Any, starts: Any,
    newest: Any, sums: Any, counts: Any, greatest: Any,
) -> None:  # fmt: skip
    for chunk in numba.prange(len(cuts) - 1):
        events, begin = len(codes), starts[chunk]
        for window in range(len(widths)):
            width = widths[window]
            low = high = begin
            queue = np.empty(1024, np.int64)
            head = tail = 0
            total = 0.0
            current = -1
            for q in range(cuts[chunk], cuts[chunk + 1]):
                if wanted[q] != current:
                    current = wanted[q]
                    while high < events and codes[high] < current:
                        high += 1
                    low = high
                    head = tail = 0
                    total = 0.0
                while high < events and codes[high] == current and times[high] <= instants[q]:
                    value = values[high]
                    total += value
                    while tail > head and values[queue[(tail - 1) % len(queue)]] <= value:
                        tail -= 1
                    if tail - head == len(queue):
                        larger = np.empty(2 * len(queue), np.int64)
                        for i in range(head, tail):
                            larger[i % len(larger)] = queue[i % len(queue)]
                        queue = larger
                    queue[tail % len(queue)] = high
                    tail += 1
                    high += 1
                while low < high and times[low] <= instants[q] - width:
                    total -= values[low]
                    low += 1
                while head < tail and queue[head % len(queue)] < low:
                    head += 1
                if window == 0:
                    last = high - 1
                    newest[q] = last if last >= 0 and codes[last] == current else -1
                sums[window, q] = total
                counts[window, q] = high - low
                greatest[window, q] = values[queue[head % len(queue)]] if head < tail else 0.0

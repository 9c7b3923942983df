"""storey's side of work 6: the same windows in memory, with neither Kafka nor Redis nor rows kept."""

import random
import time
from datetime import UTC, datetime, timedelta

from storey import AggregateByKey, NoopDriver, Reduce, SyncEmitSource, Table, build_flow
from storey.dtypes import FieldAggregator, SlidingWindows


def measure(events: int, entities: int, windows: list, functions: list, seed: int) -> dict:
    """Return the seconds that storey takes for events that are there already, as dictionaries.

    A larger buffer than storey's own (8 events) hands it more at once, which makes it faster.
    """
    random.seed(seed)
    end = datetime.now(UTC)
    span = timedelta(hours=24)
    given = [
        {
            "customer": str(random.randrange(entities)),
            "at": end - span * (1 - number / events),
            "amount": random.randrange(100_000) / 100,
        }
        for number in range(events)
    ]
    table = Table("spend", NoopDriver())
    controller = build_flow(
        [
            SyncEmitSource(buffer_size=1024, key_field="customer"),
            AggregateByKey(
                [FieldAggregator("amount", "amount", functions, SlidingWindows(windows, "10m"))],
                table,
                time_field="at",
            ),
            Reduce(0, lambda count, _: count + 1),
        ]
    ).run()
    began = time.perf_counter()
    for event in given:
        controller.emit(event)
    controller.terminate()
    counted = controller.await_termination()
    seconds = time.perf_counter() - began
    assert counted == events, counted
    return {"seconds": seconds, "events": events}

"""storey's side of work 11: twenty-seven aggregates of entities, written to Redis."""

import random
from datetime import UTC, datetime, timedelta

import redis
from storey import AggregateByKey, NoSqlTarget, Reduce, SyncEmitSource, Table, build_flow
from storey.dtypes import EmitAfterMaxEvent, FieldAggregator, SlidingWindows
from storey.redis_driver import RedisDriver

FUNCTIONS = ["sum", "count", "avg", "min", "max", "stddev", "stdvar", "first", "last"]


def windows(entities: int, events: int, port: int) -> dict:
    """Return the growth of the server's used_memory, and how many keys there are.

    Windows slide by ten minutes, as fine as storey's buckets go without growing further; ours are exact.
    """
    random.seed(1)
    end = datetime.now(UTC) - timedelta(hours=1)
    table = Table("spend", RedisDriver(redis_url=f"redis://127.0.0.1:{port}", key_prefix="s"))
    aggregated = [FieldAggregator("amount", "amount", FUNCTIONS, SlidingWindows(["1h", "6h", "1d"], "10m"))]
    with redis.Redis(port=port) as client:
        before = client.info("memory")["used_memory"]
        controller = build_flow(
            [
                SyncEmitSource(key_field="customer"),
                AggregateByKey(aggregated, table, time_field="at", emit_policy=EmitAfterMaxEvent(events)),
                NoSqlTarget(table, flush_interval_secs=1),
                Reduce(0, lambda count, _: count + 1),
            ]
        ).run()
        for customer in range(entities):
            ages = sorted((random.random() * 23 * 3600 for _ in range(events)), reverse=True)
            for age in ages:
                amount = round(random.lognormvariate(3, 1), 2)
                controller.emit(
                    {"customer": str(customer), "at": end - timedelta(seconds=age), "amount": amount}
                )
        controller.terminate()
        controller.await_termination()
        keys = client.dbsize()
        if keys < entities:
            raise AssertionError(f"{keys} keys were written")
        return {"bytes": client.info("memory")["used_memory"] - before, "keys": keys}

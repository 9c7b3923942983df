"""A clock that jumps, of a worker, of an ingest or of a reader, costs no row and counts none twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.clocks import DAY, HOUR, YEAR, Clock
from faults.conftest import Measured
from faults.judge import Judge
from faults.processes import ENGINES, Appending, Worker, await_caught_up
from faults.scale import LONG
from faults.traffic import Traffic, make_project

from featurestore import FeatureStore
from featurestore_connectors.embedded import EmbeddedServer

EVENTS = 60_000 if LONG else 3_000
CUSTOMERS, SHOPS = (1_000, 50) if LONG else (60, 10)
JUMPS = [HOUR, -HOUR, DAY, 0, YEAR, -DAY, 2 * YEAR, -YEAR, 0] if LONG else [YEAR, -HOUR]
PROMISED = "no row is lost, counted twice, trimmed or refused by it; the worker goes on at once"


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.redis), "sqlite"])
def online(request: pytest.FixtureRequest, start_server: Callable[..., EmbeddedServer]) -> dict[str, Any]:
    """The online store's configuration, of each kind in turn."""
    if request.param == "sqlite":
        return {"kind": "sqlite"}
    return {"kind": "redis", "url": start_server().url}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_clock_of_a_worker_jumps_while_it_streams(
    engine: str, tmp_path: Path, online: dict[str, Any], measured: Measured
) -> None:
    clock = Clock(tmp_path)
    root = make_project(tmp_path / "project", online)
    traffic = Traffic(51, EVENTS, customers=CUSTOMERS, shops=SHOPS)
    with FeatureStore(root) as store:
        store.apply()
        with Appending(store, traffic) as producer:
            worker = Worker.stream(root, engine, environment=clock.environment)
            try:
                for number, seconds in enumerate([0, *JUMPS]):
                    clock.jump(seconds)
                    producer.allow((number + 1) / (len(JUMPS) + 1))
                    producer.await_appended()
                    await_caught_up(store, worker)
                worker.stop()
            finally:
                worker.discard()
        verdict = Judge(traffic).check(store)
    measured(
        f"the clock of a worker jumps ({engine}, {online['kind']})",
        promised=PROMISED,
        events=EVENTS,
        jumps=[f"{seconds:+d} s" for seconds in JUMPS],
        lost=0,
        doubled=0,
        compared=vars(verdict),
    )


def test_the_clock_is_another_at_each_start_of_a_worker_that_is_killed(
    tmp_path: Path, online: dict[str, Any], measured: Measured
) -> None:
    clock = Clock(tmp_path)
    root = make_project(tmp_path / "project", online)
    traffic = Traffic(52, EVENTS, customers=CUSTOMERS, shops=SHOPS)
    with FeatureStore(root) as store:
        store.apply()
        with Appending(store, traffic) as producer:
            for number, seconds in enumerate([*JUMPS, 0]):
                clock.jump(seconds)
                producer.allow((number + 1) / (len(JUMPS) + 1))
                worker = Worker.stream(root, "local", environment=clock.environment)
                try:
                    producer.await_appended()
                    await_caught_up(store, worker)
                    worker.kill()
                finally:
                    worker.discard()
        store.drain()
        verdict = Judge(traffic).check(store)
    measured(
        f"the clock is another at each start of a worker ({online['kind']})",
        promised=PROMISED,
        events=EVENTS,
        jumps=[f"{seconds:+d} s" for seconds in JUMPS],
        lost=0,
        doubled=0,
        compared=vars(verdict),
    )


def test_the_clock_of_an_ingest_and_of_a_reader_is_wrong(
    tmp_path: Path, online: dict[str, Any], measured: Measured
) -> None:
    """Both leave everything as it is for those whose clock is right."""
    clock = Clock(tmp_path)
    root = make_project(tmp_path / "project", online)
    traffic = Traffic(53, EVENTS, customers=CUSTOMERS, shops=SHOPS)
    rows = traffic.valid
    with FeatureStore(root) as store:
        store.apply()
        for number, seconds in enumerate(JUMPS):
            clock.jump(seconds)
            path = tmp_path / f"{number}.parquet"
            rows[number :: len(JUMPS)].write_parquet(path)
            run(root, clock, "ingest", "payments", "--from", str(path))
            told = run(root, clock, "get-online", "of_shop", "shop=1")
            assert "double_sum_2h" in told
        judge = Judge(traffic)
        entities, values = judge.check_online(store, moments=3)
    measured(
        f"the clock of an ingest and of a reader is wrong ({online['kind']})",
        promised="others read what is right, all of it",
        events=rows.height,
        jumps=[f"{seconds:+d} s" for seconds in JUMPS],
        lost=0,
        doubled=0,
        compared={"entities": entities, "values": values},
    )


def run(root: Path, clock: Clock, *arguments: str) -> str:
    """Run the command line in the project under the clock; return what it printed."""
    worker = Worker(root, *arguments, environment=clock.environment)
    assert worker.process.wait(120) == 0, worker.said
    return worker.said

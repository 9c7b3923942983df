"""Two workers on the same sources do no harm: both killed, or one frozen while the other takes over."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.conftest import Measured
from faults.judge import Judge
from faults.processes import ENGINES, Appending, Moments, Worker, await_caught_up, behind, wait_for
from faults.scale import LONG
from faults.traffic import Traffic, make_project

from featurestore import FeatureStore
from featurestore_connectors.embedded import EmbeddedServer

ROUNDS = 25 if LONG else 2
EVENTS = 200_000 if LONG else 5_000
CUSTOMERS, SHOPS = (5_000, 100) if LONG else (100, 10)

pytestmark = pytest.mark.redis


@pytest.mark.parametrize("engine", ENGINES if LONG else ENGINES[1:])
def test_both_workers_of_two_die(
    engine: str, tmp_path: Path, start_server: Callable[..., EmbeddedServer], measured: Measured
) -> None:
    """Both stream the same sources; each is killed at a moment of its own, again and again."""
    rng = random.Random(21)
    root = make_project(tmp_path, {"kind": "redis", "url": start_server().url})
    traffic = Traffic(21, EVENTS, customers=CUSTOMERS, shops=SHOPS)
    moments = Moments(root, rng, 2.0)
    with FeatureStore(root) as store:
        store.apply()
        with Appending(store, traffic) as producer:
            for number in range(ROUNDS):
                producer.allow((number + 1) / (ROUNDS + 1))
                pair = [Worker.stream(root, engine), Worker.stream(root, "local")]
                rng.shuffle(pair)
                try:
                    for worker in pair:
                        moments.await_one(worker)
                        worker.kill()
                finally:
                    discard(pair)
        pair = [Worker.stream(root, engine), Worker.stream(root, "local")]
        try:
            await_caught_up(store, pair[0])
            for worker in pair:
                worker.stop()
        finally:
            discard(pair)
        verdict = Judge(traffic).check(store)
    measured(
        f"both workers of two die ({engine} and local)",
        promised="nothing is lost and nothing counts twice, online and offline",
        events=EVENTS,
        kills=2 * ROUNDS,
        lost=0,
        doubled=0,
        compared=vars(verdict),
    )


@pytest.mark.parametrize("engine", ENGINES if LONG else ENGINES[:1])
def test_a_frozen_worker_wakes_after_another_took_over(
    engine: str, tmp_path: Path, start_server: Callable[..., EmbeddedServer], measured: Measured
) -> None:
    """Stopped in the middle of its work, it goes on behind the other; then one of them ends."""
    rng = random.Random(22)
    root = make_project(tmp_path, {"kind": "redis", "url": start_server().url})
    traffic = Traffic(22, EVENTS, customers=CUSTOMERS, shops=SHOPS)
    moments = Moments(root, rng, 2.0)
    begun = time.monotonic()
    with FeatureStore(root) as store:
        store.apply()
        with Appending(store, traffic) as producer:
            running = Worker.stream(root, engine)
            other: Worker | None = None
            try:
                for number in range(ROUNDS):
                    producer.allow((number + 1) / ROUNDS)
                    moments.await_one(running)
                    running.freeze()
                    other = Worker.stream(root, engine)
                    left = behind(store)
                    wait_for(lambda left=left: behind(store) < max(left, 1), "the other to take over", other)
                    running.wake()
                    if rng.random() < 0.5:  # the one that woke is the one that stays
                        running, other = other, running
                    running.stop()
                    running, other = other, None
            finally:
                discard([running, *([other] if other else [])])
        running = Worker.stream(root, engine)
        try:
            await_caught_up(store, running)
            running.stop()
        finally:
            discard([running])
        verdict = Judge(traffic).check(store)
    measured(
        f"a writer is frozen, another takes over, the first wakes ({engine})",
        promised="both go on; nothing is lost and nothing counts twice",
        events=EVENTS,
        freezes=ROUNDS,
        lost=0,
        doubled=0,
        compared=vars(verdict),
        seconds=round(time.monotonic() - begun),
    )


def discard(workers: list[Worker]) -> None:
    """End what is left of the workers."""
    for worker in workers:
        worker.discard()

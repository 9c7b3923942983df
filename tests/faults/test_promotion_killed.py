"""A promotion and a repair are killed at random moments while a stream runs, events come and readers ask."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from faults.conftest import Measured
from faults.scale import LONG
from handoff import Row, check, command, payments, polling, revise, send, wait_until, write, write_batch
from streams import lag, streaming

from featurestore import FeatureStore

KILLS = 40 if LONG else 3
LONGEST_SECONDS = 8.0  # from when the versions are there
HISTORY = 700 if LONG else 200
PAUSE = 0.4 if LONG else 0.05  # seconds between events


def version(number: int) -> dict[str, Any]:
    """Return declarations that differ from those before in a window, and every second time in a step."""
    return {"windows": f"[{number + 2}h, 2d]", "limit": (50, 20)[number // 2 % 2]}


class Sending:
    """Sends events one by one until told to end."""

    def __init__(self, root: Path, rows: list[Row]) -> None:
        self.sent = 0
        self._root = root
        self._rows = rows
        self._end = Event()
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with FeatureStore(self._root) as store:
            while not self._end.wait(PAUSE) and self.sent < len(self._rows):
                send(store, [self._rows[self.sent]])
                self.sent += 1

    def end(self) -> int:
        """Return how many were sent, once no more are."""
        self._end.set()
        self._thread.join()
        return self.sent


def has_begun(store: FeatureStore) -> bool:
    """Tell whether a promotion or a repair has begun, this one or the one that was killed before it."""
    if any("next" in tags for tags in store.environment.registry.pointers("shop").values()):
        return True
    return any(g.status in ("building", "following") for g in store.environment.registry.generations("shop"))


@pytest.mark.redis
def test_a_promotion_killed_at_random_moments_while_events_come(
    tmp_path: Path, start_server: Any, measured: Measured
) -> None:
    rng = random.Random(7)
    root = write(tmp_path, {"kind": "redis", "url": start_server().url}, **version(0))
    rows = payments(HISTORY + 1000)
    with FeatureStore(root) as store:
        store.apply()
        write_batch(root, "a", rows[:HISTORY])
        store.ingest("payments")
        killed = {"promote": 0, "materialize": 0}
        statuses: dict[str, int] = {}
        current = 0
        with streaming(root, "local"), polling(root, rows) as poller:
            sending = Sending(root, rows[HISTORY:])
            try:
                while sum(killed.values()) < KILLS:
                    before = store.environment.registry.resolve("shop", "FeatureSet", "spend").fingerprint
                    is_promotion = rng.random() < 0.7
                    revise(root, **version(current + 1 if is_promotion else current))
                    words = ("apply", "--promote") if is_promotion else ("materialize", "all")
                    with command(root, *words) as process:
                        wait_until(lambda: has_begun(store) or process.poll() is not None, "it begins", 120)
                        try:
                            process.wait(rng.uniform(0, LONGEST_SECONDS))
                        except subprocess.TimeoutExpired:
                            process.send_signal(signal.SIGKILL)
                    if process.returncode == -signal.SIGKILL:
                        killed["promote" if is_promotion else "materialize"] += 1
                        for found in store.environment.registry.generations("shop"):
                            statuses[found.status] = statuses.get(found.status, 0) + 1
                    after = store.environment.registry.resolve("shop", "FeatureSet", "spend").fingerprint
                    current += after != before
                revise(root, **version(current + 1))
                started = time.monotonic()
                store.apply(promote=True)
                seconds = time.monotonic() - started
            finally:
                sent = sending.end()
        store.drain()
        assert lag(store) == 0
        rows = rows[: HISTORY + sent]
        compared = check(store, rows) + check(store, rows, "risk@previous")
        left = [g.status for g in store.environment.registry.generations("shop")]
        assert not {"building", "following"} & set(left)
    measured(
        "apply --promote and materialize killed at random moments",
        promised="what serves is untouched; the next goes on from there; nothing is lost or doubled",
        kills=killed,
        generations_seen_after_kills=statuses,
        events_meanwhile=sent,
        answers_judged=poller.answers,
        versions_served=len(poller.versions),
        values_compared=compared,
        last_promotion_seconds=round(seconds, 1),
        lost=0,
        counted_twice=0,
    )

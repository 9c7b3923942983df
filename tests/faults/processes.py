"""A `featurestore stream` process, and what is done to it from outside, at moments it cannot choose."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Condition, Thread

import pytest
from faults.scale import LONG
from faults.traffic import Traffic

from featurestore import FeatureStore
from featurestore.contracts import StreamSource
from featurestore.online.writer import OnlineWriter

ENGINES = [
    "local",
    pytest.param("bytewax", marks=pytest.mark.skipif(sys.version_info >= (3, 13), reason="no wheel")),
]
WAIT_SECONDS = 120.0
_APPENDED_AT_ONCE = 500
_WORK_SECONDS = 3.0 if LONG else 1.0


class Worker:
    """One `featurestore` process of a project. What it says is in `output`."""

    def __init__(
        self, root: Path, *arguments: str, environment: Mapping[str, str] | None = None, name: str = "worker"
    ) -> None:
        self.root = root
        self.output = root / f"{name}-{time.monotonic_ns()}.txt"
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "featurestore.cli", *arguments],
                cwd=root,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**inherited, **(environment or {})},
            )

    @classmethod
    def stream(cls, root: Path, engine: str, *arguments: str, **options: Mapping[str, str] | None) -> Worker:
        """Return a running `featurestore stream`; Bytewax with two workers."""
        workers = ["--workers", "2"] if engine == "bytewax" else []
        return cls(root, "stream", "--engine", engine, *workers, *arguments, **options)  # type: ignore[arg-type]

    @property
    def said(self) -> str:
        """What it has printed."""
        return self.output.read_text(errors="replace")

    def is_alive(self) -> bool:
        """Whether the process runs (or is frozen)."""
        return self.process.poll() is None

    def kill(self) -> None:
        """End it at once, as a crash does. One that had ended by itself, with an error, fails the test."""
        assert self.is_alive(), f"the worker ended by itself: {self.said}"
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Stop the process where it is."""
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let a frozen process go on."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it in order, once it streams, and check that it did."""
        wait_for(lambda: "Streaming" in self.said, "the worker to start", self)
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT_SECONDS) == 0, self.said

    def discard(self) -> None:
        """End what is left of it, whatever its state."""
        if self.is_alive():
            self.process.kill()
            self.process.wait()


class Appending:
    """A producer in a thread: it appends all events, as far as it is allowed to, while the block runs.

    `appended` is how many were acknowledged.
    """

    def __init__(self, store: FeatureStore, traffic: Traffic, source: str = "payments") -> None:
        self._topic: StreamSource = store.environment.stream(store.catalog.source(source))
        self._traffic = traffic
        self._allowed = self.appended = 0
        self._changed = Condition()
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run)

    def allow(self, share: float) -> None:
        """Let the producer append that share of the events, from 0 to 1."""
        with self._changed:
            self._allowed = max(self._allowed, round(share * self._traffic.sent.height))
            self._changed.notify()

    def await_appended(self) -> None:
        """Return once all that is allowed was acknowledged."""
        wait_for(lambda: self.appended >= self._allowed or self._error is not None, "the producer")

    def __enter__(self) -> Appending:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.allow(1.0)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        count = self._traffic.sent.height
        try:
            while self.appended < count:
                with self._changed:
                    self._changed.wait_for(lambda: self._allowed > self.appended)
                    end = min(self.appended + _APPENDED_AT_ONCE, self._allowed)
                payloads = self._traffic.payloads(self.appended, end)
                self._topic.append([(None, payload) for payload in payloads])
                self.appended = end
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            self._error = error


def behind(store: FeatureStore, source: str = "payments") -> int:
    """Return how many records the store that is furthest behind lacks, over all partitions."""
    store.catalog.forget()
    ends = store.environment.stream(store.catalog.source(source)).ends()
    lag = 0
    for plan in store.catalog.live_sets():
        table = store.environment.rows_table(plan)
        snapshot = table.snapshot()
        shards = OnlineWriter(plan, store.environment.online, store.catalog.serving(plan)).positions()
        for partition, end in ends.items():
            reached = min(positions.get(partition, 0) for positions in shards.values())
            lag = max(lag, end - min(reached, table.position(snapshot, partition)))
    return lag


def await_caught_up(store: FeatureStore, worker: Worker | None = None) -> None:
    """Return once every store has applied all that the topic holds."""
    wait_for(lambda: behind(store) == 0, "the stream to catch up", worker, every=0.2)


def wait_for(
    condition: Callable[[], bool],
    what: str,
    worker: Worker | None = None,
    *,
    every: float = 0.01,
    seconds: float = WAIT_SECONDS,
) -> None:
    """Return once the condition holds; fail when it does not in time, or when the worker ended."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert worker is None or worker.is_alive(), f"the worker ended by itself: {worker.said}"
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}" + (
            f": {worker.said}" if worker else ""
        )
        time.sleep(every)


class Moments:
    """Moments to hit a worker at: by its age, or when a file of the offline store has just appeared."""

    def __init__(self, root: Path, rng: random.Random, start_seconds: float) -> None:
        self._offline = root / ".featurestore" / "offline"
        self._rng = rng
        self._start_seconds = start_seconds

    def await_one(self, worker: Worker) -> str:
        """Return at a random moment, with its kind: start, work, commit (of rows) or after (a commit)."""
        kind = self._rng.choices(["start", "work", "commit", "after"], [2, 2, 4, 2])[0]
        begun = time.monotonic()
        if kind == "start":
            self._sleep_until(begun + self._rng.uniform(0, self._start_seconds), worker)
            return kind
        longest = begun + self._start_seconds + self._rng.uniform(0, _WORK_SECONDS)
        if kind == "work":
            self._sleep_until(longest, worker)
            return kind
        pattern = "*.parquet" if kind == "commit" else "_delta_log/*.json"
        tables = [path for path in self._offline.glob("*") if path.is_dir()]
        if tables:
            table = self._rng.choice(tables)
            latest = longest + _WORK_SECONDS
            before = sum(1 for _ in table.glob(pattern))
            while sum(1 for _ in table.glob(pattern)) == before and time.monotonic() < latest:
                if not worker.is_alive():
                    break
                time.sleep(0.001)
            pause = self._rng.choice([0.0, 0.005, 0.05])
            self._sleep_until(time.monotonic() + self._rng.uniform(0, pause), worker)
        return kind

    def _sleep_until(self, moment: float, worker: Worker) -> None:
        try:
            worker.process.wait(max(0.0, moment - time.monotonic()))
        except subprocess.TimeoutExpired:
            return

"""A stream in several processes: they are started, watched, replaced together, and ended together.

The processes of a cluster exchange rows, so one that dies takes the others' run with it; they are all
started again, from the positions that the stores have. Each is given a pipe: orders go down, reports come
up, and where its other end is gone, the supervisor is, and the process ends itself.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from threading import Event
from typing import TYPE_CHECKING

from featurestore import logs
from featurestore.errors import FeatureStoreError, OperatorError, RequestError
from featurestore.metrics import Metrics, Numbers, lasting, summed
from featurestore.running import Report, StreamOptions

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

_REPORT_SECONDS = 0.2
_SILENT_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 10.0
_IDLE_STOP_SECONDS = 3.0
"""How long a process that has read nothing waits for its cluster before it ends."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

Clusters = dict[str, tuple[tuple[str, ...], int]]

log = logging.getLogger(__name__)


class _Failed(FeatureStoreError):
    """An error that a process of the stream ended with, as it told."""


class Supervisor:
    """The streams of these sources in processes of their own. Not safe to use from several threads."""

    def __init__(
        self, store: FeatureStore, names: Sequence[str], options: StreamOptions, stop: Event
    ) -> None:
        self.errors: list[BaseException] = []
        self._store = store
        self._names = sorted(names)
        self._options = options
        self._stop = stop
        self._numbers = range(options.processes) if not options.addresses else [options.process]
        self._children: dict[int, _Child] = {}
        self._metrics = Metrics()
        self._past: list[tuple[dict[str, dict[str, int]], Numbers]] = []
        self._failing_since: float | None = None
        self._pause = 0.25
        self._start_at: float | None = None
        _check(options, len(names))

    def start(self) -> None:
        """Start the processes."""
        clusters = self._clusters()
        for number in self._numbers:
            options = replace(self._options, process=number)
            of_this = {name: (addresses, number) for name, addresses in clusters.items()}
            self._children[number] = _Child(self._store, self._names, options, of_this)

    def join(self, seconds: float) -> bool:
        """Look after the processes for so long; return whether all have ended for good."""
        deadline = time.monotonic() + seconds
        while True:
            over = self._look()
            left = deadline - time.monotonic()
            if over or left <= 0:
                return over
            time.sleep(min(left, 0.05))

    def close(self) -> None:
        """End what still runs, at once."""
        for child in self._children.values():
            child.kill()

    def report(self) -> Report:
        """Return what all processes told last, added up."""
        reports = [child.report for child in self._children.values()]
        everything = [*self._past, *((r.counts, r.numbers) for r in reports)]
        counts: dict[str, dict[str, int]] = {name: {} for name in self._names}
        for part, _ in everything:
            for source, numbers in part.items():
                for name, number in numbers.items():
                    counts[source][name] = counts[source].get(name, 0) + number
        not_ready = next((r.not_ready for r in reports if r.not_ready is not None), None)
        if self._start_at is not None or not reports:
            not_ready = "a process of the stream ended; it is being replaced" if self._past else "starting"
        return Report(
            counts,
            summed([*(numbers for _, numbers in everything), self._metrics.numbers()]),
            not_ready,
            max((child.stalled_seconds() for child in self._children.values()), default=0.0),
        )

    def _look(self) -> bool:
        if self._start_at is not None:  # waiting to start again
            if self._stop.is_set():
                return True
            if time.monotonic() >= self._start_at:
                self._start_at = None
                self.start()
            return False
        for child in self._children.values():
            child.receive()
            if self._stop.is_set():
                child.stop()
        failed = [child.error for child in self._children.values() if child.error is not None]
        if failed:
            self.errors.append(failed[0])
            self.close()
            return True
        ended = [child for child in self._children.values() if child.has_ended()]
        if all(child.is_done for child in self._children.values()):
            return len(ended) == len(self._children)
        died = [child for child in ended if not child.is_done]
        if died:
            self._replace(died)
            return self._stop.is_set() or bool(self.errors)
        return False

    def _replace(self, died: Sequence[_Child]) -> None:
        """End the others and arrange for all to be started again, unless that goes on for too long."""
        told = ", ".join(child.how_ended() for child in died)
        self.close()
        now = time.monotonic()
        if any(child.has_worked() for child in self._children.values()):
            self._failing_since, self._pause = None, 0.25
        self._failing_since = self._failing_since or now
        self._past += [(c.report.counts, lasting(c.report.numbers)) for c in self._children.values()]
        self._children = {}
        if self._stop.is_set():
            self.errors.append(
                OperatorError(
                    f"While the stream was being stopped, {told}.",
                    hint="What was not committed is read again at the next start.",
                )
            )
            return
        if now - self._failing_since > self._options.give_up_seconds:
            self.errors.append(
                OperatorError(
                    f"Processes of the stream keep ending: {told}.", hint="Their logs have the reason."
                )
            )
            return
        self._metrics.add("featurestore_stream_process_restarts_total")
        pause = random.uniform(self._pause / 2, self._pause)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE_SECONDS)
        self._start_at = now + pause
        log.warning("%s. All processes start again in %.1f s.", told, pause)

    def _clusters(self) -> dict[str, tuple[str, ...]]:
        """Return by source the addresses of its processes: every source has a port of its own."""
        if self._options.addresses:
            given = [address.rpartition(":") for address in self._options.addresses]
            return {
                name: tuple(f"{host}:{int(port) + place}" for host, _, port in given)
                for place, name in enumerate(self._names)
            }
        ports = iter(_free_ports(len(self._names) * self._options.processes))
        return {
            name: tuple(f"127.0.0.1:{next(ports)}" for _ in range(self._options.processes))
            for name in self._names
        }


class _Child:
    """One process and the pipe to it."""

    def __init__(
        self, store: FeatureStore, names: Sequence[str], options: StreamOptions, clusters: Clusters
    ) -> None:
        self.report = Report({name: {} for name in names})
        self.error: FeatureStoreError | None = None
        self.is_done = False
        self._why = ""
        self._told_at = time.monotonic()
        self._is_stopping = False
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_work,
            args=(store, list(names), options, clusters, theirs, logs.current()),
            name=f"process {options.process}",
        )
        # Told to all of its group, a signal ends a process that does not yet leave it to the supervisor.
        resource_tracker.ensure_running()  # which would unblock them
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def receive(self) -> None:
        """Take what the process has told."""
        with suppress(EOFError, OSError):
            while self._pipe.poll():
                kind, told = self._pipe.recv()
                self._told_at = time.monotonic()
                if kind == "failed":
                    self.error = _Failed(told["message"], where=told["where"], hint=told["hint"])
                    self.error.code = told["code"]
                elif kind == "panicked":
                    self._why = f" ({told})"
                else:
                    self.report = told
                    self.is_done = kind == "done"

    def stop(self) -> None:
        """Tell the process to commit and end."""
        if not self._is_stopping:
            self._is_stopping = True
            with suppress(OSError):
                self._pipe.send("stop")

    def kill(self) -> None:
        """End the process at once: what it had not committed is read again."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def has_ended(self) -> bool:
        """Tell whether the process has ended, all that it told received."""
        if self._process.is_alive():
            return False
        self.receive()
        return True

    def stalled_seconds(self) -> float:
        """Return for how long its loops stand still, by what it told; one that is silent may be frozen."""
        silent = time.monotonic() - self._told_at
        return self.report.stalled_seconds + (silent if silent > _SILENT_SECONDS else 0.0)

    def has_worked(self) -> bool:
        """Tell whether the process has written anything."""
        return any(n.get("applied", 0) + n.get("committed", 0) for n in self.report.counts.values())

    def how_ended(self) -> str:
        """Return how the process ended, for a message."""
        code = self._process.exitcode or 0
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        return f"{self._process.name} ({self._process.pid}) ended {how}{self._why}"


def _check(options: StreamOptions, sources: int) -> None:
    if not options.addresses:
        return
    taken: set[tuple[str, int]] = set()
    for address in options.addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise RequestError(f"'{address}' is no address.", hint="Write host:port, one per process.")
        ports = range(int(port), int(port) + sources)
        if not 0 < ports[0] <= ports[-1] < 2**16:
            raise RequestError(
                f"'{address}' is no address for {sources} sources, each of which takes a port from there on.",
                hint="Ports go from 1 to 65535.",
            )
        if taken.intersection((host, number) for number in ports):
            raise RequestError(
                f"The ports of '{address}' are taken by an address before it.",
                hint=f"Every source takes the next port: leave {sources} for each process of a host.",
            )
        taken.update((host, number) for number in ports)
    if not 0 <= options.process < len(options.addresses):
        raise RequestError(
            f"There is no process {options.process} among {len(options.addresses)} addresses.",
            hint="Processes are numbered from 0, in the order of --addresses.",
        )


def _free_ports(count: int) -> list[int]:
    """Return free ports of loopback, all different."""
    held = []
    try:
        for _ in range(count):
            held.append(socket.create_server(("127.0.0.1", 0)))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def _work(
    store: FeatureStore,
    names: list[str],
    options: StreamOptions,
    clusters: Clusters,
    pipe: Connection,
    settings: logs.LogSettings | None,
) -> None:
    """Run the streams in a process of the supervisor's; it alone is told of signals, and passes them on."""
    from featurestore.streaming import running

    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    if settings is not None:
        logs.configure(settings)
    stop = Event()
    threading.Thread(target=_obey, args=(pipe, stop), daemon=True).start()
    streams = running(store, names, options, stop, clusters)
    streams.start()
    stopped_at = None
    while not streams.join(_REPORT_SECONDS):
        _tell(pipe, "report", streams.report())
        stopped_at = stopped_at or (time.monotonic() if stop.is_set() else None)
        if stopped_at and time.monotonic() - stopped_at > _IDLE_STOP_SECONDS and not streams.has_begun():
            break
    streams.close()
    error = streams.errors[0] if streams.errors else None
    status = 0
    if error is None:
        _tell(pipe, "done", streams.report())
    elif isinstance(error, FeatureStoreError):
        told = {"message": error.message, "where": error.where, "hint": error.hint, "code": error.code}
        _tell(pipe, "failed", told)
    else:  # Bytewax panics where a process of its cluster is gone
        _tell(pipe, "report", streams.report())
        _tell(pipe, "panicked", (str(error).strip() or type(error).__name__).splitlines()[-1])
        log.debug("%s", "".join(traceback.format_exception(error)))
        status = 3
    logging.shutdown()
    os._exit(status)  # threads that Bytewax left behind hold nothing


def _obey(pipe: Connection, stop: Event) -> None:
    """Set `stop` when told to; end the process when the supervisor is gone."""
    try:
        while True:
            pipe.recv()
            stop.set()
    except (EOFError, OSError):
        os._exit(4)


def _tell(pipe: Connection, kind: str, what: object) -> None:
    with suppress(OSError):  # the supervisor is gone: `_obey` ends the process
        pipe.send((kind, what))

"""Streams in several processes: replaced when one dies, ended with their supervisor, drained on SIGTERM."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
import shop
from streams import check, make_project, send

from featurestore import FeatureStore
from featurestore.cli import main
from featurestore.running import StreamOptions
from featurestore.supervising import Supervisor
from featurestore_connectors.embedded import EmbeddedServer

needs_bytewax = pytest.mark.skipif(importlib.util.find_spec("bytewax") is None, reason="Bytewax is missing")
SECONDS = 90.0


class Command:
    """A running `featurestore stream`; what it says is in a file."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self._output = root / f"said-{time.monotonic_ns()}.txt"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "featurestore.cli", "-C", str(root), "stream", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._output.read_text(errors="replace")

    @property
    def url(self) -> str:
        """Where it answers probes, once it says so."""
        until(lambda: "probes and metrics on" in self.said, "the probes", self)
        found = re.search(r"on (http://\S+?)[\"\s]", self.said)
        assert found is not None
        return found[1]

    def children(self) -> list[int]:
        """The processes that it has started to stream, by id."""
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid), "-f", "spawn_main"],
            capture_output=True,
            text=True,
            check=False,
        )
        return [int(pid) for pid in found.stdout.split()]

    def end(self, signal_number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(signal_number)
        return self.process.wait(SECONDS)


@contextmanager
def command(root: Path, *arguments: str) -> Iterator[Command]:
    """Run a stream while in the block; nothing of it is left behind."""
    running = Command(root, *arguments)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def until(condition: Callable[[], bool], what: str, running: Command | None = None) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        said = "" if running is None else running.said
        assert running is None or running.process.poll() is None, f"the stream ended by itself: {said}"
        assert time.monotonic() < deadline, f"waited for {what}: {said}"
        time.sleep(0.05)


def ask(url: str) -> tuple[int, str]:
    """Return status and body."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def measured(url: str) -> dict[str, float]:
    """Return the metrics, by name with labels."""
    lines = [line for line in ask(f"{url}/metrics")[1].splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def exists(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:1]
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def project(tmp_path: Path) -> Iterator[tuple[Path, FeatureStore]]:
    root = make_project(tmp_path, {"kind": "sqlite"})
    with FeatureStore(root) as store:
        store.apply()
        yield root, store


@needs_bytewax
def test_a_process_that_is_killed_is_replaced_and_nothing_is_lost(
    project: tuple[Path, FeatureStore],
) -> None:
    root, store = project
    paid, visited = shop.make_log(21, 300)
    send(store, "payments", paid[:150])
    send(store, "visits", visited)
    with command(root, "--processes", "2", "--listen", "127.0.0.1:0", "--log-format", "json") as running:
        url = running.url
        until(lambda: ask(f"{url}/readyz")[0] == 200, "readiness", running)
        records = 'featurestore_stream_records_total{source="payments"}'
        until(lambda: measured(url).get(records, 0) == 150, "the first part", running)
        before = measured(url)
        assert before["featurestore_stream_ready"] == 1
        assert {f'featurestore_stream_resident_bytes{{process="{n}"}}' for n in (0, 1)} <= set(before)
        first = running.children()
        assert len(first) == 2
        os.kill(first[0], signal.SIGKILL)
        until(lambda: len(set(running.children()) - set(first)) == 2, "other processes", running)
        assert not any(exists(pid) for pid in first)
        send(store, "payments", paid[150:])
        until(lambda: ask(f"{url}/readyz")[0] == 200, "readiness", running)
        until(lambda: measured(url).get(records, 0) >= before[records] + 150, "the rest", running)
        until(lambda: measured_lag(url) == 0, "the rest", running)
        assert ask(f"{url}/healthz") == (200, "ok\n")
        after = measured(url)
        assert after["featurestore_stream_process_restarts_total"] == 1
        assert running.end() == 0, running.said
        kept = running.children()
    assert kept == []
    logged = [json.loads(line) for line in running.said.splitlines() if line.startswith('{"time"')]
    [death] = [line for line in logged if line["level"] == "warning"]
    assert "ended by signal SIGKILL" in death["message"]  # the other may have ended of it by then
    assert "All processes start again" in death["message"]
    store.drain()  # what the process that was killed had read is counted twice, so some may be left
    check(store)


def measured_lag(url: str) -> float:
    lags = [n for name, n in measured(url).items() if name.startswith("featurestore_stream_lag_events")]
    return sum(lags) if lags else float("inf")


@needs_bytewax
def test_a_process_that_is_frozen_counts_as_stalled(project: tuple[Path, FeatureStore]) -> None:
    """Nothing comes of it any more, that it stands still neither: liveness is to tell."""
    _, store = project
    streams = Supervisor(store, ["payments", "visits"], StreamOptions(processes=2), Event())
    streams.start()
    try:
        until(lambda: streams.join(0.1) or is_ready(streams), "the stream to run")
        [child, *_] = (each for each in multiprocessing.active_children() if each.name == "process 1")
        os.kill(child.pid or 0, signal.SIGSTOP)
        until(lambda: streams.join(0.1) or streams.report().stalled_seconds > 4.0, "the stall to be told")
        os.kill(child.pid or 0, signal.SIGCONT)
        until(lambda: streams.join(0.1) or streams.report().stalled_seconds < 2.0, "the stall to end")
        assert not streams.errors
    finally:
        streams.close()


def is_ready(streams: Supervisor) -> bool:
    return streams.report().not_ready is None


@needs_bytewax
def test_a_signal_to_all_of_the_group_while_processes_start_is_an_orderly_end(
    project: tuple[Path, FeatureStore],
) -> None:
    """As a terminal's Ctrl-C or a service manager sends it, before the processes know of signals."""
    root, _ = project
    with command(root, "--processes", "2") as running:
        until(lambda: len(running.children()) == 2, "the processes", running)
        os.killpg(running.process.pid, signal.SIGTERM)
        assert running.process.wait(SECONDS) == 0, running.said


@needs_bytewax
def test_processes_end_when_their_supervisor_is_killed(project: tuple[Path, FeatureStore]) -> None:
    root, store = project
    paid, _ = shop.make_log(22, 60)
    send(store, "payments", paid)
    with command(root, "--processes", "2") as running:
        until(lambda: len(running.children()) == 2, "the processes", running)
        children = running.children()
        running.end(signal.SIGKILL)
        until(lambda: not any(exists(pid) for pid in children), "the processes to end")
    store.drain()
    check(store)


@needs_bytewax
@pytest.mark.parametrize("arguments", [("--processes", "2"), ("--engine", "local"), ("--workers", "2")])
def test_a_second_signal_ends_a_stream_at_once(
    arguments: tuple[str, ...], project: tuple[Path, FeatureStore]
) -> None:
    root, _ = project
    with command(root, *arguments) as running:
        until(lambda: "Streaming" in running.said, "the start", running)
        running.process.send_signal(signal.SIGSTOP)  # both signals wait for it, so that none is too late
        running.process.send_signal(signal.SIGTERM)
        running.process.send_signal(signal.SIGINT)
        running.process.send_signal(signal.SIGCONT)
        assert running.process.wait(SECONDS) == 130, running.said
        assert running.children() == []


@needs_bytewax
def test_a_cluster_by_hand_whose_member_comes_and_goes(project: tuple[Path, FeatureStore]) -> None:
    """Two commands, as on two machines; one is killed and started again, and so the other goes on."""
    root, store = project
    paid, visited = shop.make_log(23, 240)
    addresses = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    members = [("--addresses", addresses, "--process-id", str(number)) for number in (0, 1)]
    with command(root, *members[0], "--listen", "127.0.0.1:0") as first:
        url = first.url
        send(store, "payments", paid[:100])
        with command(root, *members[1]) as second:
            until(lambda: measured_lag(url) == 0, "the first part", first)
            second.end(signal.SIGKILL)
        send(store, "payments", paid[100:])
        send(store, "visits", visited)
        with command(root, *members[1]) as second:
            until(lambda: "Streaming" in second.said, "the start", second)
            until(lambda: measured_lag(url) == 0 and is_replaced(url), "the rest", first)
            first.process.send_signal(signal.SIGTERM)
            assert second.end() == 0, second.said
            assert first.process.wait(SECONDS) == 0, first.said
    store.drain()
    check(store)


def is_replaced(url: str) -> bool:
    return measured(url).get("featurestore_stream_process_restarts_total", 0) >= 1


def free_ports(count: int) -> list[int]:
    """Ports that are free, each with the next one, as two sources take two."""
    while True:
        held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        ports = [each.getsockname()[1] for each in held]
        for each in held:
            each.close()
        if all(port < 65_000 for port in ports) and len({p + k for p in ports for k in (0, 1)}) == 2 * count:
            return ports


@needs_bytewax
def test_processes_that_keep_ending_end_the_stream(project: tuple[Path, FeatureStore]) -> None:
    root, _ = project
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with command(
            root, "--addresses", f"{address},127.0.0.1:1", "--process-id", "0", "--give-up-after", "2s"
        ) as running:
            assert running.process.wait(SECONDS) == 1
            assert "Processes of the stream keep ending: process 0" in running.said
            assert "Address already in use" in running.said


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ["--engine", "local", "--processes", "2"],
            1,
            "This engine runs in one process. Use --engine bytewax",
        ),
        (["--processes", "2", "--addresses", "a:1,b:2"], 2, "exclude each other"),
        (["--addresses", "a:1,b"], 1, "'b' is no address. Write host:port"),
        (["--addresses", "a:1,b:2", "--process-id", "2"], 1, "There is no process 2 among 2 addresses"),
        (["--addresses", "a:1,b:65536"], 1, "Ports go from 1 to 65535"),
        (["--addresses", "a:65535,b:65535"], 1, "'a:65535' is no address for 2 sources"),
        (["--addresses", "a:4000,a:4001"], 1, "The ports of 'a:4001' are taken by an address before it"),
        (["--process-id", "1"], 2, "--process-id is a place among --addresses"),
        (["--listen", "8080"], 1, "'8080' is no address to listen on"),
        (["--log-format", "xml"], 2, "'xml' is not one of text, json"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    arguments: list[str],
    status: int,
    message: str,
    project: tuple[Path, FeatureStore],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["-C", str(project[0]), "stream", *arguments]) == status
    assert message in capsys.readouterr().err


@pytest.mark.redis
@pytest.mark.parametrize("engine", ["local", pytest.param("bytewax", marks=needs_bytewax)])
def test_a_redis_that_goes_is_waited_for_and_one_that_stays_away_ends_the_stream(
    engine: str, tmp_path: Path, start_server: Callable[..., EmbeddedServer]
) -> None:
    server = start_server(appendonly=True)
    online: Mapping[str, str] = {"kind": "redis", "url": server.url, "timeout": "1s"}
    root = make_project(tmp_path, online)
    paid, visited = shop.make_log(24, 200)
    with FeatureStore(root) as store:
        store.apply()
        send(store, "payments", paid[:60])
        arguments = ("--engine", engine, "--listen", "127.0.0.1:0", "--give-up-after", "8s")
        with command(root, *arguments) as running:
            url = running.url
            until(lambda: ask(f"{url}/readyz")[0] == 200, "readiness", running)
            server.kill()
            until(lambda: ask(f"{url}/readyz")[0] == 503, "the loss to be told", running)
            assert "Redis does not answer" in ask(f"{url}/readyz")[1]
            assert ask(f"{url}/healthz")[0] == 200
            send(store, "payments", paid[60:])
            send(store, "visits", visited)
            server.start()
            until(lambda: measured_lag(url) == 0, "the rest", running)
            until(lambda: ask(f"{url}/readyz")[0] == 200, "readiness again", running)
            server.kill()
            send(store, "payments", paid[:1])
            assert running.process.wait(SECONDS) == 1
            assert "Giving up after" in running.said
            assert "error: " in running.said.splitlines()[-1]
            assert "Redis does not answer" in running.said.splitlines()[-1]
        server.start()
        store.drain()
        check(store)
    server.kill()

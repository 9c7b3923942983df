"""The clockwork of work 12, the same for every system: standard library only."""

import os
import signal
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

AS_INSTALLED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment of what is started: an installed package has its bytecode."""


def medians(runs: int, starts: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Return the median seconds of each named start, after one run to warm the disk cache."""
    taken: dict[str, list[float]] = {name: [] for name in starts}
    for run in range(runs + 1):
        for name, start in starts.items():
            seconds = start()
            if run:
                taken[name].append(seconds)
    return {name: statistics.median(each) for name, each in taken.items()}


def command(words: Sequence[str], folder: Path) -> float:
    """Return the seconds that a command takes, from start to end."""
    began = time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(words, cwd=folder, check=True, env=AS_INSTALLED, **quiet)
    return time.perf_counter() - began


def served(words: Sequence[str], folder: Path, path: str) -> float:
    """Return the seconds until a server (words, and a port) answers a path with 200; then end it."""
    began = time.perf_counter()
    with serving(words, folder, path):
        return time.perf_counter() - began


@contextmanager
def serving(words: Sequence[str], folder: Path, path: str, seconds: float = 120.0) -> Iterator[int]:
    """Run a server (words, and a port); yield the port once it answers a path with 200."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*words, str(port)],
        cwd=folder,
        env=AS_INSTALLED,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not _answers(port, path):
            if process.poll() is not None or time.perf_counter() - began > seconds:
                raise RuntimeError(f"{words} did not serve {path}")
            time.sleep(0.005)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False

"""A `featurestore stream` process of a test's own, that reads and commits in small steps."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STOP_SECONDS = 90.0


class Worker:
    """The command in the project's folder. What it writes on standard error is in `log`."""

    def __init__(self, root: Path, engine: str, *arguments: str) -> None:
        self._command = [sys.executable, __file__, "stream", "--engine", engine, *arguments]
        self._root = root
        self._path = root / f"stream-{time.monotonic_ns()}.log"
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._path.open("ab") as file:
            return subprocess.Popen(self._command, cwd=self._root, stdout=file, stderr=file)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._path.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The process's id, for signals."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return its exit status; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float = _STOP_SECONDS) -> int:
        """Return its exit status once it has ended by itself."""
        return self._process.wait(seconds)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self._process = self._start()

    def stop(self) -> None:
        """Have it drain and commit, and assert that it ended well. Waits until it heeds signals."""
        deadline = time.monotonic() + _STOP_SECONDS
        while "Streaming" not in self.log and self.poll() is None:
            assert time.monotonic() < deadline, f"the stream does not start: {self.log}"
            time.sleep(0.02)
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(_STOP_SECONDS)
        assert status == 0, self.log


@contextmanager
def working(root: Path, engine: str, *arguments: str) -> Iterator[Worker]:
    """Run a stream for the length of a block; it has to end well when it is told to."""
    worker = Worker(root, engine, *arguments)
    try:
        yield worker
        worker.stop()
    finally:
        worker.kill()


def main() -> int:
    """Run the command line with streams that take small steps and wait no longer than tests do."""
    from featurestore.cli import main as featurestore
    from featurestore_engines.stream import local, pipeline

    local.MAX_RECORDS = 40
    pipeline.FLUSH_ROWS = 100
    pipeline.FLUSH_SECONDS = 0.5
    if sys.version_info < (3, 13):
        from featurestore_engines.stream import bytewax

        bytewax.MAX_RECORDS = 40
    return featurestore()


if __name__ == "__main__":
    sys.exit(main())

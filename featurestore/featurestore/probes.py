"""What a stream process answers over HTTP: is it alive, is it ready, what does it measure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from featurestore import metrics
from featurestore.errors import OperatorError, RequestError
from featurestore.running import Report

STALLED_SECONDS = 120.0
"""A stream that has not gone round for so long is not alive."""


def listen_address(text: str) -> tuple[str, int]:
    """Return host and port of `host:port`. Raises RequestError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise RequestError(
            f"'{text}' is no address to listen on.", hint="Write host:port, as 127.0.0.1:8080."
        )
    return host.strip("[]"), int(port)


@contextmanager
def listening(address: str, report: Callable[[], Report]) -> Iterator[str]:
    """Answer /healthz, /readyz and /metrics while in the block; yields the URL.

    Port 0 takes a free one. Raises OperatorError where the address cannot be used.
    """
    try:
        server = _Server(listen_address(address), _handler(report))
    except OSError as error:
        raise OperatorError(
            f"{address} cannot be used: {error.strerror or error}.", hint="Choose another address."
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="probes", daemon=True)
    thread.start()
    try:
        yield f"http://{address.rpartition(':')[0]}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def answer(path: str, report: Report) -> tuple[int, str, str]:
    """Return status, content type and body of a path."""
    plain = "text/plain; charset=utf-8"
    if path == "/healthz":
        stalled = report.stalled_seconds > STALLED_SECONDS
        return (
            (503, plain, f"stalled for {report.stalled_seconds:.0f} s\n") if stalled else (200, plain, "ok\n")
        )
    if path == "/readyz":
        return (200, plain, "ready\n") if report.not_ready is None else (503, plain, f"{report.not_ready}\n")
    if path == "/metrics":
        ready: metrics.Numbers = {("featurestore_stream_ready", ()): [float(report.not_ready is None)]}
        return 200, metrics.CONTENT_TYPE, metrics.text(report.numbers | ready)
    return 404, plain, "There are /healthz, /readyz and /metrics.\n"


def _handler(report: Callable[[], Report]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_GET(self) -> None:
            status, kind, body = answer(self.path.partition("?")[0], report())
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Probes come every few seconds: nothing is logged."""

    return Handler

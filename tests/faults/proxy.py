"""A TCP proxy that cuts, silences, delays and turns connections, at a byte that the test chooses."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

TO_SERVER, TO_CLIENT = "to server", "to client"
RESET, CLOSE, SILENCE = "reset", "close", "silence"
"""What happens to a connection: both ends reset; the direction half closed; nothing more, without a word."""

_CHUNK = 65536


@dataclass
class _Pair:
    client: socket.socket
    server: socket.socket
    silent: threading.Event = field(default_factory=threading.Event)

    def end(self, *, reset: bool) -> None:
        for side in (self.client, self.server):
            try:
                if reset:
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            side.close()


class Proxy:
    """Listens on a port of its own and leads to `upstream`, a port, which may change."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.delay = 0.0
        self.bytes = {TO_SERVER: 0, TO_CLIENT: 0}
        self.fired = threading.Event()
        self._lock = threading.Lock()
        self._rule: tuple[str, int, str] | None = None
        self._frozen = False
        self._pairs: list[_Pair] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, direction: str, after: int, how: str = RESET) -> None:
        """After so many more bytes in a direction, do `how` to the connection that carries them; once."""
        with self._lock:
            self.fired.clear()
            self._rule = (direction, after, how)

    def freeze(self) -> None:
        """Let no byte through, on connections there are and on new ones, and say nothing."""
        self._frozen = True

    def thaw(self) -> None:
        """End `freeze`; the connections of that time stay silent until their ends give up."""
        with self._lock:
            self._frozen = False
            for pair in self._pairs:
                pair.silent.set()

    def turn(self, upstream: int, *, keep: bool = False) -> None:
        """Lead new connections to another port; end the old ones unless they are kept."""
        self.upstream = upstream
        if not keep:
            self.drop()

    def drop(self, *, reset: bool = True) -> None:
        """End all connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.end(reset=reset)

    def close(self) -> None:
        """End all, and listen no more."""
        self._listener.close()
        self.drop()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.upstream), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.append(pair)
            for direction, source, target in (
                (TO_SERVER, client, server),
                (TO_CLIENT, server, client),
            ):
                arguments = (pair, direction, source, target)
                threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(self, pair: _Pair, direction: str, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(_CHUNK):
                if self.delay:
                    time.sleep(self.delay)
                if self._frozen or pair.silent.is_set():
                    continue
                data, how = self._allowed(direction, data)
                target.sendall(data)
                if how == RESET:
                    pair.end(reset=True)
                elif how == CLOSE:
                    target.shutdown(socket.SHUT_WR)
                    pair.silent.set()
                elif how == SILENCE:
                    pair.silent.set()
                if how is not None:
                    self.fired.set()
            if not pair.silent.is_set() and not self._frozen:
                pair.end(reset=False)
        except OSError:
            pair.end(reset=False)

    def _allowed(self, direction: str, data: bytes) -> tuple[bytes, str | None]:
        """Return what may pass of the data, and what happens then."""
        with self._lock:
            how = None
            if self._rule is not None and self._rule[0] == direction:
                _, left, then = self._rule
                if len(data) >= left:
                    data, how, self._rule = data[:left], then, None
                else:
                    self._rule = (direction, left - len(data), then)
            self.bytes[direction] += len(data)
            return data, how


@contextmanager
def proxied(upstream: int) -> Iterator[Proxy]:
    """A proxy for the length of a block."""
    proxy = Proxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()

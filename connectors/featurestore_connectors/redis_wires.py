"""Connections of threads: each serves one request at a time, and is kept for the next one.

redis-py connects (login, TLS, database). Its pool, and its way from a socket to hiredis, cost as much as the
round trip itself, so what is sent and what comes is dealt with here.
"""

from __future__ import annotations

import os
import select
from typing import Any

import hiredis
from redis import exceptions

PIECE = 4096
"""How many bytes hiredis is given at a time: with each answer that it hands out it moves what follows."""

CLOSED = "Connection closed by server."

_PARTIAL = object()


class Wires:
    """One process's connections to one server. `client` is a redis.Redis."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._idle: list[_Wire] = []
        self._process = os.getpid()
        self._is_open = True

    def ask(self, packed: bytes, count: int) -> list[Any]:
        """Return the answers to `count` packed commands, in order; errors are among them.

        Raises what redis-py raises where the server cannot be reached, or the connection is lost.
        """
        wire = self._taken()
        try:
            answers = wire.ask(packed, count)
        except BaseException:
            wire.close()  # answers may still be on their way
            raise
        self._idle.append(wire)
        if not self._is_open:
            self.close()
        return answers

    def close(self) -> None:
        """Close the connections; those in use once they are not."""
        self._is_open = False
        while self._idle:
            self._idle.pop().close()

    def _taken(self) -> _Wire:
        """Return an open connection that nobody else uses."""
        if self._process != os.getpid():  # a fork has the parent's connections, which are not its own
            self._idle, self._process = [], os.getpid()
        while True:
            try:
                wire = self._idle.pop()
            except IndexError:
                pool = self._client.connection_pool  # which would count connections, and end at a hundred
                return _Wire(pool.connection_class(**pool.connection_kwargs))
            if not wire.has_ended():
                return wire
            wire.close()


class _Wire:
    """One connection, which redis-py has opened."""

    def __init__(self, connection: Any) -> None:
        connection.connect()
        self._connection = connection
        self._socket = connection._sock
        self._reader: Any = hiredis.Reader(
            protocolError=exceptions.InvalidResponse,
            replyError=connection._parser.parse_error,
            notEnoughData=_PARTIAL,
        )
        self._buffer = bytearray(1 << 16)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def has_ended(self) -> bool:
        """Tell whether the server has closed it, or says what nobody asked for."""
        return bool(self._poll.poll(0))

    def ask(self, packed: bytes, count: int) -> list[Any]:
        """Return the answers to `count` packed commands."""
        answers: list[Any] = []
        feed, gets, buffer = self._reader.feed, self._reader.gets, self._buffer
        try:
            self._socket.sendall(packed)
            while len(answers) < count:
                size = self._socket.recv_into(buffer)
                if not size:
                    raise exceptions.ConnectionError(CLOSED)
                for start in range(0, size, PIECE):
                    feed(buffer, start, min(PIECE, size - start))
                    while (answer := gets(False)) is not _PARTIAL:
                        answers.append(answer)
        except TimeoutError:
            raise exceptions.TimeoutError from None
        return answers

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

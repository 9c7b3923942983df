"""Connections that all requests of an event loop share: each writes its commands, answers come in order.

A connection of redis-py's pool belongs to one request at a time, and waits for every answer by itself: on an
event loop that is most of the time of a request. Here redis-py connects (login, TLS, database), and then
hands its transport over to a `_Lane`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import hiredis
from redis import exceptions

from featurestore_connectors.redis_wires import CLOSED, PIECE

AT_ONCE = 32
"""How many requests wait on one connection before another is opened."""


class Lanes:
    """One event loop's connections to one server, `most` of them at most. `client` is of redis.asyncio."""

    def __init__(self, client: Any, most: int) -> None:
        self._client = client
        self._most = most
        self._lanes: list[_Lane] = []
        self._opening = asyncio.Lock()

    async def send(self, packed: bytes, count: int) -> list[Any]:
        """Return the answers to `count` packed commands, in order; errors are among them.

        Raises what redis-py raises where the server cannot be reached, or the connection is lost.
        """
        lane = self._free()
        if lane is None:
            async with self._opening:
                lane = self._free() or await self._open()
        return await lane.send(packed, count)

    def drop(self) -> None:
        """Close the connections: nothing came for too long on one of them."""
        for lane in list(self._lanes):
            lane.close()

    async def aclose(self) -> None:
        """Close all."""
        self.drop()
        await asyncio.sleep(0)  # in which the sockets are closed
        await self._client.aclose()

    def _free(self) -> _Lane | None:
        """Return the open connection with the fewest waiting; None where another is to be opened."""
        lane = min(self._lanes, key=_Lane.waiting, default=None)
        if lane is None or (lane.waiting() >= AT_ONCE and len(self._lanes) < self._most):
            return None
        return lane

    async def _open(self) -> _Lane:
        connection = self._client.connection_pool.make_connection()
        await connection.connect()
        lane = _Lane(connection, self._lanes)
        self._lanes.append(lane)
        return lane


class _Lane(asyncio.Protocol):
    """One connection. Takes the place of redis-py's protocol on its transport."""

    def __init__(self, connection: Any, lanes: list[_Lane]) -> None:
        self._connection = connection
        self._lanes = lanes
        self._transport = connection._writer.transport
        self._before = self._transport.get_protocol()
        self._transport.set_protocol(self)
        self._reader = hiredis.Reader(
            protocolError=exceptions.InvalidResponse, replyError=connection._parser.parse_error
        )
        self._requests: deque[tuple[asyncio.Future[list[Any]], int]] = deque()
        self._answers: list[Any] = []
        self._unsent: list[bytes] = []

    def waiting(self) -> int:
        """Return how many requests wait for answers."""
        return len(self._requests)

    def send(self, packed: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Return the answers to come. One who stops waiting leaves the others' in order."""
        loop = asyncio.get_running_loop()
        answers: asyncio.Future[list[Any]] = loop.create_future()
        self._requests.append((answers, count))
        if not self._unsent:  # what all who run now ask for is sent together
            loop.call_soon(self._flush)
        self._unsent.append(packed)
        return answers

    def close(self) -> None:
        """Close the connection; who waits on it gets an error."""
        self._end(CLOSED)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Hand out the answers that are whole."""
        feed, gets = self._reader.feed, self._reader.gets
        try:
            for start in range(0, len(data), PIECE):
                feed(data, start, min(PIECE, len(data) - start))
                while self._requests:
                    future, count = self._requests[0]
                    answers = self._answers
                    while len(answers) < count and (answer := gets(False)) is not False:
                        answers.append(answer)
                    if len(answers) < count:
                        break
                    self._requests.popleft()
                    self._answers = []
                    if not future.done():
                        future.set_result(answers)
        except exceptions.InvalidResponse:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail who waits, and let the next request open another connection."""
        self._end(str(error or CLOSED))
        self._before.connection_lost(error)

    def _flush(self) -> None:
        self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _end(self, why: str) -> None:
        if self in self._lanes:
            self._lanes.remove(self)
        while self._requests:
            future, _ = self._requests.popleft()
            if not future.done():
                future.set_exception(exceptions.ConnectionError(why))
        self._connection._close()

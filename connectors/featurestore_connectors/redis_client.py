"""Commands sent together to Redis or Valkey, one server or a cluster, in a thread or an event loop.

One server's commands are packed by hiredis, or come packed, and go straight to a connection: of
`redis_wires` in a thread, of `redis_lanes` in an event loop. Through redis-py's pool and pipeline a read
takes twice as long in a thread and many times as long in an event loop. A cluster's go through the pipeline,
which knows the slots.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import hiredis
import redis
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from featurestore.errors import OperatorError, StoreUnavailable
from featurestore.instants import SECOND, parse_duration
from featurestore_connectors.redis_lanes import Lanes
from featurestore_connectors.redis_wires import Wires

Command = tuple[Any, ...]

_NO_NOTIFICATIONS = MaintNotificationsConfig(enabled=False)
"""While a server may send notices of its own, redis-py's pool hands out connections that are closed."""

_FAILURES = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
_REFUSALS = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_PASSING = (exceptions.ClusterDownError, exceptions.TryAgainError, exceptions.ReadOnlyError)
_PASSING_CODES = ("NOREPLICAS", "BUSY ", "MISCONF", "MASTERDOWN")


class RedisClient:
    """Sends commands and returns raw bytes; what fails is a StoreUnavailable or an OperatorError.

    Config: `url`, `cluster`, `timeout`, `connections` (the most that one event loop opens). `scripts` are
    Lua texts by their SHA-1; EVALSHA of one that a server lacks is sent again as EVAL.
    """

    def __init__(self, config: Mapping[str, Any], scripts: Mapping[str, str]) -> None:
        self.cluster = bool(config.get("cluster", False))
        self._url: str = config.get("url", "redis://localhost:6379")
        self._timeout = parse_duration(config.get("timeout", "5s")) / SECOND
        self._connections = int(config.get("connections", 64))
        self._scripts = scripts
        parts = urlsplit(self._url)
        port = f":{parts.port}" if parts.port else ""
        self.where = f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
        # A lost connection is an error of one call: the pool finds closed ones before it hands them out.
        backoff = ExponentialWithJitterBackoff(base=0.05, cap=0.5) if self.cluster else NoBackoff()
        self._retry = (backoff, 3 if self.cluster else 0)
        self._lock = threading.Lock()
        self._client: Any = None
        self._wires: Wires | None = None
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Any, AsyncGenerator[None]]] = (
            WeakKeyDictionary()
        )

    def execute(self, commands: Sequence[Command]) -> list[Any]:
        """Return the answers to commands sent together, in order."""
        if not commands:
            return []
        try:
            answers = self._send(commands)
            if missing := [
                i for i, answer in enumerate(answers) if isinstance(answer, exceptions.NoScriptError)
            ]:
                again = [("EVAL", self._scripts[commands[i][1]], *commands[i][2:]) for i in missing]
                for i, answer in zip(missing, self._send(again), strict=True):
                    answers[i] = answer
        except _FAILURES as error:
            raise self._error(error) from error
        return self._checked(answers)

    async def execute_async(self, commands: Sequence[Command]) -> list[Any]:
        """The same without blocking the event loop, for commands that call no script."""
        if not self.cluster:
            return await self.ask_async(b"".join(map(hiredis.pack_command, commands)), len(commands))
        if not commands:
            return []
        try:
            async with asyncio.timeout(self._timeout):
                client = await self._connected_async()
                answers = list(await _pipeline(client, commands).execute(raise_on_error=False))
        except _FAILURES as error:
            raise self._error(error) from error
        return self._checked(answers)

    def ask(self, packed: bytes, count: int) -> list[Any]:
        """Return the answers to `count` packed commands of one server, that call no script."""
        if not count:
            return []
        try:
            answers = self._wired().ask(packed, count)
        except _FAILURES as error:
            raise self._error(error) from error
        return self._checked(answers)

    async def ask_async(self, packed: bytes, count: int) -> list[Any]:
        """The same without blocking the event loop."""
        if not count:
            return []
        lanes = None
        try:
            async with asyncio.timeout(self._timeout):
                lanes = await self._connected_async()
                answers = await lanes.send(packed, count)
        except _FAILURES as error:
            if lanes is not None and isinstance(error, TimeoutError):
                lanes.drop()
            raise self._error(error) from error
        return self._checked(answers)

    def nodes(self) -> list[Any]:
        """Return the servers that hold data, for `on`: a cluster's primaries, or [None] for the only one."""
        try:
            return list(self._connected().get_primaries()) if self.cluster else [None]
        except _FAILURES as error:
            raise self._error(error) from error

    def on(self, node: Any, *command: Any) -> Any:
        """Return the answer of one server to one command, as redis-py parses it."""
        try:
            client = self._connected()
            server = client if node is None else client.get_redis_connection(node)
            return server.execute_command(*command)
        except _FAILURES as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Release the threads' connections. An event loop's go when it ends, or with `aclose`."""
        with self._lock:
            wires, self._wires = self._wires, None
            client, self._client = self._client, None
        if wires is not None:
            wires.close()
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Release the connections of the running event loop."""
        if found := self._loops.get(asyncio.get_running_loop()):
            await found[1].aclose()

    def _connected(self) -> Any:
        client = self._client
        if client is None:
            with self._lock:
                if self._client is None:
                    kind: Any = redis.RedisCluster if self.cluster else redis.Redis
                    self._client = kind.from_url(
                        self._url,
                        socket_timeout=self._timeout,
                        socket_connect_timeout=self._timeout,
                        retry=Retry(*self._retry),
                        maint_notifications_config=_NO_NOTIFICATIONS,
                    )
                client = self._client
        return client

    def _wired(self) -> Wires:
        wires = self._wires
        if wires is None:
            client = self._connected()
            with self._lock:
                wires = self._wires = self._wires or Wires(client)
        return wires

    async def _connected_async(self) -> Any:
        """Return the running event loop's Lanes; a cluster's client."""
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            # redis-py's half for event loops takes as long to import as the rest of it
            import redis.asyncio
            import redis.asyncio.retry

            kind: Any = redis.asyncio.RedisCluster if self.cluster else redis.asyncio.Redis
            client = kind.from_url(
                self._url,
                socket_timeout=None,
                socket_connect_timeout=self._timeout,
                retry=redis.asyncio.retry.Retry(*self._retry),
                maint_notifications_config=_NO_NOTIFICATIONS,
            )
            held = client if self.cluster else Lanes(client, self._connections)
            found = self._loops[loop] = (held, self._lifetime(held))
            await anext(found[1])
        return found[0]

    async def _lifetime(self, held: Any) -> AsyncGenerator[None]:
        """Yield once. A loop that ends closes its asynchronous generators, and so the connections."""
        try:
            yield
        finally:
            self._loops.pop(asyncio.get_running_loop(), None)
            await held.aclose()

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        if self.cluster:
            return list(_pipeline(self._connected(), commands).execute(raise_on_error=False))
        return self._wired().ask(b"".join(map(hiredis.pack_command, commands)), len(commands))

    def _checked(self, answers: list[Any]) -> list[Any]:
        for answer in answers:
            if type(answer) is not list and isinstance(answer, Exception):
                raise self._error(answer) from answer
        return answers

    def _error(self, error: Exception) -> OperatorError:
        text = str(error)
        if isinstance(error, _REFUSALS):
            hint = "Give the user and password in `online: url`, as redis://user:password@host:port."
            return OperatorError(
                f"Redis refuses the login or the command: {text}.", where=self.where, hint=hint
            )
        if "maxmemory" in text:
            hint = "Raise its maxmemory."
            return StoreUnavailable("Redis has no memory left and took nothing.", where=self.where, hint=hint)
        if isinstance(error, exceptions.ReadOnlyError):
            hint = "Name the primary in `online: url`; after a failover it is promoted in a moment."
            return StoreUnavailable(
                "The server is a replica, which takes no writes.", where=self.where, hint=hint
            )
        if isinstance(error, exceptions.ResponseError):
            if isinstance(error, _PASSING) or text.startswith(_PASSING_CODES):
                return StoreUnavailable(f"Redis takes no commands now: {text}.", where=self.where)
            return OperatorError(f"Redis refused a command: {text}.", where=self.where)
        why = text.rstrip(".") or f"nothing came within {self._timeout:g} s"
        hint = "Check that the server runs and that `online: url` names it."
        return StoreUnavailable(f"Redis does not answer: {why}.", where=self.where, hint=hint)


def _pipeline(client: Any, commands: Sequence[Command]) -> Any:
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    return pipeline

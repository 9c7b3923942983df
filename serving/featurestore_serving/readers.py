"""Compiled vectors by reference; one that is a second old is asked for again, in a thread."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.errors import OperatorError
from featurestore_serving.answers import Answers
from featurestore_serving.backend import Backend

if TYPE_CHECKING:
    from featurestore.online.reader import VectorReader

FRESH_SECONDS = 1.0
MOST = 1000
"""How many references are kept: a caller may invent lists of features without end."""


def load() -> None:
    """Load what vectors are compiled and read with: a server that is ready answers the first one at once."""
    import featurestore.compiler
    import featurestore.online.reader  # noqa: F401


@dataclass
class Vector:
    """A compiled vector: what reads it, and what writes its answers."""

    reader: VectorReader
    answers: Answers
    asked: float


class Readers:
    """Hands out vectors without blocking the event loop, which is always the same one."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._known: OrderedDict[str | tuple[str, ...], Vector] = OrderedDict()
        self._asking: dict[str | tuple[str, ...], asyncio.Task[Vector]] = {}

    async def get(self, reference: str | list[str]) -> Vector:
        """Return the vector of a reference, or of a list of features.

        A moved tag is seen within `FRESH_SECONDS`. Where the registry does not answer, what is known goes
        on serving. Raises what the backend raises.
        """
        key = reference if isinstance(reference, str) else tuple(reference)
        known = self._known.get(key)
        if known is not None and time.monotonic() - known.asked < FRESH_SECONDS:
            return known
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key, reference))
            task.add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(task)

    async def _ask(self, key: str | tuple[str, ...], reference: str | list[str]) -> Vector:
        known = self._known.get(key)
        try:
            reader = await asyncio.to_thread(self._backend.reader, reference)
        except OperatorError:
            if known is None:
                raise
            reader = known.reader
        if known is not None and known.reader is reader:
            known.asked = time.monotonic()
            return known
        return Vector(reader, Answers(reader.plan.outputs), time.monotonic())

    def _asked(self, key: str | tuple[str, ...], done: asyncio.Task[Vector]) -> None:
        self._asking.pop(key, None)
        if done.cancelled() or done.exception() is not None:
            self._known.pop(key, None)
            return
        self._known[key] = done.result()
        self._known.move_to_end(key)
        if len(self._known) > MOST:
            self._known.popitem(last=False)

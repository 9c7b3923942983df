"""What a writer says when others write the same shards: it does no harm, and it costs throughput."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock

SAY_SECONDS = 60.0

log = logging.getLogger(__name__)


class Rivals:
    """Counts one writer's shard writes, and logs now and then how many of them others came before."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._written = self._lost = 0
        self._began = clock()
        self._said: float | None = None
        self._lock = Lock()

    def note(self, written: int, lost: int) -> None:
        """Count writes that were made, and those that lost their race and are tried again."""
        with self._lock:
            self._note(written, lost)

    def _note(self, written: int, lost: int) -> None:
        self._written += written
        self._lost += lost
        if not self._lost:
            return
        now = self._clock()
        if self._said is not None and now - self._said < SAY_SECONDS:
            return
        log.warning(
            "Another writer is at work on %s: in %.0f s, %d of %d shard writes lost their race and were done"
            " again. Nothing is lost or counted twice; it takes longer.",
            self._name,
            now - self._began,
            self._lost,
            self._written + self._lost,
        )
        self._said = self._began = now
        self._written = self._lost = 0

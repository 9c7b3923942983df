"""How long a stream waits for a store or a broker that does not answer."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from threading import Event
from types import TracebackType

from featurestore.errors import StoreUnavailable

GIVE_UP_SECONDS = 300.0
LONGEST_PAUSE_SECONDS = 10.0
STEADY_SECONDS = 150.0
"""After so long without a failure an earlier one is over: longer than a commit or a broker takes to fail."""

log = logging.getLogger(__name__)


class Patience:
    """A context that swallows StoreUnavailable after a growing pause, until it has lasted too long.

    An outage begins with a failure. It is over once `succeeded` is called, which says that all stores took
    what they were given, or when a block has gone well for `STEADY_SECONDS`. `failed` is told each failure.
    """

    def __init__(
        self,
        stop: Event,
        give_up_seconds: float = GIVE_UP_SECONDS,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._stop = stop
        self._give_up_seconds = give_up_seconds
        self._failed = failed
        self._since: float | None = None
        self._entered = time.monotonic()
        self._pause = 0.1

    def succeeded(self) -> None:
        """Forget earlier failures: every store has taken what it was given."""
        self._since = None
        self._pause = 0.1

    def __enter__(self) -> Patience:
        self._entered = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, StoreUnavailable):
            return False
        now = time.monotonic()
        if now - self._entered > STEADY_SECONDS:
            self.succeeded()
        if self._since is None:
            self._since = now
        if self._stop.is_set():
            return False
        lasted = now - self._since
        if lasted > self._give_up_seconds:
            log.error("Giving up after %.0f s: %s", lasted, error)
            return False
        pause = min(random.uniform(self._pause / 2, self._pause), self._give_up_seconds)
        log.warning("%s Trying again in %.1f s.", error, pause)
        self._failed(str(error))
        self._stop.wait(pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        return True

"""How long a stream waits for a store or a broker that does not answer."""

from __future__ import annotations

import logging
import random
import time
from threading import Event
from types import TracebackType

from featurestore.errors import StoreUnavailable

GIVE_UP_SECONDS = 300.0
LONGEST_PAUSE_SECONDS = 10.0

log = logging.getLogger(__name__)


class Patience:
    """A context that swallows StoreUnavailable after a growing pause, until it has lasted too long."""

    def __init__(self, stop: Event, give_up_seconds: float = GIVE_UP_SECONDS) -> None:
        self._stop = stop
        self._give_up_seconds = give_up_seconds
        self._since: float | None = None
        self._pause = 0.1

    def succeeded(self) -> None:
        """Forget earlier failures: the stores answer."""
        self._since = None
        self._pause = 0.1

    def __enter__(self) -> Patience:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, StoreUnavailable):
            return False
        now = time.monotonic()
        self._since = self._since or now
        if self._stop.is_set() or now - self._since > self._give_up_seconds:
            return False
        log.warning("%s Trying again.", error)
        self._stop.wait(random.uniform(self._pause / 2, self._pause))
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        return True

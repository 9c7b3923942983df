"""How often Python looks for cyclic garbage while a stream or a server runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_COLLECT_AFTER = 200_000
"""How many more objects than were freed are made before young garbage is looked for."""

SERVER_AFTER = 50_000
"""The same for a server, from its start on: a request for 100 rows makes a thousand."""


@contextmanager
def seldom_collecting(after: int = _COLLECT_AFTER) -> Iterator[None]:
    """Let Python look for cyclic garbage seldom, in the whole process, for as long as the block lasts.

    A batch makes some hundred thousand objects that live as long as it does and form no cycles. To walk them
    over and over took a fifth of the time of writing it. Where blocks overlap, the first one's `after` holds.
    """
    with _seldom.lock:
        if not _seldom.blocks:
            _seldom.before = gc.get_threshold()
            gc.set_threshold(after, *_seldom.before[1:])
        _seldom.blocks += 1
    try:
        yield
    finally:
        with _seldom.lock:
            _seldom.blocks -= 1
            if not _seldom.blocks:
                gc.set_threshold(*_seldom.before)


class _Seldom:
    """How many blocks last, in any thread, and what was set before the first of them."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.blocks = 0
        self.before = gc.get_threshold()


_seldom = _Seldom()

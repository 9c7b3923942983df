"""A reader that asks all through a fault, and what it was told."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featurestore import FeatureStore
from featurestore.errors import FeatureStoreError, OperatorError

_PAUSE_SECONDS = 0.005


class Readings:
    """Asks for a vector's row in a thread, again and again; each answer goes to `judge`, which may raise."""

    def __init__(
        self,
        root: Path,
        vector: str,
        row: dict[str, Any],
        judge: Callable[[dict[str, Any]], None],
        **asked: Any,
    ) -> None:
        self.answers = 0
        self.errors: Counter[str] = Counter()
        self.longest = 0.0
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(root, vector, row, judge, asked))
        self._thread.start()

    def _run(
        self,
        root: Path,
        vector: str,
        row: dict[str, Any],
        judge: Callable[[dict[str, Any]], None],
        asked: dict[str, Any],
    ) -> None:
        try:
            with FeatureStore(root) as store:
                while not self._stop.wait(_PAUSE_SECONDS):
                    began = time.monotonic()
                    try:
                        result = store.reader(vector).read([row], **asked)
                    except OperatorError as error:
                        self.errors[_kind(error)] += 1
                    else:
                        assert result.errors == [None]
                        judge(result.to_dicts()[0])
                        self.answers += 1
                    self.longest = max(self.longest, time.monotonic() - began)
        except BaseException as error:  # noqa: BLE001 - raised by `stop`
            self._failure = error

    def await_answers(self, more: int = 1, seconds: float = 30.0) -> None:
        """Return once that many more answers came."""
        wanted, deadline = self.answers + more, time.monotonic() + seconds
        while self.answers < wanted and self._thread.is_alive():
            assert time.monotonic() < deadline, f"no answer in {seconds} s: {self.errors}"
            time.sleep(0.005)

    def stop(self) -> None:
        """End, and raise what went wrong."""
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure


def _kind(error: FeatureStoreError) -> str:
    return error.code


@contextmanager
def reading(
    root: Path, vector: str, row: dict[str, Any], judge: Callable[[dict[str, Any]], None], **asked: Any
) -> Iterator[Readings]:
    """Read for the length of a block."""
    readings = Readings(root, vector, row, judge, **asked)
    try:
        yield readings
    finally:
        readings.stop()

"""How long a stream waits: until an outage has lasted too long, counted from its first failure."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import pytest

from featurestore.errors import OperatorError, StoreUnavailable
from featurestore_engines.stream import patience
from featurestore_engines.stream.patience import Patience


class Clock:
    """A monotonic clock that waiting moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []


class Stop(Event):
    """An event whose waiting takes no time, and moves the clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self._clock.pauses.append(timeout)
        self._clock.now += timeout
        return self.is_set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    with monkeypatch.context() as patched:
        patched.setattr(patience.time, "monotonic", lambda: made.now)
        yield made


def fail(waiting: Patience, clock: Clock, seconds: float = 0.0) -> None:
    with waiting:
        clock.now += seconds
        raise StoreUnavailable("gone")


def fail_often(waiting: Patience, clock: Clock, seconds: float) -> None:
    for _ in range(1000):
        fail(waiting, clock, seconds)


def test_an_outage_ends_the_stream_after_its_time_with_growing_jittered_pauses(clock: Clock) -> None:
    told: list[str] = []
    waiting = Patience(Stop(clock), 300.0, told.append)
    begun = clock.now
    with pytest.raises(StoreUnavailable, match="gone"):
        fail_often(waiting, clock, 1.0)
    assert 300 < clock.now - begun < 320
    assert len(told) == len(clock.pauses)
    for number, pause in enumerate(clock.pauses):
        longest = min(0.1 * 2**number, 10.0)
        assert longest / 2 <= pause <= longest


def test_a_success_ends_an_outage(clock: Clock) -> None:
    waiting = Patience(Stop(clock), 300.0)
    for _ in range(20):
        fail(waiting, clock, 40.0)
        waiting.succeeded()


def test_blocks_that_go_well_for_long_end_an_outage(clock: Clock) -> None:
    waiting = Patience(Stop(clock), 300.0)
    for _ in range(20):
        fail(waiting, clock, 151.0)


def test_blocks_that_fail_at_every_commit_do_not(clock: Clock) -> None:
    """Reading goes well for a minute each time, and then the commit fails."""
    waiting = Patience(Stop(clock), 300.0)
    with pytest.raises(StoreUnavailable):
        fail_often(waiting, clock, 60.0)


def test_other_errors_and_a_stream_that_stops_are_not_waited_for(clock: Clock) -> None:
    stop = Stop(clock)
    with pytest.raises(OperatorError), Patience(stop):
        raise OperatorError("never")
    stop.set()
    with pytest.raises(StoreUnavailable), Patience(stop):
        raise StoreUnavailable("gone")
    assert clock.pauses == []

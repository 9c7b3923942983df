"""Actors that take turns: real threads running real code over real stores, one at a time, as a schedule says.

Every call that reaches a store, a topic or the registry is a *point*: before it takes effect, the actor stops
and the schedule decides who goes on. (Each such call is atomic by its contract, so no order of effects is
left out.) A schedule is one line of text, `ingest*7 stream*3! ingest stream`:

    name*n   the actor runs through n points and is stopped before the call after them
    name*n!  and is dead from then on: it never runs again, nor does any of its clean-up. Its next turn is
             another one of that name, from the start, as a service manager would start it
    name     the actor runs to its end

Actors that the line does not run to their ends run afterwards, in the order in which they were given.
`explore` yields the schedules with at most so many preemptions (context-bounded search as in CHESS: Musuvathi
and Qadeer, PLDI 2007), without those that differ from another one by the order of calls that commute.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

STUCK_SECONDS = 60.0

Touch = tuple[str, bool]
"""A resource that a call touches, and whether it may change it."""

Body = Callable[["Actor"], None]


class Unwound(BaseException):
    """Raised in an actor that was killed, once all has been checked, so that its thread ends."""


@dataclass
class Op:
    """One call: what it is called, and what it touched."""

    label: str
    touched: set[Touch] = field(default_factory=set)

    def commutes(self, other: Op) -> bool:
        """Tell whether the order of the two calls makes no difference."""
        return not any(
            mine == theirs and (writes or overwrites)
            for mine, writes in self.touched
            for theirs, overwrites in other.touched
        )


class Actor:
    """One thread that stops at every point until it is told to go on."""

    def __init__(self, name: str, body: Body) -> None:
        self.name = name
        self.ops: list[Op] = []
        self.error: BaseException | None = None
        self.is_over = False
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._unwind = False
        self._thread = threading.Thread(target=self._run, args=(body,), name=name, daemon=True)
        self._thread.start()

    def point(self, label: str, *touched: Touch) -> None:
        """Stop before a call until it is this actor's turn; threads that the actor started just go on."""
        if self._unwind or threading.current_thread() is not self._thread:
            return
        self._stopped.release()
        self._go.acquire()
        if self._unwind:
            raise Unwound
        self.ops.append(Op(label, set(touched)))

    def touch(self, resource: str, writes: bool) -> None:
        """Add to what the call under way touches."""
        if self.ops and threading.current_thread() is self._thread:
            self.ops[-1].touched.add((resource, writes))

    def go(self) -> None:
        """Let the actor make its next call, and run up to the one after it."""
        self._go.release()
        self.await_stop()

    def await_stop(self) -> None:
        """Return once the actor stands at a point, or is over."""
        if not self._stopped.acquire(timeout=STUCK_SECONDS):
            faulthandler.dump_traceback(sys.stderr)
            raise AssertionError(f"{self.name} is stuck: it waits for something that nobody will do")

    def unwind(self) -> None:
        """End the thread of an actor that was killed."""
        self._unwind = True
        self._go.release()
        self._thread.join(STUCK_SECONDS)

    def _run(self, body: Body) -> None:
        try:
            self.point("start")
            body(self)
        except Unwound:
            pass
        except BaseException as error:  # noqa: BLE001 - raised where the schedule is run
            self.error = error
        self.is_over = True
        self._stopped.release()


@dataclass(frozen=True)
class Turn:
    """An actor's turn: through `points` calls (None: to its end), and whether it dies there."""

    name: str
    points: int | None = None
    dies: bool = False

    def __str__(self) -> str:
        return self.name if self.points is None else f"{self.name}*{self.points}{'!' * self.dies}"


Line = tuple[Turn, ...]


def parse(text: str) -> Line:
    """Return the schedule of a line of text."""
    turns = []
    for word in text.split():
        match = re.fullmatch(r"([a-z_0-9]+)(?:\*(\d+)(!?))?", word)
        assert match, f"{word!r} is no turn"
        turns.append(Turn(match[1], None if match[2] is None else int(match[2]), bool(match[3])))
    return tuple(turns)


@dataclass
class Trace:
    """What a schedule did: the calls of each turn in order."""

    line: str
    slices: list[tuple[str, list[Op]]]

    @property
    def points(self) -> int:
        """How many points there were."""
        return sum(len(ops) for _, ops in self.slices)


@contextlib.contextmanager
def running(bodies: Mapping[str, Body], line: Sequence[Turn]) -> Iterator[Trace]:
    """Run a schedule; yield its trace once every actor has ended or is dead, and then unwind the dead.

    An actor's error is raised as it is.
    """
    alive: dict[str, Actor] = {}
    ended: set[str] = set()
    born: list[Actor] = []
    trace = Trace(" ".join(str(turn) for turn in line), [])

    def get(name: str) -> Actor:
        if name not in alive:
            born.append(Actor(name, bodies[name]))
            born[-1].await_stop()
            alive[name] = born[-1]
        return alive[name]

    try:
        for turn in [*line, *(Turn(name) for name in bodies)]:
            if turn.name in ended:
                continue
            actor = get(turn.name)
            before = len(actor.ops)
            while not actor.is_over and (turn.points is None or len(actor.ops) - before < turn.points):
                actor.go()
            trace.slices.append((turn.name, actor.ops[before:]))
            if actor.error is not None:
                raise actor.error
            if actor.is_over:
                ended.add(turn.name)
            elif turn.dies:
                del alive[turn.name]
        yield trace
    finally:
        for actor in born:
            if not actor.is_over:
                actor.unwind()


def explore(
    names: Sequence[str], preemptions: int, attempt: Callable[[Line], Trace], *, crashes: bool = False
) -> int:
    """Attempt every schedule with at most so many preemptions, in every order of starting; return how many.

    With `crashes`, an actor that is preempted first dies there.
    """
    count = 0
    for order in itertools.permutations(names):
        count += _branch((), order, preemptions, attempt, crashes)
    return count


def _branch(
    prefix: Line, order: tuple[str, ...], budget: int, attempt: Callable[[Line], Trace], crashes: bool
) -> int:
    """Attempt what begins with `prefix` and goes on in `order`; return how many schedules that were."""
    trace = attempt((*prefix, *(Turn(name) for name in order)))
    count, first, rest = 1, order[0], order[1:]
    dies = crashes and not prefix
    if not budget or not (rest or dies):
        return count
    mine = trace.slices[len(prefix)][1]
    for after in _after(first, rest, dies):
        last, behind = trace, 0  # the last one attempted, and how many points it ran before the others
        others = len(prefix) + 1
        for points in range(1, len(mine)):
            if dies:
                is_new = points == 1 or any(writes for _, writes in mine[points - 1].touched)
            else:
                is_new = points == 1 or not _commutes(last, others, first, points - 1 - behind)
            if not is_new:
                continue
            line = (*prefix, Turn(first, points, dies))
            last, behind = attempt((*line, *(Turn(name) for name in after))), points
            count += 1
            if budget > 1:
                count += _branch(line, after, budget - 1, attempt, False) - 1
    return count


def _after(first: str, rest: tuple[str, ...], dies: bool) -> list[tuple[str, ...]]:
    """Return the orders in which to go on when `first` is preempted: another one's turn, unless it died."""
    orders = itertools.permutations((first, *rest))
    return [order for order in orders if order[0] != first or dies]


def _commutes(trace: Trace, others: int, first: str, place: int) -> bool:
    """Tell whether the call at `place` in the second turn of `first` could as well have come before it.

    That is before all the calls of the turns from `others` up to that turn.
    """
    between: list[Op] = []
    for name, ops in trace.slices[others:]:
        if name == first:
            return place < len(ops) and all(ops[place].commutes(other) for other in between)
        between += ops
    return False

"""Ingest, materialize, compact and stream at once, in every order that a scheduler can force.

Whoever is stopped, before whichever call to a store, and whoever goes on meanwhile: no row is lost, none
counts twice, and whoever reads in between sees, per entity, exactly the rows up to some position of each
partition, those of every ingest and drain that has returned among them. A failure names its schedule, and

    FEATURESTORE_SCHEDULE="positions fed ingest*9 compact ingest" pytest tests/faults -k again

runs it again.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from faults.conftest import Measured
from faults.scale import LONG
from faults.scheduler import Line, Trace, Turn, explore, parse
from faults.world import World, world

SEEDS = 4000 if LONG else 16
VERBS = ("ingest", "materialize", "compact", "stream")
ALL = (*VERBS, "drain", "promote", "frame", "push", "look", "ingest2", "stream2", "compact2")
AGAIN = os.environ.get("FEATURESTORE_SCHEDULE", "")


@dataclass
class Tally:
    """How much was tried."""

    schedules: int = 0
    points: int = 0


def attempt(made: World, names: Sequence[str], line: Line, tally: Tally, *, verify: bool = False) -> Trace:
    """Run a schedule and check all; an AssertionError names the schedule."""
    text = " ".join(map(str, line))
    try:
        with made.ran(names, line) as trace:
            made.check(clean=not any(turn.dies for turn in line), verify=verify)
    except BaseException as error:
        error.add_note(f'the schedule: FEATURESTORE_SCHEDULE="{made.kind} {made.state} {text}"')
        raise
    tally.schedules += 1
    tally.points += trace.points
    return trace


def trial(kind: str, state: str, names: Sequence[str], preemptions: int, *, crashes: bool = False) -> Tally:
    """Attempt every schedule of these actors with at most so many preemptions."""
    tally = Tally()
    with world(kind, state) as made:
        explore(names, preemptions, lambda line: attempt(made, names, line, tally), crashes=crashes)
    return tally


def report(measured: Measured, what: str, tally: Tally, **more: object) -> None:
    measured(
        what,
        promised="no row lost, none counted twice; readers see whole prefixes",
        schedules=tally.schedules,
        points=tally.points,
        lost=0,
        doubled=0,
        **more,
    )


@pytest.mark.parametrize("names", list(itertools.combinations(VERBS, 2)), ids="-".join)
def test_two_at_once(names: Sequence[str], measured: Measured) -> None:
    """Every schedule in which one of them is interrupted once."""
    report(measured, f"{' and '.join(names)}, one preemption", trial("positions", "fed", names, 1))


@pytest.mark.parametrize(
    "schedule",
    [
        # A generation began to serve without the rows that an ingest had brought to the one before.
        "fed: materialize*13 ingest materialize",
        "fed: materialize*33 ingest materialize*3 look",
        "fed: materialize*39 ingest materialize*3 look",
        # A drain had fed the one before only, and nobody went on.
        "fed: drain*32 materialize drain",
        # Two first ingests each filled one, and the one that served in the end lacked the other's rows.
        "changed: ingest*26 frame ingest",
        "changed: frame*22 ingest frame",
    ],
)
def test_what_went_wrong_once(schedule: str) -> None:
    state, line = schedule.split(": ")
    with world("positions", state) as made:
        turns = parse(line)
        attempt(made, sorted({turn.name for turn in turns}), turns, Tally())


@pytest.mark.parametrize("name", VERBS)
def test_one_that_dies_at_any_point_and_starts_again(name: str, measured: Measured) -> None:
    tally = trial("positions", "fed", [name], 1, crashes=True)
    report(measured, f"{name} dies at every point, and starts again", tally)


@pytest.mark.parametrize("kind", ["positions", "ids"])
def test_any_of_them_as_chance_has_it(kind: str, measured: Measured) -> None:
    """Two to four of them, some dying on the way; the seed is the schedule's place in the run."""
    tally = Tally()
    for state in ("fed", "empty", "changed", "edited"):
        with world(kind, state) as made:
            for seed in range(SEEDS // 8):
                names, line = drawn(seed)
                attempt(made, names, line, tally, verify=seed % 20 == 0)
    report(measured, f"random schedules ({kind})", tally)


def drawn(seed: int) -> tuple[list[str], Line]:
    """Return some actors, and turns of theirs."""
    rng = random.Random(seed)
    names = rng.sample(ALL, rng.randint(2, 4))
    deaths = rng.choice([0.0, 0.0, 0.2])
    turns = rng.randint(1, 14)
    return names, tuple(
        Turn(rng.choice(names), rng.randint(1, 25), rng.random() < deaths) for _ in range(turns)
    )


@pytest.mark.skipif(not LONG, reason="hours: FEATURESTORE_FAULTS=long")
class TestAtLength:
    """More of the same."""

    @pytest.mark.parametrize("kind", ["positions", "ids"])
    @pytest.mark.parametrize("names", list(itertools.combinations(ALL, 2)), ids="-".join)
    def test_two_of_all_at_once(self, names: Sequence[str], kind: str, measured: Measured) -> None:
        report(measured, f"{' and '.join(names)}, one preemption ({kind})", trial(kind, "fed", names, 1))


@pytest.mark.skipif(not AGAIN, reason="set FEATURESTORE_SCHEDULE to run a schedule again")
def test_again() -> None:
    """Runs one schedule again, as a failure names it: kind, state, turns."""
    kind, state, text = AGAIN.split(maxsplit=2)
    line = parse(text)
    with world(kind, state) as made:
        attempt(made, list(dict.fromkeys(turn.name for turn in line)), line, Tally(), verify=True)

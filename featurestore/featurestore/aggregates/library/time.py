"""Functions of how long ago rows happened, evaluated at the instant that is asked about."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from featurestore.aggregates import timed
from featurestore.aggregates.arrays import Array, Partial
from featurestore.aggregates.function import (
    ANYTHING,
    EMPTY_NULL,
    NUMBERS,
    Example,
    Finished,
    Function,
    Parameters,
    is_anything,
    is_number,
)
from featurestore.aggregates.library.numbers import scaled
from featurestore.aggregates.states import State
from featurestore.types import FLOAT64

_BOUND = "within 1e-12 of the {} of magnitudes, each with its weight"
_SOURCE = (
    "forward decay with a landmark that moves, Cormode, Shkapenyuk, Srivastava and Xu, Forward Decay, 2009"
)


def _decayed(told: Parameters) -> tuple[State, ...]:
    assert told.half_life is not None
    return (timed.Decayed(told.half_life),)


def _decay_sum(parts: list[Partial], told: Parameters, instants: Array) -> Finished:
    assert told.half_life is not None
    newest, total, weight = parts[0]
    found = weight > 0
    ages = np.where(found, instants - newest, 0)
    return scaled(timed.faded(total, ages, told.half_life), told) + 0.0, found


def _decay_avg(parts: list[Partial], told: Parameters, _: Array) -> Finished:
    _, total, weight = parts[0]
    found = weight > 0
    return scaled(total / np.where(found, weight, 1.0), told) + 0.0, found


def _edge_time(last: bool) -> Callable[[Parameters], tuple[State, ...]]:
    return lambda _: (timed.EdgeTime(last),)


def _seconds(parts: list[Partial], _: Parameters, instants: Array) -> Finished:
    found, times = parts[0]
    return np.where(found, instants - times, 0) / 1e6, found


FUNCTIONS = (
    Function(
        name="decay_sum",
        doc=(
            "The sum of values, each times 2^-(age / `half_life`), its age being t less its event time."
            " NaN and infinities do not fade while their rows are in the window."
        ),
        empty=EMPTY_NULL,
        takes=NUMBERS,
        accepts=is_number,
        states=_decayed,
        result=lambda _: FLOAT64,
        finish=_decay_sum,
        example=Example((8, 4, 2), 6.0, parameters={"half_life": "1m"}),
        bound=_BOUND.format("sum"),
        source=_SOURCE,
        parameters={"half_life": None},
    ),
    Function(
        name="decay_avg",
        doc=(
            "The mean of values, each weighted by 2^-(age / `half_life`): recent ones count most, and it"
            " stays as it is until rows come or leave."
        ),
        empty=EMPTY_NULL,
        takes=NUMBERS,
        accepts=is_number,
        states=_decayed,
        result=lambda _: FLOAT64,
        finish=_decay_avg,
        example=Example((7, 14), 35 / 3, parameters={"half_life": "1m"}),
        bound=_BOUND.format("mean"),
        source=_SOURCE,
        parameters={"half_life": None},
    ),
    Function(
        name="seconds_since_first",
        doc="The seconds from the oldest non-null value, or row where no column is named, to t, as float64.",
        empty=EMPTY_NULL,
        takes=f"{ANYTHING}, or none",
        accepts=is_anything,
        states=_edge_time(False),
        result=lambda _: FLOAT64,
        finish=_seconds,
        example=Example((2, 6, 10), 150.0, ago=30),
        needs_column=False,
    ),
    Function(
        name="seconds_since_last",
        doc="The seconds from the newest non-null value, or row where no column is named, to t, as float64.",
        empty=EMPTY_NULL,
        takes=f"{ANYTHING}, or none",
        accepts=is_anything,
        states=_edge_time(True),
        result=lambda _: FLOAT64,
        finish=_seconds,
        example=Example((2, 6, 10), 30.0, ago=30),
        needs_column=False,
    ),
)

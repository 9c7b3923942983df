"""What a feature set's aggregations need: distinct inputs, states and windows, each once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from featurestore.aggregates.arrays import Array, Partial, take
from featurestore.aggregates.functions import FUNCTIONS, Finished, Function, Parameters
from featurestore.aggregates.states import State
from featurestore.plans import AggregateColumn, Input, Window
from featurestore.types import DataType

AllFinished = list[tuple[list[int], Finished]]
"""Places of outputs that differ in their windows only; their values and validity, output after output."""


@dataclass(frozen=True)
class StateUse:
    """One kind of state over one input; `windows` are those that some output needs of it."""

    input: int
    state: State
    windows: tuple[int, ...]


@dataclass(frozen=True)
class Output:
    """One aggregated feature: the states it finishes from, and its window."""

    name: str
    function: Function
    told: Parameters
    uses: tuple[int, ...]
    window: int
    type: DataType

    @property
    def overflows(self) -> Callable[[Finished], Array] | None:
        """Tells which finished values are null because the type cannot hold them; None: it always can."""
        return None if self.type.is_float else self.function.overflows


@dataclass(frozen=True)
class Layout:
    """Inputs, states, windows and outputs of aggregations, in the order of their declaration."""

    inputs: tuple[Input, ...]
    uses: tuple[StateUse, ...]
    windows: tuple[Window, ...]
    outputs: tuple[Output, ...]

    @staticmethod
    def of(aggregates: tuple[AggregateColumn, ...]) -> Layout:
        """Return the layout of these aggregated features."""
        inputs: dict[Input, int] = {}
        windows: dict[Window, int] = {}
        uses: dict[tuple[int, str], int] = {}
        states: list[tuple[int, State, set[int]]] = []
        outputs = []
        for aggregate in aggregates:
            source = inputs.setdefault(aggregate.input, len(inputs))
            window = windows.setdefault(aggregate.window, len(windows))
            needed = []
            told = Parameters(aggregate.input.type, aggregate.k, aggregate.half_life, aggregate.percentile)
            function = FUNCTIONS[aggregate.function]
            for state in function.states(told):
                use = uses.setdefault((source, state.name), len(uses))
                if use == len(states):
                    states.append((source, state, set()))
                states[use][2].add(window)
                needed.append(use)
            outputs.append(Output(aggregate.name, function, told, tuple(needed), window, aggregate.type))
        return Layout(
            tuple(inputs),
            tuple(StateUse(source, state, tuple(sorted(used))) for source, state, used in states),
            tuple(windows),
            tuple(outputs),
        )

    def only(self, window: int) -> tuple[Layout, list[int]]:
        """Return the layout of one window's outputs, over the same inputs, and their places in this one."""
        places = [i for i, output in enumerate(self.outputs) if output.window == window]
        used = sorted({use for i in places for use in self.outputs[i].uses})
        number = {use: i for i, use in enumerate(used)}
        uses = tuple(replace(self.uses[use], windows=(0,)) for use in used)
        outputs = tuple(
            replace(self.outputs[i], uses=tuple(number[use] for use in self.outputs[i].uses), window=0)
            for i in places
        )
        return Layout(self.inputs, uses, (self.windows[window],), outputs), places

    def finish(self, partial: Callable[[int, int], Partial], instants: Array) -> list[Finished]:
        """Return each output's values and validity at the instants, from `partial(use, window)`."""
        return [
            output.function.finish(
                [partial(use, output.window) for use in output.uses], output.told, instants
            )
            for output in self.outputs
        ]

    def finish_all(self, states: Sequence[Partial], instants: Array) -> AllFinished:
        """Return what `finish` would of each use's states at all windows, window by window.

        A function of several windows is finished once for all of them: the places of its outputs, and their
        values and validity, those of one output after those of another.
        """
        size = len(instants)
        tiled = np.tile(instants, len(self.windows))
        finished = []
        for output, places in self._alike:
            windows = [self.outputs[place].window for place in places]
            if windows == list(range(len(self.windows))):
                needed = [states[use] for use in output.uses]
            else:
                index = np.concatenate([np.arange(w * size, (w + 1) * size) for w in windows])
                needed = [take(states[use], index) for use in output.uses]
            found = output.function.finish(needed, output.told, tiled[: len(windows) * size])
            finished.append((places, found))
        return finished

    @cached_property
    def _alike(self) -> list[tuple[Output, list[int]]]:
        """Outputs that differ in their windows only: the first of them, and the places of all."""
        alike: dict[tuple[str, Parameters, tuple[int, ...]], list[int]] = {}
        for place, output in enumerate(self.outputs):
            alike.setdefault((output.function.name, output.told, output.uses), []).append(place)
        for places in alike.values():
            places.sort(key=lambda place: self.outputs[place].window)
        return [(self.outputs[places[0]], places) for places in alike.values()]


@dataclass(frozen=True)
class Values:
    """An input over rows, without what does not count: `values[prefix[i]:prefix[j]]` are rows i to j's.

    `valid` tells which rows count, and `row_times` all rows' event times.
    """

    values: Array
    prefix: Array | None  # None where every row counts
    valid: Array | None
    row_times: Array

    @staticmethod
    def of(values: Array, valid: Array | None, times: Array) -> Values:
        """Return the values that count, with the ranks of the rows among them."""
        if valid is None or valid.all():
            return Values(values, None, None, times)
        prefix = np.zeros(len(valid) + 1, np.int64)
        np.cumsum(valid, out=prefix[1:])
        return Values(values[valid], prefix, valid, times)

    @cached_property
    def times(self) -> Array:
        """The event times of the values that count."""
        return self.row_times if self.valid is None else self.row_times[self.valid]

    def reduce(self, state: State, low: Array, high: Array) -> Partial:
        """Return the state of each range [low, high) of `values`."""
        if state.timed:
            return state.reduce(self.values, low, high, self.times)  # type: ignore[call-arg]
        return state.reduce(self.values, low, high)

    def rank(self, index: Array) -> Array:
        """Return positions in `values` for positions among the rows."""
        return index if self.prefix is None else self.prefix[index]

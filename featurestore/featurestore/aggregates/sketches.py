"""States of approximate functions: each a function of the set, or bag, of values alone.

`Registers` is a HyperLogLog, merged by union and never updated from its own estimate, so that neither order
nor repetition matters. `Buckets` counts values in buckets whose width is a fixed share of the value, which
neither merge nor order changes. (A KLL or a t-digest depends on the order.)
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import xxhash

from featurestore.aggregates.arrays import Array, Partial, object_array
from featurestore.aggregates.carriers import pairs
from featurestore.aggregates.collected import Collected, Counts, Items

REGISTERS = 4096
"""Registers of one state: a standard error of 1.04 / sqrt(4096), 1.6 %."""
EXACT = 511
"""So many distinct values are kept as they are, and counted exactly."""

_INDEX_BITS = 12
_REST_BITS = 64 - _INDEX_BITS
_STEP_BITS = 46  # of a float64's 52: 64 buckets between two powers of two
_SMALLEST = 2.0**-1022
_FIRST = int(np.float64(_SMALLEST).view(np.int64)) >> _STEP_BITS
_NOT_A_NUMBER = 1 << 62


class Registers(Collected):
    """The distinct values' hashes in order while there are few, then the registers of a HyperLogLog.

    A state is bytes: up to 511 hashes of 8 bytes, else 4,096 registers of one. Flajolet, Fusy, Gandouet and
    Meunier, "HyperLogLog" (2007), with hashes of 64 bits.
    """

    name = f"registers:{REGISTERS}"
    blank = b""

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        return super().reduce(hashes(values), low, high)

    def width(self, items: Sequence[Any]) -> int:
        return min(super().width(items), 64)  # numpy joins 512 hashes as fast as Python 64 values

    def collect(self, items: Sequence[int]) -> bytes:
        return _kept(np.unique(np.array(items, np.uint64)))

    def join(self, a: bytes, b: bytes) -> bytes:
        if not a or not b:
            return a or b
        if len(a) < REGISTERS and len(b) < REGISTERS:
            return _kept(np.unique(np.concatenate([np.frombuffer(a, "<u8"), np.frombuffer(b, "<u8")])))
        return np.maximum(_registers(a), _registers(b)).tobytes()

    def decode(self, columns: list[bytes]) -> Partial:
        return (object_array(msgspec.msgpack.decode(columns[0])),)


def hashes(values: Array) -> Array:
    """Return 64 bits of each carried value, the same on every machine and for ever.

    Numbers are mixed as SplitMix64 does (Steele, Lea and Flood, 2014), floats by their bits; text and bytes
    are hashed by xxh3.
    """
    if values.dtype == object:
        raw = (value.encode() if isinstance(value, str) else value for value in values.tolist())
        return np.fromiter(map(xxhash.xxh3_64_intdigest, raw), np.uint64, len(values))
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.nan, values + 0.0).astype("<f8")
    bits = values.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def estimate(state: bytes) -> int:
    """Return how many distinct values a state has seen: exactly up to 511, else estimated.

    Ertl, "New cardinality estimation algorithms for HyperLogLog sketches" (2017), algorithm 6: no table of
    biases and no threshold.
    """
    if len(state) < REGISTERS:
        return len(state) // 8
    counts = np.bincount(np.frombuffer(state, np.uint8), minlength=_REST_BITS + 2).tolist()
    size = float(REGISTERS)
    z = size * _tau(1.0 - counts[_REST_BITS + 1] / size)
    for count in reversed(counts[1 : _REST_BITS + 1]):
        z = 0.5 * (z + count)
    z += size * _sigma(counts[0] / size)
    return round(size * size / (2.0 * math.log(2.0) * z))


def _kept(distinct: Array) -> bytes:
    data: bytes = distinct.astype("<u8").tobytes()
    return data if len(distinct) <= EXACT else _registers(data, sparse=True).tobytes()


def _registers(state: bytes, sparse: bool = False) -> Array:
    if len(state) == REGISTERS and not sparse:
        return np.frombuffer(state, np.uint8)
    numbers = np.frombuffer(state, "<u8")
    rest = (numbers & np.uint64(2**_REST_BITS - 1)).astype(np.float64)  # below 2**52: exact
    leading = (_REST_BITS + 1 - np.frexp(rest)[1]).astype(np.uint8)
    registers = np.zeros(REGISTERS, np.uint8)
    np.maximum.at(registers, (numbers >> np.uint64(_REST_BITS)).astype(np.int64), leading)
    return registers


def _sigma(x: float) -> float:
    if x == 1.0:
        return math.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x *= x
        before = z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y, z, before = 1.0, 1.0 - x, -1.0
    while z != before:
        x = math.sqrt(x)
        before = z
        y *= 0.5
        z -= (1.0 - x) ** 2 * y
    return z / 3.0


class Buckets(Counts):
    """How many numbers fall into each bucket; 64 buckets of one width between two powers of two.

    A bucket is named by its sign and the highest bits of the float64, so that names are in the order of the
    numbers and follow from no rounded logarithm. What is nearer to 0 than any normal float is 0; infinities
    have buckets of their own, and so has NaN, after them.
    """

    name = f"buckets:{_STEP_BITS}"

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        return super().reduce(buckets(pairs(values)[0]), low, high)


def buckets(numbers: Array) -> Array:
    """Return the bucket of each number."""
    size = np.abs(numbers)
    place = (size.astype("<f8").view(np.int64) >> _STEP_BITS) - _FIRST + 1
    place = np.where(size < _SMALLEST, 0, np.where(numbers < 0, -place, place))
    return np.where(np.isnan(numbers), _NOT_A_NUMBER, place)


def at_rank(counts: Items, numerator: int, denominator: int) -> float:
    """Return the middle of the bucket that holds rank floor(p * (n - 1)), p = numerator / denominator."""
    places, sizes = counts
    rank = numerator * (sum(sizes) - 1) // denominator
    for place, size in zip(places, sizes, strict=True):
        if rank < size:
            return _middle(place)
        rank -= size
    raise AssertionError("a rank lies below the number of values")


def _middle(place: Any) -> float:
    if place == 0:
        return 0.0
    if place == _NOT_A_NUMBER:
        return math.nan
    edges = (np.array([abs(place), abs(place) + 1]) + _FIRST - 1) << _STEP_BITS
    low, high = edges.view(np.float64).tolist()
    middle = float(low) if math.isinf(low) else low + (min(high, sys.float_info.max) - low) / 2
    return -middle if place < 0 else middle

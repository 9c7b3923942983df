"""When a value is the one expected."""

from __future__ import annotations

import math
from typing import Any


def same(expected: Any, got: Any, tolerance: float) -> bool:
    """Tell whether a value is the one expected; floats may lie `tolerance` times the expected one apart.

    NaN equals NaN, and -0.0 equals 0.0; lists are equal item by item.
    """
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(
            same(a, b, tolerance) for a, b in zip(expected, got, strict=True)
        )
    if isinstance(expected, float) and isinstance(got, float):
        if math.isnan(expected) or math.isnan(got):
            return math.isnan(expected) and math.isnan(got)
        if math.isinf(expected) or math.isinf(got):
            return expected == got
        return abs(expected - got) <= tolerance * abs(expected)
    return bool(expected == got)

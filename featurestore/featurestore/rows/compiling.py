"""Functions compiled by numba, where it is here: kept on the disk where that can be written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any


@cache
def has_compiler() -> bool:
    """Tell whether numba is here. It takes half a second to import: where it is used, and no sooner."""
    return find_spec("numba") is not None


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, to be compiled by its first call; it runs without the interpreter's lock."""
    import numba

    made: Callable[..., Any]
    try:
        made = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # there is no folder that could be written
        made = numba.njit(nogil=True)(function)
    return made

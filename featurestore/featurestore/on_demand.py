"""Public names of a package that are imported when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def on_demand(
    package: str, names: Sequence[str], homes: Mapping[str, str], default: str
) -> Callable[[str], Any]:
    """Return a package's `__getattr__`: each of `names` is in the submodule of `homes`, or in `default`."""

    def found(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(f"{package}.{homes.get(name, default)}"), name)

    return found

"""Work done ahead: while an item is used, the next one is made in a thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, of which one is made while the one before it is used.

    What making one raises is raised in its place. Who stops early waits for the one that is being made.
    """
    each = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as maker:

        def make() -> list[Item]:
            for item in each:
                return [item]
            return []

        coming = maker.submit(make)
        while found := coming.result():
            coming = maker.submit(make)
            yield found[0]

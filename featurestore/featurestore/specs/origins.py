"""Where a declaration and each of its parts were written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Part = str | int
KeyPath = tuple[Part, ...]


@dataclass(frozen=True)
class Origin:
    """A file, the line of an object in it, and the line of each key path below the object.

    An object that was not read from a file has line 0 and `file` says in words what it is.
    """

    file: str
    line: int = 0
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def where(self, *path: Part) -> str:
        """Return `file:line` of a key path, or of the nearest part above it whose line is known."""
        return f"{self.file}:{self.line_of(*path)}" if self.line else self.file

    def line_of(self, *path: Part) -> int:
        """Return the line of a key path, or of the nearest part above it whose line is known."""
        for length in range(len(path), 0, -1):
            if line := self.lines.get(path[:length]):
                return line
        return self.line

    def below(self, *path: Part) -> Origin:
        """Return the origin of the object at a key path, such as an inline source."""
        size = len(path)
        inner = {key[size:]: line for key, line in self.lines.items() if key[:size] == path and key != path}
        return Origin(self.file, self.lines.get(path, self.line), inner)


def format_path(path: Sequence[Part]) -> str:
    """Return `aggregations[0].functions` for `("aggregations", 0, "functions")`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def shown(path: Path) -> str:
    """Return how errors name a file: from the working folder where it lies inside, else in full."""
    try:
        return path.resolve().relative_to(Path(os.getcwd()).resolve()).as_posix()
    except ValueError:
        return path.resolve().as_posix()

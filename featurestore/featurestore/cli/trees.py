"""Trees of text, in ASCII."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Node:
    """A line, and what hangs below it."""

    text: str
    below: Sequence[Node] = field(default_factory=list)

    def without_empty(self, keep: Sequence[Node] = ()) -> Node:
        """Return the node without those directly below it that have nothing below, but for `keep`."""
        return Node(self.text, [node for node in self.below if node.below or node in keep])


def draw(node: Node) -> Iterator[str]:
    """Yield the lines of a tree.

    >>> print("\\n".join(draw(Node("a", [Node("b", [Node("c")]), Node("d")]))))
    a
    |-- b
    |   `-- c
    `-- d
    """
    yield node.text
    for place, child in enumerate(node.below):
        is_last = place == len(node.below) - 1
        for number, line in enumerate(draw(child)):
            if number == 0:
                yield ("`-- " if is_last else "|-- ") + line
            else:
                yield ("    " if is_last else "|   ") + line

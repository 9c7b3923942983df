"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Difference:
    """A cell that differs: where, both values, and the newest rows behind it."""

    vector: str
    row: dict[str, Any]
    instant: str
    feature: str
    offline: Any
    online: Any
    rows: tuple[dict[str, Any], ...] = ()


@dataclass
class Verification:
    """What was compared. `largest_deviation` is the largest |online - offline| of floats within tolerance."""

    compared: int = 0
    differ: int = 0
    largest_deviation: float = 0.0
    entities: int = 0
    instants: int = 0
    differences: list[Difference] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return self.differ == 0

    def __str__(self) -> str:
        return f"parity: {self.compared:,} values compared, {self.differ:,} differ"

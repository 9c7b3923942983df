"""How many bytes an entity of a feature set takes online, estimated from its layout."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.aggregates.carriers import carrier
from featurestore.online.layout import LEAF_ROWS, OnlineLayout
from featurestore.plans import SetPlan
from featurestore.types import DataType

_OVERHEAD = 140  # key, hash, field and node header in the server
_TEXT = 16  # a text or list value, on average


@dataclass(frozen=True)
class Estimate:
    """Bytes per entity: `fixed`, and `per_row` for each row within reach of a window or of the history.

    Beyond `rows` rows an entity's state grows by tiles rather than by rows that a read must fetch.
    """

    fixed: int
    per_row: int
    rows: int = LEAF_ROWS


def estimate(plan: SetPlan) -> Estimate:
    """Return the bytes that an entity takes."""
    layout = OnlineLayout.of(plan)
    row = 3 * 8 + (8 if layout.has_order else 0) + (8 if layout.has_ids else 0) + 1
    row += sum(8 if carrier(kind) != "object" else _TEXT for _, kind in layout.parts.columns)
    row += 2 * len(layout.parts.categories) + -(-len(layout.parts.conditions) // 8)
    return Estimate(_OVERHEAD + sum(_packed(f.type) for f in plan.plain), row)


def _packed(kind: DataType) -> int:
    if kind.is_float or kind.name in ("timestamp", "int64", "uint64"):
        return 9
    if kind.name == "vector" and kind.item is not None:
        return kind.size * (4 if kind.item.name == "float32" else 8)
    return _TEXT if kind.name in ("string", "binary", "list", "decimal", "json") else 3

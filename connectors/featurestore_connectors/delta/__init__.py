"""The offline store on Delta tables: rows and positions in one commit, compare-and-set on the version.

`store` names tables, `table` commits to one, `log` reads positions, `scan` reads rows, `compact`
rewrites closed days, `casts` says what Delta has no type for.
"""

from __future__ import annotations

from featurestore_connectors.delta.casts import cast_back, to_delta
from featurestore_connectors.delta.store import DeltaOfflineStore
from featurestore_connectors.delta.table import DeltaTable

__all__ = ["DeltaOfflineStore", "DeltaTable", "cast_back", "to_delta"]

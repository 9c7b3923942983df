"""A batch source of a Delta table's rows: its data files, in the order in which they were committed.

Data files never change, so a file's digest is of the table's id and the file's path. Files that a
compaction wrote hold rows that were there before (their commit says `dataChange: false`): they are passed
over, and the files that they replaced are read instead, for as long as `vacuum` leaves them. A table from
which rows were deleted or changed is refused: its new files repeat old rows. `options: {from_version: N}`
begins with the table as it was at version N, which makes such a table, and one whose log was cleaned up,
readable from there on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import xxhash

from featurestore.contracts import BatchInput
from featurestore.errors import OperatorError, SpecError
from featurestore_connectors.parquet import read_parquet


class DeltaSource:
    """The rows of an append-only Delta table."""

    def __init__(self, path: Path, name: str, from_version: int | None) -> None:
        self.path = path
        self.name = name
        self.from_version = from_version

    def inputs(self) -> list[BatchInput]:
        """Return the data files, oldest commit first. Raises SpecError where the table is not append-only."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            table = DeltaTable(self.path, version=self.from_version)
            newest = DeltaTable(self.path)
        except TableNotFoundError:
            raise SpecError(f"path: '{self.name}' is no Delta table.") from None
        except DeltaError as error:
            raise OperatorError(f"The Delta table {self.path} cannot be read: {error}") from error
        identity = str(newest.metadata().id)
        start = 0
        found: dict[str, dict[str, str | None]] = {}
        if self.from_version is not None:
            start = self.from_version + 1
            actions = table.get_add_actions(flatten=False)
            for action in pa.table(actions).to_pylist():
                found[action["path"]] = action.get("partition") or action.get("partition_values") or {}
        for version in range(start, newest.version() + 1):
            self._replay(version, found)
        return [
            BatchInput(
                f"{self.name}/{path}",
                xxhash.xxh3_128_hexdigest(f"{identity}/{path}".encode()),
                None,
                {"path": path, "partition": {key: _text(value) for key, value in partition.items()}},
            )
            for path, partition in found.items()
        ]

    def read(
        self, item: BatchInput, skip: int, batch_rows: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield a data file's rows from number `skip` on, with the columns it is partitioned by, as text."""
        path = self.path / unquote(item.detail["path"])
        if not path.exists():
            raise OperatorError(
                f"{path} was vacuumed before it was ingested.",
                hint="Set options: {from_version: N} to begin with the table as it is at a later version.",
            )
        partition = item.detail["partition"]
        for batch in read_parquet(path, skip, batch_rows, columns):
            for name, value in partition.items():
                if columns is None or name in columns:
                    batch = batch.append_column(name, pa.array([value] * batch.num_rows, pa.string()))
            yield batch

    def _replay(self, version: int, found: dict[str, dict[str, str | None]]) -> None:
        """Add to `found` the files that a commit added as new rows."""
        path = self.path / "_delta_log" / f"{version:020}.json"
        try:
            lines = path.read_text("utf-8").splitlines()
        except FileNotFoundError:
            raise SpecError(
                f"The log of the Delta table '{self.name}' begins after version {version}.",
                hint="Set options: {from_version: N} to begin with the table as it was at version N.",
            ) from None
        for action in map(json.loads, lines):
            self._check(version, action)
            added = action.get("add")
            if added is not None and added.get("dataChange", True):
                found[added["path"]] = added.get("partitionValues") or {}

    def _check(self, version: int, action: dict[str, Any]) -> None:
        removed = action.get("remove")
        if removed is not None and removed.get("dataChange", True):
            raise SpecError(
                f"The Delta table '{self.name}' is not append-only: version {version} changed rows.",
                hint=f"Set options: {{from_version: {version}}} to begin with the table as it was then.",
            )
        if (action.get("add") or {}).get("deletionVector"):
            raise SpecError(
                f"The Delta table '{self.name}' has deletion vectors, which are not read.",
                hint="Set delta.enableDeletionVectors = false, then REORG TABLE … APPLY (PURGE).",
            )
        settings = (action.get("metaData") or {}).get("configuration") or {}
        if settings.get("delta.columnMapping.mode", "none") != "none":
            raise SpecError(f"The Delta table '{self.name}' maps its column names, which is not read.")


def _text(value: Any) -> str | None:
    return None if value is None else str(value)

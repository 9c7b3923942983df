"""Named Delta tables under one folder or URL."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs

from featurestore.errors import OperatorError, RequestError, SpecError, did_you_mean
from featurestore_connectors.delta.storage import Location
from featurestore_connectors.delta.table import DeltaTable

_OPTIONS = ("kind", "path", "storage_options", "memory")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$")


class DeltaOfflineStore:
    """The offline store of a project: `{kind: delta, path: …}`.

    `path` is a folder, relative ones taken from `root`, or a URL that deltalake knows (`s3://`, `gs://`,
    `abfss://`), reached with `storage_options`, whose names are deltalake's. S3 must offer conditional
    writes. `memory` bounds what `compact` sorts in memory before it spills: 1GB unless told,
    256MB at least.
    """

    def __init__(self, config: Mapping[str, Any], root: Path | None = None) -> None:
        for name in config:
            if name not in _OPTIONS:
                raise SpecError(
                    f"The delta offline store has no option '{name}'.", hint=did_you_mean(name, _OPTIONS)
                )
        if not config.get("path"):
            raise SpecError(
                "The delta offline store has no path.",
                hint="Write `offline: {kind: delta, path: .featurestore/offline}` in featurestore.yaml.",
            )
        options = {str(name): str(value) for name, value in (config.get("storage_options") or {}).items()}
        self.location = Location.of(str(config["path"]), options, root)
        self._memory = str(config.get("memory", "1GB"))

    def table(self, name: str) -> DeltaTable:
        """Return the table of that name; it comes into being with its first commit.

        Raises RequestError when the name has other characters than letters, digits, `_.-` and `/`.
        """
        if not _NAME.match(name):
            raise RequestError(
                f"'{name}' is no table name.",
                hint="Use letters, digits, '_', '.', '-', and '/' between parts.",
            )
        return DeltaTable(self.location.child(name), name=name, memory=self._memory)

    def tables(self) -> list[str]:
        """Return the names of the tables that exist, sorted."""
        try:
            return sorted(self._local("") if self.location.is_local else self._remote())
        except OSError as error:
            raise OperatorError(
                f"The offline store cannot be listed: {error}",
                where=self.location.uri,
                hint="Check the path, its permissions and the storage options.",
            ) from error

    def _local(self, prefix: str) -> Iterator[str]:
        folder = Path(self.location.uri, prefix)
        if not folder.is_dir():
            return
        for entry in os.scandir(folder):
            if entry.is_dir() and not entry.name.startswith("_"):
                name = f"{prefix}{entry.name}"
                if Path(entry.path, "_delta_log").is_dir():
                    if any(Path(entry.path, "_delta_log").glob("*.json")):
                        yield name
                else:
                    yield from self._local(name + "/")

    def _remote(self) -> set[str]:
        # One listing of the whole prefix: an object store has no folders to walk cheaply.
        everything = pyarrow.fs.FileSelector("", recursive=True, allow_not_found=True)
        paths = (info.path.strip("/") for info in self.location.filesystem().get_file_info(everything))
        return {path.split("/_delta_log/")[0] for path in paths if "/_delta_log/" in path}

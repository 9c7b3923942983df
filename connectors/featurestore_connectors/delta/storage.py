"""Where a table lies: a local folder, or a URL with storage options, as a file system of its own."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.fs
from deltalake.fs import DeltaStorageHandler


@dataclass(frozen=True)
class Location:
    """A folder's path or URL, and the storage options with which it is reached."""

    uri: str
    options: dict[str, str] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(path: str, options: dict[str, str], root: Path | None = None) -> Location:
        """Return the location of `path`; a relative one is taken from `root`, else the working directory."""
        if path.startswith("file://"):
            path = path.removeprefix("file://")
        if "://" in path:
            return Location(path.rstrip("/"), options)
        return Location(str(((root or Path.cwd()) / Path(path).expanduser()).resolve()), options)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine's file system."""
        return "://" not in self.uri

    def child(self, path: str) -> Location:
        """Return the location of a path below this one."""
        return Location(f"{self.uri}/{path}", self.options)

    def filesystem(self) -> pyarrow.fs.FileSystem:
        """Return a file system whose root is this location."""
        if self.is_local:
            return pyarrow.fs.SubTreeFileSystem(self.uri, pyarrow.fs.LocalFileSystem())
        return pyarrow.fs.PyFileSystem(DeltaStorageHandler(self.uri, self.options or None))


_FULL = re.compile(rf"os error ({errno.ENOSPC}|{errno.EDQUOT})\b")


def is_full(error: BaseException) -> bool:
    """Tell whether an error, of Python or as deltalake tells it, says that no room is left."""
    number = error.errno if isinstance(error, OSError) else None
    return (
        number in (errno.ENOSPC, errno.EDQUOT)
        or _FULL.search(str(error)) is not None
        or os.strerror(errno.ENOSPC) in str(error)
    )


def flush(location: Location, paths: Iterable[str]) -> None:
    """Force files and their folders to the disk, so that a power failure keeps what was acknowledged.

    Object stores acknowledge what is durable; for them nothing is done.
    """
    if not location.is_local:
        return
    files = [Path(location.uri, path) for path in paths]
    for path in (*files, *{file.parent for file in files}):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

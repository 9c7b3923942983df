"""A real small disk that a test fills and frees: a tmpfs, where this user may mount one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_BLOCK = 1 << 16


class Disk:
    """A mounted file system of a few megabytes at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, *, but: int = 0) -> None:
        """Take all the room there is, `but` so many bytes."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (_BLOCK, 1024, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue
            file.truncate(max(0, file.tell() - but))

    def free(self) -> None:
        """Give back what `fill` took."""
        self._ballast.unlink()


MakeDisk = Callable[[str], Disk]


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[MakeDisk]:
    """Mounts a disk of a size such as `16m`; skips where that is not permitted."""
    mounted: list[Path] = []

    def make(size: str) -> Disk:
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("no disk to fill: there is no mount command")
        if done.returncode:
            pytest.skip(f"no disk to fill: user {os.getuid()} may not mount one ({done.stderr.strip()})")
        mounted.append(path)
        return Disk(path)

    yield make
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=False)

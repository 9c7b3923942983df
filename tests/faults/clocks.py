"""A process's wall clock, moved from outside by libfaketime; its monotonic clock is left alone.

libfaketime 0.9.10 with the monotonic clock left alone refuses sleeps until an instant of that clock (EINVAL),
which Python's `time.sleep` is made of. A few lines of C, loaded before it, hand those to the kernel.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from ctypes.util import find_library
from pathlib import Path

import pytest

_PLACES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")

_SLEEP = """
#define _GNU_SOURCE
#include <errno.h>
#include <time.h>
#include <sys/syscall.h>
#include <unistd.h>
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
  return syscall(SYS_clock_nanosleep, clock, flags, until, left) == 0 ? 0 : errno;
}
"""

HOUR, DAY, YEAR = 3600, 86_400, 365 * 86_400


class Clock:
    """The clock of the processes that are started with its `environment`; skips where there is none."""

    def __init__(self, folder: Path) -> None:
        library = next((str(path) for place in _PLACES for path in Path("/").glob(place[1:])), None)
        library = library or find_library("faketimeMT")
        if library is None:
            pytest.skip("no libfaketime: install Debian's package of that name to move a clock")
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("no C compiler for what libfaketime needs beside it")
        source, sleep = folder / "sleep.c", folder / "sleep.so"
        source.write_text(_SLEEP)
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", sleep, source], check=True)
        self._file = folder / "clock"
        self._libraries = f"{sleep} {library}"
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """Let the clock be so far ahead (behind, where negative) of the machine's from now on."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+d}\n")
        draft.replace(self._file)

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs in its environment to have this clock."""
        return {
            "LD_PRELOAD": self._libraries,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

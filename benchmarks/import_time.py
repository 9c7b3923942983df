"""How long `import featurestore` takes in a fresh interpreter; the limit is half a second.

Prints the median and the least of several runs, less the interpreter's own start. Exits 1 past the limit.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

LIMIT = 0.5
RUNS = 15
SCRIPT = "import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"


def seconds(module: str) -> list[float]:
    """Return the import's seconds in each of `RUNS` fresh interpreters, after one to warm the disk cache."""
    command = [sys.executable, "-c", SCRIPT.format(module=module)]
    return [float(subprocess.check_output(command, text=True)) for _ in range(RUNS + 1)][1:]


def main() -> int:
    """Measure and print; return the exit status."""
    runs = seconds("featurestore")
    median = statistics.median(runs)
    print(f"import featurestore: median {median:.3f} s, least {min(runs):.3f} s, limit {LIMIT} s")
    return 0 if median < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())

"""The process that `harness.isolated` starts. The peers' interpreters run it too: standard library only."""

import importlib
import json
import sys


def peak_memory() -> int:
    """Return the most bytes that this process has held; unlike getrusage, not what its parent held before."""
    with open("/proc/self/status") as file:
        [kilobytes] = [line.split()[1] for line in file if line.startswith("VmHWM:")]
    return int(kilobytes) * 1024


if __name__ == "__main__":
    module, name = sys.argv[1].split(":")
    value = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    print("benchmark-result: " + json.dumps({"value": value, "peak_memory": peak_memory()}))

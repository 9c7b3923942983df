"""Write constraints.txt: one exact version for everything that a development environment installs.

Run by `make constraints`, on the oldest Python that is supported, so that each pin has a build for it.
pip resolves what pyproject.toml allows without installing anything; the file names no index, so it
serves behind any mirror.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
HEADER = "# Exact versions of the development environment. Written by `make constraints`; do not edit.\n"


def resolve() -> dict[str, str]:
    """Return name to version of all that `make setup` needs, the newest that pyproject.toml allows."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--report", "-", "--group", "dev", ".[all,embedded]", "pip", "hatchling"]
    report = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = (item["metadata"] for item in json.loads(report)["install"])
    return {item["name"].lower().replace("_", "-"): item["version"] for item in found}


def main() -> int:
    """Write the file; return the exit status."""
    if sys.version_info[:2] != OLDEST:
        wanted = ".".join(map(str, OLDEST))
        print(
            f"constraints: needs Python {wanted}, the oldest supported. "
            f"Run: rm -r .venv && make constraints PYTHON=python{wanted}"
        )
        return 2
    pins = resolve()
    pins.pop("featurestore")
    lines = [f"{name}=={version}\n" for name, version in sorted(pins.items())]
    (ROOT / "constraints.txt").write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"constraints.txt: {len(lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())

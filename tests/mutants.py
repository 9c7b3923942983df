"""Mutants: the product with one rule broken, and the tests that must then fail (`make mutants`).

`tests/mutations/*.toml` lists the mutations, each an exact replacement of text in one source file, with the
tests that are to notice. Every mutation is made in a copy of the packages, which those tests then run
against. A mutation that no test notices fails the run; so does one whose text is no longer there, and tests
that fail without any mutation. `python tests/mutants.py -k TEXT` runs those whose name or file holds it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "mutations"
PAGE = ROOT / "docs" / "mutants.md"
PACKAGES = ("featurestore", "engines", "connectors", "serving")
SECONDS = 180.0
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Mutation:
    """One broken rule: `old` becomes `new` in `file`; where `after` is given, the first `old` behind it."""

    topic: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    after: str = ""

    def applied(self, text: str) -> str:
        """Return the file's text with the mutation. Raises ValueError unless what it names is there once."""
        start = 0
        if self.after:
            if text.count(self.after) != 1:
                raise ValueError(f"{self.file} has {text.count(self.after)} times: {self.after!r}")
            start = text.index(self.after)
            if self.old not in text[start:]:
                raise ValueError(f"{self.file} lacks, after {self.after!r}: {self.old!r}")
        elif text.count(self.old) != 1:
            raise ValueError(f"{self.file} has {text.count(self.old)} times: {self.old!r}")
        return text[:start] + text[start:].replace(self.old, self.new, 1)


@dataclass(frozen=True)
class Outcome:
    """What became of a run of tests: its exit status (None: out of time), the first failure, the seconds."""

    status: int | None
    failed: str
    seconds: float
    output: str

    @property
    def verdict(self) -> str:
        """`killed`, `survived`, or `broken` where the tests could not be run."""
        if self.status is None:
            return "killed"
        return {0: "survived", 1: "killed"}.get(self.status, "broken")


def mutations() -> list[Mutation]:
    """Return the table, in the order of the files and of what is in them."""
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutation"]:
            found.append(Mutation(path.stem, **(entry | {"tests": tuple(entry["tests"])})))
    return found


def run(tests: Sequence[str], mutation: Mutation | None) -> Outcome:
    """Run the tests against a copy of the packages, with the mutation or as they are."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        for package in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / package, Path(folder) / package, ignore=ignored)
        if mutation is not None:
            path = Path(folder) / mutation.file
            path.write_text(mutation.applied(path.read_text(encoding="utf-8")), encoding="utf-8")
        status, output = _pytest(tests, Path(folder))
    failed = _FAILED.search(output)
    said = f"does not end within {SECONDS:.0f} s" if status is None else failed[1] if failed else ""
    return Outcome(status, said, time.monotonic() - started, output)


def _pytest(tests: Sequence[str], folder: Path) -> tuple[int | None, str]:
    """Return the exit status of pytest, None where it does not end in time, and what it printed."""
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(folder / package) for package in PACKAGES),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_ADDOPTS": "",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
    }
    environ.pop("FEATURESTORE_PROFILE", None)
    options = ["-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
    options += [f"--basetemp={folder / 'pytest'}", "--hypothesis-profile=mutants"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        if process.poll() is None:  # its own group, with the servers that its tests started
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def rows(found: Sequence[tuple[Mutation, Outcome]]) -> Iterator[str]:
    """Yield the page's table."""
    topic = ""
    for mutation, outcome in found:
        if mutation.topic != topic:
            topic = mutation.topic
            yield f"\n## {topic.replace('_', ' ').capitalize()}\n"
            yield "| mutation | in | noticed by |\n|---|---|---|"
        file = mutation.file.partition("/")[2]
        test = outcome.failed.removeprefix("tests/").replace("|", "\\|")
        yield f"| {mutation.name} | `{file}` | `{test}` |"


def page(found: Sequence[tuple[Mutation, Outcome]]) -> str:
    """Return docs/mutants.md."""
    files = {mutation.file for mutation, _ in found}
    head = f"""# Mutants

<!-- Written by `make mutants`. -->

A suite that passes shows little unless it fails when the product is wrong. `make mutants` breaks one rule of
the product at a time and runs the tests that should notice; one that nobody notices fails the run. The
mutations are in [`tests/mutations/`](../tests/mutations): an exact text, what takes its place, and the tests.

{len(found)} mutations in {len(files)} files, {sum(o.verdict == "killed" for _, o in found)} noticed.
"""
    return head + "\n".join(rows(found)) + "\n"


def main() -> int:
    """Run the mutations; return 0 where each was noticed, and write docs/mutants.md where all were run."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "-k", metavar="TEXT", default="", help="only those whose name, topic or file holds it"
    )
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests unmutated first")
    given = parser.parse_args()
    chosen = [m for m in mutations() if given.k.lower() in f"{m.topic} {m.name} {m.file}".lower()]
    for mutation in chosen:  # says at once where a text is no longer there
        mutation.applied((ROOT / mutation.file).read_text(encoding="utf-8"))
    started = time.monotonic()
    with ThreadPoolExecutor(given.jobs) as pool:
        if not given.no_baseline:
            selections = sorted({mutation.tests for mutation in chosen})
            for tests, outcome in zip(selections, pool.map(lambda t: run(t, None), selections), strict=True):
                if outcome.verdict != "survived":
                    print(f"{' '.join(tests)} fails without a mutation: {outcome.failed}\n{outcome.output}")
                    return 1
            print(f"{len(selections)} selections of tests pass unmutated, {time.monotonic() - started:.0f} s")
        found = []
        for mutation, outcome in zip(chosen, pool.map(lambda m: run(m.tests, m), chosen), strict=True):
            found.append((mutation, outcome))
            print(
                f"{outcome.verdict:9} {outcome.seconds:4.0f} s  {mutation.topic}: {mutation.name}", flush=True
            )
            print(
                f"                  {mutation.file}, {outcome.failed or ' '.join(mutation.tests)}", flush=True
            )
            if outcome.verdict == "broken":
                print(outcome.output)
    missed = [mutation for mutation, outcome in found if outcome.verdict != "killed"]
    print(f"{len(found)} mutations, {len(missed)} not noticed, {time.monotonic() - started:.0f} s")
    if missed:
        return 1
    if not given.k:
        PAGE.write_text(page(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

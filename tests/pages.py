"""Documentation pages as the tests see them: fenced blocks, links, and a runner of whole pages."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MARKER = "<!-- This page is run by tests/test_docs.py, from top to bottom. -->"
SECONDS_PER_BLOCK = 180.0
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
"""The pages at the top and under docs/."""

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`]*)$")
_FILE = re.compile(r"^(?:#|--) (?P<path>[\w./-]+\.(?:yaml|yml|py|sql|csv|json|toml))$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text, and where it starts."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        """The block's place, as `docs/tutorial.md:14`."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def path(self) -> str | None:
        """The file that the block shows, told by a first line as `# specs/entities.yaml`; else None."""
        found = _FILE.match(self.text.partition("\n")[0])
        return found["path"] if found else None


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order, without the indentation of their fence."""
    found: list[Block] = []
    opened: re.Match[str] | None = None
    start = 0
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if opened is None:
            opened = _FENCE.match(line)
            start, lines = number, []
        elif line.strip() == opened["ticks"]:
            language = opened["info"].split()[0] if opened["info"].strip() else ""
            found.append(Block(page, start, language, "".join(f"{kept}\n" for kept in lines)))
            opened = None
        else:
            lines.append(line.removeprefix(opened["indent"]))
    assert opened is None, f"{page.relative_to(ROOT)}:{start}: a block that never ends"
    return found


def prose(page: Path) -> str:
    """Return a page's text without its fenced blocks and its code spans."""
    kept, fenced = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            kept.append(re.sub(r"`[^`]*`", "", line))
    return "\n".join(kept)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found, fenced = set(), False
    for line in page.read_text(encoding="utf-8").splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced and line.startswith("#"):
            title = line.lstrip("#").strip().lower()
            found.add(re.sub(r"[^\w\- ]", "", title).replace(" ", "-"))
    return found


def commands(block: Block) -> list[tuple[str, str | None]]:
    """Return a block's commands, each with the output shown for it (None: none is shown).

    A `bash` block is one command. In a `console` block a command follows `$ `, continued after `> `, and
    the lines below it are its output.
    """
    if block.language == "bash":
        return [(block.text, None)]
    found: list[tuple[str, str]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:] + "\n", ""))
        elif line.startswith("> ") and found and not found[-1][1]:
            found[-1] = (found[-1][0] + line[2:] + "\n", "")
        else:
            assert found, f"{block.where}: a console block starts with a line `$ command`"
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return list(found)


def matches(expected: str, actual: str) -> bool:
    """Return whether output is as shown. `…` or `...` stands for anything: in a line, or for whole lines."""
    pattern = ""
    for line in _tidy(expected):
        if line.strip() in ("…", "..."):
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in re.split(r"…|\.\.\.", line)) + r"\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _tidy(actual))) is not None


def _tidy(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.splitlines()]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    return lines


class Shell:
    """One bash for a whole page, so that folders, variables and servers in the background carry over."""

    _DONE = "\x1eblock"

    def __init__(self, folder: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FEATURESTORE_")}
        paths = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        environment = {**kept, "PATH": paths, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120"}
        environment["NO_PROXY"] = environment["no_proxy"] = "localhost,127.0.0.1"
        self.folder = folder
        self._scripts = folder.parent
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self._write(f"set -eo pipefail\ntrap {shlex.quote(self._report('$?'))} EXIT\n")

    def _report(self, status: str) -> str:
        return f'printf "%s %s %s\\n" "{self._DONE}" "{status}" "$PWD"'

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def run(self, command: str) -> tuple[int, str]:
        """Return a command's exit status and what it printed; the shell ends at the first that fails."""
        script = self._scripts / "block.sh"
        script.write_text(command, encoding="utf-8")
        self._write(f". {shlex.quote(str(script))} </dev/null\n{self._report('0')}\n")
        timer = threading.Timer(SECONDS_PER_BLOCK, self.kill)
        timer.start()
        printed: list[str] = []
        try:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                before, done, after = line.partition(self._DONE)
                printed.append(before)
                if done:
                    status, folder = after.strip().split(" ", 1)
                    self.folder = Path(folder)
                    return int(status), "".join(printed)
            printed.append(f"[ended, or took longer than {SECONDS_PER_BLOCK:.0f} s]\n")
            return -1, "".join(printed)
        finally:
            timer.cancel()

    def kill(self) -> None:
        """End the shell and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class Run:
    """Runs a page's blocks in order, in one folder.

    A block that names a file writes it. `bash` and `console` go to one shell, `python` to one namespace, and
    a `text` block shows what the block before it printed.
    """

    def __init__(self, folder: Path) -> None:
        self._shell = Shell(folder)
        self._names: dict[str, Any] = {"__name__": "page"}
        self._printed: str | None = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._names.clear()
        self._shell.__exit__(None, None, None)

    def block(self, block: Block) -> None:
        """Run one block. Raises AssertionError with its place where it fails or prints something else."""
        if block.path is not None:
            target = self._shell.folder / block.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
            self._printed = None
        elif block.language in ("bash", "console"):
            for command, shown in commands(block):
                status, self._printed = self._shell.run(command)
                assert status == 0, f"{block.where}: exit status {status}\n$ {command}{self._printed}"
                if shown:
                    self._compare(block, shown)
        elif block.language == "python":
            self._printed = self._python(block)
        elif block.language == "text" and self._printed is not None:
            self._compare(block, block.text)
            self._printed = None

    def _python(self, block: Block) -> str:
        printed = io.StringIO()
        code = compile("\n" * block.line + block.text, str(block.page), "exec")
        with contextlib.chdir(self._shell.folder), contextlib.redirect_stdout(printed):
            exec(code, self._names)
        return printed.getvalue()

    def _compare(self, block: Block, shown: str) -> None:
        assert matches(shown, self._printed or ""), (
            f"{block.where}: the page shows\n{shown}\nbut this was printed:\n{self._printed}"
        )

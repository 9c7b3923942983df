"""The command line itself: exit statuses, errors, JSON, and what a start costs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from featurestore import __version__
from featurestore.cli import main

HEAVY = ("polars", "pyarrow", "duckdb", "deltalake", "sqlglot", "sqlalchemy", "numpy")
VERBS = (
    *("init", "validate", "plan", "apply", "ingest", "materialize", "stream", "serve", "preview", "fit"),
    "test",
    *("get-offline", "get-online", "push", "verify", "compact", "upkeep", "status", "list", "show", "tag"),
)

SETTINGS = "project: broken\n"
BROKEN = """\
kind: Entity
name: customer
type: strin
---
kind: Source
name: payments
schema: {customer: string, at: timestamp}
event_tme: at
"""


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A project with a mistake on line 3 and two from line 5 on."""
    (tmp_path / "featurestore.yaml").write_text(SETTINGS)
    (tmp_path / "specs.yaml").write_text(BROKEN)
    return tmp_path


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    words = set(capsys.readouterr().out.split())
    assert words.issuperset(VERBS)


def test_help_loads_no_heavy_package() -> None:
    code = (
        "import sys; from featurestore.cli import main; main(['--help']); main(['ingest', '--help'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_a_command_line_loads_the_verb_that_it_names() -> None:
    code = (
        "from featurestore.cli import command_line\n"
        "names = lambda *words: [command.name for command in command_line(words).registered_commands]\n"
        "print(names('-C', 'project', 'fit', '--json'), 'serve' in names('sevre'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{['validate', 'plan', 'apply', 'rollback', 'fit', 'tag']} True"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_takes_the_common_options(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("--project", "-C", "--profile", "--json", "--quiet"):
        assert option in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"featurestore {__version__}\n"
    assert main(["--json", "--version"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": __version__}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["ingest", "--nonsense"],
        ["get-online"],
        ["verify", "--sample", "many"],
        ["get-offline", "v", "--out", "x.xls"],
        ["ingest", "--mode", "replace_all"],
        ["ingest", "--from", "rows.csv"],
        ["list", "vectorz"],
    ],
)
def test_used_wrongly_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert not arguments or capsys.readouterr().err.startswith("error: ")


def test_used_wrongly_is_json_where_json_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get-online", "--json"]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error == {
        "code": "usage",
        "message": "Missing argument 'VECTOR'.",
        "where": None,
        "hint": "Run: featurestore get-online --help",
    }


def test_each_mistake_of_a_spec_is_a_line_with_its_place(
    broken: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(broken)
    assert main(["validate"]) == 1
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) >= 2
    assert lines[0].startswith("error: specs.yaml:3: ")
    assert all(line.startswith("error: specs.yaml:") for line in lines)
    assert "Did you mean 'event_time'?" in err


@pytest.mark.parametrize("before", [True, False])
def test_json_before_and_after_the_verb_is_the_same(
    before: bool, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--json", "-C", str(broken)]
    assert main([*options, "validate"] if before else ["validate", *options]) == 1
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "invalid_spec"
    assert error["where"].endswith("specs.yaml:3")
    assert len(error["errors"]) >= 2


def test_a_folder_without_a_project_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-C", str(tmp_path), "status"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "there is no featurestore.yaml" in err
    assert "featurestore init" in err


def test_an_unknown_profile_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "featurestore.yaml").write_text(SETTINGS + "profiles: {laptop: {}}\n")
    assert main(["-C", str(tmp_path), "list", "--profile", "labtop"]) == 1
    assert "Did you mean 'laptop'?" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    """As `featurestore … | head -1`, on more output than a pipe holds."""
    code = (
        "import sys; from featurestore.cli import main\n"
        "from featurestore.cli.application import verb\n"
        "@verb('Test', 'flood')\n"
        "def flood(session):\n"
        "    'Print much.'\n"
        "    for _ in range(100_000): session.console.line('x' * 100)\n"
        "sys.exit(main(['flood']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_an_interrupt_is_status_130_without_a_traceback(tmp_path: Path) -> None:
    code = (
        "import sys; from featurestore.cli import main\n"
        "from featurestore.cli.application import verb\n"
        "from threading import Event\n"
        "@verb('Test', 'hang')\n"
        "def hang(session):\n"
        "    'Wait for ever.'\n"
        "    print('ready', flush=True); Event().wait()\n"
        "sys.exit(main(['hang']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert b"Traceback" not in process.stderr.read()
        assert process.wait() == 130

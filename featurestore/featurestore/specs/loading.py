"""A project's folder as declarations, from YAML and Python files mixed freely (DESIGN 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from featurestore.errors import SpecError
from featurestore.specs.cases import TESTS, Test, WrittenTest, written_tests
from featurestore.specs.documents import read_documents
from featurestore.specs.loaded import Loaded, LoadedProject
from featurestore.specs.models import Declaration
from featurestore.specs.origins import shown
from featurestore.specs.problems import Problems
from featurestore.specs.project import FILE, ProjectConfig, load_config
from featurestore.specs.python_files import Found, is_spec_file, read_python
from featurestore.specs.validation import declaration

_LEFT_OUT = {"data", "schema", "__pycache__", "node_modules"}


def load_project(
    folder: str | Path, profile: str | None = None, environ: Mapping[str, str] | None = None
) -> LoadedProject:
    """Return what a project's folder declares, checked for form.

    Raises SpecErrors with every mistake of every file, each with file:line.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise SpecError("there is no such folder.", where=shown(root))
    problems = Problems()
    config: ProjectConfig | None = None
    with problems.collect():
        config = load_config(root, profile, environ)
    declarations: tuple[Loaded, ...] = ()
    tests: tuple[WrittenTest, ...] = ()
    with problems.collect():
        declarations, tests = _load(root)
    problems.check()
    assert config is not None
    return LoadedProject(root, config, declarations, tests)


def load_declarations(folder: str | Path) -> tuple[Loaded, ...]:
    """Return the declarations of all spec files below a folder, files in the order of their paths.

    Hidden folders, and those named data or schema, are left out. Raises SpecErrors.
    """
    return _load(Path(folder).resolve())[0]


def _load(root: Path) -> tuple[tuple[Loaded, ...], tuple[WrittenTest, ...]]:
    problems = Problems()
    loaded: list[Loaded] = []
    tests: list[WrittenTest] = []
    seen: dict[tuple[str, int, str], Declaration | Test] = {}
    for path in _files(root):
        if path.suffix != ".py":
            documents = []
            with problems.collect():
                documents = read_documents(path)
            for document in documents:
                if isinstance(document.value, dict) and TESTS in document.value:
                    tests += written_tests(document.value, document.origin)
                    continue
                with problems.collect():
                    made = declaration(document.value, document.origin)
                    loaded.append(Loaded(made, document.origin))
            continue
        found: list[Found] = []
        with problems.collect():
            found = read_python(path, root) if is_spec_file(path, root) else []
        for item in found:
            place = (item.origin.file, item.origin.line, item.declaration.name)
            if seen.get(place) == item.declaration:  # imported by another spec file
                continue
            seen[place] = item.declaration
            if isinstance(item.declaration, Test):
                tests.append(WrittenTest(item.declaration, item.origin))
            else:
                loaded.append(Loaded(item.declaration, item.origin))
    problems.check()
    return tuple(loaded), tuple(tests)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that may hold declarations, in the order of their paths."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if path.name not in _LEFT_OUT:
                yield from _files(path)
        elif path.suffix in (".yaml", ".yml", ".py") and path.name != FILE:
            yield path

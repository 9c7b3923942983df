"""Declarations from Python spec files, each with the line that made it (DESIGN 4).

A file runs under a name of its own, with the project's folder importable, and leaves nothing behind
in `sys.path` or `sys.modules`. What counts are the declarations at its top level, alone or in lists.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from pydantic import BaseModel, ValidationError

from featurestore.errors import SpecError
from featurestore.specs import models
from featurestore.specs.cases import Test
from featurestore.specs.models import DECLARATIONS, OBSERVER, Declaration
from featurestore.specs.origins import KeyPath, Origin, shown
from featurestore.specs.problems import SpecErrors
from featurestore.specs.validation import explain
from featurestore.steps.library import STEPS

_RAISED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    SpecError,
)


_DECLARED: tuple[type[Declaration | Test], ...] = (*DECLARATIONS, Test)


@dataclass(frozen=True)
class Found:
    """A declaration, or a case, and where it was written."""

    declaration: Declaration | Test
    origin: Origin


@dataclass
class _Lines:
    """Which line of which file made a declaration, by the object's identity."""

    folder: str
    made: dict[int, tuple[str, int]] = field(default_factory=dict)
    kept: list[BaseModel] = field(default_factory=list)

    def note(self, made: BaseModel) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename.startswith(self.folder):
                self.made[id(made)] = (frame.f_code.co_filename, frame.f_lineno)
                self.kept.append(made)
                return
            frame = frame.f_back


def is_spec_file(path: Path, folder: Path) -> bool:
    """Return whether a Python file of a project declares something, judged by what it imports.

    It imports `featurestore.specs`, or a declaration from `featurestore`, or a module of the project;
    scripts that only use a FeatureStore do none of it, and are not run. Neither are files whose name
    begins with an underscore.
    """
    if path.name.startswith("_"):
        return False
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return True
    declared = {"specs", *(model.__name__ for model in _DECLARED)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "featurestore" and declared & {alias.name for alias in node.names}:
                return True
            modules = [node.module]
        else:
            continue
        for module in modules:
            top = module.split(".")[0]
            if module.startswith("featurestore.specs"):
                return True
            if (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file():
                return True
    return False


def read_python(path: Path, folder: Path) -> list[Found]:
    """Return the declarations of a Python spec file, in order. Raises SpecErrors with file:line."""
    path, folder = path.resolve(), folder.resolve()
    lines = _Lines(str(folder))
    name = f"_featurestore_spec_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with _isolated(folder, name):
            sys.modules[name] = module
            token = OBSERVER.set(lines.note)
            try:
                spec.loader.exec_module(module)
            finally:
                OBSERVER.reset(token)
    except _RAISED as error:
        raise SpecErrors(_explained(error, path, folder)) from error
    found = []
    seen: set[int] = set()
    for made in _declared(vars(module).values()):
        if id(made) in seen:
            continue
        seen.add(id(made))
        file, line = lines.made.get(id(made), (str(path), 0))
        found.append(Found(made, _origin(Path(file), line, type(made).__name__)))
    return found


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let modules of a project's folder be imported inside the block."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def _isolated(folder: Path, name: str) -> Iterator[None]:
    """Let the project's folder be imported from, and take its modules away again."""
    before, writes = set(sys.modules), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        with importable(folder):
            yield
    finally:
        sys.dont_write_bytecode = writes
        for added in set(sys.modules) - before:
            file = getattr(sys.modules[added], "__file__", None)
            if added == name or (file and Path(file).resolve().is_relative_to(folder)):
                del sys.modules[added]


def _declared(values: Iterable[object]) -> Iterator[Declaration | Test]:
    for value in values:
        if isinstance(value, _DECLARED):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _declared(value)


def _explained(error: BaseException, path: Path, folder: Path) -> list[SpecError]:
    """Return what stopped a spec file, at the deepest line of the project's own code."""
    if isinstance(error, SyntaxError):
        return [SpecError(f"{error.msg}.", where=f"{shown(path)}:{error.lineno or 1}")]
    file, line = str(path), 1
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename).resolve().is_relative_to(folder):
            file, line = frame.filename, frame.lineno or line
    if isinstance(error, ValidationError):
        steps = {step.__name__: step for step in STEPS.values()}
        model = Test if error.title == Test.__name__ else getattr(models, error.title, None)
        model = model or steps.get(error.title)
        call = _call_at(Path(file), line, error.title)
        origin = Origin(shown(Path(file)), line, _call_lines(call) if call else {})
        return explain(error, model, origin)
    where = f"{shown(Path(file))}:{line}"
    if isinstance(error, SpecError):
        return [SpecError(error.message, where=error.where or where, hint=error.hint)]
    return [SpecError(f"{type(error).__name__}: {error}", where=where)]


def _origin(file: Path, line: int, kind: str) -> Origin:
    """Return the origin of an object that a call on `line` made, with the lines of its arguments."""
    call = _call_at(file, line, kind)
    return Origin(shown(file), line or 1, _call_lines(call) if call else {})


def _call_at(file: Path, line: int, kind: str) -> ast.Call | None:
    """Return the call of `kind` that spans a line of a file, the innermost one."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
        and (
            (isinstance(node.func, ast.Name) and node.func.id == kind)
            or (isinstance(node.func, ast.Attribute) and node.func.attr == kind)
        )
    ]
    return max(calls, key=lambda node: node.lineno, default=None)


def _call_lines(call: ast.AST) -> dict[KeyPath, int]:
    """Return the line of each argument of a call, and of what is nested in it."""
    lines: dict[KeyPath, int] = {}

    def walk(node: ast.AST, path: KeyPath) -> None:
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg is not None:
                    name = "schema" if keyword.arg == "schema_" else keyword.arg.removesuffix("_")
                    lines[(*path, name)] = keyword.value.lineno
                    walk(keyword.value, (*path, name))
        elif isinstance(node, (ast.List, ast.Tuple)):
            for index, item in enumerate(node.elts):
                lines[(*path, index)] = item.lineno
                walk(item, (*path, index))
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, (str, int)):
                    lines[(*path, key.value)] = key.lineno
                    walk(value, (*path, key.value))

    walk(call, ())
    return lines

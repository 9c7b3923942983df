"""The wheel, installed outside the checkout beside a user's own folders (DESIGN 6)."""

from __future__ import annotations

import email
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"featurestore", "featurestore_engines", "featurestore_connectors", "featurestore_serving"}
# Bytewax stops at Python 3.12; the `local` runner takes its place.
WITHOUT_WHEEL = {"bytewax"} if sys.version_info >= (3, 13) else set()


def run(*command: str | Path, cwd: Path) -> str:
    """Return what a command prints; its failure is the test's, with what it said."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as a release builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that has the wheel, and the checkout nowhere on its path.

    Dependencies come from the environment of the tests by a path file. A path file adds a folder without
    reading the path files in it, so the editable installation of the checkout stays out.
    """
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    interpreter = folder / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", interpreter, "install"),
        *("--quiet", "--no-index", "--no-deps", "--disable-pip-version-check", wheel),
        cwd=folder,
    )
    site = run(
        interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
    ).strip()
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site, "dependencies.pth").write_text("\n".join(sorted(paths)) + "\n", encoding="utf-8")
    return interpreter


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user's folder with packages of their own that are called as our folders are."""
    for name in ("engines", "connectors", "serving", "specs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n", encoding="utf-8")
    return tmp_path


def test_the_wheel_holds_the_four_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_the_wheel_tells_its_licence_and_its_python(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(archive.read(name))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"all", "bytewax", "kafka", "redis", "serve"} <= set(metadata.get_all("Provides-Extra", []))
    assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())


def test_the_packages_import_beside_the_users_own_folders(python: Path, home: Path) -> None:
    lines = ["import engines, connectors, serving, specs", *(f"import {name}" for name in sorted(PACKAGES))]
    lines += ["assert engines.MINE and connectors.MINE and serving.MINE and specs.MINE"]
    lines += [f"print({name}.__file__)" for name in sorted(PACKAGES)]
    files = [Path(line) for line in run(python, "-c", "\n".join(lines), cwd=home).splitlines()]
    assert len(files) == len(PACKAGES)
    assert all(python.parent.parent in file.parents for file in files), "not the wheel's own files"


def test_every_entry_point_leads_to_something(python: Path, home: Path) -> None:
    script = (
        "from importlib.metadata import distribution\n"
        "for point in distribution('featurestore').entry_points:\n"
        "    print(point.group, point.name)\n"
        f"    if point.name not in {sorted(WITHOUT_WHEEL)}:\n"
        "        assert point.load() is not None"
    )
    groups = {line.split()[0] for line in run(python, "-c", script, cwd=home).splitlines()}
    kinds = ("batch", "engines", "offline", "online", "serving", "stream")
    assert groups == {"console_scripts", *(f"featurestore.{kind}" for kind in kinds)}


def test_the_command_runs_beside_the_users_own_folders(python: Path, home: Path) -> None:
    text = run(python.parent / "featurestore", "--help", cwd=home)
    assert "Usage" in text
    assert "validate" in text

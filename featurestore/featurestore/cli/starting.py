"""The verb that begins a project: init."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.application import verb
from featurestore.cli.session import Session
from featurestore.errors import RequestError, SpecError


@verb("Declare")
def init(
    session: Session,
    name: Annotated[str, typer.Argument(help="The project's folder, and its name.")],
    example: Annotated[
        bool,
        typer.Option("--example/--no-example", help="With example specs and rows, or the settings only."),
    ] = True,
) -> None:
    """Make a small project that runs at once, without servers."""
    from featurestore.cli.example import data_files, spec_files
    from featurestore.instants import now
    from featurestore.specs.schema import texts

    folder = session.project / name
    files = {f"schema/{file}": text for file, text in texts().items()}
    files |= spec_files(_project_name(folder), example)
    if example:
        files |= data_files(now())
    for file in files:
        if (folder / file).exists():
            raise RequestError(f"There is a file {folder / file} already.", hint="Name another folder.")
    for file, text in files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    commands = _commands(name, example)
    if session.console.json:
        session.console.data({"project": str(folder), "files": sorted(files), "next": commands})
    session.console.say(f"Made {folder}. Next:\n")
    for command in commands:
        session.console.say(f"  {command}")


def _project_name(folder: Path) -> str:
    """Return the project's name of its folder's. Raises SpecError where the folder's cannot be one."""
    name = folder.resolve().name.lower().replace("-", "_")
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        raise SpecError(
            f"'{folder.resolve().name}' cannot name a project.",
            hint="Use letters, digits and underscores, beginning with a letter.",
        )
    return name


def _commands(name: str, example: bool) -> list[str]:
    change = [] if name == "." else [f"cd {name}"]
    if not example:
        return [*change, "featurestore validate"]
    return [
        *change,
        "featurestore test",
        "featurestore apply",
        "featurestore ingest orders",
        "featurestore get-online customer-spending customer=C1",
        "featurestore get-offline customer-spending --rows data/customers.csv --out training.parquet",
        "featurestore push orders --from data/new_orders.ndjson --wait 10s",
        "featurestore verify",
    ]

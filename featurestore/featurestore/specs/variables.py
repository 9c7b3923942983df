"""Environment variables in settings: `${VAR}` and `${VAR:-default}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from featurestore.errors import SpecError
from featurestore.specs.origins import KeyPath, Origin, format_path
from featurestore.specs.problems import Problems

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def expand(text: str, environ: Mapping[str, str], where: str | None = None) -> str:
    """Return `text` with each `${VAR}` replaced; `${VAR:-default}` where VAR is unset or empty.

    Raises SpecError for a variable that is unset and has no default, and for `${` without its end.
    """

    def value(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if default is not None:
            return environ.get(name) or default
        if name not in environ:
            raise SpecError(
                f"the environment variable {name} is not set.",
                where=where,
                hint=f"Set it, or give a default: ${{{name}:-…}}.",
            )
        return environ[name]

    if "${" in _VARIABLE.sub("", text):
        raise SpecError(
            f"'{text}' has a ${{ that is no variable.", where=where, hint="Write ${VAR} or ${VAR:-default}."
        )
    return _VARIABLE.sub(value, text)


def expand_all(data: Any, origin: Origin, environ: Mapping[str, str]) -> Any:
    """Return `data` with the variables of every text in it replaced. Raises SpecErrors."""
    problems = Problems()

    def walk(value: Any, path: KeyPath) -> Any:
        if isinstance(value, dict):
            return {key: walk(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, str):
            with problems.collect(origin.where(*path), format_path(path)):
                return expand(value, environ)
        return value

    result = walk(data, ())
    problems.check()
    return result

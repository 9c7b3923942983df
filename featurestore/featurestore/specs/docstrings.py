"""The texts below the fields of a model, as JSON Schema and the documentation show them."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from textwrap import dedent

from pydantic import BaseModel


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the text below each field of a model, its bases' included, by the field's name.

    They are looked up in the source when they are asked for: pydantic would parse it at every import.
    """
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if not issubclass(each, BaseModel) or each is BaseModel:
            continue
        (written,) = ast.parse(dedent(inspect.getsource(each))).body
        assert isinstance(written, ast.ClassDef)
        for field, below in pairwise(written.body):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = inspect.cleandoc(text)
    return found

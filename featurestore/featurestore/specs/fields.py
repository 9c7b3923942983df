"""What settings and declarations have in common: the base of their models, and types of fields."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from featurestore.errors import SpecError
from featurestore.instants import parse_duration

TEXT, OBJECT = "<text>", "<object>"
"""Names of the branches of unions; errors leave them out."""


def duration_or(text: str, word: str | None = None) -> str:
    """Return `text`, a duration or else `word`. Raises ValueError."""
    if text == word:
        return text
    try:
        parse_duration(text)
    except SpecError as error:
        said = str(error)
        raise ValueError(f"{said.removesuffix('.')}, or {word}." if word else said) from None
    return text


Name = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*$")]
Duration = Annotated[
    str,
    Field(
        json_schema_extra={"pattern": r"^(\d+(us|ms|s|m|h|d|w))+$", "examples": ["90s", "2h", "1d12h", "14d"]}
    ),
    AfterValidator(duration_or),
]


class Model(BaseModel):
    """The base of all declarations: immutable, and closed against unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> dict[str, Any]:
        """Return the JSON Schema; the text below a field describes it."""
        from featurestore.specs.docstrings import docstrings  # which reads the source

        schema = handler(core)
        properties = handler.resolve_ref_schema(schema)["properties"]
        for name, text in docstrings(cls).items():
            key = cls.model_fields[name].alias or name
            if key in properties:  # it is not hidden
                properties[key]["description"] = text
        return schema

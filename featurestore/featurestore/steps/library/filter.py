"""`filter`: only some rows."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, GetJsonSchemaHandler, model_serializer, model_validator
from pydantic_core import CoreSchema

from featurestore.steps.base import Example, Parameters
from featurestore.steps.compiler import Scope


class Filter(Parameters):
    """Only rows where the condition is true; null is false. `filter: "amount > 0"` or `{where: …}`."""

    key: ClassVar[str] = "filter"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("amount > 0", {"amount": 1}, {"amount": 1}),
        Example({"where": "amount > 0"}, {"amount": None}, None),
    )

    where: str = Field(description="A condition over the row's columns.")

    @model_validator(mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return {"where": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        form = handler(schema)
        text = {"type": "string", "description": "The condition."}
        return form if form.get("type") == "string" else {"anyOf": [text, form]}

    @model_serializer
    def _plain(self) -> str:
        return self.where

    def compile(self, scope: Scope) -> None:
        """Filter by the condition."""
        scope.filter(scope.condition(self.where))

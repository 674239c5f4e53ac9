"""What every JSON body of a request keeps to, whatever it asks for."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from personaagent.memory.incoming import said
from personaagent.types import MAX_TEXT

__all__ = ["Body", "Said", "Whole", "whole"]


def whole(value: Any) -> Any:
    """2.0 as 2; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# To JSON 2.0 is an integer, too; true and "2" are none.
Whole = Annotated[int, Field(strict=True), BeforeValidator(whole)]

# A text in which there is something to read. The pattern is for the OpenAPI document; what `said` asks is more than that.
Said = Annotated[str, Field(max_length=MAX_TEXT, json_schema_extra={"pattern": r"\S"}), AfterValidator(said)]


class Body(BaseModel):
    """A request's JSON object: unknown fields are errors, null is as good as absent, and all text must be valid Unicode."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _unicode(cls, data: Any) -> Any:
        try:
            json.dumps(data, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as e:
            raise ValueError("contains a lone surrogate, which is not valid Unicode text") from e
        except (TypeError, ValueError):  # not from JSON; the fields have their own checks
            pass
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data

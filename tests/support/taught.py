"""Tools that tests know, and lessons on them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from personaagent.tools.lessons import lessons
from personaagent.tools.tool import ToolSpec
from personaagent.types import Action, Interaction
from tests.support.interactions import START

__all__ = ["SPECS", "request", "taught"]

UNITS = {
    "type": "object",
    "properties": {
        "place": {"type": "string"},
        "units": {"enum": ["metric", "imperial"]},
        "alerts": {"type": "boolean"},
        "days": {"enum": [1, 3, 7]},
    },
    "required": ["place"],
    "additionalProperties": False,
}
SPECS = (
    ToolSpec(name="trains", description="train connections"),
    ToolSpec(name="flights", description="flight connections"),
    ToolSpec(name="weather", description="the weather", parameters=UNITS),  # type: ignore[arg-type]
    ToolSpec(name="notes", description="notes"),
)


def request(n: int, query: str, user: str = "ada", **fields: Any) -> Interaction:
    """Request number `n` of a user."""
    return Interaction(id=f"r{n}", user=user, time=START + timedelta(hours=n), query=query, **fields)


def taught(n: int, query: str, tool: str, user: str = "ada", **arguments: Any) -> list[Interaction]:
    """The lessons of request number `n`."""
    action = Action.model_validate({"tool": tool, "arguments": arguments})
    return lessons(request(n, query, user), action, SPECS)

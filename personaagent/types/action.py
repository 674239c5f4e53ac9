"""What the agent does beside answering: calls of tools, as they were made or as they should have been."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue

from personaagent.base import Frozen

__all__ = ["ACTION", "ANSWER", "LESSON", "OF", "TOOL_LESSON", "Action", "ToolCall"]

ACTION = (
    "action"  # metadata of an interaction that tells which tool or argument was right, see `personaagent.tools.lessons`
)
ANSWER = "answer"  # what is chosen where no tool is; no tool has this name
OF = "of"  # metadata of such an interaction: the id of the one that it is about
LESSON = "lesson:"  # how the ids of such interactions begin; no other interaction has such an id
TOOL_LESSON = LESSON + "tool:"  # those of them that tell which tool was right


class ToolCall(Frozen):
    """A call of a tool."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: dict[str, JsonValue] = Field(default_factory=dict)


class Action(Frozen):
    """What was right to do at a request: call this tool with these arguments, or answer at once (`tool` is `answer`).

    Arguments that are not named were not judged. `among` are the tools there were; empty: those that the deployment has.
    """

    tool: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    among: Annotated[tuple[str, ...], Field(max_length=256)] = ()
